"""The queue between the thread that reads events and the one that detects."""

from __future__ import annotations

import threading
import time
from collections import deque

from etram_det.inference.live.windows import Window

_RECENT = 32  # windows that say how long the next one takes
_SPIKES = 1  # of these, which may have taken longer where the detector keeps up
_LATEST = 1.9  # windows from a window's last event to its boxes; two, less what cannot be foreseen
_FRESH = 0.1  # windows that one may be late which a slow detector has waited for


class WindowQueue:
    """Hands windows to the detector in their order, and drops those that would come too late.

    A window is dropped where its boxes could not be there within two windows of its last event, as
    far as the last ones show how long that takes. So a detector that is too slow sees fewer
    windows, but none with a growing delay. Where no window could be in time, it gets those that it
    waits for, unless reading them took longer than usual. A detector that keeps up gets all that
    it waits for.

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
        self._delays_s: deque[float] = deque(maxlen=_RECENT)  # until windows that are over are put

    @property
    def duration_s(self) -> float:
        """How long a window takes, by the slowest of the recent ones; 0 if not yet known.

        Where the detector keeps up but for one of them, that one does not count.
        """
        with self._changed:
            durations_s = sorted(self._durations_s)
        if len(durations_s) <= _SPIKES:
            return 0
        usual_s = durations_s[-1 - _SPIKES]
        return usual_s if usual_s <= self._window_s else durations_s[-1]

    def put(self, window: Window) -> None:
        """Add the window that is over now."""
        with self._changed:
            self._delays_s.append(max(time.monotonic() - window.over_s, 0))
            self._windows.append(window)
            if not self._is_waited_for:
                self._drop_late()
            elif (duration_s := self.duration_s) > self._window_s:
                usual_delay_s = sorted(self._delays_s)[len(self._delays_s) // 2]
                self._drop_late(duration_s + usual_delay_s + _FRESH * self._window_s)
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

    def _drop_late(self, fresh_s: float = 0) -> None:
        """Drop windows whose boxes would come too late.

        Args:
            fresh_s: no window is too late whose boxes come within this time of its end.
        """
        done_s = time.monotonic() + self.duration_s
        while self._windows and self._is_late(self._windows[0], done_s, fresh_s):
            self._windows.popleft()
            self.num_dropped += 1

    def _is_late(self, window: Window, done_s: float, fresh_s: float) -> bool:
        return (
            done_s - window.over_s > max(self._window_s, fresh_s)
            and done_s - window.arrived_s > _LATEST * self._window_s
        )
