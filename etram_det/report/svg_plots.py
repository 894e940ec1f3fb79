"""Plots of a report as SVG, in colours that keep apart under colour blindness and on paper."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from etram_det.report.evaluated_run import EvaluatedRun, PRCurves

# Colour and dash of lines, of Okabe and Ito's palette: the whole, its size bins, and two runs.
WHOLE = ("#b4bcc5", "solid")
PARTS = (
    ("#d55e00", "dashed"),
    ("#0072b2", "dashdot"),
    ("#009e73", "dotted"),
    ("#cc79a7", "dashed"),
    ("#e69f00", "dashdot"),
    ("#56b4e9", "dotted"),
)
RUNS = (("#0072b2", "solid"), ("#d55e00", "dashed"))
PARTS_OF_DAY = {"day": "#e69f00", "night": "#0072b2"}

SMALL, WIDE = (3.6, 2.4), (5.4, 2.9)  # inches
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page names others as wide
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#59636e",
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e8ec",
    "text.parse_math": False,  # names of classes and runs are no formulas
    "hatch.color": "#8c959f",
    "hatch.linewidth": 0.6,
}


def curve_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """Precision over recall at the least IoU, a plot for each class with ground truth.

    One run has a line for each size bin, two have a line each over all sizes.

    Args:
        runs: one or two; those without curves are left out.
    """
    names = dict.fromkeys(name for run in runs if run.curves for name in run.curves.classes)
    for name in names:
        lines: list[tuple[np.ndarray, np.ndarray, tuple[str, str]]] = []
        for run, style in zip(runs, RUNS, strict=False):
            if run.curves is not None and name in run.curves.classes:
                lines += _lines_of(run.curves, name, (WHOLE, *PARTS) if len(runs) == 1 else [style])
        if lines:
            yield _curve_plot(name, lines)


def _lines_of(
    curves: PRCurves, name: str, styles: Sequence[tuple[str, str]]
) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[str, str]]]:
    """Recall, precision and style of those area ranges that have ground truth and a style."""
    of_class = curves.precision[0, :, curves.classes.index(name)]
    for precision, style in zip(of_class.T, styles, strict=False):
        if not np.isnan(precision).any():
            yield curves.recall_thresholds, precision, style


def _curve_plot(name: str, lines: Sequence[tuple[np.ndarray, np.ndarray, tuple[str, str]]]) -> str:
    def draw(axes: Axes) -> None:
        for recall, precision, (colour, dash) in lines:
            width = 4.5 if colour == WHOLE[0] else 1.6  # it may lie under one of its parts
            axes.plot(recall, precision, color=colour, linestyle=dash, linewidth=width)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=name)

    return svg_of(f"curve-{name}", f"Precision over recall of {name}", SMALL, draw)


def day_night_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """AP by day and by night, over all sizes and by size bin, on one scale.

    Args:
        runs: by title; those whose recordings' names tell neither are left out.
    """
    known = {
        title: run
        for title, run in runs.items()
        if any(f"AP_{part}" in run.results for part in PARTS_OF_DAY)
    }
    highest = 0.0
    for run in known.values():
        highest = max([highest, *(v for part in PARTS_OF_DAY for v in _by_size(run, part))])
    for title, run in known.items():
        draw = partial(_draw_day_night, run=run, title=title, highest=highest)
        yield svg_of(f"day-{title}", f"AP by day and night, {title}", WIDE, draw)


def _by_size(run: EvaluatedRun, part: str) -> list[float]:
    """AP over all sizes and of each size bin, 0 where there is no ground truth."""
    suffixes = ["", *(f"_{name}" for name in run.results["evaluation"]["size_bins"])]
    return [run.results.get(f"AP_{part}{suffix}", 0.0) for suffix in suffixes]


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


def svg_of(key: str, label: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """A plot to be put into a page as it is.

    Args:
        key: of all ids in it, which a page must not have twice.
        label: what is read out in place of the plot.
        size: width and height in inches.
        draw: fills the axes.
    """
    content = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": key}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        # Without a date the same results give the same page.
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    svg = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    name = re.sub(r"\W+", "-", key)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
