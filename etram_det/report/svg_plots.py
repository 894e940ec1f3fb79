"""Plots of a report's page: precision over recall, day and night."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from etram_det.drawing.plots import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION
from etram_det.drawing.svg import SMALL, WIDE, svg_of
from etram_det.metrics.records import metric_of
from etram_det.report.evaluated_run import EvaluatedRun

# Colour and dash of lines: the whole, its size bins, and two runs.
WHOLE = ("#b4bcc5", "solid")
_DASHES = ("dashed", "dashdot", "dotted")
PARTS = tuple(zip((VERMILION, BLUE, GREEN, PINK, ORANGE, SKY), 2 * _DASHES, strict=True))
RUNS = ((BLUE, "solid"), (VERMILION, "dashed"))
Line = tuple[np.ndarray, np.ndarray, tuple[str, str]]  # recall, precision, colour and dash
PARTS_OF_DAY = {"day": ORANGE, "night": BLUE}


def curve_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """Precision over recall at the least IoU, a plot for each class with ground truth.

    One run has a line for each size bin, two have a line each over all sizes.

    Args:
        runs: one or two; those without curves are left out.
    """
    names = dict.fromkeys(name for run in runs if run.curves for name in run.curves.precision)
    for name in names:
        lines: list[Line] = []
        for run, style in zip(runs, RUNS, strict=False):
            if run.curves is not None and name in run.curves.precision:
                styles = (WHOLE, *PARTS) if len(runs) == 1 else (style,)
                for precision, each in zip(run.curves.precision[name].T, styles, strict=False):
                    if not np.isnan(precision).any():
                        lines.append((run.curves.recall, precision, each))
        if lines:
            yield _curve_plot(name, lines)


def _curve_plot(name: str, lines: Sequence[Line]) -> str:
    def draw(axes: Axes) -> None:
        for recall, precision, (colour, dash) in lines:
            width = 4.5 if colour == WHOLE[0] else 1.6  # it may lie under one of its parts
            axes.plot(recall, precision, color=colour, linestyle=dash, linewidth=width)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=name)

    return svg_of(f"curve-{name}", f"Precision over recall of {name}", SMALL, draw)


def day_night_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """AP by day and by night, over all sizes and by size bin, on one scale.

    Args:
        runs: by title; those without day or night in their recordings' names are left out.
    """
    known = {
        title: run
        for title, run in runs.items()
        if any(metric_of(run.records, (part, "", ""), "AP") is not None for part in PARTS_OF_DAY)
    }
    highest = 0.0
    for run in known.values():
        highest = max([highest, *(v for part in PARTS_OF_DAY for v in _by_size(run, part))])
    for title, run in known.items():
        draw = partial(_draw_day_night, run=run, title=title, highest=highest)
        yield svg_of(f"day-{title}", f"AP by day and night, {title}", WIDE, draw)


def _by_size(run: EvaluatedRun, part: str) -> list[float]:
    """AP over all sizes and of each size bin, 0 where there is no ground truth."""
    sizes = ("", *run.results["evaluation"]["size_bins"])
    return [metric_of(run.records, (part, "", size), "AP") or 0.0 for size in sizes]


def _draw_day_night(axes: Axes, run: EvaluatedRun, title: str, highest: float) -> None:
    bins = ["all sizes", *run.results["evaluation"]["size_bins"]]
    for i, (part, colour) in enumerate(PARTS_OF_DAY.items()):
        bars = axes.bar(
            np.arange(len(bins)) + 0.4 * i,
            _by_size(run, part),
            0.38,
            align="edge",
            color=colour,
            hatch="...." if part == "night" else None,
            edgecolor="white",
            linewidth=0.6,
        )
        axes.bar_label(bars, [f"{v:.2f}" if v else "" for v in _by_size(run, part)], fontsize=8.5)
    axes.set_xticks(np.arange(len(bins)) + 0.4, bins)
    axes.grid(False, axis="x")
    axes.set(ylabel="AP", title=title, ylim=(0, 1.12 * highest or 1))
