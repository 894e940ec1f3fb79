"""Plots of what recordings hold: events, frames and the sizes of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etram_det.drawing.frames import CLASS_COLOURS
from etram_det.drawing.plots import INK, MAP_COLOURS, add_legend, new_plot, time_plot


def event_rate_plot(
    frames: NDArray[Any], seconds: NDArray[Any], bins: int, window_ms: float
) -> Figure:
    """Events a second over time, by polarity, as far as they are counted in the frames.

    Args:
        frames: ``[F, 2 * bins, H, W]`` stacked histograms.
        seconds: ``[F]`` ends of the frames.
        bins: parts of the window.
        window_ms: length of a frame's window in ms.
    """
    counts = frames.reshape(len(frames), 2, -1).sum(axis=2, dtype=np.int64)
    rates = counts / (window_ms / 1000) / 1e6
    lines = {"darker": rates[:, 0], "brighter": rates[:, 1]}
    return time_plot(seconds, {"million events a second": lines})


def space_time_plot(
    frames: NDArray[Any], seconds: NDArray[Any], bins: int, window_ms: float
) -> Figure:
    """Events by time and column: what moves leaves a slanting trace, what stands leaves none.

    Args:
        frames: ``[F, 2 * bins, H, W]`` stacked histograms of consecutive windows.
        seconds: ``[F]`` ends of the frames.
        bins: parts of the window, each a step in time.
        window_ms: length of a frame's window in ms.
    """
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
        window_ms: length of the window in ms.
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
            extent = (left, right, bottom, top)
            image = axes.imshow(
                cut[row * bins + i], cmap=MAP_COLOURS, vmin=0, vmax=most, extent=extent
            )
            low, high = (window_ms * edge / bins for edge in (i, i + 1))
            axes.set_title(f"{polarity}, {low:.0f} to {high:.0f} ms", fontsize=8, loc="left")
            axes.tick_params(labelsize=6)
    plot.colorbar(image, ax=grid, label="events of a pixel", shrink=0.8)
    plot.supxlabel("column and row of the frame (px)", fontsize=8)
    return plot


def _surroundings(counts: NDArray[Any], boxes: NDArray[Any]) -> tuple[int, int, int, int]:
    """A window around the box with most events for its area, within ``[H, W]`` counts."""
    height, width = counts.shape
    whole = np.clip(boxes, 0, [width, height, width, height]).astype(int)
    whole = whole[((whole[:, 2:] - whole[:, :2]) > 1).all(axis=1)]
    if not len(whole):
        return 0, 0, width, height
    density = [counts[top:bottom, left:right].mean() for left, top, right, bottom in whole]
    left, top, right, bottom = whole[int(np.argmax(density))]
    margin = max(right - left, bottom - top) // 2
    return (
        max(0, left - margin),
        max(0, top - margin),
        min(width, right + margin),
        min(height, bottom + margin),
    )


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
        class_names: name of each class id.
        thresholds: areas in square pixels that are marked.
    """
    plot, axes = new_plot("square root of the area (px of the network's frame)", "labels")
    present = [i for i in range(len(class_names)) if (classes == i).any()]
    if present:
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
    ticks = [side for side in (4, 8, 16, 32, 64, 128, 256) if _within(axes.get_xlim(), side)]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.minorticks_off()
    for area in thresholds:
        axes.axvline(area**0.5, color=INK, linewidth=0.9, linestyle="dashed")
    add_legend(axes, "class (labels)")
    return plot


def _within(limits: tuple[float, float], value: float) -> bool:
    return limits[0] <= value <= limits[1]
