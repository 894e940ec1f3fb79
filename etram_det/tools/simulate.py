"""``python -m etram_det simulate``: write simulated traffic in eTraM's own layout."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from etram_det.boxes import BOX_DTYPE
from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.labels import ETRAM_CLASSES
from etram_det.progress import screen, shown_progress
from etram_det.report.tables import number_of
from etram_det.simulator.dataset import SimulationSettings, require_new, simulate

# A small box covers less than this, in pixels of a network that sees half the sensor's size.
_SMALL_AREA = 32**2


def _summary(boxes: NDArray[Any]) -> Table:
    """Numbers of boxes ``[N]`` of each class, and the share of small ones."""
    areas = boxes["w"].astype(np.float64) * boxes["h"] / 4
    table = Table("class")
    for name in ("boxes", "small*"):
        table.add_column(name, justify="right")
    for class_id, name in enumerate(ETRAM_CLASSES):
        table.add_row(name, *_cells(areas[boxes["class_id"] == class_id]))
    table.add_section()
    table.add_row("all", *_cells(areas))
    return table


def _cells(areas: NDArray[np.float64]) -> tuple[str, str]:
    share = f"{np.mean(areas < _SMALL_AREA):.0%}" if len(areas) else "-"
    return f"{len(areas):,}", share


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
    num_events = 0
    recordings = sorted(output.glob("*/*_td.h5"))
    for path in recordings:
        with open_hdf5(path, "simulate it again") as file:
            num_events += len(file["events/t"])
    num_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    boxes = [np.zeros(0, BOX_DTYPE), *(np.load(path) for path in output.glob("*/*_bbox.npy"))]
    console = screen()
    console.print(_summary(np.concatenate(boxes)))
    console.out(
        "* under 32² px at half the sensor's size\n"
        f"{number_of(len(recordings), 'recording')} of {settings.seconds:g} s, "
        f"{num_events / 1e6:.1f} M events, {num_bytes / 1e6:.0f} MB, "
        f"made in {time.monotonic() - started_s:.0f} s in {output}"
    )
