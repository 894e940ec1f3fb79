"""Which metrics stand in which table, whatever shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from etram_det.metrics.records import (
    METRICS,
    PARTS_OF_DAY,
    Cell,
    Records,
    metric_of,
    recording_part,
)

BOXES = {"boxes": ("boxes", "")}  # a column


class Grid(NamedTuple):
    """A table of metrics.

    Attributes:
        corner: what the rows are.
        rows: cell of each row by its name; a row without a name is a line between rows.
        columns: metric and size of each column by its name, for rows over all sizes.
    """

    corner: str
    rows: Mapping[str, Cell]
    columns: Mapping[str, tuple[str, str]]

    def values(self, records: Records) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
        """Name of each row, and in each column its metric and its number of boxes.

        Both are as :func:`~etram_det.metrics.records.metric_of` gives them.
        """
        for name, (part, class_name, own_size) in self.rows.items():
            values = []
            for metric, size in self.columns.values():
                cell = (part, class_name, own_size or size)
                values.append((metric_of(records, cell, metric), metric_of(records, cell, "boxes")))
            yield name, values


def metric_grids(*runs: Mapping[str, Any]) -> dict[str, Grid]:
    """The tables of one evaluation, or of two side by side, by key.

    Args:
        runs: what ``metrics.json`` holds of each.
    """

    def names(kind: str) -> list[str]:
        return list(dict.fromkeys(name for run in runs for name in run["evaluation"][kind]))

    sizes, classes, groups = names("size_bins"), names("class_names"), names("class_groups")
    metrics = {metric: (metric, "") for metric in METRICS} | BOXES
    by_size = {"all sizes": ("AP", "")} | {size: ("AP", size) for size in sizes}
    line = [""] if classes and groups else []
    by_class: dict[str, Cell] = {name: ("", name, "") for name in (*classes, *line, *groups)}
    recordings = sorted({name for run in runs for name in run["recordings"]})
    return {
        "sizes": Grid("size", {size or "all": ("", "", size) for size in ("", *sizes)}, metrics),
        "classes": Grid("class", by_class, metrics),
        "heat": Grid("class", by_class, by_size),
        "day-night": Grid("part", {part: (part, "", "") for part in PARTS_OF_DAY}, by_size),
        "recordings": Grid(
            "recording",
            {name: (recording_part(name), "", "") for name in recordings},
            {"AP": ("AP", ""), "AP50": ("AP50", "")}
            | {f"AP {size}": ("AP", size) for size in sizes},
        ),
    }
