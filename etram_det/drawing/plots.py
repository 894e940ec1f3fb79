"""Plots for notebooks and loggers, in colours that keep apart under colour blindness.

Throughout, ``frames`` ``[F, 2 * bins, H, W]`` are stacked histograms of consecutive windows of
``window_ms``, each in ``bins`` parts, and ``seconds`` ``[F]`` the times in the recording at which
they end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etram_det.drawing.frames import CLASS_COLOURS, Image

# Okabe and Ito's palette, darkest first, with a dash for each, as eight lines can cross.
BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072b2", "#d55e00", "#009e73"
PINK, ORANGE, SKY, GREY = "#cc79a7", "#e69f00", "#56b4e9", "#8c959f"
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, GREY)
INK, GRID = "#59636e", "#e4e8ec"  # of axes and their notes, and of the lines behind a plot
DAY_COLOURS = {"day": ORANGE, "night": BLUE}  # of what lies in the day or the night, everywhere
_DASHES = ("solid", "dashed", "dashdot", "dotted")
# Of plots in pages and files, as settings of matplotlib.
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; pages name others as wide
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # names of classes and runs are no formulas
    "hatch.color": GREY,
    "hatch.linewidth": 0.6,
}
MAP_COLOURS = "cividis"  # of maps: it rises evenly in lightness, whatever one's colour vision


def as_picture(plot: Figure) -> Image:
    """A plot as pixels ``[H, W, 3]``, RGB."""
    canvas = FigureCanvasAgg(plot)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def size_weight_plot(
    weights: Mapping[str, Callable[[NDArray[np.float64]], NDArray[Any]]],
    thresholds: Sequence[float],
) -> Figure:
    """Weight of a box over its side, a line for each weighting.

    Args:
        weights: by name, the first in bold, what gives weights ``[M]`` of areas ``[M]`` in square
            pixels.
        thresholds: areas in square pixels that are marked.
    """
    plot, axes = new_plot("side of a square box (px of the network's frame)", "weight")
    sides = np.linspace(0, 1.5 * max(thresholds) ** 0.5, 600)
    for i, (name, weight) in enumerate(weights.items()):
        width = 1.5 if i else 3
        axes.plot(sides, weight(sides**2), **line_style(i), linewidth=width, label=name)
    for area in thresholds:
        side = area**0.5
        axes.axvline(side, color=GREY, linewidth=0.8, linestyle="dotted")
        place, corner = axes.get_xaxis_transform(), "offset points"
        style: dict[str, Any] = {"va": "top", "fontsize": 8, "color": INK}
        axes.annotate(f"{side:.0f}² px", (side, 1), (3, -3), place, corner, **style)
    axes.set(xlim=(0, sides[-1]), ylim=(0, None))
    add_legend(axes, "weighting")
    return plot


def pictures_plot(pictures: Mapping[str, Image], columns: int = 2) -> Figure:
    """Pictures ``[H, W, 3]``, at least one, under their titles, at most ``columns`` in a row."""
    plot, grid = _tiles(pictures, columns)
    for axes, (title, picture) in zip(grid, pictures.items(), strict=False):
        axes.imshow(picture, interpolation="lanczos")
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_axis_off()
    return plot


def maps_plot(maps: Mapping[str, NDArray[Any]], label: str, columns: int = 4) -> Figure:
    """Maps ``[h, w]``, at least one, under their titles, each in its own range of colours.

    Args:
        maps: by title.
        label: what the colours stand for.
        columns: most maps in a row.
    """
    plot, grid = _tiles(maps, columns)
    for axes, (title, values) in zip(grid, maps.items(), strict=False):
        image = axes.imshow(values, cmap=MAP_COLOURS)
        axes.set_title(title, fontsize=8, loc="left")
        axes.set(xticks=[], yticks=[])
        bar = plot.colorbar(image, ax=axes, shrink=0.75, pad=0.02)
        bar.ax.tick_params(labelsize=6)
    plot.supxlabel(f"colour: {label}", fontsize=8)
    return plot


def time_plot(seconds: NDArray[Any], panels: Mapping[str, Mapping[str, NDArray[Any]]]) -> Figure:
    """Values over time, a panel for each quantity and in it a line for each name.

    Args:
        seconds: ``[F]`` times in the recording.
        panels: by the quantity with its unit, values ``[F]`` by name.
    """
    plot = Figure(figsize=(9, 1.2 + 1.7 * len(panels)), layout="constrained", dpi=110)
    grid = plot.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (quantity, lines) in zip(grid, panels.items(), strict=True):
        for i, (name, values) in enumerate(lines.items()):
            axes.plot(seconds, values, **line_style(i), label=name)
        axes.set(ylabel=quantity, ylim=(0, None))
        _finish(axes)
        if len(lines) > 1:
            add_legend(axes)
    grid[-1].set_xlabel("time in the recording (s)")
    return plot


def memory_plot(
    seconds: NDArray[Any],
    frames: NDArray[Any],
    hidden: Sequence[NDArray[Any]],
    cell: Sequence[NDArray[Any]],
) -> Figure:
    """What a recurrent network is given and remembers over time.

    Args:
        seconds: ``[F]`` ends of the frames.
        frames: ``[F, C, H, W]`` its input, of any representation.
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
    return time_plot(seconds, panels)


def _tiles(images: Mapping[str, NDArray[Any]], columns: int) -> tuple[Figure, list[Axes]]:
    """Axes for images ``[h, w, …]`` of one shape, row by row, each with room for a title."""
    height, width = next(iter(images.values())).shape[:2]
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = (11, rows * (11 / columns * height / width + 0.3))  # inches
    plot = Figure(figsize=size, layout="constrained", dpi=110)
    grid = list(plot.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(images) :]:
        axes.set_axis_off()
    return plot, grid


def line_style(i: int) -> dict[str, Any]:
    """Colour and dash of the ``i``-th line."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": _DASHES[i % len(_DASHES)]}


def new_plot(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """A wide plot with one pair of axes."""
    plot = Figure(figsize=(9, 4), layout="constrained", dpi=110)
    axes = plot.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _finish(axes)
    return plot, axes


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def add_legend(axes: Axes, title: str | None = None) -> None:
    """A legend beside the plot, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1)}
        axes.legend(title=title, **place, frameon=False, fontsize=8, title_fontsize=8)


def event_rate_plot(
    frames: NDArray[Any], seconds: NDArray[Any], bins: int, window_ms: float
) -> Figure:
    """Events a second over time, by polarity, as far as they are counted in the frames."""
    counts = frames.reshape(len(frames), 2, -1).sum(axis=2, dtype=np.int64)
    rates = counts / (window_ms / 1000) / 1e6
    lines = {"darker": rates[:, 0], "brighter": rates[:, 1]}
    return time_plot(seconds, {"million events a second": lines})


def space_time_plot(
    frames: NDArray[Any], seconds: NDArray[Any], bins: int, window_ms: float
) -> Figure:
    """Events by time and column: what moves leaves a slanting trace, what stands leaves none."""
    num_frames, _, height, width = frames.shape
    by_bin = frames.reshape(num_frames, 2, bins, height, width).sum(axis=(1, 3), dtype=np.int64)
    counts = by_bin.reshape(num_frames * bins, width)
    plot = Figure(figsize=(9, 4.5), layout="constrained", dpi=110)
    axes = plot.add_subplot()
    image = axes.imshow(
        np.maximum(counts.T, 1),
        cmap=MAP_COLOURS,
        norm=LogNorm(1, max(2, int(counts.max(initial=2)))),
        extent=(seconds[0] - window_ms / 1000, seconds[-1], width, 0),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set(xlabel="time in the recording (s)", ylabel="column of the frame (px)")
    plot.colorbar(image, label="events", shrink=0.9)
    return plot


def channels_plot(frame: NDArray[Any], boxes: NDArray[Any], bins: int, window_ms: float) -> Figure:
    """Parts of a stacked histogram, a row for each polarity, where something moves.

    Args:
        frame: ``[2 * bins, H, W]`` counts.
        boxes: ``[M, 4]`` its labels, ``xyxy`` in pixels; shown is the one with most events for its
            area, and its surroundings.
        bins: parts of the window.
        window_ms: its length.
    """
    left, top, right, bottom = _surroundings(frame.sum(axis=0), boxes)
    shown = np.linspace(0, bins - 1, min(bins, 5)).round().astype(int)
    cut = frame[:, top:bottom, left:right]
    tile = 10 / len(shown)
    size = (11, 2 * (tile * cut.shape[1] / cut.shape[2] + 0.25) + 0.3)
    plot = Figure(figsize=size, layout="constrained", dpi=110)
    grid = plot.subplots(2, len(shown), squeeze=False)
    most = max(1, int(cut.max(initial=1)))
    for row, polarity in enumerate(("darker", "brighter")):
        for axes, i in zip(grid[row], shown, strict=True):
            part, extent = cut[row * bins + i], (left, right, bottom, top)
            image = axes.imshow(part, cmap=MAP_COLOURS, vmin=0, vmax=most, extent=extent)
            low, high = (window_ms * edge / bins for edge in (i, i + 1))
            axes.set_title(f"{polarity}, {low:.0f} to {high:.0f} ms", fontsize=8, loc="left")
            axes.tick_params(labelsize=6)
    plot.colorbar(image, ax=grid, label="events of a pixel", shrink=0.8)
    plot.supxlabel("column and row of the frame (px)", fontsize=8)
    return plot


def _surroundings(counts: NDArray[Any], boxes: NDArray[Any]) -> tuple[int, int, int, int]:
    """A window around the box with most events for its area, within ``[H, W]`` counts."""
    height, width = counts.shape
    inside = np.clip(boxes, 0, [width, height, width, height]).astype(int)
    inside = inside[((inside[:, 2:] - inside[:, :2]) > 1).all(axis=1)]
    if not len(inside):
        return 0, 0, width, height
    density = [counts[top:bottom, left:right].mean() for left, top, right, bottom in inside]
    left, top, right, bottom = inside[int(np.argmax(density))]
    margin = max(right - left, bottom - top) // 2
    low = max(0, left - margin), max(0, top - margin)
    return *low, min(width, right + margin), min(height, bottom + margin)


def sizes_plot(
    sides: NDArray[Any],
    classes: NDArray[Any],
    class_names: Sequence[str],
    thresholds: Sequence[float],
) -> Figure:
    """How many labels have which size, classes stacked.

    Args:
        sides: ``[M]`` square roots of the areas in pixels of the network's frame.
        classes: ``[M]`` class ids.
        class_names: name of each id.
        thresholds: areas in square pixels that are marked.
    """
    plot, axes = new_plot("square root of the area (px of the network's frame)", "labels")
    if present := [i for i in range(len(class_names)) if (classes == i).any()]:
        edges = np.geomspace(0.99 * max(sides.min(), 0.5), 1.01 * sides.max(), 33)
        axes.hist(
            [sides[classes == i] for i in present],
            edges.tolist(),
            stacked=True,
            color=[f"#{bytes(CLASS_COLOURS[i % len(CLASS_COLOURS)]).hex()}" for i in present],
            label=[f"{class_names[i]} ({(classes == i).sum():,})" for i in present],
            edgecolor=INK,
            linewidth=0.4,
        )
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [side for side in (4, 8, 16, 32, 64, 128, 256) if low <= side <= high]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.minorticks_off()
    for area in thresholds:
        axes.axvline(area**0.5, color=INK, linewidth=0.9, linestyle="dashed")
    add_legend(axes, "class (labels)")
    return plot
