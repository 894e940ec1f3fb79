"""Plots of a report's page over steps and over scores: training, F1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from etram_det.drawing.plots import line_style
from etram_det.metrics.scores import ScoreCounts
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.svg_plots import ALL_SIZES, RUNS, SIZE_BINS, SMALL, Style, svg_of
from etram_det.report.training_run import Curve

F1_SIZE = (5.6, 3.1)  # inches
# Name and values of a line, and how it is drawn.
Line = tuple[str, Curve, Style]
_CURVES = {
    "loss": ("train/loss", "loss of the training"),
    "rate": ("train/learning_rate", "learning rate"),
    "speed": ("train/frames_per_second", "frames a second"),
}


def training_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """Loss, AP of the validations, learning rate and speed over the steps, as far as logged.

    The AP of one run has a line for each size bin as well; two have a line each.
    """
    styled = [(run.training, style) for run, style in zip(runs, RUNS, strict=False) if run.training]

    def curves_of(name: str) -> list[Line]:
        return [("", t.curves[name], style) for t, style in styled if name in t.curves]

    plots = {key: (title, curves_of(name)) for key, (name, title) in _CURVES.items()}
    precision = curves_of("val/AP")
    if len(runs) == 1 and runs[0].training:
        known = runs[0].training.curves
        bins = runs[0].results["evaluation"]["size_bins"]
        precision = [(name, curve, ALL_SIZES) for name, curve, _ in precision]
        precision += [
            (name, known[f"val/AP_{name}"], style)
            for name, style in zip(bins, SIZE_BINS, strict=False)
            if f"val/AP_{name}" in known
        ]
    order = {"loss": plots["loss"], "AP": ("AP of the validations", precision)} | plots
    for key, (title, lines) in order.items():
        if lines:
            draw = partial(_draw_over_steps, title=title, lines=lines, is_marked=key == "AP")
            yield svg_of(f"training-{key}", f"{title} over the training steps", SMALL, draw)


def _draw_over_steps(axes: Axes, title: str, lines: Sequence[Line], is_marked: bool) -> None:
    highest = 0.0
    for _, curve, (colour, dash) in lines:
        steps, values = curve.thinned()
        width = 4.5 if colour == ALL_SIZES[0] else 1.6
        marker = "o" if is_marked and len(steps) <= 30 else None
        axes.plot(
            steps + 1, values, color=colour, linestyle=dash, linewidth=width,
            marker=marker, markersize=4 if width < 4 else 6,
        )  # fmt: skip
        highest = max(highest, float(values.max()))
    # Steps of a curve are those that were done; a rate that starts small shows from 0 on.
    axes.set(xlabel="steps", title=title, ylim=(0, 1.06 * highest or 1), xlim=(0, None))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useMathText=False)


def f1_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """F1 over the score from which detections count, with the best scores marked.

    One run has a line for all classes and one for each class with labels, two have a line each.
    """
    counts = [run.curves.over_score for run in runs if run.curves and run.curves.over_score]
    if len(counts) < len(runs) or not any(each.labels.any() for each in counts):
        return
    lines: list[tuple[str, ScoreCounts, int | None, dict[str, Any]]]
    if len(runs) == 2:
        styles = [{"color": colour, "linestyle": dash} for colour, dash in RUNS]
        lines = [(n, c, None, s) for n, c, s in zip("AB", counts, styles, strict=False)]
    else:
        thick = {"color": ALL_SIZES[0], "linewidth": 4.5}
        names = runs[0].results["confusion"]["names"][:-1]
        lines = [("all classes", counts[0], None, thick)]
        lines += [
            (name, counts[0], i, line_style(i) | {"linewidth": 1.6})
            for i, name in enumerate(names)
            if counts[0].labels[i]
        ]
    draw = partial(_draw_f1, lines=lines)
    yield svg_of("f1", "F1 over the least score of detections", F1_SIZE, draw)


def _draw_f1(
    axes: Axes, lines: Sequence[tuple[str, ScoreCounts, int | None, dict[str, Any]]]
) -> None:
    for name, counts, class_id, style in lines:
        axes.plot(counts.scores, counts.f1(class_id), **style, label=name)
        if best := counts.best(class_id):
            axes.plot([best.score], [best.f1], "o", color=style["color"], markersize=5)
    axes.set(xlim=(0, 1), ylim=(0, None), xlabel="least score of a detection", ylabel="F1")
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
