"""Plots of labels by size: found, taken for another class, missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from etram_det.drawing.plots import BLUE, INK, ORANGE
from etram_det.drawing.svg import SMALL, WIDE, svg_of
from etram_det.report.evaluated_run import EvaluatedRun
from etram_det.report.svg_plots import RUNS

OUTCOMES = {"found": BLUE, "other_class": ORANGE, "missed": "#d0d4d9"}


class Sizes(NamedTuple):
    """Labels of a run by size and outcome.

    Attributes:
        octaves: ``[Q + 1]`` logarithms of the bounds of areas to base 2.
        counts: ``[3, Q]`` labels of each class, in the order of ``OUTCOMES``.
        evaluation: of the run's results.
    """

    octaves: np.ndarray
    counts: dict[str, np.ndarray]
    evaluation: Mapping[str, Any]


def size_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """Labels of all classes by size and outcome, with the share that was found.

    Args:
        runs: by title; those without ``found_by_size`` or without labels are left out.
    """
    known = {title: sizes for title, run in runs.items() for sizes in _sizes_of(run)}
    known = {title: sizes for title, sizes in known.items() if np.any([*sizes.counts.values()])}
    for title, sizes in known.items():
        draw = partial(_draw_run, sizes=sizes, title=title, ends=_ends(known.values()))
        yield svg_of(f"sizes-{title}", f"Labels found and missed by size, {title}", WIDE, draw)


def class_size_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """The same for each class with labels; of two runs the share of labels that each found.

    Args:
        runs: one or two; those without ``found_by_size`` are left out.
    """
    known = [
        (sizes, style) for run, style in zip(runs, RUNS, strict=False) for sizes in _sizes_of(run)
    ]
    ends = _ends(sizes for sizes, _ in known)
    for name in dict.fromkeys(name for sizes, _ in known for name in sizes.counts):
        lines = [each for each in known if name in each[0].counts and each[0].counts[name].any()]
        if lines:
            draw = partial(_draw_class, name=name, lines=lines, ends=ends, shares=len(runs) == 2)
            yield svg_of(f"class-{name}", f"Labels found and missed by size, {name}", SMALL, draw)


def _sizes_of(run: EvaluatedRun) -> Iterator[Sizes]:
    """What the results hold of it, if they do."""
    if "found_by_size" in run.results:
        found, names = run.results["found_by_size"], run.results["confusion"]["names"][:-1]
        octaves = np.log2(found["area_bounds"]).round().astype(int)
        by_class = np.array([found[outcome] for outcome in OUTCOMES]).swapaxes(0, 1)
        counts = dict(zip(names, by_class, strict=True))
        yield Sizes(octaves, counts, run.results["evaluation"])


def _ends(runs: Iterable[Sizes]) -> tuple[int, int]:
    """First and last octave of all runs."""
    octaves = [int(octave) for sizes in runs for octave in sizes.octaves]
    return min(octaves, default=0), max(octaves, default=1)


def _draw_run(axes: Axes, sizes: Sizes, title: str, ends: tuple[int, int]) -> None:
    """Labels of all classes, with the share found above each bar and the bounds of size bins."""
    counts = np.sum([*sizes.counts.values()], axis=0)
    total = counts.sum(axis=0)
    _draw_outcomes(axes, sizes.octaves, counts)
    small_text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    for octave, part, whole in zip(sizes.octaves[:-1], counts[0], total, strict=True):
        if whole:
            place = (octave + 0.5, whole)
            axes.annotate(f"{part / whole:.0%}", place, (0, 2), ha="center", **small_text)
    for name, (low, _) in sizes.evaluation["size_bins"].items():
        if low > 0:
            x = np.log2(low)
            axes.axvline(x, color=INK, linewidth=0.9, linestyle="dashed")
            corner = axes.get_xaxis_transform()
            axes.annotate(f"{name} ›", (x, 1), (3, -2), corner, va="top", color=INK, **small_text)
    _label_sides(axes, sizes, ends)
    axes.set(title=title, ylabel="labels", ylim=(0, 1.25 * total.max() or 1))


def _draw_class(
    axes: Axes,
    name: str,
    lines: Sequence[tuple[Sizes, tuple[str, str]]],
    ends: tuple[int, int],
    shares: bool,
) -> None:
    """Labels of a class by outcome, or the share that each of two runs found."""
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
        axes.bar(
            octaves[:-1], counts[i], 1.0, bottoms[i], align="edge", color=colour, edgecolor="white",
            linewidth=0.6, hatch="////" if outcome == "missed" else None,
        )  # fmt: skip
    axes.grid(False, axis="x")


def _label_sides(axes: Axes, sizes: Sizes, ends: tuple[int, int]) -> None:
    """An axis of areas, labelled where the side of a square is a whole power of two."""
    low, high = ends
    even = [octave for octave in range(low, high + 1) if octave % 2 == 0]
    axes.set_xticks(even, [str(2 ** (octave // 2)) for octave in even])
    axes.set_xlim(low - 0.2, high + 0.2)
    axes.set_xlabel(f"square root of the area ({sizes.evaluation['pixel_frame']} px)")
