"""EVT 2.0 and EVT 3.0, Prophesee's encodings of events, decoded block by block as bytes come."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Columns = tuple[NDArray[Any], ...]  # x, y, t in microseconds and p of some events, each ``[E]``

# Of the range of a clock of hours: a longer fall is a wrap, and a longer rise takes it back, as the
# timestamp before or this one is damaged. Not near a sum of few powers of two, so that both count.
TURN = 0.7
# Places in the state of a decoder.
_HIGH, _LOW, _ROW, _COLUMN, _POLARITY, _FIRST, _WRAPS = range(7)


class EvtDecoder:
    """Decodes the words of one recording, in their order. Events before its clock are left out.

    Args:
        version: ``"2"`` or ``"3"``.

    Attributes:
        word: dtype of the words.
        clock_bits: of the camera's clock in microseconds, after which it starts anew.
    """

    def __init__(self, version: str) -> None:
        self._is_evt3 = version == "3"
        self.word = np.dtype("<u2" if self._is_evt3 else "<u4")
        self.clock_bits = 24 if self._is_evt3 else 34
        self._low_bits = 12 if self._is_evt3 else 6
        self._state = np.array([-1, 0, -1, -1, 0, -1, 0])
        self._columns: Columns = ()

    @property
    def num_wraps(self) -> int:
        """How often the clock has started anew."""
        return int(self._state[_WRAPS])

    @property
    def clock_start_us(self) -> int | None:
        """The camera's time at the first TIME_HIGH word; None before it."""
        return int(self._state[_FIRST]) << self._low_bits if self._state[_FIRST] >= 0 else None

    @property
    def now_us(self) -> int | None:
        """The camera's time at the last word, wraps counted; None before the first TIME_HIGH."""
        if self._state[_FIRST] < 0:
            return None
        low = int(self._state[_LOW]) if self._is_evt3 else 0
        return int(self._state[_HIGH]) << self._low_bits | low

    def decode(self, words: NDArray[Any]) -> Columns:
        """The events of the next words ``[n]``, valid until the next call."""
        room = len(words) * (12 if self._is_evt3 else 1)
        if not self._columns or len(self._columns[0]) < room:
            dtypes = (np.uint16, np.uint16, np.int64, np.uint8)
            self._columns = tuple(np.empty(room, dtype) for dtype in dtypes)
        decode = _decode_evt3 if self._is_evt3 else _decode_evt2
        num_events = decode(words, self._state, *self._columns)
        return tuple(column[:num_events] for column in self._columns)


@numba.njit(cache=True, nogil=True)
def _set_high(state: NDArray, steps: int, period: int) -> None:
    """Take a TIME_HIGH word over, in steps that are counted over all wraps.

    In EVT3, whose clock has a range of 16.8 s, a fall by half of it is a wrap, as for OpenEB.
    """
    if state[_FIRST] < 0:
        state[_FIRST] = state[_HIGH] = steps
        return
    step = steps - state[_HIGH] % period
    if period == 1 << 12:
        turn = int(step <= -(period // 2))
    else:
        turn = int(step < -TURN * period) - int(step > TURN * period)
    state[_WRAPS] += turn
    state[_HIGH] += step + period * turn
    if step != 0:
        state[_LOW] = 0


@numba.njit(cache=True, nogil=True)
def _decode_evt2(
    words: NDArray, state: NDArray, x: NDArray, y: NDArray, t: NDArray, p: NDArray
) -> int:
    """Decode words of 32 bits into the columns; returns the number of events."""
    num_events = 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 28
        if kind == 0x8:  # TIME_HIGH
            _set_high(state, word & 0xFFFFFFF, 1 << 28)
        elif kind <= 1 and state[_FIRST] >= 0:  # an event of this polarity
            x[num_events], y[num_events] = word >> 11 & 0x7FF, word & 0x7FF
            t[num_events] = state[_HIGH] << 6 | word >> 22 & 0x3F
            p[num_events] = kind
            num_events += 1
    return num_events


@numba.njit(cache=True, nogil=True)
def _decode_evt3(
    words: NDArray, state: NDArray, x: NDArray, y: NDArray, t: NDArray, p: NDArray
) -> int:
    """Decode words of 16 bits into the columns; returns the number of events."""
    num_events = 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind, value = word >> 12, word & 0xFFF
        valid = state[_FIRST] >= 0 and state[_ROW] >= 0
        if kind == 0x0:  # ADDR_Y
            state[_ROW] = word & 0x7FF
        elif kind == 0x2 and valid:  # ADDR_X: one event
            x[num_events], y[num_events] = word & 0x7FF, state[_ROW]
            t[num_events] = state[_HIGH] << 12 | state[_LOW]
            p[num_events] = word >> 11 & 1
            num_events += 1
        elif kind == 0x3:  # VECT_BASE_X
            state[_COLUMN], state[_POLARITY] = word & 0x7FF, word >> 11 & 1
        elif (kind == 0x4 or kind == 0x5) and state[_COLUMN] >= 0:  # VECT_12, VECT_8: a bit each
            length = 12 if kind == 0x4 else 8
            for bit in range(length if valid else 0):
                if value >> bit & 1:
                    x[num_events], y[num_events] = state[_COLUMN] + bit, state[_ROW]
                    t[num_events] = state[_HIGH] << 12 | state[_LOW]
                    p[num_events] = state[_POLARITY]
                    num_events += 1
            state[_COLUMN] = min(state[_COLUMN] + length, 0x3FFF)
        elif kind == 0x6:  # TIME_LOW
            state[_LOW] = value
        elif kind == 0x8:  # TIME_HIGH
            _set_high(state, value, 1 << 12)
    return num_events
