"""Where events come from: a recording replayed in real time, and RAW bytes from a pipe."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from etram_det.data.camera_formats import (
    LONGEST_HEADER,
    header_of,
    required_version,
    sensor_size_of,
)
from etram_det.data.evt import EvtDecoder
from etram_det.data.raw import RawRecording
from etram_det.data.recording import Note
from etram_det.data.representation import SENSOR_SIZE, FrameSettings
from etram_det.errors import UserError
from etram_det.inference.live.windows import NO_EVENTS, Slice
from etram_det.inference.placement import Resize, open_placed

_PACKET_S = 0.004  # between two packets of a replay
_POLL_S = 0.1  # between empty slices while no bytes come
_READ = 2**18  # bytes read at a time, at most
PIPE = "standard input"


def standard_input() -> BinaryIO:
    """The bytes of standard input.

    Raises:
        UserError: it is closed.
    """
    if sys.stdin is None:
        raise UserError(f"{PIPE}: must be open, got it closed: send the bytes of a RAW file")
    return sys.stdin.buffer


class Replay:
    """The events of a recording, each at its time: a camera for tests and demonstrations.

    Args:
        path: a file of events, as ``detect`` takes it.
        settings: how events become frames.
        resize: how the sensor's picture fills frames.
        pace: how many times faster than in real time it runs.

    Raises:
        UserError: the file cannot be read, holds frames instead of events, or ``pace`` is not
            positive.
    """

    may_reset = False

    def __init__(self, path: Path, settings: FrameSettings, resize: Resize, pace: float) -> None:
        if not pace > 0:
            raise UserError(f"pace: must be above 0, got {pace:g}: set 1 for real time")
        recording, _ = open_placed(path, settings, resize)
        if not isinstance(recording, RawRecording):
            raise UserError(
                f"replay: must be a file of events, got frames of {recording.layout} in {path}: "
                "use the recording that they were made of"
            )
        self.recording = recording
        self.name, self.notes = recording.name, recording.notes
        self.sensor_size = recording.sensor_size
        self.description = f"replay of {path}"
        first = next(recording.event_slices())
        self.dtypes = tuple(column.dtype for column in first)
        self._pace = pace

    def slices(self) -> Iterator[Slice]:  # noqa: D102
        started_s = time.monotonic()
        first_us, _ = self.recording.event_span_us
        step_us = max(int(_PACKET_S * 1e6 * self._pace), 1)
        # Packets that end with a window hold its last microsecond, or it would wait for the next.
        now_us = first_us + step_us + 1
        latest = first_us
        for x, y, t, p in self.recording.event_slices():
            ascending = np.maximum.accumulate(np.maximum(t, latest))
            start, latest = 0, int(ascending[-1]) if len(t) else latest
            while start < len(t):
                stop = int(np.searchsorted(ascending, now_us))
                is_over = stop < len(t)  # else more events of this packet follow
                due_us = now_us if is_over else latest
                due_s = started_s + (due_us - first_us) / 1e6 / self._pace
                time.sleep(max(due_s - time.monotonic(), 0))
                part = slice(start, stop)
                columns = (x[part], y[part], t[part], p[part])
                yield Slice(columns, due_s, now_us if is_over else None)
                now_us += step_us if is_over else 0
                start = stop

    def close(self) -> None:  # noqa: D102
        pass


class RawPipe:
    """RAW bytes of EVT 2.0 or EVT 3.0, with the header that files have, decoded as they come.

    Args:
        file: unbuffered bytes; they are read from its descriptor.
        clock: ``"recording"`` takes off the camera's time at the start, ``"camera"`` keeps it.
        sensor_size: height and width of the sensor; the header's unless set.

    Attributes:
        notes: what was assumed; in the end, what the bytes end within.

    Raises:
        UserError: the bytes are of another encoding, or there are none.
    """

    name = "stdin"
    description = PIPE
    dtypes = tuple(column.dtype for column in NO_EVENTS)
    may_reset = False

    def __init__(
        self, file: BinaryIO, clock: str, sensor_size: tuple[int, int] | None = None
    ) -> None:
        self._file, self._clock = file, clock
        self._rest = b""
        header = self._read_header()
        self._decoder = EvtDecoder(required_version(header, "FILE.raw", PIPE))
        self.notes: list[Note] = []
        stated = sensor_size or sensor_size_of(header)
        self.sensor_size = stated or SENSOR_SIZE
        if stated is None:
            height, width = SENSOR_SIZE
            note = f"its header does not state the sensor's size, {width}x{height} px is assumed"
            self.notes.append(Note(f"{note}: set data.sensor_size if it is another"))

    def slices(self) -> Iterator[Slice]:  # noqa: D102
        while (read := self._read()) != b"" or self._rest:
            size = self._decoder.word.itemsize
            content = self._rest + (read or b"")
            num_words = len(content) // size
            self._rest = content[num_words * size :]
            if read == b"" and not num_words:
                self._rest = b""
                self.notes.append(
                    Note("it ends within an event: it was cut short, and what comes before is used")
                )
                return
            x, y, t, p = self._decoder.decode(np.frombuffer(content, self._decoder.word, num_words))
            start_us = self._decoder.clock_start_us
            shift_us = (start_us or 0) if self._clock == "recording" else 0
            now_us = self._decoder.now_us
            now_us = None if now_us is None else now_us - shift_us
            yield Slice((x, y, t - shift_us, p), time.monotonic(), now_us)
        if self._decoder.clock_start_us is None:
            raise UserError(f"{PIPE}: must hold events, got none: send the bytes of a RAW file")

    def close(self) -> None:  # noqa: D102
        pass

    def _read(self) -> bytes | None:
        """The next bytes; none at the end, None where none came for a while."""
        descriptor = self._file.fileno()
        if os.name == "posix" and not select.select([descriptor], [], [], _POLL_S)[0]:
            return None
        return os.read(descriptor, _READ)

    def _read_header(self) -> str:
        while True:
            header, place, is_whole = header_of(self._rest[:LONGEST_HEADER])
            read = None if is_whole else self._read()
            self._rest += read or b""
            if is_whole or read == b"":
                self._rest = self._rest[place:]
                return header
