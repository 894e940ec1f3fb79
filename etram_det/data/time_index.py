"""Where in a long recording a window lies: every 16,384th stamp, found in one pass over the file.

Cameras' stamps go backwards now and then. As in RVT, each event then takes the latest stamp seen
before it, so that stamps never descend. The index holds such mended stamps, and a window is cut
by reading the few blocks around it: the result is that of mending the whole recording at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import platformdirs
from numpy.typing import NDArray

from etram_det.data.labels import load_numbers
from etram_det.errors import UserError

if TYPE_CHECKING:
    import h5py

BLOCK = 2**14  # events from one stamp of the index to the next
_READ = 64 * BLOCK  # events read at a time while the index is made: 8 MB of stamps
_VERSION = 1  # of the index on disk; raise it when what is stored changes


@dataclass(frozen=True)
class TimeIndex:
    """Mended stamps at regular places of a recording.

    Attributes:
        block_time_us: ``[ceil(events / BLOCK)]`` int64, mended stamp of each block's first event.
        num_mended: events whose stamp was behind an earlier one.
    """

    block_time_us: NDArray[np.int64]
    num_mended: int

    @staticmethod
    def build(times: h5py.Dataset) -> TimeIndex:
        """Read through all stamps of a recording, in bounded memory."""
        block_times = []
        num_mended = 0
        latest = np.iinfo(np.int64).min
        for start in range(0, len(times), _READ):
            stamps = _stamps(times, start, start + _READ)
            mended = np.maximum.accumulate(np.maximum(stamps, latest))
            num_mended += int(np.count_nonzero(mended != stamps))
            block_times.append(mended[::BLOCK].copy())  # a view would hold all the stamps
            latest = mended[-1]
        empty = np.empty(0, np.int64)
        return TimeIndex(np.concatenate([empty, *block_times]), num_mended)

    def cut(self, times: h5py.Dataset, start_us: int, end_us: int) -> tuple[int, NDArray[np.int64]]:
        """The events of a window, both ends included.

        Args:
            times: the stamps this index was made of.
            start_us: first microsecond of the window.
            end_us: last microsecond of the window.

        Returns:
            Place of the window's first event, and the mended stamps ``[E]`` of all its events.
        """
        first_block = max(int(np.searchsorted(self.block_time_us, start_us)) - 1, 0)
        end_block = int(np.searchsorted(self.block_time_us, end_us, side="right"))
        if end_block <= first_block:
            return 0, np.empty(0, np.int64)
        stamps = _stamps(times, first_block * BLOCK, end_block * BLOCK)
        # Events before these blocks matter no more: their stamps lie before the window.
        mended = np.maximum.accumulate(stamps)
        first = int(np.searchsorted(mended, start_us))
        end = int(np.searchsorted(mended, end_us, side="right"))
        return first_block * BLOCK + first, mended[first:end]


def cached_time_index(path: Path, times: h5py.Dataset) -> TimeIndex:
    """The index of a recording from the user's cache, made and stored there when it is missing.

    The cache is the folder ``ETRAM_DET_CACHE`` or else the system's usual one. It is a mere
    convenience: where it cannot be read or written, the index is made anew.

    Args:
        path: the recording. A file changed since has another index.
        times: its stamps.
    """
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{BLOCK}|{_VERSION}"
    folder = Path(os.environ.get("ETRAM_DET_CACHE") or platformdirs.user_cache_path("etram_det"))
    stored = folder / "time_index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
    try:
        numbers = load_numbers(stored)
        if numbers.shape == (1 + -(-len(times) // BLOCK),):
            return TimeIndex(numbers[1:], int(numbers[0]))
    except UserError:
        pass  # not there yet, or damaged
    index = TimeIndex.build(times)
    unfinished = stored.with_suffix(f".{os.getpid()}")
    try:
        stored.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.save(file, np.concatenate([[index.num_mended], index.block_time_us]))
        unfinished.replace(stored)
    except OSError:  # a full or read-only disk costs the time of another pass, nothing else
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return index


def _stamps(times: h5py.Dataset, start: int, stop: int) -> NDArray[np.int64]:
    return times[start:stop].astype(np.int64, copy=False)
