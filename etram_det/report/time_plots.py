"""Plots of a report's page over time: AP since the start, labels found since they last moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from etram_det.metrics.records import flat_key, metric_of, time_part
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.svg_plots import RUNS, WIDE, Style, svg_of


class Points(NamedTuple):
    """Values with their intervals, over named places.

    Attributes:
        values: by name; nan where there is none.
        intervals: by name, for those that have one.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]


def time_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """AP over the time since the start of the recordings, a line for each run that has it."""
    points = [_over_time(run) for run in runs]
    if any(len(each.values) > 1 for each in points):
        yield _plot("times", "AP over time", points, "since the start of the recording", "AP")


def rest_plots(runs: Sequence[EvaluatedRun]) -> Iterator[str]:
    """Share of labels found over the seconds since they last moved, a line for each run."""
    points = [_over_rest(run) for run in runs]
    if any(each.values for each in points):
        title = "labels found since they last moved"
        yield _plot("rest", title, points, "since the last motion", "share found")


def _over_time(run: EvaluatedRun) -> Points:
    cells = {name: (time_part(name), "", "") for name in run.results.get("times", ())}
    known = run.results.get("intervals", {})
    values = {name: metric_of(run.records, cell, "AP") for name, cell in cells.items()}
    keys = {name: flat_key("AP", cell) for name, cell in cells.items()}
    return Points(
        {name: np.nan if value is None else value for name, value in values.items()},
        {name: known[key] for name, key in keys.items() if key in known},
    )


def _over_rest(run: EvaluatedRun) -> Points:
    rows: Mapping[str, Any] = run.results.get("found_by_rest", {})
    return Points(
        {n: row["found"] / row["labels"] if row["labels"] else np.nan for n, row in rows.items()},
        {name: row["interval"] for name, row in rows.items() if row["interval"]},
    )


def _plot(key: str, label: str, points: Sequence[Points], xlabel: str, ylabel: str) -> str:
    lines = list(zip(points, RUNS, strict=False))
    draw = partial(_draw, lines=lines, xlabel=xlabel, ylabel=ylabel)
    return svg_of(key, label, WIDE, draw)


def _draw(axes: Axes, lines: Sequence[tuple[Points, Style]], xlabel: str, ylabel: str) -> None:
    """Points over their names, joined where they are seconds; intervals as bars."""
    names = list(dict.fromkeys(name for points, _ in lines for name in points.values))
    for i, (points, (colour, dash)) in enumerate(lines):
        x = np.arange(len(names)) + 0.08 * (i - (len(lines) - 1) / 2)
        values = np.array([points.values.get(name, np.nan) for name in names])
        ends = np.array([points.intervals.get(n, (np.nan, np.nan)) for n in names])
        # A percentile interval need not hold the value itself.
        bars = np.maximum([values - ends[:, 0], ends[:, 1] - values], 0)
        is_time = np.array([name.endswith(" s") for name in names])
        axes.errorbar(x, values, bars, color=colour, fmt="o", markersize=4, capsize=3)
        axes.plot(x, np.where(is_time, values, np.nan), color=colour, linestyle=dash)
    slant: dict[str, Any] = (
        {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if len(names) > 5 else {}
    )
    axes.set_xticks(range(len(names)), names, fontsize=8.5, **slant)
    axes.grid(False, axis="x")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_ylim(bottom=0)
