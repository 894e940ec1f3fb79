"""``python -m etram_det simulate``: write simulated traffic in eTraM's own layout."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from etram_det.boxes import BOX_DTYPE
from etram_det.data.labels import ETRAM_CLASSES
from etram_det.progress import screen, shown_progress
from etram_det.report.tables import number_of
from etram_det.simulator.dataset import SimulationSettings, require_new, simulate

# A small box covers less than this, in pixels of a network that sees half the sensor's size.
_SMALL_AREA = 32**2


@dataclass(frozen=True)
class _Contents:
    """What a folder of recordings holds.

    Attributes:
        num_recordings: of all splits.
        num_events: of all recordings.
        num_bytes: of all files.
        classes: ``[N]`` class id of each box.
        areas: ``[N]`` its area in pixels at half the sensor's size.
    """

    num_recordings: int
    num_events: int
    num_bytes: int
    classes: NDArray[np.int64]
    areas: NDArray[np.float64]


def _contents(root: Path) -> _Contents:
    """Count what lies in ``root``."""
    num_events = 0
    recordings = sorted(root.glob("*/*_td.h5"))
    for path in recordings:
        with h5py.File(path, "r") as file:
            num_events += len(file["events/t"])
    boxes = [np.zeros(0, BOX_DTYPE), *(np.load(path) for path in root.glob("*/*_bbox.npy"))]
    return _Contents(
        num_recordings=len(recordings),
        num_events=num_events,
        num_bytes=sum(path.stat().st_size for path in root.rglob("*") if path.is_file()),
        classes=np.concatenate([b["class_id"] for b in boxes]).astype(np.int64),
        areas=np.concatenate([b["w"].astype(np.float64) * b["h"] / 4 for b in boxes]),
    )


def _summary(contents: _Contents) -> Table:
    """Boxes of each class."""
    table = Table()
    table.add_column("class")
    table.add_column("boxes", justify="right")
    table.add_column("small*", justify="right")
    for class_id, name in enumerate(ETRAM_CLASSES):
        areas = contents.areas[contents.classes == class_id]
        table.add_row(name, f"{len(areas):,}", _share_small(areas))
    table.add_section()
    table.add_row("all", f"{len(contents.areas):,}", _share_small(contents.areas))
    return table


def _share_small(areas: NDArray[np.float64]) -> str:
    return f"{np.mean(areas < _SMALL_AREA):.0%}" if len(areas) else "-"


def simulate_command(
    output: Path,
    settings: SimulationSettings = SimulationSettings(),  # noqa: B008 (frozen)
    workers: int | None = None,
) -> None:
    """Make a set of simulated traffic in eTraM's own layout.

    Args:
        output: folder to make; it may be there if it is empty.
        settings: what to simulate.
        workers: recordings made at the same time; all cores if unset.

    Raises:
        UserError: ``output`` is there already and not an empty folder.
    """
    require_new(output)  # before any progress is shown
    started_s = time.monotonic()
    with shown_progress("recordings") as progress:
        simulate(output, settings, workers, progress)
    contents = _contents(output)
    console = screen()
    console.print(_summary(contents))
    console.out("* under 32² px at half the sensor's size")
    console.out(
        f"{number_of(contents.num_recordings, 'recording')} of {settings.seconds:g} s, "
        f"{contents.num_events / 1e6:.1f} M events, {contents.num_bytes / 1e6:.0f} MB, "
        f"made in {time.monotonic() - started_s:.0f} s in {output}"
    )
