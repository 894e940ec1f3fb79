"""Plots of a report's page, as SVG: precision over recall, labels by size."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from etram_det.drawing.plots import BLUE, GREEN, INK, ORANGE, PINK, SKY, STYLE, VERMILION
from etram_det.report.run_files import EvaluatedRun

# Colour and dash of lines: of all sizes, of size bins, and of two runs.
ALL_SIZES = ("#b4bcc5", "solid")
_DASHES = ("dashed", "dashdot", "dotted")
SIZE_BINS = tuple(zip((VERMILION, BLUE, GREEN, PINK, ORANGE, SKY), 2 * _DASHES, strict=True))
RUNS = ((BLUE, "solid"), (VERMILION, "dashed"))
Style = tuple[str, str]  # colour and dash
Line = tuple[np.ndarray, np.ndarray, Style]  # recall, precision
OUTCOMES = {"found": BLUE, "other_class": ORANGE, "missed": "#d0d4d9"}
BARS: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
SMALL, WIDE = (3.6, 2.4), (5.4, 2.9)  # inches
_TEXT = {"svg.fonttype": "none"}  # text stays text: small, and found by a search


def curve_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """Precision over recall at the least IoU, a plot for each class with ground truth.

    One run has a line for each size bin, two have a line each over all sizes. Runs without curves
    are left out.
    """
    names = dict.fromkeys(name for run in runs if run.curves for name in run.curves.precision)
    for name in names:
        lines: list[Line] = []
        for run, style in zip(runs, RUNS, strict=False):
            if run.curves is not None and name in run.curves.precision:
                styles = (ALL_SIZES, *SIZE_BINS) if len(runs) == 1 else (style,)
                for precision, each in zip(run.curves.precision[name].T, styles, strict=False):
                    if not np.isnan(precision).any():
                        lines.append((run.curves.recall, precision, each))
        if lines:
            draw = partial(_draw_curves, name=name, lines=lines)
            yield svg_of(f"curve-{name}", f"Precision over recall of {name}", SMALL, draw)


def _draw_curves(axes: Axes, name: str, lines: Sequence[Line]) -> None:
    for recall, precision, (colour, dash) in lines:
        width = 4.5 if colour == ALL_SIZES[0] else 1.6  # it may lie under one of its parts
        axes.plot(recall, precision, color=colour, linestyle=dash, linewidth=width)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title=name)


class Sizes(NamedTuple):
    """Labels of a run by size and outcome."""

    octaves: np.ndarray  # [Q + 1] logarithms of the bounds of areas to base 2
    counts: dict[str, np.ndarray]  # of each class [3, Q], in the order of OUTCOMES
    evaluation: Mapping[str, Any]  # of the run's results


def size_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """Labels of all classes by size and outcome, with the share that was found, of runs by title.

    Runs without ``found_by_size`` or without labels are left out.
    """
    known = {
        title: sizes
        for title, run in runs.items()
        if (sizes := _sizes_of(run)) and np.any([*sizes.counts.values()])
    }
    for title, sizes in known.items():
        draw = partial(_draw_run, sizes=sizes, title=title, ends=_ends(known.values()))
        yield svg_of(f"sizes-{title}", f"Labels found and missed by size, {title}", WIDE, draw)


def class_size_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """The same for each class with labels; of two runs the share of labels that each found."""
    styled = [(_sizes_of(run), style) for run, style in zip(runs, RUNS, strict=False)]
    known = [(sizes, style) for sizes, style in styled if sizes]
    ends = _ends(sizes for sizes, _ in known)
    for name in dict.fromkeys(name for sizes, _ in known for name in sizes.counts):
        lines = [each for each in known if name in each[0].counts and each[0].counts[name].any()]
        if lines:
            draw = partial(_draw_class, name=name, lines=lines, ends=ends, shares=len(runs) == 2)
            yield svg_of(f"class-{name}", f"Labels found and missed by size, {name}", SMALL, draw)


def _sizes_of(run: EvaluatedRun) -> Sizes | None:
    if "found_by_size" not in run.results:
        return None
    found, names = run.results["found_by_size"], run.results["confusion"]["names"][:-1]
    octaves = np.log2(found["area_bounds"]).round().astype(int)
    by_class = np.array([found[outcome] for outcome in OUTCOMES]).swapaxes(0, 1)
    return Sizes(octaves, dict(zip(names, by_class, strict=True)), run.results["evaluation"])


def _ends(runs: Iterable[Sizes]) -> tuple[int, int]:
    """First and last octave of all runs."""
    octaves = [int(octave) for sizes in runs for octave in sizes.octaves]
    return min(octaves, default=0), max(octaves, default=1)


def _draw_run(axes: Axes, sizes: Sizes, title: str, ends: tuple[int, int]) -> None:
    """Shares found stand above the bars, bounds of size bins are dashed."""
    counts = np.sum([*sizes.counts.values()], axis=0)
    total = counts.sum(axis=0)
    _draw_outcomes(axes, sizes.octaves, counts)
    small_text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    for octave, found, of in zip(sizes.octaves[:-1], counts[0], total, strict=True):
        if of:
            place = (octave + 0.5, of)
            axes.annotate(f"{found / of:.0%}", place, (0, 2), ha="center", **small_text)
    for name, (low, _) in sizes.evaluation["size_bins"].items():
        if low > 0 and ends[0] <= (x := np.log2(low)) <= ends[1]:
            axes.axvline(x, color=INK, linewidth=0.9, linestyle="dashed")
            corner = axes.get_xaxis_transform()
            axes.annotate(f"{name} ›", (x, 1), (3, -2), corner, va="top", color=INK, **small_text)
    _label_sides(axes, sizes, ends)
    axes.set(title=title, ylabel="labels", ylim=(0, 1.25 * total.max() or 1))


def _draw_class(
    axes: Axes, name: str, lines: Sequence[tuple[Sizes, Style]], ends: tuple[int, int], shares: bool
) -> None:
    for sizes, (colour, dash) in lines:
        counts = sizes.counts[name]
        if shares:
            total = counts.sum(axis=0)
            share = np.where(total > 0, counts[0] / np.maximum(total, 1), np.nan)
            middle = sizes.octaves[:-1] + 0.5
            axes.plot(middle, share, color=colour, linestyle=dash, marker="o", markersize=4)
            axes.set_ylim(-0.02, 1.02)
        else:
            _draw_outcomes(axes, sizes.octaves, counts)
    _label_sides(axes, lines[0][0], ends)
    axes.set(title=name, ylabel="share found" if shares else "labels")


def _draw_outcomes(axes: Axes, octaves: np.ndarray, counts: np.ndarray) -> None:
    bottoms = counts.cumsum(axis=0) - counts
    for i, (outcome, colour) in enumerate(OUTCOMES.items()):
        style = BARS | {"color": colour, "hatch": "////" if outcome == "missed" else None}
        axes.bar(octaves[:-1], counts[i], 1.0, bottoms[i], **style)
    axes.grid(False, axis="x")


def _label_sides(axes: Axes, sizes: Sizes, ends: tuple[int, int]) -> None:
    """An axis of areas, labelled where the side of a square is an integer power of two."""
    low, high = ends
    even = [octave for octave in range(low, high + 1) if octave % 2 == 0]
    axes.set_xticks(even, [str(2 ** (octave // 2)) for octave in even])
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_xlabel(f"square root of the area ({sizes.evaluation['pixel_frame']} px)")


def svg_of(key: str, label: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """A plot to be put into a page as it is.

    Args:
        key: of all ids in it, which a page must not have twice.
        label: what is read out in place of the plot.
        size: width and height in inches.
        draw: fills the axes.
    """
    content = io.StringIO()
    with matplotlib.rc_context(STYLE | _TEXT | {"svg.hashsalt": key}):
        plot = Figure(figsize=size, layout="constrained")
        draw(plot.add_subplot())
        # Without a date the same results give the same page.
        plot.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    svg = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    name = re.sub(r"\W+", "-", key)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    # Wider, its text would be larger than the page's.
    attributes = (
        f'role="img" aria-label="{html.escape(label)}" style="max-width:{8 * size[0]:g}rem"'
    )
    return svg.replace("<svg", f"<svg {attributes}", 1)
