"""Where in a long recording a window lies: every 16,384th timestamp, found in one pass.

Cameras' timestamps go backwards now and then. As in RVT, each event then takes the latest timestamp
seen before it, so that timestamps never descend. The index holds such repaired timestamps, and a
window is cut by reading the few blocks around it: the result is that of repairing all of the
recording at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from etram_det.data.labels import load_numbers
from etram_det.errors import UserError
from etram_det.files import cache_folder, replacing

if TYPE_CHECKING:
    import h5py

BLOCK = 2**14  # events from one timestamp of the index to the next
_READ = 64 * BLOCK  # events read at a time while the index is made: 8 MB of timestamps
_VERSION = 1  # of the index on disk; raise it when what is stored changes


@dataclass(frozen=True)
class TimeIndex:
    """Repaired timestamps at regular places of a recording.

    Attributes:
        block_time_us: ``[ceil(events / BLOCK)]`` int64, of each block's first event.
        num_repaired: events whose timestamp was behind an earlier one.
    """

    block_time_us: NDArray[np.int64]
    num_repaired: int

    @staticmethod
    def build(times: h5py.Dataset) -> TimeIndex:
        """Read through all timestamps of a recording, in bounded memory."""
        block_times = [np.empty(0, np.int64)]
        num_repaired = 0
        latest = np.iinfo(np.int64).min
        for start in range(0, len(times), _READ):
            timestamps = _timestamps(times, start, start + _READ)
            repaired = np.maximum.accumulate(np.maximum(timestamps, latest))
            num_repaired += int(np.count_nonzero(repaired != timestamps))
            block_times.append(repaired[::BLOCK].copy())  # a view would hold all the timestamps
            latest = repaired[-1]
        return TimeIndex(np.concatenate(block_times), num_repaired)

    def cut(self, times: h5py.Dataset, start_us: int, end_us: int) -> tuple[int, NDArray[np.int64]]:
        """The events of a window, both ends included.

        Args:
            times: the timestamps this index was made of.
            start_us: first microsecond of the window.
            end_us: last microsecond of the window.

        Returns:
            Index of the window's first event, and the repaired timestamps ``[E]`` of its events.
        """
        first_block = max(int(np.searchsorted(self.block_time_us, start_us)) - 1, 0)
        end_block = int(np.searchsorted(self.block_time_us, end_us, side="right"))
        if end_block <= first_block:
            return 0, np.empty(0, np.int64)
        timestamps = _timestamps(times, first_block * BLOCK, end_block * BLOCK)
        # Events before these blocks matter no more: their timestamps lie before the window.
        repaired = np.maximum.accumulate(timestamps)
        first = int(np.searchsorted(repaired, start_us))
        end = int(np.searchsorted(repaired, end_us, side="right"))
        return first_block * BLOCK + first, repaired[first:end]


def cached_time_index(path: Path, times: h5py.Dataset) -> TimeIndex:
    """The index of a recording from the user's cache, made and stored there when it is missing.

    The cache is a mere convenience: where it cannot be read or written, the index is made anew.

    Args:
        path: the recording. A file changed since has another index.
        times: its timestamps.
    """
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{BLOCK}|{_VERSION}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    stored = cache_folder() / "time_index" / name
    try:
        numbers = load_numbers(stored)
        if numbers.shape == (1 + -(-len(times) // BLOCK),):
            return TimeIndex(numbers[1:], int(numbers[0]))
    except UserError:
        pass  # not there yet, or damaged
    index = TimeIndex.build(times)
    # A full or read-only disk costs the time of another pass, nothing else.
    with contextlib.suppress(OSError), replacing(stored, str(os.getpid())) as unfinished:
        with unfinished.open("wb") as file:
            np.save(file, np.concatenate([[index.num_repaired], index.block_time_us]))
    return index


def _timestamps(times: h5py.Dataset, start: int, stop: int) -> NDArray[np.int64]:
    return times[start:stop].astype(np.int64, copy=False)
