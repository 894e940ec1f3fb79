"""What augmentation does to the counts of frames: flip them, add up pixels, drop events."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray


def add_up(
    frames: NDArray[Any], row: NDArray[np.int64], column: NDArray[np.int64], count_cutoff: int
) -> NDArray[Any]:
    """Move the pixels of frames and add up those that fall together.

    Args:
        frames: ``[T, C, H, W]`` uint8 or int8.
        row: ``[H]`` the row that each row moves to, ascending, in ``[0, H)``.
        column: ``[W]`` the column that each column moves to, ascending, in ``[0, W)``.
        count_cutoff: sums saturate at this value, and at its negative where counts have signs; at
            least the largest count.

    Returns:
        Frames of the same shape and type, zero where nothing moved to.
    """
    moved = np.zeros(frames.shape, frames.dtype)
    planes = (-1, *frames.shape[2:])
    _add_up(frames.reshape(planes), moved.reshape(planes), row, column, count_cutoff)
    return moved


def flipped(frames: NDArray[Any]) -> NDArray[Any]:
    """Frames ``[T, C, H, W]`` with left and right exchanged, six times as fast as NumPy's."""
    mirrored = np.empty(frames.shape, frames.dtype)
    lines = (-1, frames.shape[3])
    _flip(frames.reshape(lines), mirrored.reshape(lines))
    return mirrored


def without_share(frames: NDArray[Any], share: float, rng: np.random.Generator) -> NDArray[Any]:
    """Frames from which each event is dropped with the same probability.

    Events beyond those at which a count saturates are not known, so its remainder is too small.

    Args:
        frames: ``[T, C, H, W]`` uint8, counts of events.
        share: the probability, in [0, 1].
        rng: decides which events are dropped.
    """
    frames = frames.copy()
    _drop(frames.reshape(-1), share, rng)
    return frames


def with_polarities_swapped(frames: NDArray[Any]) -> NDArray[Any]:
    """Frames in which every event has the other polarity.

    Args:
        frames: ``[T, C, H, W]`` uint8, counts of the one polarity in the first half of the
            channels and of the other in the rest; or int8, sums of polarities.
    """
    if frames.dtype == np.int8:
        return -frames
    return np.roll(frames, frames.shape[1] // 2, axis=1)


@numba.njit(cache=True, nogil=True)
def _add_up(frames: NDArray, moved: NDArray, row: NDArray, column: NDArray, cutoff: int) -> None:
    num_rows, num_columns = frames.shape[1:]
    line, sums = np.empty(num_columns, np.int32), np.empty(num_columns, np.int32)
    for plane in range(len(frames)):
        y = 0
        while y < num_rows:
            target = row[y]
            line[:] = frames[plane, y]
            y += 1
            while y < num_rows and row[y] == target:
                line += frames[plane, y]
                y += 1
            sums[:] = 0
            for x in range(num_columns):
                sums[column[x]] += line[x]
            for x in range(num_columns):
                moved[plane, target, x] = min(max(sums[x], -cutoff), cutoff)


@numba.njit(cache=True, nogil=True)
def _flip(lines: NDArray, mirrored: NDArray) -> None:
    # Unsigned numbers, as an index that may be negative keeps the loop from being vectorised.
    last = np.uint64(lines.shape[1] - 1)
    for line in range(len(lines)):
        for x in range(lines.shape[1]):
            mirrored[line, np.uint64(x)] = lines[line, last - np.uint64(x)]


@numba.njit(cache=True, nogil=True)
def _drop(counts: NDArray, share: float, rng: np.random.Generator) -> None:
    for place in range(len(counts)):
        for _ in range(counts[place]):
            if rng.random() < share:
                counts[place] -= 1
