"""Tables of a report's page: metrics of one run, or of two with their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etram_det.metrics.records import Records, metric_of
from etram_det.report import tables
from etram_det.report.evaluated_run import EvaluatedRun

SEQUENTIAL = (0, 84, 147)  # dark blue, for the greatest value
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
_FULL_DIFFERENCE = 0.25  # that has the full colour
UNKNOWN = "–"
_METRICS = {**tables.SIZE_METRICS, "labels": ("boxes", "")}


@dataclass(frozen=True)
class PageCell:
    """One metric or count.

    Attributes:
        text: what is shown.
        colour: of the ground, as CSS; none if empty.
        is_light: whether the text must be light on it.
        note: shown small beneath.
        begins: whether a group of columns begins here.
    """

    text: str
    colour: str = ""
    is_light: bool = False
    note: str = ""
    begins: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table as the template lays it out.

    Attributes:
        key: its id in the page.
        corner: what stands above the rows' names.
        columns: names of the columns or of groups of them.
        runs: columns of each group: the runs and their difference; empty with one run.
        rows: name and cells of each row; a row without cells is a line between groups.
    """

    key: str
    corner: str
    columns: Sequence[str]
    runs: Sequence[str] = ()
    rows: list[tuple[str, list[PageCell]]] = field(default_factory=list)


def size_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP75, AR and labels over all sizes and by size bin."""
    return _metric_table("sizes", "size", runs, tables.size_rows(*_evaluations(runs)), _METRICS)


def class_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP75, AR and labels of each class and group."""
    return _metric_table("classes", "class", runs, tables.class_rows(*_evaluations(runs)), _METRICS)


def class_size_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP of each class and group, over all sizes and by size bin, with numbers of labels."""
    evaluations = _evaluations(runs)
    columns = tables.size_columns("all sizes", *evaluations)
    rows = tables.class_rows(*evaluations)
    return _metric_table("heat", "class", runs, rows, columns, shaded=True, counted=True)


def day_night_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP by day and by night, over all sizes and by size bin, with numbers of labels."""
    columns = tables.size_columns("all sizes", *_evaluations(runs))
    rows = tables.DAY_ROWS
    return _metric_table("day-night", "part", runs, rows, columns, shaded=True, counted=True)


def recording_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP by size bin and, of one run, labels of each recording."""
    labels: tables.Columns = {"labels": ("boxes", "")} if len(runs) == 1 else {}
    columns = {**tables.recording_columns(*_evaluations(runs)), **labels}
    names = sorted({name for run in runs for name in run.results["recordings"]})
    rows: tables.Rows = {name: (name, "", "") for name in names}
    records = [run.recording_records for run in runs]
    return _metric_table("recordings", "recording", runs, rows, columns, records, shaded=True)


def confusion_table(run: EvaluatedRun, key: str) -> PageTable:
    """Labels by true and by detected class, shaded by their share of the true class.

    Args:
        run: whose labels are counted.
        key: of the table in the page.
    """
    confusion = run.results["confusion"]
    *names, _ = confusion["names"]
    table = PageTable(key, "true class", [*names, "missed"])
    for name, counts in zip((*names, "false alarm"), confusion["counts"], strict=True):
        of_class = name != "false alarm"
        total = sum(counts) if of_class else 0
        cells = [_shaded(f"{n:,}", n / total if total else 0.0) for n in counts]
        if not of_class:
            cells[-1] = PageCell("")  # background that was found to be background is not counted
        table.rows.append((name, cells))
    return table


def _evaluations(runs: Sequence[EvaluatedRun]) -> list[Mapping[str, Any]]:
    return [run.results["evaluation"] for run in runs]


def _metric_table(
    key: str,
    corner: str,
    runs: Sequence[EvaluatedRun],
    rows: tables.Rows,
    columns: tables.Columns,
    records: Sequence[Records] | None = None,
    *,
    shaded: bool = False,
    counted: bool = False,
) -> PageTable:
    """Metrics of the runs' records, or of others; counted: with numbers of labels beneath."""
    table = PageTable(key, corner, list(columns), () if len(runs) == 1 else ("A", "B", "B − A"))
    records = [run.records for run in runs] if records is None else records
    for name, row in rows.items():
        cells = []
        part, class_name, own_size = row
        for metric, size in columns.values() if name else ():
            cell = (part, class_name, own_size or size)
            values = [metric_of(each, cell, metric) for each in records]
            for i, (value, each) in enumerate(zip(values, records, strict=True)):
                count = metric_of(each, cell, "boxes") if counted else None
                note = "" if count is None else f"{count:,}"
                cells.append(replace(_cell(metric, value, shaded), note=note, begins=i == 0))
            if len(values) == 2:
                cells.append(_difference(metric, *values))
        table.rows.append((name, cells))
    return table


def _cell(metric: str, value: float | None, shaded: bool) -> PageCell:
    if value is None:
        return PageCell(UNKNOWN)
    if metric == "boxes":
        return PageCell(f"{value:,}")
    return _shaded(f"{value:.3f}", value if shaded else 0.0)


def _difference(metric: str, before: float | None, after: float | None) -> PageCell:
    if before is None or after is None:
        return PageCell(UNKNOWN)
    if metric == "boxes":
        return PageCell(f"{after - before:+,}".replace("-", "−") if after != before else "0")
    return PageCell(signed(after - before), difference_colour(after - before))


def signed(difference: float, digits: int = 3) -> str:
    """A difference with so many digits and a true minus sign; 0 has no sign."""
    text = f"{difference:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def difference_colour(difference: float) -> str:
    """Ground of a difference: blue where it grew, orange where it fell."""
    strength = 0.6 * min(abs(difference) / _FULL_DIFFERENCE, 1)
    return _mixed(BETTER if difference > 0 else WORSE, strength) if strength > 0.01 else ""


def _shaded(text: str, value: float) -> PageCell:
    """A cell as dark as its value in [0, 1]."""
    if value <= 0:
        return PageCell(text)
    return PageCell(text, _mixed(SEQUENTIAL, value), is_light=value > 0.5)


def _mixed(colour: tuple[int, int, int], strength: float) -> str:
    mixed = (round(255 + (part - 255) * min(strength, 1)) for part in colour)
    return "#" + "".join(f"{part:02x}" for part in mixed)
