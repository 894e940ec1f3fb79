"""How fast a detection was and what it found, as tables."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group
from rich.table import Table

_MOST_COLUMNS = 3  # recordings whose names fit beside each other


@dataclass
class Measurements:
    """What was found in one recording, and how fast.

    Attributes:
        latencies_s: from asking for a window's events to its boxes, for each window.
        elapsed_s: the time of it all, writing included.
        counts: detections by class id.
    """

    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    elapsed_s: float = 0.0
    counts: Counter[int] = field(default_factory=Counter)


def summary(finished: dict[str, Measurements], class_names: Sequence[str]) -> Group:
    """Speed of each recording, and its detections by class; ``-`` where there was no window."""
    speed = _table("recording", ("windows", "windows/s", "median ms", "p95 ms", "detections"))
    for name, measured in finished.items():
        windows = len(measured.latencies_s)
        # The first one loads and compiles what runs from then on.
        latencies_s = measured.latencies_s[1:] or measured.latencies_s or [np.nan]
        latencies_ms = 1000 * np.quantile(latencies_s, [0.5, 0.95])
        rate = f"{windows / max(measured.elapsed_s, 1e-9):.1f}"
        latencies = [f"{each:.1f}" if windows else "-" for each in latencies_ms]
        speed.add_row(name, str(windows), rate, *latencies, str(measured.counts.total()))
    speed.caption = "latency: from reading events to boxes, without the first window"
    columns = {name: measured.counts for name, measured in finished.items()}
    if len(columns) > _MOST_COLUMNS:
        total = sum(columns.values(), Counter())
        columns = {f"{len(columns)} recordings": total}
    found = _table("class", columns)
    for class_id, name in enumerate(class_names):
        found.add_row(name, *(str(counts[class_id]) for counts in columns.values()))
    found.title = "detections"
    return Group(speed, found)


def _table(first: str, others: Iterable[str]) -> Table:
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
