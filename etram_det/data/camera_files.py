"""Recordings as cameras write them: RAW (EVT2, EVT3), DAT and AEDAT4.

A file is decoded once into the user's cache, in the raw layout; from there on it is read like any
other raw recording, with bounded memory.
"""

from __future__ import annotations

import errno
import json
import logging
import uuid
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING

from etram_det.data.camera_formats import CameraFile, open_camera_file
from etram_det.data.event_facts import NOTES
from etram_det.data.labels import LabelSettings
from etram_det.data.raw import RawRecording
from etram_det.data.recording import Note, recording_name
from etram_det.data.representation import FrameSettings
from etram_det.data.timeline import no_box_file
from etram_det.errors import UserError
from etram_det.files import CACHE_VARIABLE, cached_file, new_hdf5_file, one_at_a_time, replacing

if TYPE_CHECKING:
    import h5py

CAMERA_SUFFIXES = (".raw", ".dat", ".aedat4")
_VERSION = 2  # of what is kept in the cache; raise it when that changes
_CHUNK = 2**15
_log = logging.getLogger(__name__)


class CameraRecording(RawRecording):
    """Events of a ``.raw``, ``.dat`` or ``.aedat4`` file, made into frames as they are read.

    Arguments and errors are those of :class:`RawRecording`.
    """

    layout = "camera files"

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
        decoded = _decoded(path, frame_settings.clock)
        settings = replace(frame_settings, time_unit="us")  # that of the decoded file
        try:
            super().__init__(decoded, box_path, split, settings, label_settings, require_labels)
        except UserError as error:  # of the same kind, but naming the file that is known
            raise type(error)(str(error).replace(str(decoded), str(path))) from error
        self.name, self.source = recording_name(path), path


def _decoded(path: Path, clock: str) -> Path:
    """The file in the user's cache that holds the same events, made now if need be."""
    file = open_camera_file(path)
    clock = clock if path.suffix.lower() == ".raw" else "file"
    decoded = cached_file("camera_files", path, f"{clock}|{_VERSION}", ".h5")
    if decoded.is_file():
        return decoded
    try:
        with one_at_a_time(decoded):
            if decoded.is_file():  # another process has made it
                return decoded
            _log.info("decoding %s once", path)
            with replacing(decoded, uuid.uuid4().hex) as unfinished:
                _decode_into(unfinished, file, clock)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        room = "make room, as by cache clear, or " if is_full else ""
        raise UserError(
            f"{decoded.parent}: the events of {path} cannot be kept here "
            f"({error.strerror or error}): {room}set {CACHE_VARIABLE} to another folder",
            exit_code=1,
        ) from error
    return decoded


def _decode_into(target: Path, file: CameraFile, clock: str) -> None:
    """Write all events of a camera's file into an HDF5 file of the raw layout, with notes."""
    num_events, shift_us = 0, 0
    with new_hdf5_file(target) as (hdf5_file, raise_error):
        group = hdf5_file.create_group("events")
        columns = _new_columns(group)
        for x, y, t, p in file.slices(target.parent):
            if len(t) == 0:
                continue
            if clock == "recording":
                shift_us = file.clock_start_us or 0
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
        if file.sensor_size is not None:
            group["height"], group["width"] = file.sensor_size
        hdf5_file.attrs[NOTES] = json.dumps([astuple(note) for note in _notes(file, clock)])


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
        notes.append(Note(f"times {text} (data.clock)", kind="clock"))
    if file.num_wraps:
        times = "once" if file.num_wraps == 1 else f"{file.num_wraps} times"
        notes.append(
            Note(
                f"its {file.clock_bits}-bit clock starts anew {times}: later timestamps continue "
                "those before",
                kind="wraps",
            )
        )
    if file.cut_within:
        cut = f"it ends within {file.cut_within}: it was cut short, and what comes before is used"
        notes.append(Note(cut, doubtful=True, kind="cut"))
    return notes
