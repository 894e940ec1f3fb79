"""Tables of a report's page: metrics, with the differences between two runs, and facts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from etram_det.report.comparison import NO_DIFFERENCE, Comparison, compare
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.tables import (
    BOXES,
    Grid,
    area_range,
    describe_intervals,
    dropped_by_data,
    interval_text,
    metric_grids,
    not_evaluated,
    number_of,
    score_of,
    thresholds_of,
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
    # Background that was found to be background is not counted.
    cells = [*(PageCell(f"{n:,}") for n in false_alarms), PageCell("")]
    table.rows.append(("false alarm", cells))
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


# Of the parts of metrics.json: two runs compare where these are the same.
_EQUAL_WHERE_COMPARED = {
    "run": "split data input_size",
    "evaluation": "protocol pixel_frame size_bins motion_bins max_detections class_names frames "
    "recordings",
    "confusion": "score_threshold",
}
_PIXELS = {"network": "network's frame", "native": "sensor"}


def differing_evaluation(a: EvaluatedRun, b: EvaluatedRun) -> Iterator[str]:
    """What ought to be the same in two evaluations and differs, as far as both hold it."""
    for part, keys in _EQUAL_WHERE_COMPARED.items():
        for key in keys.split():
            theirs, ours = (run.results.get(part, {}).get(key) for run in (a, b))
            if theirs != ours and None not in (theirs, ours):
                yield f"{key.replace('_', ' ')} ({_plain(theirs)} / {_plain(ours)})"


def differing_settings(a: EvaluatedRun, b: EvaluatedRun) -> list[tuple[str, list[str]]]:
    """Dotted key and both values of each setting in which two runs differ."""
    rows = (
        (key, [_plain(run.settings.get(key)) for run in (a, b)])
        for key in {**a.settings, **b.settings}
    )
    return [(key, values) for key, values in rows if values[0] != values[1]]


def facts_of(runs: Sequence[EvaluatedRun]) -> list[tuple[str, list[str]]]:
    """What was evaluated and how, a row for each fact and a column for each run."""
    of_runs = [dict(_facts_of(run)) for run in runs]
    names = dict.fromkeys(name for facts in of_runs for name in facts)
    return [(name, [facts.get(name, UNKNOWN) for facts in of_runs]) for name in names]


def _facts_of(run: EvaluatedRun) -> Iterator[tuple[str, str]]:
    evaluation, facts = run.results["evaluation"], run.results.get("run", {})
    yield "run folder", str(run.folder)
    yield "data", _plain(facts.get("data"))
    yield "split", _plain(facts.get("split"))
    if facts.get("detections"):
        yield "detections", facts["detections"]
    else:
        yield "checkpoint", _plain(facts.get("checkpoint"))
    size = facts.get("input_size")
    yield "network's frame", UNKNOWN if size is None else f"{size[1]} x {size[0]} pixels"
    if (every := facts.get("forget_every")) is not None:
        yield "state forgotten after", number_of(every, "frame")
    yield "protocol", f"{evaluation['protocol']}: {_rules(evaluation)}"
    yield "score", score_of(evaluation)
    yield "areas", f"in square pixels of the {_PIXELS[evaluation['pixel_frame']]}"
    for name, bounds in evaluation["size_bins"].items():
        yield f"size {name}", f"{area_range(*bounds)} px²"
    ious = evaluation["iou_thresholds"]
    yield "IoU of AP and AR", f"{ious[0]:.2f} to {ious[-1]:.2f}, {len(ious)} thresholds"
    yield "detections that count", f"{evaluation['max_detections']} of each frame and class"
    yield "found, missed, confusion, pictures", thresholds_of(run.results["confusion"])
    for name, bounds in evaluation.get("motion_bins", {}).items():
        yield f"motion {name}", f"{area_range(*bounds)} px/s on the sensor"
    yield "intervals", describe_intervals(run.results)
    yield "frames", f"{evaluation['frames']:,}"
    yield "recordings", f"{evaluation['recordings']:,}"
    yield "labels", f"{run.records['', '', ''].boxes:,}"
    yield "labels dropped by the protocol", f"{evaluation['dropped_labels']:,}"
    yield "detections dropped by the protocol", f"{evaluation['dropped_detections']:,}"
    yield "labels dropped when they were read", dropped_by_data(evaluation) or "none"
    between = not_evaluated(evaluation)
    yield "boxes not evaluated", f"{between:,} between the label times of data.interval_ms"
    yield "written by", f"etram_det {facts['version']}" if facts.get("version") else UNKNOWN


def _rules(evaluation: Mapping[str, Any]) -> str:
    if not evaluation["filtered"]:
        if evaluation.get("as_published", True) or evaluation.get("from_files"):
            return "every label counts"
        return "every label counts; boxes are cut at the frame and count for each likely class"
    rules = (
        f"the first 0.5 s, sides under {evaluation['min_side_px']} px and diagonals under "
        f"{evaluation['min_diagonal_px']} px on the sensor are dropped"
    )
    return f"{rules}; classes are ignored" if evaluation["class_agnostic"] else rules


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    return value if isinstance(value, str) else json.dumps(value)
