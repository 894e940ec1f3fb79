"""Recordings as cameras write them: RAW (EVT2, EVT3), DAT and AEDAT4.

A file is decoded once into the user's cache, in the raw layout; from there on it is read like any
other raw recording, with bounded memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etram_det.data.camera_formats import CameraFile, open_camera_file
from etram_det.data.hdf5_file import new_hdf5_file, open_hdf5
from etram_det.data.labels import LabelSettings
from etram_det.data.raw import RawRecording, no_box_file
from etram_det.data.recording import Note
from etram_det.data.representation import SENSOR_SIZE, FrameSettings
from etram_det.errors import UserError
from etram_det.files import CACHE_VARIABLE, cache_folder, replacing

if TYPE_CHECKING:
    import h5py

Size = tuple[int, int]

CAMERA_SUFFIXES = (".raw", ".dat", ".aedat4")
_VERSION = 2  # of what is kept in the cache; raise it when that changes
_CHUNK = 2**15
_MANY = 0.1  # of the events, outside a sensor: its size is wrong
_FEW = 0.01  # of the events, outside a sensor: stray ones
_CORNER = 0.75  # of both sides of an assumed sensor: it is likely to be a smaller one
# Height and width of common sensors, for advice.
_KNOWN_SIZES = ((128, 128), (180, 240), (240, 304), (260, 346), (320, 320), (480, 640), (720, 1280))
_log = logging.getLogger(__name__)


class CameraRecording(RawRecording):
    """Events of a ``.raw``, ``.dat`` or ``.aedat4`` file, made into frames as they are read.

    Arguments and errors are those of :class:`RawRecording`.
    """

    def __init__(
        self,
        path: Path,
        box_path: Path | None,
        split: str,
        frame_settings: FrameSettings,
        label_settings: LabelSettings,
        require_labels: bool = True,
    ) -> None:
        if box_path is None and require_labels:
            raise no_box_file(path)
        decoded = _decoded(path, frame_settings)
        # Units and sizes are settled in the decoded file.
        settings = replace(frame_settings, time_unit="us", sensor_size=None)
        try:
            super().__init__(decoded, box_path, split, settings, label_settings, require_labels)
            with open_hdf5(decoded, "delete it, to be made again") as file:
                notes = json.loads(str(file.attrs["notes"]))
        except UserError as error:  # of the same kind, but naming the file that is known
            raise type(error)(str(error).replace(str(decoded), str(path))) from error
        self.name = path.stem.removesuffix("_td")
        self.notes += [Note(message, doubtful) for message, doubtful in notes]


def _decoded(path: Path, settings: FrameSettings) -> Path:
    """The file in the user's cache that holds the same events, made now if need be."""
    file = open_camera_file(path)
    status = path.stat()
    made_by = f"{settings.sensor_size}|{settings.clock}|{_VERSION}"
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{made_by}"
    folder = cache_folder() / "camera_files"
    decoded = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.h5"
    if decoded.is_file():
        return decoded
    _log.info("decoding %s once", path)
    try:
        with replacing(decoded, uuid.uuid4().hex) as unfinished:
            _decode_into(unfinished, file, settings)
    except OSError as error:
        raise UserError(
            f"{folder}: the events of {path} cannot be kept here ({error.strerror or error}): make "
            f"room, or set {CACHE_VARIABLE} to another folder",
            exit_code=1,
        ) from error
    return decoded


def _decode_into(target: Path, file: CameraFile, settings: FrameSettings) -> None:
    """Write all events of a camera's file into an HDF5 file of the raw layout, with notes."""
    num_events, shift_us, reach = 0, 0, _Reach()
    with new_hdf5_file(target) as (hdf5_file, raise_error):
        group = hdf5_file.create_group("events")
        columns = _new_columns(group)
        for x, y, t, p in file.slices(target.parent):
            if len(t) == 0:
                continue
            if num_events == 0:
                shift_us = file.clock_start_us or 0 if settings.clock == "recording" else 0
                reach = _Reach(file.sensor_size, settings.sensor_size or SENSOR_SIZE)
            reach.add(x, y)
            start, num_events = num_events, num_events + len(t)
            for column, values in zip(columns, (x, y, t - shift_us, p), strict=True):
                column.resize((num_events,))
                column[start:] = values
            raise_error()
        if num_events == 0:
            cut = f" before it ends within {file.cut_within}" if file.cut_within else ""
            raise UserError(
                f"{file.path}: must hold events, got none{cut}: take it out of the folder"
            )
        size, size_notes = _sensor_size(file.sensor_size, settings.sensor_size, reach)
        group["height"], group["width"] = size
        notes = [*_notes(file, settings.clock), *size_notes]
        hdf5_file.attrs["notes"] = json.dumps([(each.message, each.doubtful) for each in notes])
    if file.cut_within:
        _log.warning("%s: %s", file.path, _cut(file))


def _new_columns(group: h5py.Group) -> list[h5py.Dataset]:
    """The columns x, y, t and p, still empty."""
    import hdf5plugin

    filters = hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.BITSHUFFLE)
    dtypes = {"x": "<u2", "y": "<u2", "t": "<i8", "p": "u1"}
    return [
        group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(_CHUNK,), **filters)
        for name, dtype in dtypes.items()
    ]


def _notes(file: CameraFile, clock: str) -> list[Note]:
    """What is to be known of a decoded file's clock and end."""
    notes = []
    if file.clock_start_us:
        start = f"{file.clock_start_us / 1e6:.6f} s"
        if clock == "recording":
            text = f"count from the recording's start: {start} of the camera's clock are taken off"
        else:
            text = f"are those of the camera's clock, which is at {start} when the recording starts"
        notes.append(Note(f"times {text} (data.clock)"))
    if file.num_wraps:
        times = "once" if file.num_wraps == 1 else f"{file.num_wraps} times"
        notes.append(
            Note(
                f"its {file.clock_bits}-bit clock starts anew {times}: later timestamps continue "
                "those before"
            )
        )
    if file.cut_within:
        notes.append(Note(_cut(file), doubtful=True))
    return notes


def _cut(file: CameraFile) -> str:
    return f"ends within {file.cut_within}: it was cut short, and what comes before is used"


class _Reach:
    """How far events reach on the sensor, counted as they are decoded.

    Args:
        sizes: heights and widths of sensors, for the number of events outside them.

    Attributes:
        num_events: in all.
        num_outside: of them, by size.
    """

    def __init__(self, *sizes: Size | None) -> None:
        self.num_events = 0
        self.num_outside = {size: 0 for size in sizes if size is not None}
        self._rows, self._columns = np.zeros(2**16, np.int64), np.zeros(2**16, np.int64)

    def add(self, x: NDArray[np.integer], y: NDArray[np.integer]) -> None:
        """Count some events."""
        self.num_events += len(x)
        self._columns += np.bincount(x, minlength=2**16)
        self._rows += np.bincount(y, minlength=2**16)
        for height, width in self.num_outside:
            self.num_outside[height, width] += int(np.count_nonzero((x >= width) | (y >= height)))

    def share_outside(self, size: Size) -> float:
        """Share of the events, in [0, 1], that lie outside a sensor of this size."""
        return self.num_outside[size] / self.num_events

    def size(self) -> Size:
        """Height and width that hold all events but stray ones, those of a known sensor if any."""
        most = (1 - _FEW / 10) * self.num_events
        height, width = (
            int(np.searchsorted(np.cumsum(counts), most)) + 1
            for counts in (self._rows, self._columns)
        )
        holding = [size for size in _KNOWN_SIZES if size[0] >= height and size[1] >= width]
        return min(holding, key=lambda size: size[0] * size[1], default=(height, width))


def _sensor_size(stated: Size | None, given: Size | None, reach: _Reach) -> tuple[Size, list[Note]]:
    """The size that frames are made for, and what is doubtful about it.

    Args:
        stated: height and width by the file.
        given: those of the settings.
        reach: of the file's events.
    """
    size = stated or given or SENSOR_SIZE
    outside, reached = reach.share_outside(size), reach.size()
    advice = f"set data.sensor_size to {list(reached)}"
    if stated is None:
        note = f"it states no sensor size, {_shown(size)} are assumed (data.sensor_size)"
        if outside > _MANY:
            return size, [Note(f"{note}, but many events lie outside: {advice}", doubtful=True)]
        if all(side <= _CORNER * whole for side, whole in zip(reached, size, strict=True)):
            return size, [Note(f"{note}, but events fill only a corner: {advice}", doubtful=True)]
        return size, [Note(note)]
    if outside <= _MANY:
        return size, []
    note = f"more than a tenth of the events lie outside the sensor that it states, {_shown(size)}"
    if given is not None and reach.share_outside(given) <= _FEW:
        return given, [Note(f"{note}: {_shown(given)} of data.sensor_size are used", doubtful=True)]
    return size, [Note(f"{note}: they are dropped; {advice}", doubtful=True)]


def _shown(size: Size) -> str:
    return f"height {size[0]} and width {size[1]}"
