"""From one recording after the other to its video and box files, window by window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.cli.resume import warning_of_simulation
from etram_det.data.fingerprint import simulator_version
from etram_det.data.layouts import recording_paths
from etram_det.data.recording import Note
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import frame_image
from etram_det.drawing.video import DetectionVideo
from etram_det.errors import UserError
from etram_det.inference.exported_file import ExportedDetector
from etram_det.inference.placement import Resize
from etram_det.inference.postprocessing import kept_boxes
from etram_det.inference.streaming_detector import StreamingDetector, TrainedDetector
from etram_det.inference.tracking import Tracker
from etram_det.inference.writer import DetectionWriter, box_rows
from etram_det.progress import progress_bar, screen
from etram_det.tools.detect.labels import WindowLabels, labels_of
from etram_det.tools.detect.memory import return_unused
from etram_det.tools.detect.signals import interrupts_held
from etram_det.tools.detect.streams import PIPE, PipedStream, RecordedStream, Stream
from etram_det.tools.detect.summary import Measurements, event_faults, summary_of
from etram_det.types import Detections

_NO_FRAME = 0, np.empty(0)  # behind the last one


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
        trained: what the checkpoint holds.
        settings: how events become frames.
        make_detector: makes the detector, once a recording could be opened.
        resize: how the sensor's picture fills frames.
        output: folder to write to.
        video: what videos show; None for no videos.
        track: whether to number the objects.
        in_own_keys: makes a message about ``data.…`` one about the command's own settings.
        finished: measurements of the recordings so far, by name.
    """

    trained: TrainedDetector | ExportedDetector
    settings: FrameSettings
    make_detector: Callable[[], StreamingDetector]
    resize: Resize
    output: Path
    video: VideoSettings | None
    track: bool
    in_own_keys: Callable[[str], str]
    finished: dict[str, Measurements] = field(default_factory=dict)
    _has_warned: bool = False

    @cached_property
    def detector(self) -> StreamingDetector:
        """Of the checkpoint."""
        return self.make_detector()

    def detect_and_report(self, paths: Sequence[Path], failures: list[UserError]) -> None:
        """Detect in all recordings, then print the measurements of those that were begun.

        Args:
            paths: as :func:`found_recordings` gives them, and
            failures: of those that could not be found.

        Raises:
            UserError: a recording cannot be read, or a result not be written.
        """
        try:
            self.detect(paths, failures)
        except OSError as error:
            raise UserError(
                f"{error.filename or self.output}: cannot be written "
                f"({error.strerror or error}): make room or choose another --output",
                exit_code=1,
            ) from error
        finally:
            if self.finished:
                console = screen()
                console.print(summary_of(self.finished, self.trained.class_names))
                for name, measured in self.finished.items():
                    for fault in measured.faults:
                        console.out(f"{name}: {self.in_own_keys(fault)}")
                console.print(f"results are in {self.output}", highlight=False, soft_wrap=True)

    def detect(self, paths: Sequence[Path], failures: list[UserError]) -> None:
        """Detect in all recordings; those that cannot be read are named at the end.

        Raises:
            UserError: a recording cannot be read, or it was interrupted.
            OSError: the results cannot be written.
        """
        if self.track:
            Tracker(0.0)  # what is missing shows before any work
        num_given = len(paths) + len(failures)
        with progress_bar() as bar:
            for path in paths:
                try:
                    stream = self._opened(path)
                except UserError as error:
                    failures.append(error)
                    continue
                self._start()
                try:
                    stream.prepare()
                    labels = self._labels_of(stream, path)
                except UserError as error:
                    failures.append(error)
                    continue
                self._warn_of_simulation(stream, bar.console.out)
                num_notes = len(stream.notes)
                for note in stream.notes:
                    bar.console.out(f"{stream.name}: {self.in_own_keys(note.message)}")
                task = bar.add_task(stream.name, total=stream.num_windows)
                failure = self._detect_in(stream, labels, partial(bar.advance, task))
                for note in stream.notes[num_notes:]:  # of what shows only in the end
                    bar.console.out(f"{stream.name}: {self.in_own_keys(note.message)}")
                failures += [failure] if failure else []
        require_none(failures, num_given)

    def _opened(self, path: Path) -> Stream:
        """What is read of a recording.

        Raises:
            UserError: it cannot be read, one of its name was, or its labels would be replaced.
        """
        stream: Stream = (
            PipedStream(self.settings, self.resize)
            if str(path) == PIPE
            else RecordedStream(path, self.settings, self.resize)
        )
        if stream.name in self.finished:
            raise UserError(
                f"{path}: another recording is named {stream.name} too: detect in it apart, with "
                "another --output"
            )
        boxes = self.output / f"{stream.name}_bbox.npy"
        is_beside = str(path) != PIPE and self.output.resolve() == path.parent.resolve()
        if is_beside and boxes.exists():
            raise UserError(
                f"output: must be another folder than that of {path}, whose {boxes.name} would be "
                f"replaced by detections, got {self.output}: choose another one"
            )
        return stream

    def _start(self) -> None:
        """Make the detector, unless it is there.

        What selects and paints is compiled before, so that the compiler and the network do not
        take their memory at once.
        """
        if "detector" in vars(self):
            return
        kept_boxes(np.zeros((1, 4), np.float32), 0.5)
        if self.video is not None:
            frame = np.zeros((self.settings.channels, 1, 1), self.settings.dtype)
            frame_image(frame, self.settings.representation)
        return_unused()
        self.detector  # noqa: B018 - what is wrong with it ends the run
        return_unused()

    def _warn_of_simulation(self, stream: Stream, out: Callable[[str], None]) -> None:
        """Say once where a detector that knows simulated traffic only sees a real recording."""
        recording = stream.recording
        if self._has_warned or not self.trained.knows_simulation_only:
            return
        if recording is None or not simulator_version(recording):
            self._has_warned = True
            out(warning_of_simulation("ckpt_path", stream.name))

    def _labels_of(self, stream: Stream, path: Path) -> WindowLabels | None:
        """The labels to draw; doubts about them join the recording's notes."""
        if self.video is None or not self.video.labels:
            return None
        given = None if self.video.labels is True else self.video.labels
        window_ms, recording = self.settings.window_ms, stream.recording
        labels = labels_of(given, stream.name, path, recording, self.trained.class_names, window_ms)
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
                    if window == 0 and len(self.finished) == 1:  # its kernels were just compiled
                        return_unused()
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


def found_recordings(files: Sequence[str]) -> tuple[list[Path], list[UserError]]:
    """The recordings that paths stand for, and what is wrong with paths that stand for none.

    Raises:
        UserError: there is no recording at all.
    """
    paths: list[Path] = []
    failures: list[UserError] = []
    for path in (Path(each).expanduser() for each in files):
        try:
            paths += [path] if str(path) == PIPE else recording_paths(path)
        except UserError as error:
            failures.append(error)
    if not paths:
        require_none(failures, len(failures))
    return paths, failures


def require_none(failures: Sequence[UserError], num_given: int) -> None:
    """Raise what was wrong with recordings.

    Raises:
        UserError: anything was.
    """
    if failures and num_given == 1:
        raise failures[0]
    if failures:
        raise UserError(
            f"{len(failures)} of {num_given} recordings could not be read to the end: "
            f"{'; '.join(map(str, failures))}",
            exit_code=1,
        )


class _Results:
    """What is written of one recording."""

    def __init__(self, run: Run, stream: Stream, labels: WindowLabels | None) -> None:
        class_names, sensor_size = run.trained.class_names, stream.placement.sensor_size
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
                representation=run.settings.representation,
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
