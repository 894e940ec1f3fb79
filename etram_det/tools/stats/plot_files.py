"""Statistics of recordings as files: JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from etram_det.metrics.evaluation import PARTS_OF_DAY
from etram_det.tools.stats.statistics import RecordingFacts, labels_of
from etram_det.types import dotted_items


def write_statistics(
    folder: Path,
    statistics: Mapping[str, Any],
    splits: Mapping[str, Sequence[RecordingFacts]],
) -> list[Path]:
    """Write ``stats.json``, ``stats.csv``, ``sizes.png``, ``classes.png`` and ``rates.png``.

    The CSV holds the numbers of the JSON as rows of ``key,value``; keys are joined by dots.

    Args:
        folder: made if need be.
        statistics: what :func:`statistics_of` returned for ``splits``.
        splits: recordings of each split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("stats.json", "stats.csv", "sizes.png", "classes.png")]
    paths[0].write_text(json.dumps(statistics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("key", "value"))
        leaf_rows = dotted_items(statistics)  # of what is not known there is no row
        writer.writerows((key, value) for key, value in leaf_rows if value not in (None, {}))
    _sizes_plot(statistics, splits).savefig(paths[2], dpi=120)
    _classes_plot(statistics).savefig(paths[3], dpi=120)
    if any(found["events_per_second"] for found in statistics["splits"].values()):
        paths.append(folder / "rates.png")
        _rates_plot(splits).savefig(paths[4], dpi=120)
    return paths


def _sizes_plot(
    statistics: Mapping[str, Any], splits: Mapping[str, Sequence[RecordingFacts]]
) -> Figure:
    """How the sides of boxes are spread, with the thresholds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, recordings in splits.items():
        sides = labels_of(recordings)[1].prod(axis=1) ** 0.5
        if len(sides):
            edges = np.geomspace(0.99 * sides.min(), 1.01 * sides.max(), 40).tolist()
            axes.hist(sides, edges, histtype="step", density=True, label=split)
    for name in ("small_threshold", "medium_threshold"):
        axes.axvline(statistics[name] ** 0.5, color="gray", linestyle="dashed", linewidth=1)
    axes.set(
        xscale="log",
        xlabel=f"square root of the box's area in pixels ({statistics['pixels']})",
        ylabel="density",
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


def _classes_plot(statistics: Mapping[str, Any]) -> Figure:
    """Boxes of each class, by size, of all splits together."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    splits = list(statistics["splits"].values())
    names = list(splits[0]["classes"]) if splits else []
    left = np.zeros(len(names))
    for size in ("small", "medium", "large"):
        numbers = np.array([sum(each["classes"][name][size] for each in splits) for name in names])
        axes.barh(names, numbers, left=left, label=size)
        left += numbers
    axes.invert_yaxis()
    axes.set_xlabel("boxes")
    axes.legend()
    return figure


def _rates_plot(splits: Mapping[str, Sequence[RecordingFacts]]) -> Figure:
    """Event rates of the recordings, by day, by night and where their names do not say."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    recordings = [each for of_split in splits.values() for each in of_split]
    for part in (*PARTS_OF_DAY, None):
        rates = [each.event_rate for each in recordings if each.part_of_day == part]
        known = sorted(rate / 1e6 for rate in rates if rate is not None)
        if known:
            axes.plot(known, np.linspace(0, 1, len(known)), marker=".", label=part or "unknown")
    axes.set(xlabel="million events in a second", ylabel="share of recordings below")
    axes.legend()
    return figure
