"""Tables of a report's page: metrics, with the differences between two runs, and facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from etram_det.report.comparison import NO_DIFFERENCE, Comparison, compare
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.tables import (
    BOXES,
    Grid,
    interval_text,
    metric_grids,
)

SEQUENTIAL = (0, 84, 147)  # dark blue, for the greatest value
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
_FULL_DIFFERENCE = 0.25  # that has the full colour
UNKNOWN = "–"
_COUNTED = (
    "heat",
    "day-night",
    "motion-classes",
)  # tables with numbers of labels beneath their metrics
_SHADED = (*_COUNTED, "recordings")


@dataclass(frozen=True)
class PageCell:
    """One metric or count."""

    text: str
    colour: str = ""  # of the ground, as CSS
    is_light: bool = False  # the text
    note: str = ""  # shown small beneath
    begins: bool = False  # a group of columns


@dataclass(frozen=True)
class PageTable:
    """A table as the template lays it out."""

    key: str  # its id in the page
    corner: str  # what stands above the rows' names
    columns: Sequence[str]  # names of columns, or of groups of them
    runs: Sequence[str] = ()  # columns of each group: the runs and their difference
    # Name and cells of each row; one without cells is a line between groups.
    rows: list[tuple[str, list[PageCell]]] = field(default_factory=list)


def metric_tables(runs: Sequence[EvaluatedRun], compared: bool = True) -> dict[str, PageTable]:
    """All metrics in tables by key, of one run or two, whose differences may not be compared."""
    grids = metric_grids(*(run.results for run in runs))
    if len(runs) == 1:
        corner, rows, columns = grids["recordings"]
        grids["recordings"] = Grid(corner, rows, {**columns, **BOXES})
    return {key: _metric_table(key, grid, runs, compared) for key, grid in grids.items()}


def comparison_table(groups: Sequence[Sequence[Comparison]], several: bool) -> PageTable:
    """Both sides' metrics with their intervals, the difference, its interval and the verdict.

    Args:
        groups: metrics, with a line between groups.
        several: the sides are means over several runs, which have a spread.
    """
    of_side = ["mean", "spread", "95 %"] if several else ["", "95 %"]
    columns = [f"{side} {name}".strip() for side in "AB" for name in of_side]
    table = PageTable("comparison", "metric", [*columns, "B − A", "95 %", "verdict on B"])
    for i, group in enumerate(groups):
        if i:
            table.rows.append(("", []))
        for each in group:
            cells = []
            for side in each.sides:
                texts = [f"{side.mean:.3f}", interval_text(side.interval) or UNKNOWN]
                if several:
                    texts.insert(1, UNKNOWN if side.spread is None else f"{side.spread:.3f}")
                cells += [PageCell(text) for text in texts]
            ends = each.interval
            bounds = UNKNOWN if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"
            cells += [
                _compared_cell(each.difference, each, noted=False),
                PageCell(bounds),
                PageCell(each.verdict or UNKNOWN),
            ]
            table.rows.append((each.key, cells))
    return table


def _compared_cell(difference: float, found: Comparison | None, noted: bool = True) -> PageCell:
    """A difference; without a colour where intervals leave it open."""
    verdict = "" if found is None else found.verdict
    is_open = found is not None and found.has_resamples and verdict in ("", NO_DIFFERENCE)
    note = NO_DIFFERENCE if verdict == NO_DIFFERENCE and noted else ""
    return PageCell(signed(difference), "" if is_open else difference_colour(difference), note=note)


def confusion_table(run: EvaluatedRun, key: str) -> PageTable:
    """Labels by true and by detected class, shaded by their share of the true class."""
    confusion = run.results["confusion"]
    *names, _ = confusion["names"]
    table = PageTable(key, "true class", [*names, "missed"])
    *of_classes, (*false_alarms, _) = confusion["counts"]
    for name, counts in zip(names, of_classes, strict=True):
        total = max(sum(counts), 1)
        table.rows.append((name, [_shaded(f"{n:,}", n / total) for n in counts]))
    near = confusion.get("localisation")
    if near is not None:
        cells = [*(PageCell(f"{n:,}") for n in near), PageCell("")]
        table.rows.append(("localisation error", cells))
        false_alarms = [n - each for n, each in zip(false_alarms, near, strict=True)]
    # Background that was found to be background is not counted.
    cells = [*(PageCell(f"{n:,}") for n in false_alarms), PageCell("")]
    table.rows.append(("false alarm", cells))
    return table


def best_scores_table(runs: Sequence[EvaluatedRun]) -> PageTable:
    """The score with the highest F1 of each class, and F1, precision and recall there."""
    columns = {"best score": "score", "F1": "f1", "precision": "precision", "recall": "recall"}
    names = dict.fromkeys(n for run in runs for n in run.results.get("best_scores", {}))
    table = PageTable("best-scores", "class", list(columns), ("A", "B") if len(runs) == 2 else ())
    for name in names:
        cells = []
        for key in columns.values():
            for i, run in enumerate(runs):
                best = run.results.get("best_scores", {}).get(name)
                text = f"{best[key]:.{2 if key == 'score' else 3}f}" if best else UNKNOWN
                cells.append(PageCell(text, begins=i == 0))
        table.rows.append((name, cells))
    return table


def _metric_table(key: str, grid: Grid, runs: Sequence[EvaluatedRun], compared: bool) -> PageTable:
    columns = ["labels" if name in BOXES else name for name in grid.columns]
    table = PageTable(key, grid.corner, columns, () if len(runs) == 1 else ("A", "B", "B − A"))
    of_runs = (grid.values(run.records, run.results.get("intervals", {})) for run in runs)
    for keys, *rows in zip(grid.keys(), *of_runs, strict=True):
        cells = []
        of_columns = zip(*(values for _, values in rows), strict=True)
        for metric, of_column in zip(keys, of_columns, strict=True):
            for i, (value, boxes) in enumerate(of_column):
                note = f"{boxes:,}" if key in _COUNTED and boxes is not None else ""
                cell = _metric_cell(value, key in _SHADED)
                cells.append(replace(cell, note=note, begins=i == 0))
            if len(of_column) == 2:
                values = [value for value, _ in of_column]
                found = compare(runs[:1], runs[1:], metric) if compared else None
                difference = _difference(values[0], values[1], found)
                cells.append(difference if compared else PageCell(UNKNOWN))
        name = rows[0][0]
        table.rows.append((name, cells if name else []))
    return table


def _metric_cell(value: float | str | None, shaded: bool) -> PageCell:
    if value is None:
        return PageCell(UNKNOWN)
    if isinstance(value, int | str):
        return PageCell(value if isinstance(value, str) else f"{value:,}")
    return _shaded(f"{value:.3f}", value if shaded else 0.0)


def _difference(before: float | None, after: float | None, found: Comparison | None) -> PageCell:
    if before is None or after is None:
        return PageCell(UNKNOWN)
    if isinstance(before, int):
        return PageCell(f"{after - before:+,}".replace("-", "−") if after != before else "0")
    return _compared_cell(after - before, found)


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
