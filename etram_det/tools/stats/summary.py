"""Statistics of recordings as tables, JSON, CSV and plots."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.drawing.plots import (
    BLUE,
    DAY_COLOURS,
    GREEN,
    GREY,
    INK,
    STYLE,
    VERMILION,
    add_legend,
    line_style,
)
from etram_det.files import write_text
from etram_det.metrics.evaluation import PARTS_OF_DAY
from etram_det.report.tables import BETWEEN_LABEL_TIMES
from etram_det.tools.stats.statistics import SIZES, RecordingFacts, labels_of
from etram_det.types import dotted_items

_SIZE_COLOURS = (VERMILION, BLUE, GREEN)  # as in reports
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


def _new_plots(*titles: str, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Axes side by side under their titles, in the style of the report."""
    with rc_context(STYLE):
        plot = Figure(figsize=(7.5 if len(titles) == 1 else 10, 4), layout="constrained")
        grid = plot.subplots(1, len(titles), squeeze=False, sharey=sharey)[0].tolist()
        for axes, title in zip(grid, titles, strict=True):
            axes.set_title(title)
    return plot, grid


def _sizes_plot(
    statistics: Mapping[str, Any], splits: Mapping[str, Sequence[RecordingFacts]]
) -> Figure:
    """How the sides of boxes are spread, with the thresholds."""
    plot, [axes] = _new_plots("Sizes of the boxes by split")
    for i, (split, recordings) in enumerate(splits.items()):
        sides = labels_of(recordings)[1].prod(axis=1) ** 0.5
        if len(sides):
            edges = np.geomspace(0.99 * sides.min(), 1.01 * sides.max(), 40).tolist()
            style = {"linewidth": 1.6, **line_style(i + 1)}
            axes.hist(sides, edges, histtype="step", density=True, label=split, **style)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    bounds = [statistics[f"{name}_threshold"] ** 0.5 for name in ("small", "medium")]
    for side, name in zip(bounds, SIZES[1:], strict=True):
        axes.axvline(side, color=INK, linestyle="dashed", linewidth=0.9)
        if low <= side <= high:
            corner, above = axes.get_xaxis_transform(), "offset points"
            note: dict[str, Any] = {"va": "top", "fontsize": 8.5, "color": INK}
            # On the other side of its line where it would run into the legend.
            is_last = np.log(high / side) < 0.15 * np.log(high / low)
            apart, to = (-3, "right") if is_last else (3, "left")
            axes.annotate(f"{name} ›", (side, 1), (apart, -2), corner, above, ha=to, **note)
    ticks = [side for side in 2 ** np.arange(11) if low <= side <= high]
    axes.set_xticks(ticks, [str(side) for side in ticks])
    axes.minorticks_off()
    label = f"square root of the box's area in pixels ({statistics['pixels']})"
    axes.set(xlabel=label, ylabel="density")
    add_legend(axes, "split")
    return plot


def _classes_plot(statistics: Mapping[str, Any]) -> Figure:
    """Boxes of each class, by size and by day and night, of all splits together."""
    classes = [found["classes"] for found in statistics["splits"].values()]
    names = list(classes[0])

    def numbers(key: str) -> NDArray[np.integer[Any]]:
        return np.array([sum(each[name][key] or 0 for each in classes) for name in names])

    by_size = {size: (numbers(size), c) for size, c in zip(SIZES, _SIZE_COLOURS, strict=True)}
    by_day = {part: (numbers(part), DAY_COLOURS[part]) for part in PARTS_OF_DAY}
    unknown = numbers("boxes") - sum(count for count, _ in by_day.values())
    if unknown.any():
        by_day["unknown"] = unknown, GREY
    titles = ("Boxes by class and size", "Boxes by class, day and night")
    plot, grid = _new_plots(*titles, sharey=True)
    for axes, parts in zip(grid, (by_size, by_day), strict=True):
        left = np.zeros(len(names))
        for label, (counts, colour) in parts.items():
            style: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.6}
            axes.barh(names, counts, 0.74, left=left, label=label, **style)
            left += counts
        axes.grid(False, axis="y")
        axes.set(xlabel="boxes", xlim=(0, 1.05 * left.max() or 1))
        # Beneath the axes, where no bar is.
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(parts))
    grid[0].invert_yaxis()
    return plot


def _rates_plot(splits: Mapping[str, Sequence[RecordingFacts]]) -> Figure:
    """Event rates of the recordings, by day, by night and where their names do not say."""
    plot, [axes] = _new_plots("Event rates of the recordings")
    recordings = [each for of_split in splits.values() for each in of_split]
    for part, colour in [*DAY_COLOURS.items(), (None, GREY)]:
        rates = [each.event_rate for each in recordings if each.part_of_day == part]
        known = sorted(rate / 1e6 for rate in rates if rate is not None)
        if known:
            shares = np.arange(1, len(known) + 1) / len(known)
            label = f"{part or 'unknown'} ({len(known)})"
            axes.step([known[0], *known], [0, *shares], where="post", color=colour, label=label)
            axes.plot(known, shares, ".", color=colour)
    axes.set(xlabel="million events a second", ylabel="share of recordings at or below")
    axes.set_ylim(0, 1.02)
    add_legend(axes, "recordings")
    return plot
