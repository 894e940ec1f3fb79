"""``bench data``: events to frames, frames from each layout, batches, and memory of reading."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from etram_det.boxes import BOX_DTYPE
from etram_det.data.labels import ETRAM_CLASSES, LabelSettings
from etram_det.data.layouts import find_recordings, open_recording
from etram_det.data.preprocessing import preprocess
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings, Representation
from etram_det.files import CACHE_VARIABLE
from etram_det.simulator.dataset import SimulationSettings, simulate
from etram_det.tools.bench.inputs import random_events
from etram_det.tools.bench.loader import bench_loader
from etram_det.tools.bench.measure import Section, measure, measurement_of, resident_mb

_SENSOR, _FRAME = (720, 1280), (360, 640)
_KERNEL_EVENTS = 250_000  # of a window, at 5 million events a second
_RAW_EVENTS = 100_000
_RAW_WINDOWS = 60
_CHUNK = 5  # frames read at a time, as in training
_CPU = torch.device("cpu")
_LONG_EVENTS = 300_000_000
_PART = 2**20  # events of the long recording that are written at a time, and that repeat


def bench_data(repeats: int) -> list[Section]:
    """Time the kernel, all layouts and the loader, and watch the memory."""
    return [_kernel(repeats), _reading(repeats), _loading(repeats), bench_memory()]


def _kernel(repeats: int) -> Section:
    section = Section(f"Events to a frame: {_KERNEL_EVENTS:,} in 50 ms, 720x1280 to 360x640")
    columns = random_events(_KERNEL_EVENTS, _SENSOR)
    histogram = Representation(_SENSOR, _FRAME, FrameSettings())
    frame = np.empty(histogram.shape, np.uint8)
    runs = {"kernel": partial(histogram.fill, frame, *columns, (0, 50_000))}
    for name, values in measure(runs, 3 * repeats, _CPU, section).items():
        rate = _KERNEL_EVENTS / measurement_of("", values).value / 1e3
        section.add_times(name, values, f"{rate:.0f} M events/s")
    return section


def _reading(repeats: int) -> Section:
    section = Section(f"Frames 360x640 read {_CHUNK} at a time, by one process")
    with tempfile.TemporaryDirectory() as folder:
        root, frames = Path(folder), FrameSettings(input_size=_FRAME)
        recordings: dict[str, Recording] = {}
        sizes_kb: dict[str, float] = {}
        with section.part("raw"):
            name = f"raw, gzip, {_RAW_EVENTS:,} events a window"
            recordings[name] = _raw_recording(root / "gzip")
        with section.part("simulated traffic"):
            traffic = root / "traffic"
            simulate(traffic, SimulationSettings(train=1, val=0, test=0), workers=1)
            layouts: tuple[Literal["rvt", "sparse"], ...] = ("rvt", "sparse")
            for layout in layouts:
                preprocess(traffic, root / layout, frames, LabelSettings(), layout, workers=1)
                recordings[layout] = _only(root / layout)
                num_bytes = sum(path.stat().st_size for path in (root / layout).rglob("*.h5"))
                sizes_kb[layout] = num_bytes / len(recordings[layout]) / 1e3
        runs = {name: partial(_read, recording) for name, recording in recordings.items()}
        times = measure(runs, repeats, _CPU, section, warm_up=1)
    medians = {
        name: measurement_of("", values).value / len(recordings[name])
        for name, values in times.items()
    }
    for name, milliseconds in medians.items():
        note = f"{1e3 / milliseconds:.0f} frames/s"
        if name in sizes_kb:
            note += f", {sizes_kb[name]:.1f} kB a frame"
        if name == "sparse" and "rvt" in medians:
            note += f", {medians['rvt'] / milliseconds:.1f} times as fast as rvt"
        section.add(f"{name}, a frame", milliseconds, "ms", note)
    return section


def _loading(repeats: int) -> Section:
    """The loader on a cache of ``_RAW_EVENTS`` a window."""
    with tempfile.TemporaryDirectory() as folder:
        raw, cache = Path(folder) / "raw", Path(folder) / "cache"
        _raw_recording(raw)
        preprocess(raw, cache, FrameSettings(input_size=_FRAME), LabelSettings(), workers=1)
        return bench_loader(cache / "train", _all_of, repeats)


def _read(recording: Recording) -> None:
    for start in range(0, len(recording), _CHUNK):
        recording.frames(start, min(start + _CHUNK, len(recording)))


def _all_of(root: Path) -> list[Recording]:
    return find_recordings(root, "train", FrameSettings(input_size=_FRAME), LabelSettings())


def _only(root: Path) -> Recording:
    [recording] = _all_of(root)
    return recording


def _raw_recording(root: Path) -> Recording:
    """A recording of random events in eTraM's layout, compressed by gzip."""
    import h5py

    folder = root / "train"
    folder.mkdir(parents=True)
    num_events, duration_us = _RAW_WINDOWS * _RAW_EVENTS, _RAW_WINDOWS * 50_000
    columns = random_events(num_events, _SENSOR, duration_us)
    with h5py.File(folder / "train_day_0001_td.h5", "w") as file:
        for name, values in zip("xypt", columns, strict=True):
            file.create_dataset(f"events/{name}", data=values, chunks=(65_536,), compression="gzip")
        file["events/height"], file["events/width"] = _SENSOR
    boxes = np.zeros(duration_us // 100_000, BOX_DTYPE)
    boxes["t"] = np.arange(1, len(boxes) + 1) * 100_000
    boxes["x"] = boxes["y"] = boxes["w"] = boxes["h"] = 100
    boxes["class_id"] = np.arange(len(boxes)) % len(ETRAM_CLASSES)
    np.save(folder / "train_day_0001_bbox.npy", boxes)
    return _only(root)


def bench_memory(num_events: int = _LONG_EVENTS) -> Section:
    """Read frames from all over a long recording of 2 million events a second, as loading does."""
    section = Section(f"Memory of a loading process, recording of {num_events / 1e6:.0f} M events")
    with section.part("reading"), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long_td.h5"
        _write_long(path, num_events)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            imports_mb, peak_mb = pool.apply(_memory_of_reading, (path,))
        section.add("imports alone", imports_mb, "MB", "most of it PyTorch's")
        section.add("peak", peak_mb, "MB", f"{peak_mb - imports_mb:.0f} MB above imports")
    return section


def _write_long(path: Path, num_events: int) -> None:
    import h5py
    import hdf5plugin

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
