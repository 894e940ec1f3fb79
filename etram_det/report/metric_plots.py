"""An evaluation in notebooks and loggers: plots, and TensorBoard's own curves and text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console, RenderableType

from etram_det.drawing.plots import add_legend, line_style, new_plot
from etram_det.metrics.curves import RECALL_THRESHOLDS, Curves
from etram_det.metrics.records import Cell, Records, records_in
from etram_det.report.tables import detail_tables, summary_tables

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def precision_recall_plot(curves: Curves, class_names: Sequence[str]) -> Figure:
    """Precision over recall at an IoU of 0.5, a line for each class with ground truth."""
    plot, axes = new_plot("recall", "precision")
    for i, name in enumerate(class_names):
        if curves.num_boxes[i, 0]:
            precision = curves.precision[0, :, i, 0]
            label = f"{name} ({curves.average_precision(classes=[i], iou=0.5):.2f})"
            axes.plot(RECALL_THRESHOLDS, precision, **line_style(i), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    add_legend(axes, "class (AP50)")
    return plot


def class_size_plot(results: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Figure:
    """AP of each class in each size bin as a heat map, or its difference from another's.

    Args:
        results: what ``metrics.json`` holds.
        other: of another checkpoint on the same data; colours and numbers show how much more
            ``results`` has then.
    """
    sizes = list(results["evaluation"]["size_bins"])
    names = list(results["evaluation"]["class_names"])
    cells = [[("", name, size) for size in ("", *sizes)] for name in ("", *names)]
    records = records_in(results)
    values = _precisions(records, cells)
    if other is not None:
        values -= _precisions(records_in(other), cells)
    size = (2.2 + 1.2 * len(cells[0]), 1.0 + 0.36 * len(cells))
    plot = Figure(figsize=size, layout="constrained", dpi=110)
    axes = plot.add_subplot()
    if other is None:
        title, form, colours, low, high = "AP", ".2f", "Blues", 0.0, 1.0
    else:
        title, form, colours = "difference of AP", "+.2f", "PuOr"
        high = max(0.02, float(np.nanmax(np.abs(values), initial=0)))
        low = -high
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(sizes) + 1), ["all sizes", *sizes])
    axes.set_yticks(range(len(names) + 1), ["all classes", *names])
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        metric = "–" if np.isnan(value) else f"{value:{form}}"
        text = f"{metric} ({records[cells[row][column]].boxes})"
        colour = "white" if abs(value) > 0.55 * high else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    plot.colorbar(image, label=title, shrink=0.8)
    axes.set_title(f"{title} (labels)", loc="left")
    return plot


def _precisions(records: Records, cells: Sequence[Sequence[Cell]]) -> NDArray[np.float64]:
    """AP of each cell, nan without ground truth or where another run has no such cell."""
    return np.array([[records[c].AP if c in records else np.nan for c in row] for row in cells])


def show_results(
    writer: SummaryWriter, results: Mapping[str, Any], curves: Curves, split: str, step: int
) -> None:
    """Add all tables as text, and each class's precision over recall at an IoU of 0.5.

    The metrics themselves are scalars that the training loop logs.

    Args:
        writer: TensorBoard's own.
        results: what ``etram_det.report.run_files.results_of`` returns.
        curves: of the same evaluation, over all frames.
        split: name of the split, which comes first in every name.
        step: number of training steps done.
    """
    # Four spaces make a block of fixed width in Markdown.
    for name, tables in {"summary": summary_tables, "details": detail_tables}.items():
        text = _plain_text(tables(results)).replace("\n", "\n    ")
        writer.add_text(f"{split}/{name}", f"    {text}", step)
    for class_id, name in enumerate(results["confusion"]["names"][:-1]):
        num_boxes = int(curves.num_boxes[class_id, 0])
        if num_boxes:
            precision = curves.precision[0, :, class_id, 0]
            _add_curve(writer, f"{split}/PR50_{name}", precision, num_boxes, step)


def _add_curve(
    writer: SummaryWriter, tag: str, precision: np.ndarray, num_boxes: int, step: int
) -> None:
    """Add one curve, with the numbers of detections that belong to its points."""
    # TensorBoard wants rising thresholds, which means falling recall.
    precision, recall = precision[::-1], RECALL_THRESHOLDS[::-1]
    reached = precision > 0
    num_true = np.where(reached, np.round(recall * num_boxes), 0)
    num_false = np.divide(num_true * (1 - precision), precision, where=reached, out=0 * recall)
    num_negative, num_missed = np.zeros_like(recall), num_boxes - num_true
    counts = num_true, np.round(num_false), num_negative, num_missed
    writer.add_pr_curve_raw(tag, *counts, precision, recall, step, num_thresholds=len(recall))


def _plain_text(tables: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120, markup=False, emoji=False)
    console.print(tables)
    return console.file.getvalue()  # type: ignore[attr-defined]
