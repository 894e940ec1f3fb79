"""Statistics of recordings as tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_SHOWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # files hold all


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
    """A column for each split, which leaves room for the names of its rows."""
    table = _new_table("of", *splits)
    facts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "recordings": lambda found: f"{found['recordings']:,}",
        "by day": lambda found: _count(found["recordings_day"]),
        "by night": lambda found: _count(found["recordings_night"]),
        "minutes": lambda found: f"{found['seconds'] / 60:.1f}",
        "frames": lambda found: f"{found['frames']:,}",
        "labelled frames": lambda found: f"{found['labelled_frames']:,}",
        "labelled frames a second": lambda found: _number(found["labelled_frames_per_second"]),
        "boxes": lambda found: f"{found['boxes']:,}",
        "boxes a labelled frame": lambda found: _number(found["boxes_per_labelled_frame"]),
        "boxes between labelled frames or dropped": lambda found: (
            f"{sum(found['dropped'].values()):,}"
        ),
        "million events a second, median": lambda found: _millions(found["events_per_second"]),
    }
    for name, of_split in facts.items():
        table.add_row(name, *(of_split(found) for found in splits.values()))
    return table


def _classes_table(splits: Mapping[str, Any]) -> Table:
    columns = ("boxes", "small", "medium", "large", "day", "night", "median")
    table = _new_table("split", "class", *columns)
    for split, found in splits.items():
        for name, of_class in found["classes"].items():
            numbers = [_count(of_class[column]) for column in columns[:-1]]
            median = of_class["median_area"]
            numbers.append("-" if median is None else f"{median:,.0f}")
            table.add_row(split, name, *numbers)
        table.add_section()
    return table


def _quantiles_table(splits: Mapping[str, Any]) -> Table:
    table = _new_table("split", "of", *(f"{q:.0%}" for q in _SHOWN_QUANTILES))
    shown = [str(q) for q in _SHOWN_QUANTILES]
    for split, found in splits.items():
        for name in ("width", "height", "area"):
            if found[name] is not None:
                cells = [f"{found[name][q]:,.0f}" for q in shown]
                table.add_row(split, name, *cells)
        if found["events_per_second"] is not None:
            cells = [f"{found['events_per_second'][q] / 1e6:.2f}" for q in shown]
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
