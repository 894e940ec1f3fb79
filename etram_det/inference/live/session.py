"""One live run: a thread reads and cuts events, and the caller detects in what is not too late."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import suppress
from typing import Any, NamedTuple

from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.inference.live.frame_maker import FrameMaker
from etram_det.inference.live.latencies import Latencies
from etram_det.inference.live.recorder import Recorder
from etram_det.inference.live.window_queue import WindowQueue
from etram_det.inference.live.windows import EventSource, WindowCutter
from etram_det.inference.placement import Resize
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.inference.tracking import Tracker
from etram_det.inference.writer import box_rows

_WAIT_S = 0.1  # between two looks at whether to stop
_LEAVE_S = 5.0  # in which a source must let go
_WARM_UP = 5  # windows of noise
_RATE_S = 2.0  # over which rates are measured


class Found(NamedTuple):
    """What was found in a window.

    Attributes:
        end_us: end of the window.
        frame: ``[C, H, W]``.
        rows: detections ``[D]`` as in a box file, in pixels of the sensor.
        latency_s: from the arrival of its last event until now.
    """

    end_us: int
    frame: NDArray[Any]
    rows: NDArray[Any]
    latency_s: float


class LiveSession:
    """Detects in the windows of a source that are not too late.

    The network's state is carried from each window that is detected in to the next one; dropped
    windows leave it as it is. It starts anew where the camera's clock does.

    Args:
        source: of the events; it is closed at the end.
        detector: of the checkpoint.
        resize: how the sensor's picture fills frames.
        track: whether to number the objects.
        recorder: where all events go to, if anywhere.
        pace: seconds of the camera's clock in one of this machine's.

    Attributes:
        frames: makes the frames, and counts what it drops.
        cutter: makes the windows, and counts events.
        latencies: of all windows.
        counts: detections so far by class id.
        num_windows: detected in so far.
        window_s: length of a window, in seconds of this machine's clock.
        started_s: when events began to be read, by ``time.monotonic``.
    """

    def __init__(
        self,
        source: EventSource,
        detector: StreamingDetector,
        resize: Resize,
        track: bool = False,
        recorder: Recorder | None = None,
        pace: float = 1.0,
    ) -> None:
        window_ms = detector.frame_settings.window_ms
        self.source, self.detector, self.recorder = source, detector, recorder
        self.track = track
        self.frames = FrameMaker(source.sensor_size, detector.frame_settings, resize)
        self.cutter = WindowCutter(window_ms * 1000, source.may_reset)
        self.latencies = Latencies()
        self.counts: Counter[int] = Counter()
        self.num_windows = 0
        self.started_s = time.monotonic()
        self.window_s = window_ms / 1000 / pace
        self._queue = WindowQueue(self.window_s)
        self._tracker = Tracker(detector.score_threshold) if track else None
        self._stop = threading.Event()
        # What is raised in the end: unless set anew, the thread has died of more than an exception.
        self._fault: Exception | None = UserError("camera: its driver has failed", exit_code=1)
        self._recent = deque([(self.started_s, 0, 0)])  # times; windows and events until then

    @property
    def num_dropped(self) -> int:
        """Windows in which nothing was looked for: too late, or of events that were lost."""
        return self._queue.num_dropped + self.cutter.num_lost

    @property
    def duration_s(self) -> float:
        """How long a window takes."""
        return self._queue.duration_s

    def warm_up(self) -> None:
        """Load and compile what each window needs, before any event is waited for."""
        frame = self.frames.noise(self.source.dtypes)
        for _ in range(_WARM_UP):
            begun_s = time.monotonic()
            self.detector.detect_frame(frame, self.frames.placement.content_size)
            self._queue.took(time.monotonic() - begun_s)
        self.detector.reset()

    def stop(self) -> None:
        """End it soon."""
        self._stop.set()

    def found(self) -> Generator[Found, None, None]:
        """What is found, window by window, until the source ends or :meth:`stop` is called.

        The source is closed when this generator is.

        Raises:
            UserError: the source cannot go on.
        """
        reader = threading.Thread(target=self._read, name="events", daemon=True)
        self.started_s = time.monotonic()
        self._recent = deque([(self.started_s, 0, 0)])
        reader.start()
        try:
            while not self._stop.is_set():
                window = self._queue.take(_WAIT_S)
                if window is not None:
                    begun_s = time.monotonic()
                    if window.is_first:
                        self._start_anew()
                    frame = self.frames.frame(window)
                    content_size = self.frames.placement.content_size
                    detections = self.detector.detect_frame(frame, content_size)
                    rows = box_rows(window.end_us, detections, self.frames.placement.scale)
                    if self._tracker is not None:
                        rows["track_id"] = self._tracker.update(window.end_us, rows)
                    done_s = time.monotonic()
                    self.num_windows += 1
                    self.counts.update(detections.classes.tolist())
                    self.latencies.add(done_s - window.arrived_s)
                    self._note_progress()
                    yield Found(window.end_us, frame, rows, done_s - window.arrived_s)
                    self._queue.took(time.monotonic() - begun_s)
                elif self._queue.has_ended:
                    break
        finally:
            self._stop.set()
            reader.join(_LEAVE_S)
        if self._fault is not None:
            raise self._fault

    def rates(self) -> tuple[float, float]:
        """Windows and events in a second of this machine's clock, of late."""
        (first_s, *first), (last_s, *last) = self._recent[0], self._recent[-1]
        passed_s = max(last_s - first_s, 1e-9)
        return (last[0] - first[0]) / passed_s, (last[1] - first[1]) / passed_s

    def _note_progress(self) -> None:
        now_s = time.monotonic()
        self._recent.append((now_s, self.num_windows, self.cutter.num_events))
        while now_s - self._recent[0][0] > _RATE_S:
            self._recent.popleft()

    def _start_anew(self) -> None:
        self.detector.reset()
        if self.track:
            self._tracker = Tracker(self.detector.score_threshold)

    def _read_all(self) -> None:
        for events in self.source.slices():
            if self._stop.is_set():
                return
            if self.recorder is not None:
                self.recorder.add(events.columns)
            for window in self.cutter.add(events):
                self._queue.put(window)
        for window in self.cutter.finish():
            self._queue.put(window)

    def _read(self) -> None:
        """What the thread does."""
        try:
            self._read_all()
            self._fault = None
        except Exception as error:  # raised again where the caller sees it
            self._fault = error
        finally:
            with suppress(Exception):
                self.source.close()
            self._queue.end()
