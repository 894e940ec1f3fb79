"""Figures for notebooks and loggers, in colours that keep apart under colour blindness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etram_det.drawing.frames import Image
from etram_det.metrics.curves import RECALL_THRESHOLDS, Curves

# Okabe and Ito's palette, darkest first, with a dash for each, as eight lines can cross.
COLOURS = (
    *("#000000", "#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#e69f00", "#56b4e9", "#8c959f"),
)
_DASHES = ("solid", "dashed", "dashdot", "dotted")
MAP_COLOURS = "cividis"  # of maps: it rises evenly in lightness, whatever one's colour vision


def as_picture(figure: Figure) -> Image:
    """A figure as pixels ``[H, W, 3]``, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def precision_recall_figure(curves: Curves, class_names: Sequence[str]) -> Figure:
    """Precision over recall at an IoU of 0.5, a line for each class with ground truth.

    Args:
        curves: of an evaluation.
        class_names: name of each class id.
    """
    figure, axes = new_figure("recall", "precision")
    for i, name in enumerate(class_names):
        if curves.num_boxes[i, 0]:
            precision = curves.precision[0, :, i, 0]
            label = f"{name} ({curves.average_precision(classes=[i], iou=0.5):.2f})"
            axes.plot(RECALL_THRESHOLDS, precision, **_style(i), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    add_legend(axes, "class (AP50)")
    return figure


def size_weight_figure(
    weights: Mapping[str, Callable[[NDArray[np.float64]], NDArray[Any]]],
    thresholds: Sequence[float],
) -> Figure:
    """Weight of a box over its side, a line for each weighting.

    Args:
        weights: by name, the first in bold, what gives weights ``[M]`` of areas ``[M]`` in square
            pixels.
        thresholds: areas in square pixels that are marked.
    """
    figure, axes = new_figure("side of a square box (px of the network's frame)", "weight")
    sides = np.linspace(0, 1.5 * max(thresholds) ** 0.5, 600)
    for i, (name, weight) in enumerate(weights.items()):
        width = 1.5 if i else 3
        axes.plot(sides, weight(sides**2), **_style(i), linewidth=width, label=name)
    for area in thresholds:
        axes.axvline(area**0.5, color="#8c959f", linewidth=0.8, linestyle="dotted")
        axes.annotate(
            f"{area**0.5:.0f}² px", (area**0.5, 1), (3, -3), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top", fontsize=8, color="#59636e",
        )  # fmt: skip
    axes.set(xlim=(0, sides[-1]), ylim=(0, None))
    add_legend(axes, "weighting")
    return figure


def pictures_figure(pictures: Mapping[str, Image], columns: int = 2) -> Figure:
    """Pictures ``[H, W, 3]`` side by side, each under its title.

    Args:
        pictures: by title, at least one.
        columns: most pictures in a row.
    """
    height, width = next(iter(pictures.values())).shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    tile = 11 / columns  # inches
    size = (11, rows * (tile * height / width + 0.3))
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, picture) in zip(grid, pictures.items(), strict=False):
        axes.imshow(picture, interpolation="lanczos")
        axes.set_title(title, fontsize=9, loc="left")
    return figure


def maps_figure(maps: Mapping[str, NDArray[Any]], label: str, columns: int = 4) -> Figure:
    """Maps ``[h, w]`` side by side, each in its own range of colours.

    Args:
        maps: by title, at least one.
        label: what the colours stand for.
        columns: most maps in a row.
    """
    height, width = next(iter(maps.values())).shape
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    size = (11, rows * (11 / columns * height / width + 0.3) + 0.1)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (title, values) in zip(grid.flat, maps.items(), strict=False):
        image = axes.imshow(values, cmap=MAP_COLOURS)
        axes.set_title(title, fontsize=8, loc="left")
        bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
    for axes in grid.flat[len(maps) :]:
        axes.set_axis_off()
    figure.supxlabel(f"colour: {label}", fontsize=8)
    return figure


def time_figure(
    seconds: NDArray[Any],
    panels: Mapping[str, Mapping[str, NDArray[Any]]],
    marks: Sequence[float] = (),
) -> Figure:
    """Values over time, a panel for each quantity and in it a line for each name.

    Args:
        seconds: ``[F]`` times in the recording.
        panels: by the quantity with its unit, values ``[F]`` by name.
        marks: times in seconds that are marked in each panel.
    """
    figure = Figure(figsize=(9, 1.2 + 1.7 * len(panels)), layout="constrained", dpi=110)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (quantity, lines) in zip(grid, panels.items(), strict=True):
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(seconds, values, **_style(i), label=name)
        for mark in marks:
            axes.axvline(mark, color="#8c959f", linewidth=0.8, linestyle="dotted")
        axes.set_ylabel(quantity)
        axes.set_ylim(bottom=0)
        _finish(axes)
        if len(lines) > 1:
            add_legend(axes)
    grid[-1].set_xlabel("time in the recording (s)")
    return figure


def memory_figure(
    seconds: NDArray[Any],
    frames: NDArray[Any],
    hidden: Sequence[NDArray[Any]],
    cell: Sequence[NDArray[Any]],
) -> Figure:
    """What a recurrent network is given and remembers over time.

    Args:
        seconds: ``[F]`` ends of the frames.
        frames: ``[F, C, H, W]`` what it is given.
        hidden: for each stage, ``[F, h, w]`` sizes of the hidden state.
        cell: the same of the cell state.
    """

    def by_stage(maps: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
        means = (np.sqrt(np.square(each).mean(axis=(1, 2))) for each in maps)
        return {f"stage {i}": mean for i, mean in enumerate(means, 1)}

    given = np.abs(frames.astype(np.int16)).reshape(len(frames), -1).sum(axis=1) / 1e3
    panels = {
        "events (thousand)": {"events": given},
        "hidden state, RMS": by_stage(hidden),
        "cell state, RMS": by_stage(cell),
    }
    return time_figure(seconds, panels)


def class_size_figure(results: Mapping[str, Any], other: Mapping[str, Any] | None = None) -> Figure:
    """AP of each class in each size bin as a heat map, or its difference from another's.

    Args:
        results: what ``metrics.json`` holds.
        other: of another checkpoint on the same data; colours and numbers show how much more
            ``results`` has then.
    """
    bins = list(results["evaluation"]["size_bins"])
    names = list(results["evaluation"]["class_names"])
    suffixes = [["", *(f"_{b}" for b in bins)]] + [
        [f"_{name}", *(f"_{name}_{b}" for b in bins)] for name in names
    ]
    values = np.array([[results.get(f"AP{s}", np.nan) for s in row] for row in suffixes])
    counts = [[results.get(f"num{s or '_boxes'}", 0) for s in row] for row in suffixes]
    if other is not None:
        values -= np.array([[other.get(f"AP{s}", np.nan) for s in row] for row in suffixes])
    size = (2.2 + 1.2 * len(suffixes[0]), 1.0 + 0.36 * len(suffixes))
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    axes = figure.add_subplot()
    most = 1.0 if other is None else max(0.02, float(np.nanmax(np.abs(values), initial=0)))
    shades = ("Blues", 0.0) if other is None else ("PuOr", -most)
    image = axes.imshow(values, cmap=shades[0], vmin=shades[1], vmax=most, aspect="auto")
    axes.set_xticks(range(len(bins) + 1), ["all sizes", *bins])
    axes.set_yticks(range(len(names) + 1), ["all classes", *names])
    axes.tick_params(length=0)
    for place, value in np.ndenumerate(values):
        row, column = place[0], place[1]
        text = "–" if np.isnan(value) else f"{value:{'.2f' if other is None else '+.2f'}}"
        is_dark = abs(value) > 0.55 * most
        axes.text(
            column, row, f"{text} ({counts[row][column]})", ha="center", va="center", fontsize=8,
            color="white" if is_dark else "black",
        )  # fmt: skip
    figure.colorbar(image, label="AP" if other is None else "difference of AP", shrink=0.8)
    axes.set_title("AP (labels)" if other is None else "difference of AP (labels)", loc="left")
    return figure


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}


def new_figure(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A wide figure with one pair of axes."""
    figure = Figure(figsize=(9, 4), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _finish(axes)
    return figure, axes


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e8ec")
    axes.set_axisbelow(True)


def add_legend(axes: Axes, title: str | None = None) -> None:
    """A legend beside the plot, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            title=title, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8,
            title_fontsize=8,
        )  # fmt: skip
