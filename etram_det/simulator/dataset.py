"""Simulated traffic in eTraM's layout: the data set that is used when no other is given.

A set is a folder with ``<split>/<name>_td.h5`` and ``<split>/<name>_bbox.npy`` for each recording,
and ``simulation.json`` with the settings of the set and what each recording holds. The same
settings give the same set, byte for byte, with any number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.errors import UserError
from etram_det.files import UNFINISHED, cache_folder, move_into_place, new_hdf5_file, one_at_a_time
from etram_det.simulator.crowd import GUESTS
from etram_det.simulator.effects import EffectSettings
from etram_det.simulator.event_camera import EventCamera
from etram_det.simulator.kernels import compile_kernels
from etram_det.simulator.labels import LABEL_INTERVAL_US, Behaviour, boxes_now
from etram_det.simulator.pixels import SensorSettings
from etram_det.simulator.ranges import require_range
from etram_det.simulator.road_users import TRAM
from etram_det.simulator.scene import Conditions, Scene
from etram_det.simulator.version import SIMULATOR_VERSION, VERSION_ATTRIBUTE

if TYPE_CHECKING:
    import h5py

MANIFEST = "simulation.json"
# Numbers of recordings and their length for each amount of traffic.
AMOUNTS: dict[str, dict[str, float]] = {
    "quick": {"train": 16, "val": 12, "test": 4, "seconds": 6.0},
    "standard": {"train": 60, "val": 20, "test": 12, "seconds": 20.0},
}
# Places of recordings that follow each other; most is to be seen at junctions and in bends.
_TURNS = ("junction", "bend", "crossing", "junction", "tram_stop", "bend", "street", "bend")
_RAILS_SHARE = 0.7
_LEAST_TRACKS = 14  # of each class that a split with enough recordings is to show

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
        traffic: average number of moving road users in view, beside those who are asked into it so
            that each split shows all classes: below 10 these are most of them.
        seed: seed of all places and traffic.
        effects: weather, light and surroundings.
        sensor: properties of the camera's pixels.
    """

    height: int = 720
    width: int = 1280
    train: int = 16
    val: int = 12
    test: int = 4
    seconds: float = 6.0
    night: float = 1 / 3
    traffic: float = 10.0
    seed: int = 0
    effects: EffectSettings = EffectSettings()
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
            require_range(name, getattr(self, name), low, high)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SimulationSettings:
        """Settings from plain values by name; what these lack has its default."""
        effects = EffectSettings(**values.get("effects", {}))
        sensor = SensorSettings(**values.get("sensor", {}))
        return cls(**{**values, "effects": effects, "sensor": sensor})

    @property
    def key(self) -> str:
        """Twelve characters that identify the settings."""
        text = json.dumps([SIMULATOR_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """One recording to make."""

    split: str
    name: str
    conditions: Conditions
    seed: tuple[int, int, int]


def plan_set(settings: SimulationSettings) -> list[Plan]:
    """All recordings of a set, with nights, places and effects spread evenly."""
    plans = []
    for split_id, split in enumerate(("train", "val", "test")):
        start = float(np.random.default_rng((settings.seed, split_id)).random())
        for number in range(1, getattr(settings, split) + 1):
            nights = [int(n * settings.night + 0.5) for n in (number - 1, number)]
            night = nights[1] > nights[0]
            name = f"{split}_{'night' if night else 'day'}_{number:04d}"
            # Days and nights each take turns, so that neither lacks a place or an effect for good.
            turn = nights[1] if night else number - nights[1]
            place = _TURNS[(turn - 1 + 3 * night + split_id) % len(_TURNS)]
            conditions = Conditions(
                settings.height,
                settings.width,
                settings.seconds,
                night,
                settings.traffic,
                place,
                (turn * 0.618 + start) % 1 < _RAILS_SHARE,
                settings.effects.drawn(turn, night, settings.night, start),
                name,
                _guests(number, getattr(settings, split)),
            )
            plans.append(Plan(split, name, conditions, (settings.seed, split_id, number)))
    return plans


def _guests(number: int, recordings: int) -> tuple[int, ...]:
    """The classes that must be seen in one of the recordings of a split, numbered from 1.

    Each comes in turns, so often that the split shows it ``_LEAST_TRACKS`` times, but not in fewer
    than three of four recordings, and hardly more than once in each. Trams come wherever they can.
    """
    often = min(max(_LEAST_TRACKS / recordings, 0.75), 1.2)
    guests = []
    for i, class_id in enumerate(GUESTS):
        start = 0.618 * i % 1
        times = int(number * often + start) - int((number - 1) * often + start)
        guests += [class_id] * (1 if class_id == TRAM else times)
    return tuple(guests)


class _Events:
    """The growing events of a file; they are collected until whole chunks can be written."""

    def __init__(self, file: h5py.File, height: int, width: int) -> None:
        import hdf5plugin

        file.attrs[VERSION_ATTRIBUTE] = np.int64(SIMULATOR_VERSION)
        group = file.create_group("events")
        group["height"], group["width"] = np.int64(height), np.int64(width)
        compression = hdf5plugin.Blosc(cname="zstd", clevel=3, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
        self.datasets = {
            name: group.create_dataset(
                name, (0,), dtype, maxshape=(None,), chunks=(_EVENTS_PER_CHUNK,), **compression
            )
            for name, dtype in (("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1"))
        }
        # In arrays that stay, so that memory does not fall into pieces.
        self.waiting = {
            name: np.empty(3 * _EVENTS_PER_CHUNK, each.dtype)
            for name, each in self.datasets.items()
        }
        self.num_waiting = self.number = self.positive = 0

    def append(self, events: NDArray[Any]) -> None:
        """Append events, which must not be earlier than those before."""
        start, end = self.num_waiting, self.num_waiting + len(events)
        for name, column in self.waiting.items():
            if end > len(column):
                column = self.waiting[name] = np.resize(column, 2 * end)
            column[start:end] = events[name]
        self.number += len(events)
        self.positive += int(np.count_nonzero(self.waiting["p"][start:end]))
        self.num_waiting = end
        if end >= 2 * _EVENTS_PER_CHUNK:
            self._write(end // _EVENTS_PER_CHUNK * _EVENTS_PER_CHUNK)

    def _write(self, number: int) -> None:
        """Write the first events that wait."""
        left = self.num_waiting - number
        for name, dataset in self.datasets.items():
            column = self.waiting[name]
            dataset.resize(len(dataset) + number, axis=0)
            dataset[len(dataset) - number :] = column[:number]
            column[:left] = column[number : self.num_waiting]
        self.num_waiting = left

    def finish(self) -> None:
        """Write the remaining events."""
        self._write(self.num_waiting)


def _save_boxes(path: Path, boxes: NDArray[Any]) -> None:
    """Write boxes, with zeros in the four unused bytes of each."""
    table = np.zeros(len(boxes), BOX_DTYPE)
    for name in BOX_DTYPE.names or ():
        table[name] = boxes[name]
    np.save(path, table)


def _record(plan: Plan, settings: SimulationSettings, root: Path) -> dict[str, int]:
    """Simulate one recording and write its two files; returns counts of what it holds."""
    rng = np.random.default_rng(plan.seed)
    size = settings.height, settings.width
    camera = EventCamera(Scene(rng, plan.conditions), settings.sensor, rng)
    end_us = round(settings.seconds * 1e6)
    boxes, behaviour = [np.zeros(0, BOX_DTYPE)], Behaviour()
    path = root / plan.split / f"{plan.name}_td.h5"
    with new_hdf5_file(path) as (file, raise_error):
        written = _Events(file, *size)
        for time_us in range(LABEL_INTERVAL_US, end_us + 1, LABEL_INTERVAL_US):
            written.append(camera.advance(time_us))
            raise_error()
            boxes.append(boxes_now(camera))
            behaviour.add(camera, boxes[-1])
        written.append(camera.advance(end_us))
        written.finish()
    _save_boxes(root / plan.split / f"{plan.name}_bbox.npy", np.concatenate(boxes))
    return {
        "events": written.number,
        "positive_events": written.positive,
        "noise_events": camera.num_noise,
        "lost_events": camera.num_lost,
        **behaviour.counts(),
    }


def _write_set(
    root: Path, settings: SimulationSettings, workers: int | None, progress: Progress | None
) -> None:
    plans = plan_set(settings)
    for plan in plans:
        (root / plan.split).mkdir(parents=True, exist_ok=True)
    if progress:
        progress(0, len(plans))
    compile_kernels()
    # Threads, not processes: the kernels release the GIL and are compiled once, and no worker has
    # imports to repeat.
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        futures = [pool.submit(_record, plan, settings, root) for plan in plans]
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            if progress:
                progress(done, len(plans))
    finally:
        pool.shutdown(cancel_futures=True)
    held = {plan.name: future.result() for plan, future in zip(plans, futures, strict=True)}
    manifest = {
        "simulator_version": SIMULATOR_VERSION,
        "settings": asdict(settings),
        "recordings": held,
    }
    (root / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def require_new(root: Path) -> None:
    """Refuse to write into a folder that is not empty.

    Raises:
        UserError: if ``root`` exists and is not an empty folder.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        found = " with something in it" if root.is_dir() else ", a file"
        raise UserError(
            f"output: must be a new or empty folder, got {root}{found}: use another or remove it"
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
        UserError: if ``root`` exists and is not an empty folder, there is no recording to make, or
            a place has no room for the traffic.
    """
    root = Path(root)
    if settings.train + settings.val + settings.test == 0:
        raise UserError("train, val, test: must be one recording at least, got 0 of each: set one")
    if workers is not None:
        require_range("workers", workers, 1)
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
