"""Recordings as cameras write them: RAW (EVT2, EVT3), DAT and AEDAT4, decoded by eventcv.

A file is decoded once into the user's cache, in the raw layout; from there on it is read like any
other raw recording, with bounded memory.
"""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from pathlib import Path
from typing import Any

from etram_det.data.hdf5_file import new_hdf5_file
from etram_det.data.labels import LabelSettings
from etram_det.data.raw import RawRecording
from etram_det.data.representation import SENSOR_SIZE, FrameSettings
from etram_det.data.timeline import no_box_file
from etram_det.errors import UserError
from etram_det.files import CACHE_VARIABLE, cache_folder, replacing

CAMERA_SUFFIXES = (".raw", ".dat", ".aedat4")
_VERSION = 1  # of what is kept in the cache; raise it when that changes
_SLICE = 2**20  # events decoded at a time: 32 MB
_CHUNK = 2**15
_HEADER = 2**16  # bytes in which the lines of a header are looked for
_WORD = {"2": 4, "3": 2}  # bytes by version of EVT
_DAT_EVENT, _DAT_HEADER = 8, 2  # bytes
# Wider than any coordinate that the formats can hold: left to itself, eventcv drops events outside
# the sensor without a word.
_EVERYWHERE = (2**14, 2**14)
# Height and width by the plugin that wrote a RAW file, for headers without a size.
_SENSORS = {
    "gen3": (480, 640),
    "gen4": (720, 1280),
    "imx636": (720, 1280),
    "genx320": (320, 320),
}
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
        decoded = _decoded(path, frame_settings.sensor_size or SENSOR_SIZE)
        try:
            super().__init__(
                decoded, box_path, split, frame_settings, label_settings, require_labels
            )
        except UserError as error:  # of the same kind, but naming the file that is known
            raise type(error)(str(error).replace(str(decoded), str(path))) from error
        self.name, self.source = path.stem.removesuffix("_td"), path


def _decoded(path: Path, default_size: tuple[int, int]) -> Path:
    """The file in the user's cache that holds the same events, made now if need be."""
    try:
        status, header = path.stat(), _header(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): fetch it again") from error
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{default_size}|{_VERSION}"
    folder = cache_folder() / "camera_files"
    decoded = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.h5"
    if decoded.is_file():
        return decoded
    try:
        with replacing(decoded, uuid.uuid4().hex) as unfinished:
            _decode_into(unfinished, path, header, default_size)
    except OSError as error:
        raise UserError(
            f"{folder}: the events of {path} cannot be kept here ({error.strerror or error}): make "
            f"room, or set {CACHE_VARIABLE} to another folder",
            exit_code=1,
        ) from error
    return decoded


def _decode_into(target: Path, path: Path, header: str, default_size: tuple[int, int]) -> None:
    """Write all events of a camera's file into an HDF5 file of the raw layout."""
    import eventcv
    import hdf5plugin

    height, width = _sensor_size(path, header, default_size)
    reader = _call(
        path, lambda: eventcv.open(str(path), max_events=_SLICE, sensor_size=_EVERYWHERE)
    )
    if reader.n_events == 0:
        raise UserError(f"{path}: must hold events, got none: take it out of the folder")
    if left_over := _bytes_left_over(path, header):
        _log.warning(
            "%s: ends within an event (%d bytes left over): it was cut short, and what comes "
            "before is used",
            path,
            left_over,
        )
    _log.info("decoding %s once: %d events, sensor %dx%d", path, reader.n_events, width, height)
    with new_hdf5_file(target) as (file, raise_error):
        group = file.create_group("events")
        group["height"], group["width"] = height, width
        columns = {
            name: group.create_dataset(
                name,
                (reader.n_events,),
                dtype,
                chunks=(min(_CHUNK, reader.n_events),),
                **hdf5plugin.Blosc(cname="lz4", shuffle=hdf5plugin.Blosc.BITSHUFFLE),
            )
            for name, dtype in (("x", "<u2"), ("y", "<u2"), ("t", "<i8"), ("p", "u1"))
        }
        start = 0
        for i in range(reader.n_slices):
            events = _call(path, lambda i=i: reader.slice(i).numpy())
            for place, name in enumerate("xytp"):
                columns[name][start : start + len(events)] = events[:, place]
            start += len(events)
            raise_error()
    if start != reader.n_events:
        raise _damaged(path, f"must hold {reader.n_events} events, got {start}")


def _call(path: Path, function: Any) -> Any:
    """What eventcv returns; what it raises, as one line that names the file."""
    try:
        return function()
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: cannot be decoded ({' '.join(why.split())}): record or fetch it again"
    )


def _sensor_size(path: Path, header: str, default_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width by the file's header, or by the sensor it names, or by the settings."""
    if path.suffix.lower() == ".aedat4":
        import eventcv

        width, height = _call(path, lambda: eventcv.open(str(path), max_events=_SLICE).sensor_size)
        return height, width
    if path.suffix.lower() == ".raw":
        _require_known_encoding(path, header)
    height = re.search(r"\bheight\s*[= ]\s*(\d+)", header, re.IGNORECASE)
    width = re.search(r"\bwidth\s*[= ]\s*(\d+)", header, re.IGNORECASE)
    if height and width:
        return int(height[1]), int(width[1])
    geometry = re.search(r"\bgeometry\s+(\d+)x(\d+)", header, re.IGNORECASE)
    if geometry:
        return int(geometry[2]), int(geometry[1])
    plugin = re.search(r"plugin_name\s+(\S+)", header)
    named = (size for name, size in _SENSORS.items() if plugin and name in plugin[1])
    return next(named, default_size)


def _bytes_left_over(path: Path, header: str) -> int:
    """Bytes after the last complete word or event of a RAW or DAT file."""
    suffix = path.suffix.lower()
    if suffix == ".aedat4":
        return 0  # its header holds its length
    events = path.stat().st_size - len(header.encode("latin-1"))
    if suffix == ".dat":
        return (events - _DAT_HEADER) % _DAT_EVENT
    return events % _WORD[_evt_version(header)[0]]


def _header(path: Path) -> str:
    """The lines that begin with a per cent sign, each with its end."""
    with path.open("rb") as file:
        start = file.read(_HEADER)
    lines = []
    while start.startswith(b"%") and b"\n" in start:
        line, start = start.split(b"\n", 1)
        lines.append(line.decode("latin-1") + "\n")
    return "".join(lines)


def _require_known_encoding(path: Path, header: str) -> None:
    """Refuse what eventcv would take for something else, EVT 2.1 above all."""
    version = _evt_version(header)
    if not version:
        raise UserError(
            f"{path}: must be a RAW file of EVT 2.0 or EVT 3.0, got no header that names its "
            "encoding: fetch or record it again"
        )
    if version not in ("2", "20", "3", "30"):
        raise UserError(
            f"{path}: must be of EVT 2.0 or EVT 3.0, got encoding EVT {'.'.join(version)}: "
            f"write it as DAT with OpenEB's metavision_file_to_dat -i {path.name}"
        )


def _evt_version(header: str) -> str:
    """Digits of the encoding's version; empty if the header does not name it."""
    found = re.search(r"^%\s*(?:evt|format)\s+(?:EVT)?(\d(?:\.?\d)?)", header, re.M | re.I)
    return found[1].replace(".", "") if found else ""
