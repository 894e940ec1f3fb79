"""Plots of a report's page with an interval at each bar: AP by size, motion, day and recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from etram_det.drawing.plots import BLUE, DAY_COLOURS, GREY, INK, ORANGE, VERMILION
from etram_det.metrics.records import (
    PARTS_OF_DAY,
    Cell,
    flat_key,
    metric_of,
    part_of_day,
    recording_part,
)
from etram_det.report.run_files import EvaluatedRun
from etram_det.report.svg_plots import BARS, RUNS, svg_of

_SIZE = (6.2, 2.3)  # inches
_ROW = 0.21  # inches of a bar that lies
_MOST_NAMED = 40  # recordings: with more, their names would not be legible
# Name, colour and hatch of a group of bars, and the cell of each of its bars.
Group = tuple[str, str, str | None, Sequence[Cell]]
ERRORS = {
    "right": BLUE,
    "other class": ORANGE,
    "localisation error": "#f3c4a0",
    "false alarm": VERMILION,
}


def bin_plots(runs: Mapping[str, EvaluatedRun], kind: str) -> Iterator[str]:
    """AP of all classes by ``size_bins`` or ``motion_bins``, of runs by name; none without labels.

    Two runs stand side by side.
    """
    bins = list(
        dict.fromkeys(b for r in runs.values() for b in r.results["evaluation"].get(kind, ()))
    )
    first = ["all sizes"] if kind == "size_bins" else ["all labels"]
    cells = [("", "", each) for each in ("", *bins)]
    if not any(metric_of(r.records, cell, "boxes") for r in runs.values() for cell in cells[1:]):
        return
    groups = [
        (run, (name, colour, None if dash == "solid" else "////", cells))
        for (name, run), (colour, dash) in zip(runs.items(), RUNS, strict=False)
    ]
    draw = partial(_draw_groups, groups=groups, names=[*first, *bins])
    yield svg_of(f"bins-{kind}", f"AP by {kind.partition('_')[0]}", _SIZE, draw)


def day_night_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """AP by day and by night, over all sizes and by size bin, of runs by title.

    Runs without day or night in their recordings' names are left out.
    """
    for title, run in runs.items():
        sizes = ("", *run.results["evaluation"]["size_bins"])
        groups: list[tuple[EvaluatedRun, Group]] = [
            (run, (part, DAY_COLOURS[part], "...." if part == "night" else None, cells))
            for part in PARTS_OF_DAY
            if metric_of(run.records, (cells := [(part, "", s) for s in sizes])[0], "AP")
            is not None
        ]
        if groups:
            names = ["all sizes", *sizes[1:]]
            draw = partial(_draw_groups, groups=groups, names=names, title=title)
            yield svg_of(f"day-{title}", f"AP by day and night, {title}", _SIZE, draw)


def _draw_groups(
    axes: Axes,
    groups: Sequence[tuple[EvaluatedRun, Group]],
    names: Sequence[str],
    title: str = "",
) -> None:
    """Bars of the groups side by side at each name, with their intervals where they are known."""
    width = 0.76 / len(groups)
    highest = 0.0
    for i, (run, (_, colour, hatch, cells)) in enumerate(groups):
        values = np.array([_known(metric_of(run.records, cell, "AP")) for cell in cells])
        ends = np.array([_interval(run, cell) for cell in cells])
        x = np.arange(len(cells)) + (i - (len(groups) - 1) / 2) * width
        style = BARS | {"align": "center", "color": colour, "hatch": hatch}
        axes.bar(x, np.nan_to_num(values), 0.94 * width, **style)
        errors = np.maximum([values - ends[:, 0], ends[:, 1] - values], 0)
        axes.errorbar(x, values, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2.5)
        tops = np.fmax(values, ends[:, 1])
        for place, value, top in zip(x, values, tops, strict=True):
            if not np.isnan(value):
                axes.annotate(
                    f"{value:.2f}", (place, top), (0, 2), textcoords="offset points",
                    ha="center", fontsize=8.5,
                )  # fmt: skip
        highest = max(highest, np.nanmax(tops, initial=0.0))
    axes.set_xticks(range(len(names)), names)
    axes.grid(False, axis="x")
    axes.set(ylabel="AP", title=title, ylim=(0, 1.14 * highest or 1))


def recording_plots(runs: Mapping[str, EvaluatedRun]) -> Iterator[str]:
    """AP of each recording, best first, in the colour of its part of the day, of runs by title."""
    for title, run in runs.items():
        rows = {
            name: float(value)
            for name in run.results["recordings"]
            if (value := metric_of(run.records, (recording_part(name), "", ""), "AP")) is not None
        }
        if len(rows) > 1:
            rows = dict(sorted(rows.items(), key=lambda row: -row[1]))
            size = (_SIZE[0], 0.9 + _ROW * max(min(len(rows), _MOST_NAMED), 4))
            draw = partial(_draw_recordings, rows=rows, run=run, title=title)
            yield svg_of(f"recordings-{title}", f"AP by recording, {title}", size, draw)


def _draw_recordings(axes: Axes, rows: Mapping[str, float], run: EvaluatedRun, title: str) -> None:
    colours = [DAY_COLOURS.get(part_of_day(name) or "", GREY) for name in rows]
    axes.barh(range(len(rows)), list(rows.values()), 0.78, color=colours)
    overall = metric_of(run.records, ("", "", ""), "AP")
    axes.axvline(overall, color=INK, linewidth=0.9, linestyle="dashed")
    axes.annotate(
        f"AP of all {overall:.2f}", (overall, 0), (3, -1), ("data", "axes fraction"),
        textcoords="offset points", va="top", fontsize=8, color=INK,
    )  # fmt: skip
    is_named = len(rows) <= _MOST_NAMED
    axes.set_yticks(
        range(len(rows)) if is_named else [], list(rows) if is_named else [], fontsize=8
    )
    axes.grid(False, axis="y")
    axes.set(ylim=(len(rows) - 0.4, -0.6), title=title, xlim=(0, None))
    axes.xaxis.tick_top()


def error_plot(run: EvaluatedRun, title: str) -> str:
    """What became of the detections of each class; empty without detections."""
    confusion = run.results["confusion"]
    *names, _ = confusion["names"]
    counts = np.array(confusion["counts"])
    right = counts.diagonal()[:-1]
    near = np.array(confusion.get("localisation", 0 * right))
    parts = [right, counts[:-1, :-1].sum(axis=0) - right, near, counts[-1, :-1] - near]
    if not np.any(parts) or "localisation" not in confusion:
        return ""
    size = (4.6, 0.75 + 0.3 * max(len(names), 3))
    draw = partial(_draw_errors, names=names, parts=parts)
    return svg_of(f"errors-{title}", f"What became of the detections, {title}", size, draw)


def _draw_errors(axes: Axes, names: Sequence[str], parts: Sequence[np.ndarray]) -> None:
    total = np.sum(parts, axis=0)
    left = np.zeros(len(names))
    for counts, colour in zip(parts, ERRORS.values(), strict=True):
        share = counts / np.maximum(total, 1)
        axes.barh(names, share, 0.74, left=left, color=colour, edgecolor="white", linewidth=0.6)
        left += share
    for i, number in enumerate(total):
        axes.annotate(f"{number:,}", (1.01, i), va="center", fontsize=8.5, color=INK)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xticks(np.linspace(0, 1, 5), ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlim(0, 1.12)


def _known(value: Any) -> float:
    return np.nan if value is None else float(value)


def _interval(run: EvaluatedRun, cell: Cell) -> tuple[float, float]:
    low, high = run.results.get("intervals", {}).get(flat_key("AP", cell), (np.nan, np.nan))
    return low, high
