"""Tables about a checkpoint, and of one beside another, for notebooks and the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from etram_det.metrics.records import METRICS, PARTS_OF_DAY, flat_key, metric_of, records_in
from etram_det.types import dotted_items


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Settings by dotted name; nested ones are taken apart, unset ones left out.

    Args:
        settings: plain values, lists and mappings of them.
    """
    table = Table()
    for heading in ("setting", "value"):
        table.add_column(heading, overflow="fold")
    for name, value in dotted_items(settings):
        if value not in (None, {}):
            # As it is: brackets of a stranger's are no markup.
            table.add_row(Text(name), Text(str(value)))
    return table


def parameters_table(counts: Mapping[str, int]) -> Table:
    """Learnt numbers of each part of a network, their share and their size in float32.

    Args:
        counts: by part, at least one.
    """
    table = Table("part")
    for name in ("parameters", "share", "MiB"):
        table.add_column(name, justify="right")
    total = sum(counts.values())
    for name, count in counts.items():
        table.add_row(name, *_parameter_cells(count, total))
    table.add_section()
    table.add_row("all", *_parameter_cells(total, total))
    return table


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Average precision over all, by size, class and part of the day, of two evaluations.

    Args:
        runs: two, by name: what ``metrics.json`` holds, of the same data.
    """
    records = [records_in(results) for results in runs.values()]
    evaluation = next(iter(runs.values()))["evaluation"]
    by_size = [("", "", size) for size in evaluation["size_bins"]]
    by_day = [(part, "", "") for part in PARTS_OF_DAY]
    groups = (
        [(metric, ("", "", "")) for metric in METRICS]
        + [("AP", cell) for cell in (*by_size, *by_day)],
        [("AP", ("", name, "")) for name in evaluation["class_names"]],
    )
    table = Table("metric")
    for heading in (*runs, "difference"):
        table.add_column(heading, justify="right")
    for group in groups:
        for metric, cell in group:
            one, other = (metric_of(each, cell, metric) for each in records)
            if one is not None and other is not None:
                cells = f"{one:.3f}", f"{other:.3f}", f"{other - one:+.3f}"
                table.add_row(flat_key(metric, cell), *cells)
        table.add_section()
    return table


def _parameter_cells(count: int, total: int) -> tuple[str, str, str]:
    return f"{count:,}", f"{count / total:.1%}", f"{count * 4 / 2**20:.2f}"
