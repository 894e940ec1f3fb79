"""Statistics of recordings as tables, JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.files import write_text
from etram_det.metrics.evaluation import PARTS_OF_DAY
from etram_det.report.tables import BETWEEN_LABEL_TIMES
from etram_det.tools.stats.statistics import SIZES, RecordingFacts, labels_of
from etram_det.types import dotted_items

_SHOWN_QUANTILES = ("0.05", "0.25", "0.5", "0.75", "0.95")  # files hold all


def statistics_tables(statistics: Mapping[str, Any]) -> RenderableType:
    """Splits, classes by size and quantiles, for rich to print.

    Args:
        statistics: what :func:`statistics_of` returns.
    """
    splits = statistics["splits"]
    thresholds = f"{statistics['small_threshold']:g} and {statistics['medium_threshold']:g}"
    parts: list[str | Table] = [
        _splits_table(splits),
        f"Boxes by class, and their median area; small and large by areas of {thresholds} px² "
        f"({statistics['pixels']})",
        _classes_table(splits),
        "Quantiles of the boxes' sides and areas in pixels, and of recordings' event rates",
        _quantiles_table(splits),
    ]
    advice = statistics["advice"]
    if advice is not None:
        small, medium = advice["small_threshold"], advice["medium_threshold"]
        parts.append(
            f"Of the boxes in {advice['split']}, {advice['share_below_1024']:.0%} lie under "
            f"small_threshold 1024, the default, and {advice['share_below_9216']:.0%} under "
            f"medium_threshold 9216. Cut into thirds, they suggest small_threshold: {small} "
            f"({small**0.5:.0f}² px) and medium_threshold: {medium} ({medium**0.5:.0f}² px)."
        )
    # As they are: numbers in plain strings would be coloured, and brackets read as markup.
    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def _splits_table(splits: Mapping[str, Any]) -> Table:
    """A column for each split, which leaves room for the names of its rows."""
    table = _new_table("of", *splits)
    for name, key, pattern in (
        ("recordings", "recordings", ","),
        ("by day", "recordings_day", ","),
        ("by night", "recordings_night", ","),
        ("minutes", "seconds", ".1f"),
        ("frames", "frames", ","),
        ("labelled frames", "labelled_frames", ","),
        ("labelled frames a second", "labelled_frames_per_second", ",.1f"),
        ("boxes", "boxes", ","),
        ("boxes a labelled frame", "boxes_per_labelled_frame", ",.1f"),
    ):
        unit = 60 if key == "seconds" else 1
        table.add_row(name, *(_number(found[key], pattern, unit) for found in splits.values()))
    dropped = [Counter(found["dropped"]) for found in splits.values()]
    between = [each.pop(f"boxes: {BETWEEN_LABEL_TIMES}", 0) for each in dropped]
    table.add_row("boxes dropped", *(f"{each.total():,}" for each in dropped))
    table.add_row("boxes between label times, not used", *(f"{each:,}" for each in between))
    empty = [f"{found['labels_without_events']:,}" for found in splits.values()]
    table.add_row("labels without any event in their windows", *empty)
    rates = [(found["events_per_second"] or {}).get("0.5") for found in splits.values()]
    table.add_row("million events a second, median", *(_number(r, ".2f", 10**6) for r in rates))
    return table


def _classes_table(splits: Mapping[str, Any]) -> Table:
    columns = ("boxes", *SIZES, *PARTS_OF_DAY, "median_area")
    table = _new_table("split", "class", *columns[:-1], "median")
    for split, found in splits.items():
        for name, of_class in found["classes"].items():
            table.add_row(split, name, *(_number(of_class[column], ",.0f") for column in columns))
        table.add_section()
    return table


def _quantiles_table(splits: Mapping[str, Any]) -> Table:
    table = _new_table("split", "of", *(f"{float(q):.0%}" for q in _SHOWN_QUANTILES))
    for split, found in splits.items():
        for name, key, pattern, unit in (
            ("width", "width", ",.0f", 1),
            ("height", "height", ",.0f", 1),
            ("area", "area", ",.0f", 1),
            ("M events/s", "events_per_second", ".2f", 10**6),
        ):
            if found[key] is not None:
                cells = [_number(found[key][q], pattern, unit) for q in _SHOWN_QUANTILES]
                table.add_row(split, name, *cells)
        table.add_section()
    return table


def _new_table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        is_text = name in ("class", "of")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    return table


def _number(value: float | None, pattern: str, unit: int = 1) -> str:
    """A number in a unit; ``-`` where it is not known."""
    if value is None:
        return "-"
    return format(value if unit == 1 else value / unit, pattern)


def write_statistics(
    folder: Path, statistics: Mapping[str, Any], splits: Mapping[str, Sequence[RecordingFacts]]
) -> list[Path]:
    """Write ``stats.json``, ``stats.csv``, ``sizes.png``, ``classes.png`` and ``rates.png``.

    The CSV holds the numbers of the JSON as rows of ``key,value``; keys are joined by dots.

    Args:
        folder: made if need be.
        statistics: what :func:`statistics_of` returned for ``splits``.
        splits: recordings of each split.
    """
    paths = [folder / name for name in ("stats.json", "stats.csv")]
    write_text(paths[0], json.dumps(statistics, indent=2, allow_nan=False) + "\n")
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("key", "value"))
        leaf_rows = dotted_items(statistics)  # of what is not known there is no row
        writer.writerows((key, value) for key, value in leaf_rows if value not in (None, {}))
    plots = {"sizes": _sizes_plot(statistics, splits), "classes": _classes_plot(statistics)}
    if any(found["events_per_second"] for found in statistics["splits"].values()):
        plots["rates"] = _rates_plot(splits)
    for name, plot in plots.items():
        paths.append(folder / f"{name}.png")
        plot.savefig(paths[-1], dpi=120)
    return paths


def _new_plot() -> tuple[Figure, Axes]:
    plot = Figure(figsize=(7, 4), layout="constrained")
    return plot, plot.add_subplot()


def _sizes_plot(
    statistics: Mapping[str, Any], splits: Mapping[str, Sequence[RecordingFacts]]
) -> Figure:
    """How the sides of boxes are spread, with the thresholds."""
    plot, axes = _new_plot()
    for split, recordings in splits.items():
        sides = labels_of(recordings)[1].prod(axis=1) ** 0.5
        if len(sides):
            edges = np.geomspace(0.99 * sides.min(), 1.01 * sides.max(), 40).tolist()
            axes.hist(sides, edges, histtype="step", density=True, label=split)
    for name in ("small_threshold", "medium_threshold"):
        axes.axvline(statistics[name] ** 0.5, color="gray", linestyle="dashed", linewidth=1)
    label = f"square root of the box's area in pixels ({statistics['pixels']})"
    axes.set(xscale="log", xlabel=label, ylabel="density")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return plot


def _classes_plot(statistics: Mapping[str, Any]) -> Figure:
    """Boxes of each class, by size, of all splits together."""
    plot, axes = _new_plot()
    classes = [found["classes"] for found in statistics["splits"].values()]
    names = list(classes[0])
    left = np.zeros(len(names))
    for size in SIZES:
        numbers = np.array([sum(each[name][size] for each in classes) for name in names])
        axes.barh(names, numbers, left=left, label=size)
        left += numbers
    axes.invert_yaxis()
    axes.set_xlabel("boxes")
    axes.legend()
    return plot


def _rates_plot(splits: Mapping[str, Sequence[RecordingFacts]]) -> Figure:
    """Event rates of the recordings, by day, by night and where their names do not say."""
    plot, axes = _new_plot()
    recordings = [each for of_split in splits.values() for each in of_split]
    for part in (*PARTS_OF_DAY, None):
        rates = [each.event_rate for each in recordings if each.part_of_day == part]
        known = sorted(rate / 1e6 for rate in rates if rate is not None)
        if known:
            axes.plot(known, np.linspace(0, 1, len(known)), marker=".", label=part or "unknown")
    axes.set(xlabel="million events in a second", ylabel="share of recordings below")
    axes.legend()
    return plot
