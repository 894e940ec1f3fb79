"""Tables of a report's page: figures of one run, or of two with their differences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etram_det.report.evaluated_run import EvaluatedRun

SEQUENTIAL = (0, 84, 147)  # dark blue, for the greatest value
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
_FULL_DIFFERENCE = 0.25  # that has the full colour
UNKNOWN = "–"
# Name of a column: kind of its figures, and what follows the row's own suffix in their keys.
_KINDS = {**{kind: (kind, "") for kind in ("AP", "AP50", "AP75", "AR")}, "labels": ("num", "")}


@dataclass(frozen=True)
class Cell:
    """One figure.

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
    rows: list[tuple[str, list[Cell]]] = field(default_factory=list)


def size_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP75, AR and labels over all sizes and by size bin."""
    rows = {"all": "", **{name: f"_{name}" for name in _size_bins(runs)}}
    return _figures("sizes", "size", runs, rows, _KINDS)


def class_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP75, AR and labels of each class and group."""
    return _figures("classes", "class", runs, _classes(runs), _KINDS)


def class_size_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP of each class and group, over all sizes and by size bin, with numbers of labels."""
    return _figures("heat", "class", runs, _classes(runs), _by_size(runs), heat=True)


def day_night_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP by day and by night, over all sizes and by size bin, with numbers of labels."""
    rows = {"day": "_day", "night": "_night"}
    return _figures("day-night", "part", runs, rows, _by_size(runs), heat=True)


def recording_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """AP, AP50, AP by size bin and, of one run, labels of each recording."""
    columns = {
        "AP": ("AP", ""),
        "AP50": ("AP50", ""),
        **{f"AP {name}": ("AP", f"_{name}") for name in _size_bins(runs)},
        **({"labels": ("num", "")} if len(runs) == 1 else {}),
    }
    table = _empty("recordings", "recording", runs, columns)
    for name in sorted({name for run in runs for name in run.results["recordings"]}):
        figures = [run.results["recordings"].get(name, {}) for run in runs]
        table.rows.append((name, _row(figures, "", columns, shaded=True)))
    return table


def confusion_table(run: EvaluatedRun, key: str) -> PageTable:
    """Labels by true and by detected class, shaded by their share of the true class.

    Args:
        run: whose figures are shown.
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
            cells[-1] = Cell("")  # background that was found to be background is not counted
        table.rows.append((name, cells))
    return table


def _by_size(runs: Sequence[EvaluatedRun]) -> dict[str, tuple[str, str]]:
    return {"all sizes": ("AP", ""), **{name: ("AP", f"_{name}") for name in _size_bins(runs)}}


def _size_bins(runs: Sequence[EvaluatedRun]) -> Iterable[str]:
    return dict.fromkeys(name for run in runs for name in run.results["evaluation"]["size_bins"])


def _classes(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """Keys of classes, then of groups, with a line between them where there are both."""
    kinds = [
        list(dict.fromkeys(name for run in runs for name in run.results["evaluation"][kind]))
        for kind in ("class_names", "class_groups")
    ]
    classes, groups = ({name: f"_{name}" for name in names} for names in kinds)
    return {**classes, **({"": ""} if classes and groups else {}), **groups}


def _empty(
    key: str, corner: str, runs: Sequence[EvaluatedRun], columns: Iterable[str]
) -> PageTable:
    return PageTable(key, corner, list(columns), () if len(runs) == 1 else ("A", "B", "B − A"))


def _figures(
    key: str,
    corner: str,
    runs: Sequence[EvaluatedRun],
    rows: Mapping[str, str],
    columns: Mapping[str, tuple[str, str]],
    heat: bool = False,
) -> PageTable:
    """Table of flat keys: kind, then the row's, then the column's suffix.

    A heat map is shaded and has the number of labels in its cells.
    """
    table = _empty(key, corner, runs, columns)
    figures = [run.results for run in runs]
    for name, suffix in rows.items():
        table.rows.append((name, _row(figures, suffix, columns, heat, heat) if name else []))
    return table


def _row(
    figures: Sequence[Mapping[str, Any]],
    suffix: str,
    columns: Mapping[str, tuple[str, str]],
    shaded: bool,
    counted: bool = False,
) -> list[Cell]:
    cells = []
    for kind, column in columns.values():
        values = [of_run.get(_key(kind, suffix + column)) for of_run in figures]
        counts = [of_run.get(_key("num", suffix + column)) for of_run in figures]
        for i, (value, count) in enumerate(zip(values, counts, strict=True)):
            note = f"{count:,}" if counted and count is not None else ""
            cells.append(_figure(kind, value, note, shaded, begins=i == 0))
        if len(values) == 2:
            cells.append(_difference(kind, values))
    return cells


def _key(kind: str, suffix: str) -> str:
    return f"{kind}{suffix or '_boxes'}" if kind == "num" else kind + suffix


def _figure(kind: str, value: float | None, note: str, shaded: bool, begins: bool) -> Cell:
    if value is None:
        return Cell(UNKNOWN, note=note, begins=begins)
    if kind == "num":
        return Cell(f"{value:,}", begins=begins)
    cell = _shaded(f"{value:.3f}", value if shaded else 0.0)
    return replace(cell, note=note, begins=begins)


def _difference(kind: str, values: Sequence[float | None]) -> Cell:
    before, after = values
    if before is None or after is None:
        return Cell(UNKNOWN)
    if kind == "num":
        return Cell(f"{after - before:+,}".replace("-", "−") if after != before else "0")
    return Cell(signed(after - before), difference_colour(after - before))


def signed(difference: float, digits: int = 3) -> str:
    """A difference with so many digits and a true minus sign; 0 has no sign."""
    text = f"{difference:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def difference_colour(difference: float) -> str:
    """Ground of a difference: blue where it grew, orange where it fell."""
    strength = 0.6 * min(abs(difference) / _FULL_DIFFERENCE, 1)
    return _mixed(BETTER if difference > 0 else WORSE, strength) if strength > 0.01 else ""


def _shaded(text: str, value: float) -> Cell:
    """A cell as dark as its value in [0, 1]."""
    if value <= 0:
        return Cell(text)
    return Cell(text, _mixed(SEQUENTIAL, value), is_light=value > 0.5)


def _mixed(colour: tuple[int, int, int], strength: float) -> str:
    mixed = (round(255 + (part - 255) * min(strength, 1)) for part in colour)
    return "#" + "".join(f"{part:02x}" for part in mixed)
