"""What is reported of recordings in the end: speed, detections, faults of their events."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group
from rich.table import Table

from etram_det.data.recording import (
    OUTSIDE,
    REPAIRED,
    REPAIRED_SHARE,
    dropped_events,
    repaired_events,
)
from etram_det.inference.live.frame_maker import Counted

_MANY_OUTSIDE = 0.01  # of the events: the sensor's size is likely to be wrong
_MAX_COLUMNS = 3  # recordings whose names fit beside each other


@dataclass
class Measurements:
    """What was found in one recording, and how fast.

    Attributes:
        latencies_s: from asking for a window's events to its boxes, for each window.
        elapsed_s: the time of all windows but the first, writing included.
        counts: detections by class id.
        faults: what is to be reported of its events.
    """

    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    elapsed_s: float = 0.0
    counts: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def event_faults(recording: Counted) -> list[str]:
    """What was dropped and repaired in the windows of a recording that were read, for people."""
    faults = []
    if num_outside := recording.dropped.get(OUTSIDE, 0):
        fault = dropped_events(num_outside)
        if num_read := recording.events.get("in windows", 0):
            share = num_outside / num_read
            fault += f", {share:.1%} of those read"
            if share > _MANY_OUTSIDE:
                height, width = recording.sensor_size
                fault += f": use --sensor-size if it has more than height {height}, width {width}"
        faults.append(fault)
    if recording.repaired_share > REPAIRED_SHARE:
        faults.append(repaired_events(recording.repaired_share))
    elif num_repaired := recording.events.get(REPAIRED, 0):
        faults.append(f"events {REPAIRED}: {num_repaired:,}")
    return faults


def summary_of(finished: dict[str, Measurements], class_names: Sequence[str]) -> Group:
    """Speed of each recording, ``-`` where there is none to measure; its detections by class."""
    speed = table_of("recording", ("windows", "windows/s", "median ms", "p95 ms", "detections"))
    for name, measured in finished.items():
        windows = len(measured.latencies_s)
        speeds = ["-"] * 3
        if windows > 1:
            latencies_ms = 1000 * np.quantile(measured.latencies_s[1:], [0.5, 0.95])
            rate = (windows - 1) / max(measured.elapsed_s, 1e-9)
            speeds = [f"{each:.1f}" for each in (rate, *latencies_ms)]
        speed.add_row(name, str(windows), *speeds, str(measured.counts.total()))
    speed.caption = (
        "rate and ms without the first window; ms: from reading a window's events to its boxes"
    )
    columns = {name: measured.counts for name, measured in finished.items()}
    if len(columns) > _MAX_COLUMNS:
        total = sum(columns.values(), Counter())
        columns = {f"{len(columns)} recordings": total}
    found = table_of("class", columns)
    for class_id, name in enumerate(class_names):
        found.add_row(name, *(str(counts[class_id]) for counts in columns.values()))
    found.title = "detections"
    return Group(speed, found)


def table_of(first: str, others: Iterable[str]) -> Table:
    """An empty table with names in its first column and numbers in all others."""
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table
