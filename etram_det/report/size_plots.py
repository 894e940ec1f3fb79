"""Plots of labels by size: found, taken for another class, missed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from etram_det.drawing.plots import BLUE, INK, ORANGE
from etram_det.drawing.svg import SMALL, WIDE, svg_of
from etram_det.report.evaluated_run import EvaluatedRun
from etram_det.report.svg_plots import RUNS

OUTCOMES = {"found": BLUE, "other_class": ORANGE, "missed": "#d0d4d9"}

Counts = Mapping[str, np.ndarray]  # labels [Q] of each outcome, by area


def size_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """Labels of all classes by size and outcome, with the share that was found.

    Args:
        runs: by title; those without ``found_by_size`` or without labels are left out.
    """
    known = {
        title: run
        for title, run in runs.items()
        if "found_by_size" in run.results and run.results.get("num_boxes")
    }
    octaves = _octaves(known.values())
    for title, run in known.items():
        draw = partial(_draw_run, run=run, title=title, octaves=octaves)
        yield svg_of(f"sizes-{title}", f"Labels found and missed by size, {title}", WIDE, draw)


def class_size_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """The same for each class with labels; of two runs the share of labels that each found.

    Args:
        runs: one or two; those without ``found_by_size`` are left out.
    """
    known = [
        (run, style)
        for run, style in zip(runs, RUNS, strict=False)
        if "found_by_size" in run.results
    ]
    octaves = _octaves(run for run, _ in known)
    for name in dict.fromkeys(name for run, _ in known for name in _class_names(run)):
        shown = [
            (run, style)
            for run, style in known
            if name in _class_names(run) and _total(_counts(run, name)).any()
        ]

        def draw(
            axes: Axes,
            name: str = name,
            shown: Sequence[tuple[EvaluatedRun, tuple[str, str]]] = shown,
        ) -> None:
            for run, style in shown:
                if len(runs) == 1:
                    _draw_outcomes(axes, _first_octave(run), _counts(run, name))
                else:
                    _draw_share(axes, _first_octave(run), _counts(run, name), style)
            _label_sides(axes, octaves, shown[0][0])
            axes.set(title=name, ylabel="labels" if len(runs) == 1 else "share found")

        if shown:
            yield svg_of(f"class-{name}", f"Labels found and missed by size, {name}", SMALL, draw)


def _draw_run(axes: Axes, run: EvaluatedRun, title: str, octaves: tuple[int, int]) -> None:
    """Labels of all classes, with the share found above each bar and the bounds of size bins."""
    found, first = run.results["found_by_size"], _first_octave(run)
    counts = {outcome: np.sum(found[outcome], axis=0) for outcome in OUTCOMES}
    _draw_outcomes(axes, first, counts)
    small_text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
    for i, (part, whole) in enumerate(zip(counts["found"], _total(counts), strict=True)):
        if whole:
            place = (first + i + 0.5, whole)
            axes.annotate(f"{part / whole:.0%}", place, (0, 2), ha="center", **small_text)
    for name, (low, _) in run.results["evaluation"]["size_bins"].items():
        if low > 0:
            x = np.log2(low)
            axes.axvline(x, color=INK, linewidth=0.9, linestyle="dashed")
            corner = axes.get_xaxis_transform()
            axes.annotate(f"{name} ›", (x, 1), (3, -2), corner, va="top", color=INK, **small_text)
    _label_sides(axes, octaves, run)
    axes.set(title=title, ylabel="labels", ylim=(0, 1.25 * _total(counts).max() or 1))


def _draw_outcomes(axes: Axes, first_octave: int, counts: Counts) -> None:
    bottom = np.zeros(len(counts["found"]))
    for outcome, colour in OUTCOMES.items():
        axes.bar(
            first_octave + np.arange(len(bottom)),
            counts[outcome],
            1.0,
            bottom,
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.6,
            hatch="////" if outcome == "missed" else None,
        )
        bottom = bottom + counts[outcome]
    axes.grid(False, axis="x")


def _draw_share(axes: Axes, first_octave: int, counts: Counts, style: tuple[str, str]) -> None:
    colour, dash = style
    total = _total(counts)
    share = np.where(total > 0, counts["found"] / np.maximum(total, 1), np.nan)
    middle = first_octave + np.arange(len(total)) + 0.5
    axes.plot(middle, share, color=colour, linestyle=dash, marker="o", markersize=4)
    axes.set_ylim(-0.02, 1.02)


def _label_sides(axes: Axes, octaves: tuple[int, int], run: EvaluatedRun) -> None:
    """An axis of areas, labelled where the side of a square is a whole power of two."""
    low, high = octaves
    even = [octave for octave in range(low, high + 1) if octave % 2 == 0]
    axes.set_xticks(even, [str(2 ** (octave // 2)) for octave in even])
    axes.set_xlim(low - 0.2, high + 0.2)
    pixels = run.results["evaluation"]["pixel_frame"]
    axes.set_xlabel(f"square root of the area ({pixels} px)")


def _octaves(runs: Iterable[EvaluatedRun]) -> tuple[int, int]:
    """Logarithms of the least and the greatest bound of areas."""
    bounds = [bound for run in runs for bound in run.results["found_by_size"]["area_bounds"]]
    return (round(np.log2(min(bounds))), round(np.log2(max(bounds)))) if bounds else (0, 1)


def _first_octave(run: EvaluatedRun) -> int:
    return round(np.log2(run.results["found_by_size"]["area_bounds"][0]))


def _class_names(run: EvaluatedRun) -> list[str]:
    return run.results["confusion"]["names"][:-1]


def _counts(run: EvaluatedRun, name: str) -> Counts:
    found, row = run.results["found_by_size"], _class_names(run).index(name)
    return {outcome: np.array(found[outcome][row]) for outcome in OUTCOMES}


def _total(counts: Counts) -> np.ndarray:
    return np.sum(list(counts.values()), axis=0)
