"""Tables of a report's page: metrics of one run, or of two with their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from etram_det.metrics.records import Records
from etram_det.report.evaluated_run import EvaluatedRun
from etram_det.report.grids import BOXES, Grid, metric_grids

SEQUENTIAL = (0, 84, 147)  # dark blue, for the greatest value
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
_FULL_DIFFERENCE = 0.25  # that has the full colour
UNKNOWN = "–"
_COUNTED = ("heat", "day-night")  # tables with numbers of labels beneath their metrics
_SHADED = (*_COUNTED, "recordings")


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


def metric_tables(runs: Sequence[EvaluatedRun]) -> dict[str, PageTable]:
    """Metrics by size, class, both, day and night, and recording, by key.

    Args:
        runs: one, or two whose differences are shown, too.
    """
    grids = metric_grids(*(run.results for run in runs))
    if len(runs) == 1:
        corner, rows, columns = grids["recordings"]
        grids["recordings"] = Grid(corner, rows, {**columns, **BOXES})
    records = [run.records for run in runs]
    return {key: _metric_table(key, grid, records) for key, grid in grids.items()}


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


def _metric_table(key: str, grid: Grid, records: Sequence[Records]) -> PageTable:
    columns = ["labels" if name in BOXES else name for name in grid.columns]
    table = PageTable(key, grid.corner, columns, () if len(records) == 1 else ("A", "B", "B − A"))
    for rows in zip(*(grid.values(each) for each in records), strict=True):
        cells = []
        for of_column in zip(*(values for _, values in rows), strict=True):
            for i, (value, boxes) in enumerate(of_column):
                note = f"{boxes:,}" if key in _COUNTED and boxes is not None else ""
                cell = _metric_cell(value, key in _SHADED)
                cells.append(replace(cell, note=note, begins=i == 0))
            if len(of_column) == 2:
                cells.append(_difference(*(value for value, _ in of_column)))
        name = rows[0][0]
        table.rows.append((name, cells if name else []))
    return table


def _metric_cell(value: float | None, shaded: bool) -> PageCell:
    if value is None:
        return PageCell(UNKNOWN)
    if isinstance(value, int):
        return PageCell(f"{value:,}")
    return _shaded(f"{value:.3f}", value if shaded else 0.0)


def _difference(before: float | None, after: float | None) -> PageCell:
    if before is None or after is None:
        return PageCell(UNKNOWN)
    if isinstance(before, int):
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
