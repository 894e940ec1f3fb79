"""What recordings hold: tables for the screen, files for a program, plots for people."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etram_det.metrics.evaluation import PARTS_OF_DAY, part_of_day

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_SHOWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # on screen; files hold all


@dataclass(frozen=True)
class RecordingFacts:
    """What is known of one recording without its frames.

    Attributes:
        name: of the recording; ``day`` or ``night`` as a word of it tells when it was made.
        seconds: from its first frame's start to its last one's end.
        event_rate: events in a second; None where it is not known.
        num_frames: of all its frames.
        num_labelled: of its labelled frames.
        classes: ``[M]`` class id of each label.
        sizes: ``[M, 2]`` width and height of each label in pixels of the input frame.
        dropped: number of boxes left out, by reason.
    """

    name: str
    seconds: float
    event_rate: float | None
    num_frames: int
    num_labelled: int
    classes: NDArray[np.integer[Any]]
    sizes: NDArray[np.floating[Any]]
    dropped: Mapping[str, int]

    @property
    def part_of_day(self) -> str | None:
        """``day`` or ``night`` by its name, as in evaluations; None where that does not tell."""
        return part_of_day(self.name)


def statistics_of(
    splits: Mapping[str, Sequence[RecordingFacts]],
    class_names: Sequence[str],
    small_threshold: float,
    medium_threshold: float,
    pixels: str,
) -> dict[str, Any]:
    """Figures of all splits, in plain numbers, strings and lists.

    Args:
        splits: recordings of each split.
        class_names: name of each class id.
        small_threshold: boxes of a smaller area are small, in square pixels of the input frame.
        medium_threshold: boxes of this area and more are large.
        pixels: the size of the input frame in words.
    """
    figures = {
        split: _split_figures(recordings, class_names, (small_threshold, medium_threshold))
        for split, recordings in splits.items()
    }
    advised_on = next((split for split in splits if figures[split]["boxes"]), None)
    return {
        "pixels": pixels,
        "small_threshold": small_threshold,
        "medium_threshold": medium_threshold,
        "splits": figures,
        "advice": None if advised_on is None else _advice(advised_on, splits[advised_on]),
    }


def _split_figures(
    recordings: Sequence[RecordingFacts],
    class_names: Sequence[str],
    thresholds: tuple[float, float],
) -> dict[str, Any]:
    classes, sizes = _labels(recordings)
    areas = sizes.prod(axis=1)
    parts = [each.part_of_day for each in recordings]
    # Where no name tells, nothing is known, which is not the same as none.
    part_of_box = None
    if any(parts):
        part_of_box = np.repeat(np.array(parts, object), [len(r.classes) for r in recordings])
    size_bin = np.digitize(areas, thresholds)
    seconds = sum(each.seconds for each in recordings)
    num_labelled = sum(each.num_labelled for each in recordings)
    rates = [each.event_rate for each in recordings if each.event_rate is not None]
    dropped: dict[str, int] = {}
    for each in recordings:
        for reason, number in each.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    return {
        "recordings": len(recordings),
        **{f"recordings_{p}": parts.count(p) if any(parts) else None for p in PARTS_OF_DAY},
        "seconds": seconds,
        "frames": sum(each.num_frames for each in recordings),
        "labelled_frames": num_labelled,
        "labelled_frames_per_second": num_labelled / seconds if seconds else None,
        "boxes": len(classes),
        "boxes_per_labelled_frame": len(classes) / num_labelled if num_labelled else None,
        "dropped": dropped,
        "events_per_second": _quantiles(np.array(rates)),
        "classes": {
            name: _class_figures(areas, size_bin, part_of_box, classes == class_id)
            for class_id, name in enumerate(class_names)
        },
        "width": _quantiles(sizes[:, 0]),
        "height": _quantiles(sizes[:, 1]),
        "area": _quantiles(areas),
    }


def _class_figures(
    areas: NDArray[Any],
    size_bin: NDArray[Any],
    part_of_box: NDArray[Any] | None,
    own: NDArray[np.bool_],
) -> dict[str, Any]:
    numbers = np.bincount(size_bin[own], minlength=3).tolist()
    return {
        "boxes": int(own.sum()),
        **dict(zip(("small", "medium", "large"), numbers, strict=True)),
        **{
            part: None if part_of_box is None else int((own & (part_of_box == part)).sum())
            for part in PARTS_OF_DAY
        },
        "median_area": float(np.median(areas[own])) if own.any() else None,
    }


def _labels(recordings: Sequence[RecordingFacts]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes ``[M]`` and sizes ``[M, 2]`` of all labels."""
    classes = [np.zeros(0, np.int64), *(each.classes for each in recordings)]
    sizes = [np.zeros((0, 2)), *(each.sizes for each in recordings)]
    return np.concatenate(classes), np.concatenate(sizes)


def _quantiles(values: NDArray[Any]) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    quantiles = np.quantile(values, QUANTILES).tolist()
    return {f"{q:g}": value for q, value in zip(QUANTILES, quantiles, strict=True)}


def _advice(split: str, recordings: Sequence[RecordingFacts]) -> dict[str, Any]:
    """Thresholds that cut the boxes into thirds, as squares of whole sides."""
    areas = _labels(recordings)[1].prod(axis=1)
    small, medium = (
        max(round(float(side)), 1) for side in np.quantile(areas, (1 / 3, 2 / 3)) ** 0.5
    )
    medium = max(medium, small + 1)
    return {
        "split": split,
        "small_threshold": small**2,
        "medium_threshold": medium**2,
        "share_small": float(np.mean(areas < small**2)),
        "share_medium": float(np.mean((areas >= small**2) & (areas < medium**2))),
        "share_below_1024": float(np.mean(areas < 32**2)),
        "share_below_9216": float(np.mean(areas < 96**2)),
    }


def statistics_tables(statistics: Mapping[str, Any]) -> RenderableType:
    """Splits, classes by size and quantiles, for rich to print.

    Args:
        statistics: what :func:`statistics_of` returns.
    """
    splits = statistics["splits"]
    thresholds = f"{statistics['small_threshold']:g} and {statistics['medium_threshold']:g}"
    parts: list[RenderableType] = [
        _splits_table(splits),
        Text(
            f"Boxes by class, and their median area; small and large by areas of {thresholds} px² "
            f"({statistics['pixels']})"
        ),
        _classes_table(splits),
        Text("Quantiles of the boxes' sides and areas in pixels, and of recordings' event rates"),
        _quantiles_table(splits),
    ]
    advice = statistics["advice"]
    if advice is not None:
        parts.append(Text(_advice_text(advice)))
    return Group(*parts)


def _advice_text(advice: Mapping[str, Any]) -> str:
    small, medium = advice["small_threshold"], advice["medium_threshold"]
    return (
        f"Of the boxes in {advice['split']}, {advice['share_below_1024']:.0%} lie under "
        f"small_threshold 1024, the default, and {advice['share_below_9216']:.0%} under "
        "medium_threshold 9216. "
        f"Cut into thirds, they suggest small_threshold: {small} ({small**0.5:.0f}² px) and "
        f"medium_threshold: {medium} ({medium**0.5:.0f}² px)."
    )


def _splits_table(splits: Mapping[str, Any]) -> Table:
    """A column for each split, which leaves room for its facts' names."""
    table = _new_table("of", *splits)
    facts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "recordings": lambda figures: f"{figures['recordings']:,}",
        "by day": lambda figures: _count(figures["recordings_day"]),
        "by night": lambda figures: _count(figures["recordings_night"]),
        "minutes": lambda figures: f"{figures['seconds'] / 60:.1f}",
        "frames": lambda figures: f"{figures['frames']:,}",
        "labelled frames": lambda figures: f"{figures['labelled_frames']:,}",
        "labelled frames a second": lambda figures: _number(figures["labelled_frames_per_second"]),
        "boxes": lambda figures: f"{figures['boxes']:,}",
        "boxes a labelled frame": lambda figures: _number(figures["boxes_per_labelled_frame"]),
        "boxes between labelled frames or dropped": lambda figures: (
            f"{sum(figures['dropped'].values()):,}"
        ),
        "million events a second, median": lambda figures: _millions(figures["events_per_second"]),
    }
    for name, of_split in facts.items():
        table.add_row(name, *(of_split(figures) for figures in splits.values()))
    return table


def _classes_table(splits: Mapping[str, Any]) -> Table:
    columns = ("boxes", "small", "medium", "large", "day", "night", "median")
    table = _new_table("split", "class", *columns)
    for split, figures in splits.items():
        for name, of_class in figures["classes"].items():
            numbers = [_count(of_class[column]) for column in columns[:-1]]
            median = of_class["median_area"]
            numbers.append("-" if median is None else f"{median:,.0f}")
            table.add_row(split, name, *numbers)
        table.add_section()
    return table


def _quantiles_table(splits: Mapping[str, Any]) -> Table:
    table = _new_table("split", "of", *(f"{q:.0%}" for q in _SHOWN_QUANTILES))
    shown = [str(q) for q in _SHOWN_QUANTILES]
    for split, figures in splits.items():
        for name in ("width", "height", "area"):
            if figures[name] is not None:
                cells = [f"{figures[name][q]:,.0f}" for q in shown]
                table.add_row(split, name, *cells)
        if figures["events_per_second"] is not None:
            cells = [f"{figures['events_per_second'][q] / 1e6:.2f}" for q in shown]
            table.add_row(split, "M events/s", *cells)
        table.add_section()
    return table


def _new_table(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        is_text = name in ("class", "of")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    return table


def _millions(rates: Mapping[str, float] | None) -> str:
    return "-" if rates is None else f"{rates['0.5'] / 1e6:.2f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def write_statistics(
    folder: Path,
    statistics: Mapping[str, Any],
    splits: Mapping[str, Sequence[RecordingFacts]],
) -> list[Path]:
    """Write ``stats.json``, ``stats.csv``, ``sizes.png``, ``classes.png`` and ``rates.png``.

    The CSV holds the figures of the JSON as rows of ``key,value``; keys are joined by dots.

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
        writer.writerows(_rows(statistics))
    _sizes_figure(statistics, splits).savefig(paths[2], dpi=120)
    _classes_figure(statistics).savefig(paths[3], dpi=120)
    if any(figures["events_per_second"] for figures in statistics["splits"].values()):
        paths.append(folder / "rates.png")
        _rates_figure(splits).savefig(paths[4], dpi=120)
    return paths


def _rows(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _sizes_figure(
    statistics: Mapping[str, Any], splits: Mapping[str, Sequence[RecordingFacts]]
) -> Figure:
    """How the sides of boxes are spread, with the thresholds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for split, recordings in splits.items():
        sides = _labels(recordings)[1].prod(axis=1) ** 0.5
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


def _classes_figure(statistics: Mapping[str, Any]) -> Figure:
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


def _rates_figure(splits: Mapping[str, Sequence[RecordingFacts]]) -> Figure:
    """Event rates of the recordings, by day, by night and where their names do not tell."""
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
