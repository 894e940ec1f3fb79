"""Frames as lists of their non-zero counts: how our cache stores them, and how they travel.

A frame is one list of 16-bit entries. Each holds how many places its count lies after the one
before it, in the frame's flat order, and the count in its lowest bits. Where nothing lies within
reach, an entry of count 0 bridges the gap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

_ENTRY_BITS = 16
_CLEARED = 2**16  # counts that are set to zero at a time
_WORD = 8  # counts that are compared with zero at a time
_BLOCK = 2**12  # counts whose places are found at a time, a multiple of the word


@dataclass(frozen=True, eq=False)
class SparseFrames:
    """The counts of consecutive frames.

    Attributes:
        entries: ``[n]`` uint16, those of all frames, one frame after the other.
        num_entries: ``[F]`` int64, of each frame.
        shape: channels, height and width of a frame.
        is_signed: whether counts are int8, rather than uint8.
        count_cutoff: where they saturate.
    """

    entries: NDArray[np.uint16]
    num_entries: NDArray[np.int64]
    shape: tuple[int, ...]
    is_signed: bool
    count_cutoff: int

    def __len__(self) -> int:
        return len(self.num_entries)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self.shape[1], self.shape[2]

    @staticmethod
    def of(frames: NDArray[Any], count_cutoff: int) -> SparseFrames:
        """Encode frames ``[F, C, H, W]`` whose counts are at most ``count_cutoff``."""
        is_signed = frames.dtype == np.int8
        count_bits = count_bits_of(is_signed, count_cutoff)
        parts = [encode(frame, count_bits) for frame in frames]
        return SparseFrames(
            np.concatenate(parts) if parts else np.empty(0, np.uint16),
            np.array([len(part) for part in parts], np.int64),
            frames.shape[1:],
            is_signed,
            count_cutoff,
        )

    def without_share(self, share: float, rng: np.random.Generator) -> SparseFrames:
        """Frames from which each event is dropped with the same probability.

        Events beyond those at which a count saturates are not known, so its remainder is too small.

        Args:
            share: the probability, in [0, 1].
            rng: decides which events are dropped.
        """
        entries = self.entries.copy()
        _drop(entries, (1 << count_bits_of(self.is_signed, self.count_cutoff)) - 1, share, rng)
        return replace(self, entries=entries)


def count_bits_of(is_signed: bool, count_cutoff: int) -> int:
    """Bits of an entry's count: all for signed counts, else those that the cutoff needs."""
    return 8 if is_signed else count_cutoff.bit_length()


def encode(frame: NDArray[Any], count_bits: int) -> NDArray[np.uint16]:
    """Entries ``[n]`` of one frame ``[C, H, W]`` uint8 or int8, whose counts fit the bits."""
    counts = frame.reshape(-1).view(np.uint8)
    longest = (1 << (_ENTRY_BITS - count_bits)) - 1
    entries = np.empty(np.count_nonzero(counts) + len(counts) // longest, np.uint16)
    return entries[: _encode(counts, entries, count_bits)]


@numba.njit(cache=True, nogil=True)
def _encode(counts: NDArray, entries: NDArray, count_bits: int) -> int:
    """Write the entries of counts [n] uint8; returns their number."""
    longest = (1 << (_ENTRY_BITS - count_bits)) - 1
    words = counts[: len(counts) // _WORD * _WORD].view(np.uint64)
    filled, places = np.empty(_BLOCK, np.uint32), np.empty(_BLOCK, np.uint32)
    num_entries, last = 0, -1
    for block in range(0, len(counts), _BLOCK):
        # Without branches, as most of them would be mispredicted.
        num_filled = num_places = 0
        for word in range(block // _WORD, min(block + _BLOCK, len(counts)) // _WORD):
            filled[num_filled] = word
            num_filled += words[word] != 0
        for i in range(num_filled):
            for place in range(_WORD * filled[i], _WORD * filled[i] + _WORD):
                places[num_places] = place
                num_places += counts[place] != 0
        if block + _BLOCK > len(counts):
            for place in range(_WORD * len(words), len(counts)):
                places[num_places] = place
                num_places += counts[place] != 0
        for place in places[:num_places]:
            while place - last > longest:
                entries[num_entries] = longest << count_bits
                num_entries += 1
                last += longest
            entries[num_entries] = ((place - last) << count_bits) | counts[place]
            num_entries += 1
            last = place
    return num_entries


@numba.njit(cache=True, nogil=True)
def decode(frames: NDArray, entries: NDArray, first_entry: NDArray, count_bits: int) -> bool:
    """Write the counts of frames [n, C * H * W]; False for damaged entries."""
    mask, size = (1 << count_bits) - 1, frames.shape[1]
    for frame in range(len(frames)):
        counts = frames[frame]
        place, cleared = -1, 0
        for i in range(first_entry[frame], first_entry[frame + 1]):
            place += entries[i] >> count_bits
            if place >= size:
                return False
            if place >= cleared:
                # A block at a time, so that it is still in the cache when it is counted into.
                counts[cleared : place + _CLEARED] = 0
                cleared = place + _CLEARED
            counts[place] = entries[i] & mask
        counts[cleared:] = 0
    return True


@numba.njit(cache=True, nogil=True)
def fit_into(size: int, entries: NDArray, first_entry: NDArray, count_bits: int) -> bool:
    """Whether the entries of frames lie in ``size`` counts each; False for damaged ones."""
    for frame in range(len(first_entry) - 1):
        place = -1
        for i in range(first_entry[frame], first_entry[frame + 1]):
            place += entries[i] >> count_bits
        if place >= size:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _drop(entries: NDArray, mask: int, share: float, rng: np.random.Generator) -> None:
    for i in range(len(entries)):
        for _ in range(entries[i] & mask):
            if rng.random() < share:
                entries[i] -= 1
