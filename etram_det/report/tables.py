"""Results of an evaluation as tables on the screen, at most 80 columns wide for three size bins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

SIZES = ("AP", "AP50", "AP75", "AR")


def summary_tables(results: Mapping[str, Any]) -> RenderableType:
    """How it was evaluated, the figures by size, by class, and by class and size.

    Args:
        results: what ``etram_det.report.records.results_of`` returns. A figure without ground
            truth shows as ``-``.
    """
    evaluation = results["evaluation"]
    parts: list[RenderableType] = [Text(describe_evaluation(evaluation)), _table_by_size(results)]
    if evaluation["class_names"]:
        parts += [_table_by_class(results), _table_by_class_and_size(results)]
    return Group(*parts)


def detail_tables(results: Mapping[str, Any]) -> RenderableType:
    """The figures of each recording, and the confusion matrix.

    Args:
        results: what ``etram_det.report.records.results_of`` returns.
    """
    return Group(_table_by_recording(results), _confusion_table(results["confusion"]))


def describe_evaluation(evaluation: Mapping[str, Any]) -> str:
    """Protocol, pixels, bins, thresholds and numbers of frames in a few lines of text.

    Args:
        evaluation: ``evaluation`` of what ``etram_det.report.records.results_of`` returns.
    """
    score = "objectness x class" if evaluation["uses_objectness"] else "class confidence"
    classes = ", class-agnostic" if evaluation["class_agnostic"] else ""
    bins = ", ".join(
        f"{name} {low:g} to {high:g}" if high is not None else f"{name} from {low:g}"
        for name, (low, high) in evaluation["size_bins"].items()
    )
    ious = evaluation["iou_thresholds"]
    labels, detections = evaluation["dropped_labels"], evaluation["dropped_detections"]
    lines = [
        f"protocol {evaluation['protocol']}{classes}, score {score}",
        f"areas in {evaluation['pixel_frame']} px²: {bins}",
        f"IoU {ious[0]:.2f} to {ious[-1]:.2f}, at most {evaluation['max_detections']} detections "
        "for each frame and class",
        f"{number_of(evaluation['frames'], 'frame')} of "
        f"{number_of(evaluation['recordings'], 'recording')}; dropped by the protocol: "
        f"{number_of(labels, 'label')}, {number_of(detections, 'detection')}",
    ]
    dropped = {reason: n for reason, n in evaluation["dropped_by_data"].items() if n}
    if dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        lines.append(f"dropped when the labels were read: {reasons}")
    return "\n".join(lines)


def _table_by_size(results: Mapping[str, Any]) -> Table:
    table = _new_table("part", (*SIZES, "boxes"))
    bins = results["evaluation"]["size_bins"]
    rows = {"all": "", **{name: f"_{name}" for name in (*bins, "day", "night")}}
    for name, suffix in rows.items():
        cells = [_figure(results, f"{kind}{suffix}") for kind in SIZES]
        table.add_row(name, *cells, _count(results, suffix or "_boxes"))
    return table


def _table_by_class(results: Mapping[str, Any]) -> Table:
    table = _new_table("class", (*SIZES, "boxes"))
    for names in _classes_and_groups(results):
        for name in names:
            cells = [_figure(results, f"{kind}_{name}") for kind in SIZES]
            table.add_row(name, *cells, _count(results, f"_{name}"))
        table.add_section()
    return table


def _table_by_class_and_size(results: Mapping[str, Any]) -> Table:
    bins = tuple(results["evaluation"]["size_bins"])
    table = _new_table("class", (f"AP {name} (boxes)" for name in bins))
    for names in _classes_and_groups(results):
        for name in names:
            suffixes = [f"_{name}_{size}" for size in bins]
            cells = [f"{_figure(results, f'AP{s}')} ({_count(results, s)})" for s in suffixes]
            table.add_row(name, *cells)
        table.add_section()
    return table


def _table_by_recording(results: Mapping[str, Any]) -> Table:
    bins = tuple(results["evaluation"]["size_bins"])
    table = _new_table("recording", ("boxes", "AP", "AP50", *(f"AP {name}" for name in bins)))
    for name, figures in results["recordings"].items():
        kinds = ("AP", "AP50", *(f"AP_{size}" for size in bins))
        table.add_row(name, _count(figures, "_boxes"), *(_figure(figures, kind) for kind in kinds))
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


def _classes_and_groups(results: Mapping[str, Any]) -> tuple[Iterable[str], Iterable[str]]:
    return results["evaluation"]["class_names"], results["evaluation"]["class_groups"]


def _new_table(first: str, others: Iterable[str]) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _figure(figures: Mapping[str, Any], key: str) -> str:
    return f"{figures[key]:.3f}" if key in figures else "-"


def _count(figures: Mapping[str, Any], suffix: str) -> str:
    return str(figures.get(f"num{suffix}", 0))


def number_of(count: int, thing: str) -> str:
    """``1 recording``, ``2 recordings``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
