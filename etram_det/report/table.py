"""Figures of an evaluation as tables on the screen and as files in the run folder."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def metrics_tables(metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> RenderableType:
    """How it was evaluated, the figures by size, and those by class and size, for rich to print.

    Args:
        metrics: figures by flat key, numbers or scalar tensors, as ``SizeBinnedMAP.compute()``
            returns them. A figure that is nan or absent shows as ``-``.
        evaluation: what ``EvaluationResult.description()`` returns.
    """
    figures = {key: float(value) for key, value in metrics.items()}
    tables: list[RenderableType] = [
        Text(describe_evaluation(evaluation)),
        _table_by_size(figures, evaluation),
    ]
    if evaluation["class_names"]:
        tables.append(_table_by_class(figures, evaluation))
    return Group(*tables)


def describe_evaluation(evaluation: Mapping[str, Any]) -> str:
    """Protocol, pixels, bins, thresholds and numbers of frames in a few lines of text.

    Args:
        evaluation: what ``EvaluationResult.description()`` returns.
    """
    score = "objectness x class" if evaluation["uses_objectness"] else "class confidence"
    classes = ", class-agnostic" if evaluation["class_agnostic"] else ""
    bins = ", ".join(
        f"{name} {low:g} to {high:g}" if high is not None else f"{name} from {low:g}"
        for name, (low, high) in evaluation["size_bins"].items()
    )
    ious = evaluation["iou_thresholds"]
    return (
        f"protocol {evaluation['protocol']}{classes}, score {score}\n"
        f"areas in {evaluation['pixel_frame']} px²: {bins}\n"
        f"IoU {ious[0]:.2f} to {ious[-1]:.2f}, at most {evaluation['max_detections']} detections "
        f"for each frame and class\n"
        f"{evaluation['frames']} frames of {evaluation['recordings']} recordings, dropped "
        f"{evaluation['dropped_labels']} labels, {evaluation['dropped_detections']} detections"
    )


def write_metrics(folder: Path, metrics: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` and ``metrics.csv``, each whole or not at all.

    The JSON holds the figures by flat key, without those that have no ground truth, and the
    description under ``evaluation``. The CSV holds the same as rows of ``key,value``.

    Args:
        folder: the run folder, made if need be.
        metrics: figures by flat key, numbers or scalar tensors, nan without ground truth.
        evaluation: what ``EvaluationResult.description()`` returns.
    """
    figures = {
        key: int(value) if key.startswith("num_") else float(value)
        for key, value in metrics.items()
        if not isnan(value)
    }
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("key", "value"))
    writer.writerows(figures.items())
    writer.writerows(
        (f"evaluation.{key}", value if isinstance(value, str) else json.dumps(value))
        for key, value in evaluation.items()
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write_whole(folder / "metrics.csv", rows.getvalue())
    document = {**figures, "evaluation": dict(evaluation)}
    _write_whole(folder / "metrics.json", json.dumps(document, indent=2, allow_nan=False) + "\n")


def _table_by_size(figures: Mapping[str, float], evaluation: Mapping[str, Any]) -> Table:
    table = _new_table("part", ("AP", "AP50", "AP75", "AR", "boxes"))
    rows = {"all": "", **{name: f"_{name}" for name in (*evaluation["size_bins"], "day", "night")}}
    for name, suffix in rows.items():
        cells = [_figure(figures, f"{kind}{suffix}") for kind in ("AP", "AP50", "AP75", "AR")]
        table.add_row(name, *cells, _count(figures, suffix or "_boxes"))
    return table


def _table_by_class(figures: Mapping[str, float], evaluation: Mapping[str, Any]) -> Table:
    bins = tuple(evaluation["size_bins"])
    table = _new_table("class", ("AP50", "AP (boxes)", *(f"AP {name}" for name in bins)))
    for names in (evaluation["class_names"], evaluation["class_groups"]):
        for name in names:
            cells = (
                f"{_figure(figures, f'AP{suffix}')} ({_count(figures, suffix)})"
                for suffix in (f"_{name}", *(f"_{name}_{size}" for size in bins))
            )
            table.add_row(name, _figure(figures, f"AP50_{name}"), *cells)
        table.add_section()
    return table


def _new_table(first: str, others: Iterable[str]) -> Table:
    table = Table()
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _figure(figures: Mapping[str, float], key: str) -> str:
    value = figures.get(key, float("nan"))
    return "-" if isnan(value) else f"{value:.3f}"


def _count(figures: Mapping[str, float], suffix: str) -> str:
    return f"{figures.get(f'num{suffix}', 0):.0f}"


def _write_whole(path: Path, text: str) -> None:
    """Write beside the place and rename, so that a reader never meets half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
