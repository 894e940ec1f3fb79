"""From one recording after the other to its video and box files, window by window."""

from __future__ import annotations

import signal
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from etram_det.cli.resume import warning_of_simulation
from etram_det.data.fingerprint import simulator_version
from etram_det.data.layouts import recording_paths
from etram_det.data.recording import (
    OUTSIDE,
    REPAIRED,
    REPAIRED_SHARE,
    Note,
    dropped_events,
    repaired_events,
)
from etram_det.drawing.video import DetectionVideo
from etram_det.errors import UserError
from etram_det.inference.placement import Resize
from etram_det.inference.postprocessing import kept_boxes
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.inference.tracking import Tracker
from etram_det.inference.writer import DetectionWriter, box_rows
from etram_det.progress import progress_bar, screen
from etram_det.tools.detect.labels import WindowLabels, labels_of
from etram_det.tools.detect.streams import PIPE, Counted, PipedStream, RecordedStream, Stream
from etram_det.types import Detections

_MANY_OUTSIDE = 0.01  # of the events: the sensor's size is likely to be wrong
_NO_FRAME = 0, np.empty(0)  # behind the last one
_MAX_COLUMNS = 3  # recordings whose names fit beside each other


@dataclass
class Measurements:
    """What was found in one recording, and how fast.

    Attributes:
        latencies_s: from asking for a window's events to its boxes, for each window.
        elapsed_s: the time of all windows but the first, writing included.
        counts: detections by class id.
        faults: what is to be reported of its events.
    """

    latencies_s: array[float] = field(default_factory=lambda: array("d"))
    elapsed_s: float = 0.0
    counts: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VideoSettings:
    """What videos show.

    Attributes:
        rate: frames in a second.
        side_by_side: whether the events stand alone beside those with boxes.
        labels: file or folder of the labels, or true for those beside the recordings; false or None
            for none.
        every_class: whether objects have a box for each class that was detected.
    """

    rate: float
    side_by_side: bool = False
    labels: Path | bool | None = None
    every_class: bool = False


@dataclass
class Run:
    """One call of the command.

    Attributes:
        detector: of the checkpoint.
        resize: how the sensor's picture fills frames.
        output: folder to write to.
        video: what videos show; None for no videos.
        track: whether to number the objects.
        in_own_keys: makes a message about ``data.…`` one about the command's own settings.
        finished: measurements of the recordings so far, by name.
    """

    detector: StreamingDetector
    resize: Resize
    output: Path
    video: VideoSettings | None
    track: bool
    in_own_keys: Callable[[str], str]
    finished: dict[str, Measurements] = field(default_factory=dict)
    _has_warned: bool = False

    def detect_and_report(self, files: Sequence[str]) -> None:
        """Detect in all recordings, then print the measurements of those that were begun.

        Raises:
            UserError: a recording cannot be read, or a result not be written.
        """
        try:
            self.detect([Path(each).expanduser() for each in files])
        except OSError as error:
            raise UserError(
                f"{error.filename or self.output}: cannot be written "
                f"({error.strerror or error}): make room or choose another --output",
                exit_code=1,
            ) from error
        finally:
            if self.finished:
                console = screen()
                console.print(_summary(self.finished, self.detector.class_names))
                for name, measured in self.finished.items():
                    for fault in measured.faults:
                        console.out(f"{name}: {self.in_own_keys(fault)}")
                console.print(f"results are in {self.output}", highlight=False, soft_wrap=True)

    def detect(self, given: Sequence[Path]) -> None:
        """Detect in all recordings; those that cannot be read are named at the end.

        Raises:
            UserError: a recording cannot be read, or it was interrupted.
            OSError: the results cannot be written.
        """
        if self.track:
            Tracker(self.detector.score_threshold)  # what is missing shows before any work
        failures: list[UserError] = []
        paths: list[Path] = []
        for path in given:
            try:
                paths += [path] if str(path) == PIPE else recording_paths(path)
            except UserError as error:
                failures.append(error)
        num_given = len(paths) + len(failures)
        with progress_bar() as bar:
            for path in paths:
                try:
                    settings = self.detector.frame_settings
                    stream = (
                        PipedStream(settings, self.resize)
                        if str(path) == PIPE
                        else RecordedStream(path, settings, self.resize)
                    )
                    if stream.name in self.finished:
                        raise UserError(
                            f"{path}: another recording is named {stream.name} too: detect in "
                            "it apart, with another --output"
                        )
                    stream.prepare()
                    labels = self._labels_of(stream, path)
                except UserError as error:
                    failures.append(error)
                    continue
                self._warn_of_simulation(stream, bar.console.out)
                num_notes = len(stream.notes)
                for note in stream.notes:
                    bar.console.out(f"{stream.name}: {self.in_own_keys(note.message)}")
                task = bar.add_task(escape(stream.name), total=stream.num_windows)
                failure = self._detect_in(stream, labels, partial(bar.advance, task))
                for note in stream.notes[num_notes:]:  # of what shows only in the end
                    bar.console.out(f"{stream.name}: {self.in_own_keys(note.message)}")
                failures += [failure] if failure else []
        if failures and num_given == 1:
            raise failures[0]
        if failures:
            raise UserError(
                f"{len(failures)} of {num_given} recordings could not be read to the end: "
                f"{'; '.join(map(str, failures))}",
                exit_code=1,
            )

    def _warn_of_simulation(self, stream: Stream, out: Callable[[str], None]) -> None:
        """Say once where a detector that knows simulated traffic only sees a real recording."""
        recording = stream.recording
        if self._has_warned or not self.detector.knows_simulation_only:
            return
        if recording is None or not simulator_version(recording):
            self._has_warned = True
            out(warning_of_simulation("ckpt_path", stream.name))

    def _labels_of(self, stream: Stream, path: Path) -> WindowLabels | None:
        """The labels to draw; doubts about them join the recording's notes."""
        if self.video is None or not self.video.labels:
            return None
        given = None if self.video.labels is True else self.video.labels
        window_ms, recording = self.detector.frame_settings.window_ms, stream.recording
        labels = labels_of(
            given, stream.name, path, recording, self.detector.class_names, window_ms
        )
        ends = [] if recording is None else recording.frame_end_us[[0, -1]].tolist()
        if doubt := labels.doubt((ends[0], ends[1]) if ends else None):
            stream.notes.append(Note(doubt, True))
        return labels

    def _detect_in(
        self, stream: Stream, labels: WindowLabels | None, advance: Callable[[], None]
    ) -> UserError | None:
        """Detect in one recording, keep what is complete, and return what made it unreadable."""
        results = _Results(self, stream, labels)
        measurements = self.finished[stream.name] = Measurements()
        self.detector.reset()
        started_s = time.perf_counter()
        window = 0
        of_all = "" if stream.num_windows is None else f"of {stream.num_windows} "
        with interrupts_held() as interrupt:
            try:
                frames = stream.frames(interrupt)
                while True:
                    interrupt()
                    asked_s = time.perf_counter()
                    try:
                        end_us, frame = next(frames, _NO_FRAME)
                    except UserError as error:
                        kept = f"{window} {of_all}windows are kept"
                        return UserError(f"{error}; {kept}", exit_code=1)
                    if frame.size == 0:
                        break
                    detections = self.detector.detect_frame(frame, stream.placement.content_size)
                    measurements.latencies_s.append(time.perf_counter() - asked_s)
                    measurements.counts.update(detections.classes.tolist())
                    results.add(frame, end_us, detections)
                    del frame  # before the next one takes its room
                    advance()
                    window += 1
                    if window == 1:  # it loads and compiles what runs from then on
                        started_s = time.perf_counter()
            except KeyboardInterrupt:
                raise UserError(
                    f"interrupted in {stream.path} after {window} {of_all}windows: "
                    f"what was done until then is in {self.output}",
                    exit_code=1,
                ) from None
            finally:
                try:
                    results.finish()
                finally:
                    measurements.elapsed_s = time.perf_counter() - started_s
                    measurements.faults = event_faults(stream.counted)
        return None


@contextmanager
def interrupts_held() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C and SIGTERM back until what is yielded is called; a second one comes at once.

    So they come between windows, and all files end with the same one.
    """
    received: list[bool] = []

    def interrupt() -> None:
        if received:
            raise KeyboardInterrupt

    with first_signal(lambda: received.append(True)):
        yield interrupt


@contextmanager
def first_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` at the first Ctrl-C or SIGTERM; a second one interrupts as usual.

    Outside the main thread, which signals do not reach, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_first = True

    def note(*_: object) -> None:
        nonlocal is_first
        if not is_first:
            raise KeyboardInterrupt
        is_first = False
        act()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class _Results:
    """What is written of one recording."""

    def __init__(self, run: Run, stream: Stream, labels: WindowLabels | None) -> None:
        class_names, sensor_size = run.detector.class_names, stream.placement.sensor_size
        self._scale = stream.placement.scale
        self._tracker = Tracker(run.detector.score_threshold) if run.track else None
        self._labels, self._nms = labels, run.detector.nms_threshold
        self._video: DetectionVideo | None = None
        if run.video is not None:
            self._every_class = run.video.every_class
            self._video = DetectionVideo(
                run.output / f"{stream.name}.mp4",
                rate=run.video.rate,
                sensor_size=sensor_size,
                content_size=stream.placement.content_size,
                class_names=class_names,
                representation=run.detector.frame_settings.representation,
                side_by_side=run.video.side_by_side,
            )
        with ExitStack() as undo:
            if self._video is not None:
                undo.callback(self._video.finish)  # without a frame it leaves no file
            self._boxes = DetectionWriter(run.output, stream.name, class_names, sensor_size)
            undo.pop_all()

    def add(self, frame: NDArray[Any], end_us: int, detections: Detections[NDArray[Any]]) -> None:
        """Write one window."""
        rows = box_rows(end_us, detections, self._scale)
        if self._tracker is not None:
            rows["track_id"] = self._tracker.update(end_us, rows)
        self._boxes.add(end_us, rows, with_tracks=self._tracker is not None)
        if self._video is not None:
            if not self._every_class:  # the likeliest class of each object alone
                rows = rows[kept_boxes(detections.boxes, self._nms)]
            labels = None if self._labels is None else self._labels.in_window(end_us)
            self._video.add(self._video.picture(frame, end_us, rows, labels))

    def finish(self) -> None:
        """Complete all files and move them into place."""
        try:
            if self._video is not None:
                # First: on a full disk it is incomplete, and what it held is room for the boxes.
                self._video.finish()
        finally:
            self._boxes.finish()


def event_faults(recording: Counted) -> list[str]:
    """What was dropped and repaired in the windows of a recording that were read, for people."""
    faults = []
    if num_outside := recording.dropped.get(OUTSIDE, 0):
        fault = dropped_events(num_outside)
        if num_read := recording.events.get("in windows", 0):
            share = num_outside / num_read
            fault += f", {share:.1%} of those read"
            if share > _MANY_OUTSIDE:
                height, width = recording.sensor_size
                fault += f": use --sensor-size if it has more than height {height}, width {width}"
        faults.append(fault)
    if recording.repaired_share > REPAIRED_SHARE:
        faults.append(repaired_events(recording.repaired_share))
    elif num_repaired := recording.events.get(REPAIRED, 0):
        faults.append(f"events {REPAIRED}: {num_repaired:,}")
    return faults


def _summary(finished: dict[str, Measurements], class_names: Sequence[str]) -> Group:
    """Speed of each recording, ``-`` where there is none to measure; its detections by class."""
    speed = table_of("recording", ("windows", "windows/s", "median ms", "p95 ms", "detections"))
    for name, measured in finished.items():
        windows = len(measured.latencies_s)
        speeds = ["-"] * 3
        if windows > 1:
            latencies_ms = 1000 * np.quantile(measured.latencies_s[1:], [0.5, 0.95])
            rate = (windows - 1) / max(measured.elapsed_s, 1e-9)
            speeds = [f"{each:.1f}" for each in (rate, *latencies_ms)]
        speed.add_row(escape(name), str(windows), *speeds, str(measured.counts.total()))
    speed.caption = (
        "rate and ms without the first window; ms: from reading a window's events to its boxes"
    )
    columns = {name: measured.counts for name, measured in finished.items()}
    if len(columns) > _MAX_COLUMNS:
        total = sum(columns.values(), Counter())
        columns = {f"{len(columns)} recordings": total}
    found = table_of("class", columns)
    for class_id, name in enumerate(class_names):
        found.add_row(name, *(str(counts[class_id]) for counts in columns.values()))
    found.title = "detections"
    return Group(speed, found)


def table_of(first: str, others: Iterable[str]) -> Table:
    """An empty table with names in its first column and numbers in all others."""
    table = Table()
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table
