"""Windows cut from events as they arrive, by the rule of recordings without labels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from etram_det.data.evt import Columns
from etram_det.data.recording import Note
from etram_det.data.timeline import first_window_start

NO_EVENTS: Columns = tuple(np.empty(0, dtype) for dtype in ("u2", "u2", "i8", "u1"))
_RESET_US, _JUMP_US = 10**6, 60 * 10**6  # back or ahead at once: the camera's clock was set anew


class Slice(NamedTuple):
    """Some events as they arrived together, in their order; there may be none.

    Attributes:
        columns: x, y, t in microseconds and p, ``[E]`` each, valid until the next slice.
        arrived_s: when they arrived, by ``time.monotonic``.
        now_us: time of the camera's clock before which all events have arrived; None where only
            the events themselves show it.
        is_behind_loss: whether events that came before these were lost on their way.
    """

    columns: Columns
    arrived_s: float
    now_us: int | None = None
    is_behind_loss: bool = False


class EventSource(Protocol):
    """Where events come from.

    Attributes:
        name: of results.
        description: for people.
        sensor_size: height and width of the sensor in pixels.
        dtypes: of the columns x, y, t and p.
        may_reset: whether its clock may be set anew while events come.
        notes: what was assumed about it, or shows in the end.
    """

    name: str
    description: str
    sensor_size: tuple[int, int]
    dtypes: tuple[np.dtype[Any], ...]
    may_reset: bool
    notes: list[Note]

    def slices(self) -> Iterator[Slice]:
        """The events from now on; while none come, empty slices several times a second."""
        ...

    def close(self) -> None:
        """Release it."""
        ...


class Window(NamedTuple):
    """The events of a window, both ends included.

    Attributes:
        end_us: where it ends.
        columns: x, y, t in microseconds and p, ``[E]`` each.
        arrived_s: when its last event arrived, by ``time.monotonic``; in a window without events,
            when it was over.
        over_s: when it was known to be over.
        is_first: whether a new stream starts with it.
    """

    end_us: int
    columns: Columns
    arrived_s: float
    over_s: float
    is_first: bool = False


class WindowCutter:
    """Cuts a stream into windows that follow each other from the first event on.

    The first one starts at a whole window before it, or with it where it comes at 100 ms or later.

    A window is over once the clock is past its end. Timestamps that go back take the latest one
    before them. Windows of which events were lost are left out.

    Args:
        window_us: length of a window.
        may_reset: whether windows start anew where the clock jumps by more than a second back or a
            minute ahead.

    Attributes:
        num_lost: windows left out.
        num_resets: how often windows started anew.
        num_events: events so far.
        num_repaired: events so far whose timestamp went back.
    """

    def __init__(self, window_us: int, may_reset: bool = False) -> None:
        self.num_lost = self.num_resets = self.num_events = self.num_repaired = 0
        self._window_us, self._may_reset = window_us, may_reset
        self._parts: list[Columns] = []  # of the windows that are not over
        self._end_us: int | None = None  # of the window that is not over
        # The last event, and what is known of the clock, which goes on in silence.
        self._latest_us = self._clock_us = int(np.iinfo(np.int64).min)
        self._arrived_s: float | None = None  # last event of the window that is not over
        self._is_first, self._is_behind_loss = True, False

    def add(self, events: Slice) -> Iterator[Window]:
        """The windows that are over with these events."""
        t = events.columns[2]
        self._is_behind_loss |= events.is_behind_loss
        if len(t):
            t = self._repaired(t.astype(np.int64, copy=False))
            if self._end_us is None:
                self._end_us = first_window_start(int(t[0]), self._window_us) + self._window_us
            elif self._is_behind_loss:
                self._leave_out(int(t[0]))
            self._is_behind_loss = False
            x, y, _, p = events.columns
            self._parts.append((x.copy(), y.copy(), t, p.copy()))
        now_us = max(self._latest_us, self._latest_us if events.now_us is None else events.now_us)
        self._clock_us = max(self._clock_us, now_us)
        if self._end_us is None or self._is_behind_loss:
            return
        while now_us > self._end_us:
            if len(t) and t[0] <= self._end_us:
                self._arrived_s = events.arrived_s
            yield self._cut(self._arrived_s or events.arrived_s, events.arrived_s)
        if len(t) and t[-1] >= self._end_us - self._window_us:
            self._arrived_s = events.arrived_s

    def finish(self) -> Iterator[Window]:
        """The windows that hold the last events, once no more come."""
        now_s = time.monotonic()
        while self._end_us is not None and self._latest_us >= self._end_us - self._window_us:
            yield self._cut(self._arrived_s or now_s, now_s)

    def _repaired(self, t: NDArray[np.int64]) -> NDArray[np.int64]:
        """Timestamps ``[E]`` that never descend; starts anew where the clock was set."""
        first = int(t[0])
        jumps = not self._latest_us - _RESET_US <= first <= self._clock_us + _JUMP_US
        if self._may_reset and self._end_us is not None and jumps:
            self._parts, self._end_us, self._arrived_s = [], None, None
            self._latest_us, self._clock_us, self._is_first = first, first, True
            self.num_resets += 1
        repaired = np.maximum.accumulate(np.maximum(t, self._latest_us))
        self.num_events += len(t)
        self.num_repaired += int(np.count_nonzero(repaired != t))
        self._latest_us = int(repaired[-1])
        return repaired

    def _leave_out(self, first_us: int) -> None:
        """Go on with the first window that starts at the first event behind a loss, or later."""
        assert self._end_us is not None
        self._parts, self._arrived_s = [], None
        start_us = self._end_us - self._window_us
        # One that starts later is complete: it follows a loss before this one.
        num = max(-(-(first_us - start_us) // self._window_us), int(first_us >= start_us))
        self.num_lost += num
        self._end_us += num * self._window_us

    def _cut(self, arrived_s: float, over_s: float) -> Window:
        assert self._end_us is not None
        end_us = self._end_us
        columns: Columns = tuple(
            parts[0] if len(parts) == 1 else np.concatenate(parts)
            for parts in zip(*self._parts, strict=True)
        )
        if columns:
            start = int(np.searchsorted(columns[2], end_us - self._window_us))
            stop = int(np.searchsorted(columns[2], end_us, side="right"))
            following = int(np.searchsorted(columns[2], end_us))
            rest = tuple(column[following:] for column in columns)
            self._parts = [rest] if len(rest[0]) else []
            columns = tuple(column[start:stop] for column in columns)
        else:
            columns = NO_EVENTS
        is_first, self._is_first = self._is_first, False
        self._end_us, self._arrived_s = end_us + self._window_us, None
        return Window(end_us, columns, arrived_s, over_s, is_first)
