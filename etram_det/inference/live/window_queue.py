"""The queue between the thread that reads events and the one that detects."""

from __future__ import annotations

import threading
import time
from collections import deque

from etram_det.inference.live.windows import Window

_RECENT = 16  # windows whose durations say how long the next one takes
_SPIKES = 1  # of these, which may have taken longer
_LATEST = 1.9  # windows from a window's last event to its boxes; two, less what cannot be foreseen


class WindowQueue:
    """Hands windows to the detector in their order, and drops those that would come too late.

    A window is dropped where its boxes could not be there within two windows of its last event, as
    far as the last ones show how long that takes. So a detector that is too slow sees fewer
    windows, but none with a growing delay. One that it waits for is never dropped.

    Args:
        window_s: length of a window, in seconds of this machine's clock.

    Attributes:
        num_dropped: windows dropped.
        has_ended: whether no more windows come; those that are there can still be taken.
    """

    def __init__(self, window_s: float) -> None:
        self.num_dropped, self.has_ended = 0, False
        self._window_s = window_s
        self._windows: deque[Window] = deque()
        self._changed = threading.Condition()
        self._is_waited_for = False
        self._durations_s: deque[float] = deque(maxlen=_RECENT)

    @property
    def duration_s(self) -> float:
        """How long a window takes, of the recent ones all but the slowest; 0 if not yet known."""
        with self._changed:
            durations_s = sorted(self._durations_s)
        return durations_s[-1 - _SPIKES] if len(durations_s) > _SPIKES else 0

    def put(self, window: Window) -> None:
        """Add the window that is over now."""
        with self._changed:
            if not self._is_waited_for:
                self._drop_late()
            self._windows.append(window)
            self._changed.notify()

    def end(self) -> None:
        """Add no more windows."""
        with self._changed:
            self.has_ended = True
            self._changed.notify()

    def take(self, timeout_s: float) -> Window | None:
        """The next window; None where none came in time, or none comes any more."""
        with self._changed:
            self._drop_late()
            if not self._windows and not self.has_ended:
                self._is_waited_for = True
                self._changed.wait(timeout_s)
                self._is_waited_for = False
            return self._windows.popleft() if self._windows else None

    def took(self, duration_s: float) -> None:
        """Remember how long the last window took."""
        with self._changed:
            self._durations_s.append(duration_s)

    def _drop_late(self) -> None:
        duration_s = self.duration_s
        while self._windows and self._is_late(self._windows[0], time.monotonic() + duration_s):
            self._windows.popleft()
            self.num_dropped += 1

    def _is_late(self, window: Window, done_s: float) -> bool:
        return (
            done_s - window.over_s > self._window_s
            and done_s - window.arrived_s > _LATEST * self._window_s
        )
