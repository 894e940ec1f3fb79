"""Results of an evaluation as tables on the screen, at most 80 columns wide for three size bins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.metrics.records import (
    METRICS,
    PARTS_OF_DAY,
    Cell,
    Records,
    metric_of,
    recording_records_in,
    records_in,
)

# Cells over all sizes or of one size, by the name of the row; without a name, a line between rows.
Rows = Mapping[str, Cell]
# Metric and size, for rows over all sizes, by the name of the column.
Columns = Mapping[str, tuple[str, str]]

SIZE_METRICS: Columns = {metric: (metric, "") for metric in METRICS}
DAY_ROWS: Rows = {part: (part, "", "") for part in PARTS_OF_DAY}


def size_rows(*evaluations: Mapping[str, Any]) -> Rows:
    """Everything, then each size bin, of one or two evaluations."""
    return {
        "all": ("", "", ""),
        **{size: ("", "", size) for size in _names(evaluations, "size_bins")},
    }


def class_rows(*evaluations: Mapping[str, Any]) -> Rows:
    """Each class, a line, then each group, of one or two evaluations."""
    classes = _names(evaluations, "class_names")
    groups = _names(evaluations, "class_groups")
    line = [""] if classes and groups else []
    return {name: ("", name, "") for name in (*classes, *line, *groups)}


def size_columns(first: str, *evaluations: Mapping[str, Any], prefix: str = "") -> Columns:
    """AP over all sizes under a name of its own, then AP of each size bin.

    Args:
        first: name of the first column; none if empty.
        evaluations: one or two.
        prefix: of the other columns' names.
    """
    sizes = {f"{prefix}{size}": ("AP", size) for size in _names(evaluations, "size_bins")}
    return {**({first: ("AP", "")} if first else {}), **sizes}


def recording_columns(*evaluations: Mapping[str, Any]) -> Columns:
    """AP, AP50 and AP of each size bin, of one or two evaluations."""
    return {
        "AP": ("AP", ""),
        "AP50": ("AP50", ""),
        **size_columns("", *evaluations, prefix="AP "),
    }


def summary_tables(results: Mapping[str, Any]) -> RenderableType:
    """How it was evaluated, the metrics by size, by class, and by class and size.

    Args:
        results: what ``etram_det.report.run_files.results_of`` returns. A metric without ground
            truth shows as ``-``.
    """
    evaluation, records = results["evaluation"], records_in(results)
    columns: Columns = {**SIZE_METRICS, "boxes": ("boxes", "")}
    by_size = {**size_rows(evaluation), **DAY_ROWS}
    parts: list[RenderableType] = [
        Text(describe_evaluation(evaluation)),
        _metric_table("part", records, by_size, columns),
    ]
    if evaluation["class_names"]:
        classes = class_rows(evaluation)
        parts.append(_metric_table("class", records, classes, columns))
        columns = size_columns("", evaluation, prefix="AP ")
        parts.append(_metric_table("class", records, classes, columns, counted=True))
    return Group(*parts)


def detail_tables(results: Mapping[str, Any]) -> RenderableType:
    """The metrics of each recording, and the confusion matrix.

    Args:
        results: what ``etram_det.report.run_files.results_of`` returns.
    """
    columns = {"boxes": ("boxes", ""), **recording_columns(results["evaluation"])}
    rows = {name: (name, "", "") for name in results["recordings"]}
    by_recording = _metric_table("recording", recording_records_in(results), rows, columns)
    return Group(by_recording, _confusion_table(results["confusion"]))


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


def _names(evaluations: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return list(dict.fromkeys(name for each in evaluations for name in each[kind]))


def _metric_table(
    corner: str, records: Records, rows: Rows, columns: Columns, counted: bool = False
) -> Table:
    """Metrics of rows and columns, with the numbers of boxes in brackets if they are counted."""
    table = _new_table(corner, [f"{name} (boxes)" if counted else name for name in columns])
    for name, row in rows.items():
        if not name:
            table.add_section()
            continue
        cells = []
        part, class_name, own_size = row
        for metric, size in columns.values():
            cell = (part, class_name, own_size or size)
            count = metric_of(records, cell, "boxes") or 0
            value = count if metric == "boxes" else metric_of(records, cell, metric)
            text = "-" if value is None else f"{value:{'d' if metric == 'boxes' else '.3f'}}"
            cells.append(f"{text} ({count})" if counted else text)
        table.add_row(name, *cells)
    return table


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
