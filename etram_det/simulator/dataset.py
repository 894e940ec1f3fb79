"""Simulated traffic in eTraM's layout: the data set that is used when no other is given.

A set is a folder with ``<split>/<name>_td.h5`` and ``<split>/<name>_bbox.npy`` for each recording,
and ``simulation.json`` with the settings of the set. The same settings give the same set, byte for
byte, with any number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.errors import UserError
from etram_det.files import UNFINISHED, cache_folder, move_into_place, one_at_a_time
from etram_det.simulator.event_camera import EventCamera, SensorSettings
from etram_det.simulator.road_users import BUS, TRAM, TRUCK
from etram_det.simulator.scene import draw_scene

SIMULATOR_VERSION = 2
LABEL_INTERVAL_US = 33_333
MANIFEST = "simulation.json"

# A road user is labelled if this share of its box is in the frame, this share of its pixels there
# is not hidden by nearer road users, and it has caused this many events.
_MIN_IN_FRAME = 0.2
_MIN_VISIBLE = 0.4
_MIN_EVENTS = 20

_EVENTS_PER_CHUNK = 32_768

# Called with the number of finished recordings and the number of all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SimulationSettings:
    """A set of simulated recordings.

    Attributes:
        height: rows of the sensor, in pixels.
        width: columns of the sensor, in pixels.
        train: number of training recordings.
        val: number of validation recordings.
        test: number of test recordings.
        seconds: length of each recording.
        night: share of recordings at night, in [0, 1].
        traffic: average number of road users in view.
        seed: seed of all places and traffic.
        sensor: properties of the camera's pixels.
    """

    height: int = 720
    width: int = 1280
    train: int = 24
    val: int = 6
    test: int = 2
    seconds: float = 4.0
    night: float = 1 / 3
    traffic: float = 8.0
    seed: int = 0
    sensor: SensorSettings = SensorSettings()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("height", 32, 65_535),
            ("width", 32, 65_535),
            ("train", 0, 9_999),
            ("val", 0, 9_999),
            ("test", 0, 9_999),
            ("seconds", 0.1, 3600),
            ("night", 0, 1),
            ("traffic", 0, 100),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}: must be from {low} to {high}, got {value}")

    @property
    def key(self) -> str:
        """Twelve characters that identify the settings."""
        text = json.dumps([SIMULATOR_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class _Plan:
    """One recording to make."""

    split: str
    name: str
    night: bool
    late: int
    seed: tuple[int, int, int]


def _plan(settings: SimulationSettings) -> list[_Plan]:
    """All recordings of a set, with nights spread evenly among days."""
    plans = []
    for split_id, split in enumerate(("train", "val", "test")):
        for number in range(1, getattr(settings, split) + 1):
            nights = [int(n * settings.night + 0.5) for n in (number - 1, number)]
            night = nights[1] > nights[0]
            name = f"{split}_{'night' if night else 'day'}_{number:04d}"
            # Days and nights each take turns, so that neither lacks a class for good. They are one
            # turn apart, so that two recordings hold all classes.
            turn = nights[1] + 1 if night else number - nights[1]
            late = (BUS, TRUCK, TRAM)[turn % 3]
            plans.append(_Plan(split, name, night, late, (settings.seed, split_id, number)))
    return plans


def _boxes(camera: EventCamera, time_us: int) -> NDArray[Any]:
    """The labels of this moment, as ``BOX_DTYPE``.

    A box bounds the silhouette, clipped to the frame and to the part that nearer road users leave
    visible.
    """
    views = camera.look()
    height, width = camera.light.background.shape
    whole = views["box"]
    inside = np.clip(whole, 0, np.array([width, height, width, height]))
    visible = inside.copy()
    # Visible bounds are whole pixels; a margin of one leaves the box of an unhidden actor as it is.
    visible[:, :2] = np.maximum(inside[:, :2], views["seen"][:, :2] - 1)
    visible[:, 2:] = np.minimum(inside[:, 2:], views["seen"][:, 2:] + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        in_frame = np.prod(inside[:, 2:] - inside[:, :2], 1) / np.prod(
            whole[:, 2:] - whole[:, :2], 1
        )
        unhidden = views["num_visible"] / views["num_own"]
    shown = (in_frame >= _MIN_IN_FRAME) & (unhidden >= _MIN_VISIBLE)
    shown &= (views["num_own"] > 0) & (views["num_events"] >= _MIN_EVENTS)
    tracks = np.flatnonzero(shown)
    boxes = np.zeros(len(tracks), BOX_DTYPE)
    boxes["t"], boxes["class_confidence"] = time_us, 1
    boxes["x"], boxes["y"] = visible[tracks, 0], visible[tracks, 1]
    boxes["w"] = visible[tracks, 2] - visible[tracks, 0]
    boxes["h"] = visible[tracks, 3] - visible[tracks, 1]
    boxes["class_id"], boxes["track_id"] = camera.stage.actors["class_id"][tracks], tracks
    return boxes


class _EventFile:
    """A growing ``_td.h5``; events are collected until whole chunks can be written."""

    def __init__(self, path: Path, height: int, width: int) -> None:
        import h5py
        import hdf5plugin

        self.file = h5py.File(path, "w")
        group = self.file.create_group("events")
        group["height"], group["width"] = np.int64(height), np.int64(width)
        compression = hdf5plugin.Blosc(cname="zstd", clevel=5, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
        self.datasets = {
            name: group.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(_EVENTS_PER_CHUNK,), **compression
            )
            for name, dtype in (("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1"))
        }
        self.waiting: list[NDArray[Any]] = []

    def append(self, events: NDArray[Any]) -> None:
        """Append events, which must not be earlier than those before."""
        self.waiting.append(events)
        if sum(len(x) for x in self.waiting) >= 16 * _EVENTS_PER_CHUNK:
            events = np.concatenate(self.waiting)
            whole = len(events) // _EVENTS_PER_CHUNK * _EVENTS_PER_CHUNK
            self._write(events[:whole])
            self.waiting = [events[whole:]]

    def _write(self, events: NDArray[Any]) -> None:
        for name, dataset in self.datasets.items():
            dataset.resize(len(dataset) + len(events), axis=0)
            dataset[len(dataset) - len(events) :] = events[name]

    def close(self) -> None:
        """Write the remaining events and close the file."""
        self._write(np.concatenate(self.waiting))
        self.file.close()


def _save_boxes(path: Path, boxes: NDArray[Any]) -> None:
    """Write boxes, with zeros in the four unused bytes of each."""
    table = np.zeros(len(boxes), BOX_DTYPE)
    for name in BOX_DTYPE.names or ():
        table[name] = boxes[name]
    np.save(path, table)


def _record(plan: _Plan, settings: SimulationSettings, root: Path) -> None:
    """Simulate one recording and write its two files."""
    rng = np.random.default_rng(plan.seed)
    size = settings.height, settings.width
    scene = draw_scene(rng, *size, settings.seconds, plan.night, settings.traffic, plan.late)
    camera = EventCamera(scene, settings.sensor, rng)
    end_us = round(settings.seconds * 1e6)
    boxes = [np.zeros(0, BOX_DTYPE)]
    file = _EventFile(root / plan.split / f"{plan.name}_td.h5", *size)
    for time_us in range(LABEL_INTERVAL_US, end_us + 1, LABEL_INTERVAL_US):
        file.append(camera.advance(time_us))
        boxes.append(_boxes(camera, time_us))
    file.append(camera.advance(end_us))
    file.close()
    _save_boxes(root / plan.split / f"{plan.name}_bbox.npy", np.concatenate(boxes))


def _write_set(
    root: Path, settings: SimulationSettings, workers: int | None, progress: Progress | None
) -> None:
    plans = _plan(settings)
    for plan in plans:
        (root / plan.split).mkdir(parents=True, exist_ok=True)
    # Threads, not processes: the kernels release the GIL and are compiled once, and no worker has
    # imports to repeat.
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        futures = [pool.submit(_record, plan, settings, root) for plan in plans]
        if progress:
            progress(0, len(plans))
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(plans))
    finally:
        pool.shutdown(cancel_futures=True)
    manifest = {"simulator_version": SIMULATOR_VERSION, "settings": asdict(settings)}
    (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def require_new(root: Path) -> None:
    """Refuse to write into a folder that is not empty.

    Raises:
        UserError: if ``root`` exists and is not an empty folder.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"output: must be a new or empty folder, got {root} with something in it: use another "
            "or remove it"
        )


def simulate(
    root: str | Path,
    settings: SimulationSettings,
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Make a set of recordings; ``root`` appears only once it is complete.

    Example:
        >>> from pathlib import Path
        >>> from etram_det import SimulationSettings, simulate
        >>> few = SimulationSettings(height=90, width=160, train=1, val=1, test=0, seconds=0.2)
        >>> simulate("traffic", few)
        >>> sorted(path.name for path in Path("traffic").iterdir())
        ['simulation.json', 'train', 'val']

    Args:
        root: folder to make.
        settings: what to simulate.
        workers: recordings made at the same time; all cores if None.
        progress: called with the numbers of finished and of all recordings.

    Raises:
        UserError: if ``root`` exists and is not an empty folder.
    """
    root = Path(root)
    require_new(root)
    partial = root.with_name(f".{root.name}.{uuid.uuid4().hex}{UNFINISHED}")
    try:
        _write_set(partial, settings, workers, progress)
        move_into_place(partial, root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def simulated_root(
    settings: SimulationSettings,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Path, bool]:
    """The folder of a set in the user's cache; the set is made if it is missing.

    Of several processes that ask at the same time, one makes it and the others wait.

    Args:
        settings: what to simulate.
        workers: recordings made at the same time; all cores if None.
        progress: called with the numbers of finished and of all recordings.

    Returns:
        The folder, and whether it was made now.
    """
    root = cache_folder() / f"simulated-{settings.height}x{settings.width}-{settings.key}"
    if (root / MANIFEST).is_file():
        return root, False
    with one_at_a_time(root):
        if (root / MANIFEST).is_file():
            return root, False
        try:
            simulate(root, settings, workers, progress)
        except (OSError, UserError):  # where no lock was to be had, another one may have made it
            if not (root / MANIFEST).is_file():
                raise
            return root, False
    return root, True
