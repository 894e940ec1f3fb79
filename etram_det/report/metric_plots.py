"""Plots of an evaluation for notebooks and loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etram_det.drawing.plots import add_legend, line_style, new_plot
from etram_det.metrics.curves import RECALL_THRESHOLDS, Curves
from etram_det.metrics.records import Cell, Records, records_in


def precision_recall_plot(curves: Curves, class_names: Sequence[str]) -> Figure:
    """Precision over recall at an IoU of 0.5, a line for each class with ground truth.

    Args:
        curves: of an evaluation.
        class_names: name of each class id.
    """
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
    most = 1.0 if other is None else max(0.02, float(np.nanmax(np.abs(values), initial=0)))
    shades = ("Blues", 0.0) if other is None else ("PuOr", -most)
    image = axes.imshow(values, cmap=shades[0], vmin=shades[1], vmax=most, aspect="auto")
    axes.set_xticks(range(len(sizes) + 1), ["all sizes", *sizes])
    axes.set_yticks(range(len(names) + 1), ["all classes", *names])
    axes.tick_params(length=0)
    for place, value in np.ndenumerate(values):
        row, column = place
        text = "–" if np.isnan(value) else f"{value:{'.2f' if other is None else '+.2f'}}"
        is_dark = abs(value) > 0.55 * most
        text = f"{text} ({records[cells[row][column]].boxes})"
        colour = "white" if is_dark else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    plot.colorbar(image, label="AP" if other is None else "difference of AP", shrink=0.8)
    axes.set_title("AP (labels)" if other is None else "difference of AP (labels)", loc="left")
    return plot


def _precisions(records: Records, cells: Sequence[Sequence[Cell]]) -> NDArray[np.float64]:
    """AP of each cell, nan without ground truth or where another run has no such cell."""
    return np.array([[records[c].AP if c in records else np.nan for c in row] for row in cells])
