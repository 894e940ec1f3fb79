"""The formats that cameras write, as columns of events: RAW (EVT2, EVT3), DAT and AEDAT4.

RAW and DAT are decoded here, block by block, with clocks that wrap continued; AEDAT4 by eventcv.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.evt import TURN, Columns, EvtDecoder
from etram_det.errors import UserError
from etram_det.files import UNFINISHED

_BLOCK = 2**18  # bytes of RAW and DAT decoded at a time: at most 1.6 million events
_SLICE = 2**20  # events of AEDAT4 decoded at a time: 32 MB
LONGEST_HEADER = 2**16  # bytes in which the lines of a header are looked for
_XML = 2**24  # bytes of an AEDAT4 header; a length beyond is damage
# A line of a header begins with a per cent sign and a blank and is text to its end. Some writers
# leave the blank out; what follows must then be plain, as data too may begin with a per cent sign.
_LINE = re.compile(rb"%(?: [^\x00-\x08\n-\x1f\x7f]*|[A-Za-z][\t -~]*)\r?\n")
# Height and width by the plugin that wrote a RAW file, for headers without a size.
_SENSORS = {
    "gen3": (480, 640),
    "gen4": (720, 1280),
    "imx636": (720, 1280),
    "genx320": (320, 320),
}
_DAT_EVENT = np.dtype([("t", "<u4"), ("place", "<u4")])
_DAT_WRAP = 2**32
# Wider than any coordinate that the format can hold: left to itself, eventcv drops events outside
# the sensor without a word.
_EVERYWHERE = (2**15, 2**15)


class CameraFile(ABC):
    """A camera's file, its header read.

    Attributes:
        path: the file.
        sensor_size: height and width of the sensor, as the header states them or by the sensor
            that it names; None where it does neither.
        clock_start_us: the camera's time at the file's first TIME_HIGH word, once slices were read;
            None for formats whose times do not start with one.
        clock_bits: of the camera's clock in microseconds, after which it starts anew.
        num_wraps: how often that happened in the slices that were read.
        cut_within: what the file ends in the midst of; None where it seems complete.
    """

    clock_start_us: int | None = None
    clock_bits = 64
    num_wraps = 0
    cut_within: str | None = None

    def __init__(self, path: Path, sensor_size: tuple[int, int] | None) -> None:
        self.path = path
        self.sensor_size = sensor_size

    @abstractmethod
    def slices(self, folder: Path) -> Iterator[Columns]:
        """All events in order of the file, in bounded memory.

        A slice is valid until the next one.

        Args:
            folder: for what is needed while reading.

        Raises:
            UserError: the file is damaged.
        """


def open_camera_file(path: Path) -> CameraFile:
    """A file of a camera, by its suffix.

    Raises:
        UserError: it is missing, damaged, or of an encoding that cannot be decoded.
    """
    kinds: dict[str, Callable[[Path], CameraFile]] = {
        ".raw": RawFile,
        ".dat": DatFile,
        ".aedat4": Aedat4File,
    }
    try:
        return kinds[path.suffix.lower()](path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): fetch it again") from error


class RawFile(CameraFile):
    """EVT 2.0 or EVT 3.0. Times start with a TIME_HIGH word; events before it are left out.

    Raises:
        UserError: it is of another encoding.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        header, self._start = _header(path)
        self._version = required_version(header, path.name, str(path))
        super().__init__(path, sensor_size_of(header))
        decoder = EvtDecoder(self._version)
        self.clock_bits = decoder.clock_bits
        if (path.stat().st_size - self._start) % decoder.word.itemsize:
            self.cut_within = "an event"

    def slices(self, folder: Path) -> Iterator[Columns]:  # noqa: D102
        decoder = EvtDecoder(self._version)
        for words in _blocks(self.path, self._start, decoder.word):
            columns = decoder.decode(words)
            self.num_wraps, self.clock_start_us = decoder.num_wraps, decoder.clock_start_us
            yield columns


class DatFile(CameraFile):
    """Prophesee's DAT: 8 bytes for each event.

    Raises:
        UserError: it has no header of such a file.
        OSError: it cannot be read.
    """

    clock_bits = 32

    def __init__(self, path: Path) -> None:
        header, start = _header(path)
        super().__init__(path, sensor_size_of(header))
        self._start = start + 2  # type and size of the events follow the lines
        with path.open("rb") as file:
            file.seek(start)
            kind_and_size = file.read(2)
        if len(kind_and_size) < 2 or kind_and_size[1] != 8:
            found = f"{kind_and_size[1]} bytes" if len(kind_and_size) == 2 else "none"
            raise damaged(path, f"events must be of 8 bytes, got {found}")
        if (path.stat().st_size - self._start) % 8:
            self.cut_within = "an event"

    def slices(self, folder: Path) -> Iterator[Columns]:  # noqa: D102
        last, wraps = None, 0
        for events in _blocks(self.path, self._start, _DAT_EVENT):
            t, place = events["t"].astype(np.int64), events["place"]
            steps = np.diff(t, prepend=t[0] if last is None else last)
            last = int(t[-1])
            falls, rises = steps < -TURN * _DAT_WRAP, steps > TURN * _DAT_WRAP
            turns = wraps + np.cumsum(falls.astype(np.int64) - rises)
            wraps = int(turns[-1])
            self.num_wraps = max(self.num_wraps, int(turns.max()))
            x, y = (place & 0x3FFF).astype(np.uint16), (place >> 14 & 0x3FFF).astype(np.uint16)
            yield x, y, t + _DAT_WRAP * turns, (place >> 28 & 1).astype(np.uint8)


class Aedat4File(CameraFile):
    """AEDAT4, as iniVation's DV writes it.

    A file that was cut short or never closed lacks the table of its packets, or a part of it: then
    all packets that are complete are read.

    Raises:
        UserError: it has no header of such a file.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, None)
        self._table = _place_of_table(path)
        if not 0 < self._table < path.stat().st_size:
            self.cut_within = "its packets of events"

    def slices(self, folder: Path) -> Iterator[Columns]:  # noqa: D102
        try:
            yield from self._slices_of(self.path)
            return
        except UserError:
            if self.cut_within or self.sensor_size is not None:
                raise
        # The table is there, but cut or damaged: without it, eventcv looks for the packets.
        packets = folder / f".{uuid.uuid4().hex}{UNFINISHED}{self.path.suffix}"
        try:
            shutil.copyfile(self.path, packets)
            os.truncate(packets, self._table)
            self.cut_within = "the table of its packets"
            yield from self._slices_of(packets)
        finally:
            packets.unlink(missing_ok=True)

    def _slices_of(self, path: Path) -> Iterator[Columns]:
        import eventcv

        def call(function: Callable[[], Any]) -> Any:
            try:
                return function()
            except (OSError, ValueError, RuntimeError, OverflowError) as error:
                raise damaged(self.path, str(error)) from error

        size = call(lambda: eventcv.open(str(path), max_events=_SLICE).sensor_size)
        reader = call(lambda: eventcv.open(str(path), max_events=_SLICE, sensor_size=_EVERYWHERE))
        self.sensor_size = size[1], size[0]
        num_events = 0
        for i in range(reader.n_slices):
            events = call(partial(reader.slice, i)).numpy()
            num_events += len(events)
            yield tuple(events.T)
        if num_events != reader.n_events:
            raise damaged(self.path, f"must hold {reader.n_events} events, got {num_events}")


def damaged(path: Path, why: str) -> UserError:
    """The error for a file that cannot be decoded."""
    return UserError(
        f"{path}: cannot be decoded ({' '.join(why.split())}): record or fetch it again"
    )


def _header(path: Path) -> tuple[str, int]:
    """The lines of a header, and the place of the first byte of data behind them."""
    with path.open("rb") as file:
        header, place, _ = header_of(file.read(LONGEST_HEADER))
    return header, place


def header_of(start: bytes) -> tuple[str, int, bool]:
    """The lines of a header at the start of a file or pipe, of which more may follow.

    Returns:
        The lines; the place of the first byte of data behind them; and whether no more lines can
        follow, whatever comes behind ``start``.
    """
    place = 0
    while line := _LINE.match(start, place):
        place = line.end()
        if line[0].strip(b"% \t\r\n") == b"end":
            return start[:place].decode("latin-1"), place, True
    rest = start[place:]
    is_whole = len(start) >= LONGEST_HEADER or (rest != b"" and rest[:1] != b"%") or b"\n" in rest
    return start[:place].decode("latin-1"), place, is_whole


def sensor_size_of(header: str) -> tuple[int, int] | None:
    """Height and width of the sensor, stated or by its plugin; None where a header has neither."""
    height = re.search(r"\bheight\s*[= ]\s*(\d+)", header, re.IGNORECASE)
    width = re.search(r"\bwidth\s*[= ]\s*(\d+)", header, re.IGNORECASE)
    geometry = re.search(r"\bgeometry\s+(\d+)x(\d+)", header, re.IGNORECASE)
    plugin = re.search(r"plugin_name\s+(\S+)", header)
    if height and width:
        return int(height[1]), int(width[1])
    if geometry:
        return int(geometry[2]), int(geometry[1])
    return next((size for name, size in _SENSORS.items() if plugin and name in plugin[1]), None)


def required_version(header: str, file_name: str, source: str) -> str:
    """The version of a RAW header's encoding, ``"2"`` or ``"3"``.

    Args:
        header: its lines.
        file_name: for the command that converts a file.
        source: where the header comes from, for messages.

    Raises:
        UserError: it is of another encoding, or names none.
    """
    found = re.search(r"^%\s*(?:evt|format)\s+(?:EVT)?(\d(?:\.?\d)?)", header, re.M | re.I)
    if found is None:
        raise UserError(
            f"{source}: must be a RAW file of EVT 2.0 or EVT 3.0, got no header that names its "
            "encoding: fetch or record it again"
        )
    version = found[1].replace(".", "")
    if version not in ("2", "20", "3", "30"):
        raise UserError(
            f"{source}: must be of EVT 2.0 or EVT 3.0, got encoding EVT {'.'.join(version)}: "
            f"write it as DAT with OpenEB's metavision_file_to_dat -i {file_name}"
        )
    return version[0]


def _place_of_table(path: Path) -> int:
    """Where the table of packets is, by an AEDAT4 header, a FlatBuffer; -1 where it names none."""
    with path.open("rb") as file:
        version, length = file.read(14), int.from_bytes(file.read(4), "little")
        header = file.read(min(length, _XML))
    try:
        if version != b"#!AER-DAT4.0\r\n":
            raise ValueError("it does not begin as AEDAT 4.0")
        if len(header) < min(length, _XML):
            raise ValueError("the file ends within it")
        (root,) = struct.unpack_from("<I", header)
        (to_fields,) = struct.unpack_from("<i", header, root)
        size, _, _, field = struct.unpack_from("<4H", header, root - to_fields)
        place = struct.unpack_from("<q", header, root + field)[0] if size >= 8 and field else -1
    except (struct.error, ValueError) as error:
        raise damaged(path, f"its header: {error}") from error
    return int(place)


def _blocks(path: Path, start: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """What follows the header, in whole words."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            while len(block := file.read(_BLOCK)) >= dtype.itemsize:
                yield np.frombuffer(block, dtype, len(block) // dtype.itemsize)
    except OSError as error:
        raise damaged(path, str(error)) from error
