"""Where in a long recording a window lies: every 16,384th timestamp, and gaps, found in one pass.

Cameras' timestamps go backwards now and then. As in RVT, each event then takes the latest timestamp
seen before it, so that timestamps never descend. The index holds such repaired timestamps, and a
window is cut by reading the few blocks around it: the result is that of repairing all of the
recording at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etram_det.data.clock import STRAY, Span, Timestamps, require_unwrapped
from etram_det.data.labels import load_numbers
from etram_det.errors import UserError
from etram_det.files import cached_file, one_at_a_time, replacing

Times = Timestamps | NDArray[np.int64]

BLOCK = 2**14  # events from one timestamp of the index to the next
_READ = 64 * BLOCK  # events read at a time while the index is made: 8 MB of timestamps
_VERSION = 2  # of the index on disk; raise it when what is stored changes
_GAP_US = 5_000  # without events, from which on a gap is kept


@dataclass(frozen=True)
class TimeIndex:
    """Repaired timestamps at regular places of a recording.

    Attributes:
        block_time_us: ``[ceil(events / BLOCK)]`` int64, of each block's first event.
        num_repaired: events whose timestamp was behind an earlier one.
        gap_us: ``[G, 2]`` int64, the last event before and the first one after each gap of 5 ms or
            more without events, ascending.
    """

    block_time_us: NDArray[np.int64]
    num_repaired: int
    gap_us: NDArray[np.int64]

    @staticmethod
    def build(times: Times, progress: Callable[[int], None] | None = None) -> TimeIndex:
        """Read through all timestamps of a recording, in bounded memory.

        Args:
            times: timestamps ``[E]`` in microseconds.
            progress: is called with a number of events that were read.

        Raises:
            UserError: timestamps have wrapped at 32 bits.
        """
        block_times = [np.empty(0, np.int64)]
        gaps = [np.empty((0, 2), np.int64)]
        num_repaired = 0
        latest = np.iinfo(np.int64).min
        for start in range(0, len(times), _READ):
            timestamps = _timestamps(times, start, start + _READ + STRAY)
            require_unwrapped(timestamps, start, getattr(times, "wrap_us", 2**32))
            timestamps = timestamps[:_READ]
            repaired = np.maximum.accumulate(np.maximum(timestamps, latest))
            num_repaired += int(np.count_nonzero(repaired != timestamps))
            block_times.append(repaired[::BLOCK].copy())  # a view would hold all the timestamps
            before = np.append(repaired[0] if start == 0 else latest, repaired[:-1])
            wide = np.flatnonzero(repaired - before >= _GAP_US)
            gaps.append(np.stack([before[wide], repaired[wide]], axis=1))
            latest = repaired[-1]
            if progress is not None:
                progress(len(timestamps))
        return TimeIndex(np.concatenate(block_times), num_repaired, np.concatenate(gaps))

    def cut(self, times: Times, start_us: int, end_us: int) -> tuple[int, NDArray[np.int64]]:
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


def without_events(
    end_us: NDArray[np.int64], window_us: int, span: Span, gap_us: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which windows hold no event, ``[F]`` bool.

    Args:
        end_us: ``[F]`` ends of the windows, both ends of which are inside.
        window_us: length of a window.
        span: first and last timestamp of the events.
        gap_us: ``[G, 2]``, as in :class:`TimeIndex`.
    """
    start_us = end_us - window_us
    outside = (end_us < span[0]) | (start_us > span[1])
    if len(gap_us) == 0:
        return outside
    gap = np.searchsorted(gap_us[:, 0], start_us) - 1  # the last one that begins before
    return outside | ((gap >= 0) & (gap_us[gap, 1] > end_us))


def stored_time_index(path: Path, num_events: int, clock: str = "") -> TimeIndex | None:
    """The index of a recording from the user's cache; None where it is not there, or damaged.

    Args:
        path: the recording. A file changed since has another index.
        num_events: in it.
        clock: what its times follow from beside the file, such as their unit.
    """
    try:
        numbers = load_numbers(_place_in_cache(path, clock))
    except (OSError, UserError):
        return None
    num_gaps = int(numbers[1]) if len(numbers) > 1 else 0
    if numbers.shape != (2 + 2 * num_gaps - (-num_events // BLOCK),):
        return None
    gaps = numbers[2 : 2 + 2 * num_gaps].reshape(-1, 2)
    return TimeIndex(numbers[2 + 2 * num_gaps :], int(numbers[0]), gaps)


def cached_time_index(
    path: Path, times: Times, clock: str = "", progress: Callable[[int], None] | None = None
) -> TimeIndex:
    """The index of a recording from the user's cache, made and stored there when it is missing.

    The cache is a mere convenience: where it cannot be read or written, the index is made anew.

    Args:
        path: the recording. A file changed since has another index.
        times: its timestamps.
        clock: what else these follow from, such as their unit.
        progress: as in :meth:`TimeIndex.build`.
    """
    if (found := stored_time_index(path, len(times), clock)) is not None:
        return found
    stored = _place_in_cache(path, clock)
    with one_at_a_time(stored):  # whoever waited finds what the first one has made
        if (found := stored_time_index(path, len(times), clock)) is not None:
            return found
        index = TimeIndex.build(times, progress)
        head = [index.num_repaired, len(index.gap_us)]
        writer = str(os.getpid())
        # A full or read-only disk costs the time of another pass, nothing else.
        with contextlib.suppress(OSError), replacing(stored, writer, kept=False) as unfinished:
            with unfinished.open("wb") as file:
                np.save(file, np.concatenate([head, index.gap_us.ravel(), index.block_time_us]))
    return index


def _place_in_cache(path: Path, clock: str) -> Path:
    return cached_file("time_index", path, f"{BLOCK}|{_VERSION}|{clock}", ".npy")


def _timestamps(times: Times, start: int, stop: int) -> NDArray[np.int64]:
    return times[start:stop].astype(np.int64, copy=False)
