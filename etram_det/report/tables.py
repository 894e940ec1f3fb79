"""Results of an evaluation as tables on the screen, at most 80 columns wide for three size bins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.metrics.records import Records, records_in
from etram_det.report.grids import BOXES, Grid, metric_grids


def summary_tables(results: Mapping[str, Any]) -> RenderableType:
    """How it was evaluated, the metrics by size, by class, and by class and size.

    Args:
        results: what ``etram_det.report.run_files.results_of`` returns. A metric without ground
            truth shows as ``-``.
    """
    evaluation, records, grids = results["evaluation"], records_in(results), metric_grids(results)
    parts = Grid("part", {**grids["sizes"].rows, **grids["day-night"].rows}, grids["sizes"].columns)
    tables: list[RenderableType] = [
        Text(describe_evaluation(evaluation)),
        _metric_table(parts, records),
    ]
    if evaluation["class_names"]:
        columns = {f"AP {size} (boxes)": ("AP", size) for size in evaluation["size_bins"]}
        tables.append(_metric_table(grids["classes"], records))
        tables.append(_metric_table(grids["heat"]._replace(columns=columns), records, counted=True))
    return Group(*tables)


def detail_tables(results: Mapping[str, Any]) -> RenderableType:
    """The metrics of each recording, and the confusion matrix.

    Args:
        results: what ``etram_det.report.run_files.results_of`` returns.
    """
    corner, rows, columns = metric_grids(results)["recordings"]
    by_recording = Grid(corner, rows, {**BOXES, **columns})
    return Group(
        _metric_table(by_recording, records_in(results)),
        _confusion_table(results["confusion"]),
    )


def describe_evaluation(evaluation: Mapping[str, Any]) -> str:
    """Protocol, pixels, bins, thresholds and numbers of frames in a few lines of text.

    Args:
        evaluation: ``evaluation`` of what ``etram_det.report.run_files.results_of`` returns.
    """
    classes = ", class-agnostic" if evaluation["class_agnostic"] else ""
    bins = ", ".join(f"{name} {area_range(*of)}" for name, of in evaluation["size_bins"].items())
    ious = evaluation["iou_thresholds"]
    labels, detections = evaluation["dropped_labels"], evaluation["dropped_detections"]
    lines = [
        f"protocol {evaluation['protocol']}{classes}, score {score_of(evaluation)}",
        f"areas in {evaluation['pixel_frame']} px²: {bins}",
        f"IoU {ious[0]:.2f} to {ious[-1]:.2f}, at most {evaluation['max_detections']} detections "
        "for each frame and class",
        f"{number_of(evaluation['frames'], 'frame')} of "
        f"{number_of(evaluation['recordings'], 'recording')}; dropped by the protocol: "
        f"{number_of(labels, 'label')}, {number_of(detections, 'detection')}",
    ]
    if reasons := dropped_by_data(evaluation):
        lines.append(f"dropped when the labels were read: {reasons}")
    return "\n".join(lines)


def score_of(evaluation: Mapping[str, Any]) -> str:
    """What the score of a detection is."""
    return "objectness x class" if evaluation["uses_objectness"] else "class confidence"


def area_range(low: float, high: float | None) -> str:
    """Bounds of a size bin in square pixels; None for a bin without an upper bound."""
    return f"from {low:g}" if high is None else f"{low:g} to {high:g}"


def dropped_by_data(evaluation: Mapping[str, Any]) -> str:
    """Numbers of labels that were dropped when they were read, by reason; empty if none were."""
    return ", ".join(f"{n:,} {reason}" for reason, n in evaluation["dropped_by_data"].items() if n)


def number_of(count: int, thing: str) -> str:
    """``1 recording``, ``2 recordings``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _metric_table(grid: Grid, records: Records, counted: bool = False) -> Table:
    """A table of metrics, with the numbers of boxes in brackets if they are counted."""
    table = _new_table(grid.corner, grid.columns)
    for name, values in grid.values(records):
        if name:
            table.add_row(name, *(_text(*each, counted) for each in values))
        else:
            table.add_section()
    return table


def _text(value: float | None, boxes: int, counted: bool) -> str:
    if isinstance(value, int):
        return str(value)
    metric = "-" if value is None else f"{value:.3f}"
    return f"{metric} ({boxes})" if counted else metric


def _confusion_table(confusion: Mapping[str, Any]) -> Table:
    names = confusion["names"]
    numbers = [str(i) for i in range(len(names) - 1)] + ["none"]
    table = _new_table("true class, by detected class", numbers)
    table.caption = (
        f"score at least {confusion['score_threshold']:g}, "
        f"IoU at least {confusion['iou_threshold']:g}"
    )
    for number, name, counts in zip(numbers, names, confusion["counts"], strict=True):
        # Background that was found to be background is not counted.
        cells = [str(n) for n in counts] if name != names[-1] else [*map(str, counts[:-1]), ""]
        table.add_row(f"{number} {name}", *cells)
    return table


def _new_table(first: str, others: Iterable[str]) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table
