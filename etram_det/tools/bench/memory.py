"""Memory of a process that reads a very long recording."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from etram_det.data.layouts import open_recording
from etram_det.data.representation import FrameSettings
from etram_det.files import CACHE_VARIABLE
from etram_det.tools.bench.measure import Section, resident_mb

NUM_EVENTS = 300_000_000
_PART = 2**20  # events that are written at a time, and that repeat


def bench_memory(num_events: int = NUM_EVENTS) -> Section:
    """Read frames from all over a recording, in a process as loading ones are.

    Args:
        num_events: length of the recording, at 2 million events a second.
    """
    section = Section(f"Memory of a loading process, recording of {num_events / 1e6:.0f} M events")
    with section.part("reading"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long_td.h5"
        _write(path, num_events)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            imports_mb, peak_mb = pool.apply(_memory_of_reading, (path,))
        section.add("imports alone", imports_mb, "MB", "most of it PyTorch's")
        section.add("peak", peak_mb, "MB", f"{peak_mb - imports_mb:.0f} MB above imports")
    return section


def _write(path: Path, num_events: int) -> None:
    pattern = np.arange(_PART)
    with h5py.File(path, "w") as file:
        for name, dtype in (("x", "u2"), ("y", "u2"), ("p", "u1"), ("t", "i8")):
            column = file.create_dataset(
                f"events/{name}", (num_events,), dtype, chunks=(2**16,), **hdf5plugin.LZ4()
            )
            values = pattern % {"x": 1280, "y": 720, "p": 2, "t": _PART}[name]
            for start in range(0, num_events, _PART):
                written = (start + values) // 2 if name == "t" else values
                column[start : start + _PART] = written[: num_events - start]


def _memory_of_reading(path: Path) -> tuple[float, float]:
    """Resident memory in MB, before the recording is opened and at most."""
    # The time index is made, not read.
    os.environ[CACHE_VARIABLE] = str(path.parent / "cache")
    before = most = resident_mb()
    recording = open_recording(path, FrameSettings())
    for start in range(0, len(recording), 50):
        recording.frames(start, min(start + 5, len(recording)))
        most = max(most, resident_mb())
    return before, most
