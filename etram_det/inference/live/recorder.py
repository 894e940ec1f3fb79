"""Events to disk as they come, in Prophesee's DAT: 8 bytes for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from etram_det.data.evt import Columns
from etram_det.errors import UserError
from etram_det.inference.writer import GrowingFile

SUFFIX = ".dat"
_CD_EVENT = bytes([0x0C, 8])  # type and size of an event
_LONGEST_SIDE = 2**14


class Recorder:
    """A file of all events, which takes its name when it is finished.

    Timestamps have 32 bits, and start anew after 71.6 minutes as the format has it.

    Args:
        path: a new ``.dat`` file; its folder is made if missing.
        sensor_size: height and width of the sensor in pixels.

    Attributes:
        path: the file.
        num_events: in it so far.
        error: why it could not be continued; what is complete is kept. None where it could.

    Raises:
        UserError: the file is there already, has another suffix, or cannot be written.
    """

    def __init__(self, path: Path, sensor_size: tuple[int, int]) -> None:
        require_new(path)
        self.path, self.num_events = path, 0
        self.error: OSError | None = None
        height, width = sensor_size
        header = f"% Data file containing CD events.\n% Version 2\n% Height {height}\n"
        try:
            self._file = GrowingFile(path, f"{header}% Width {width}\n".encode() + _CD_EVENT)
        except OSError as error:
            raise UserError(
                f"record: {path} cannot be written ({error.strerror or error}): choose another file"
            ) from error

    def add(self, columns: Columns) -> None:
        """Write events; those that no sensor has, with coordinates of 14 bits or more, are not."""
        x, y, t, p = (column.astype(np.int64, copy=False) for column in columns)
        is_there = ((x | y) >= 0) & ((x | y) < _LONGEST_SIDE)
        events = np.empty((np.count_nonzero(is_there), 2), "<u4")
        events[:, 0] = t[is_there] & 0xFFFFFFFF
        events[:, 1] = (x | y << 14 | (p == 1).astype(np.int64) << 28)[is_there]
        if self.error is not None or len(events) == 0:
            return
        try:
            self._file.write(events.tobytes())
        except OSError as error:
            self._file.go_back()
            self.error = error
            return
        self._file.keep()
        self.num_events += len(events)

    def finish(self) -> None:
        """Move the file into place with the events so far; one without any is given up.

        Raises:
            OSError: it cannot be moved.
        """
        if self.num_events:
            self._file.finish()
        else:
            self._file.discard()


def require_new(path: Path) -> None:
    """Refuse a file that cannot become a recording.

    Raises:
        UserError: it is there already, or has another suffix than ``.dat``.
    """
    if path.suffix.lower() != SUFFIX:
        raise UserError(
            f"record: must be a {SUFFIX} file, got {path}: use {path.with_suffix(SUFFIX).name}"
        )
    if path.exists():
        raise UserError(f"record: must be a new file, got {path}, which is there: use another name")
