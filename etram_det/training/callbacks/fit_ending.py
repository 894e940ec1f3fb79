"""What a training ends with: a short video of the validation, what to do next; and no failure."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from etram_det.data.recording import Recording
from etram_det.drawing.video import DetectionVideo
from etram_det.errors import UserError
from etram_det.inference.postprocessing import kept_boxes
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.inference.writer import box_rows
from etram_det.metrics.evaluation import part_of_day

VIDEO = "validation.mp4"
_MOST_S = 6.0  # that detecting and drawing may take, however slow the network is
_PLACES = 2  # recordings that share the video

_log = logging.getLogger(__name__)


@contextmanager
def without_failing(lost: str) -> Iterator[None]:
    """Log whatever goes wrong within: the training is complete, and its exit code stays 0.

    Args:
        lost: what there is not, then.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if not isinstance(error, OSError | UserError):  # whose messages stand for themselves
            reason = f"{type(error).__name__}: {reason}"
        _log.warning("%s (%s)", lost, reason)


def write_video(
    path: Path, checkpoint: Path, recordings: Sequence[Recording], seconds: float, score: float
) -> None:
    """Write a video of a checkpoint's detections in validation recordings.

    Args:
        path: the file to write.
        checkpoint: of the training.
        recordings: of the validation, at least one.
        seconds: that it shows at most; it is shorter where the network is slow.
        score: least score of a detection, in [0, 1].

    Raises:
        UserError: the video cannot be written, or the checkpoint cannot be read.
        OSError: a file cannot be read or written.
    """
    chosen = _chosen(recordings)
    detector = StreamingDetector(
        checkpoint,
        sensor_size=chosen[0].sensor_size,
        score_threshold=score,
        runtime="pytorch",
    )
    settings, input_size = detector.frame_settings, chosen[0].input_size
    video = DetectionVideo(
        path,
        rate=1000 / settings.window_ms,
        sensor_size=chosen[0].sensor_size,
        content_size=input_size,
        class_names=detector.class_names,
        representation=settings.representation,
    )
    try:
        each = round(seconds * 1000 / settings.window_ms / len(chosen))
        for recording, first, stop in _parts(chosen, max(each, 1)):
            _show(video, detector, recording, range(first, stop), _MOST_S / len(chosen))
    finally:
        video.finish()


def _chosen(recordings: Sequence[Recording]) -> list[Recording]:
    """Those with most labels, by day and by night, of the size of the first one."""
    by_labels = sorted(recordings, key=lambda each: -len(each.label_boxes))
    first, *others = by_labels
    same = [
        each
        for each in others
        if (each.sensor_size, each.input_size) == (first.sensor_size, first.input_size)
    ]
    same.sort(key=lambda each: part_of_day(each.name) == part_of_day(first.name))
    return [first, *same[: _PLACES - 1]]


def _parts(recordings: Sequence[Recording], most: int) -> Iterator[tuple[Recording, int, int]]:
    """Of each recording the ``most`` frames in a row with most labels, or all: first and end."""
    for recording in recordings:
        labels = np.bincount(recording.label_frame, minlength=len(recording)).cumsum()
        number = min(most, len(recording))
        before = np.concatenate([[0], labels[: len(recording) - number]])
        first = int(np.argmax(labels[number - 1 :] - before))
        yield recording, first, first + number


def _show(
    video: DetectionVideo,
    detector: StreamingDetector,
    recording: Recording,
    shown: range,
    most_s: float,
) -> None:
    """Add windows of a recording to a video, at least one, until the time is over."""
    detector.reset()
    started_s = time.monotonic()
    for i in shown:
        frame = recording.frames(i, i + 1)[0]
        end_us = int(recording.frame_end_us[i])
        found = detector.detect_frame(frame)
        rows = box_rows(end_us, found, recording.scale)
        rows = rows[kept_boxes(found.boxes, detector.nms_threshold)]
        video.add(video.picture(frame, end_us, rows))
        if time.monotonic() - started_s > most_s:
            return


def next_steps(
    looked_at: Sequence[Path],
    checkpoint: Path | None,
    arguments: Sequence[str],
    has_own_data: bool,
    recording: Path | None = None,
) -> list[str]:
    """Lines for the screen: what to look at, how to try the detector, how to go on.

    Args:
        looked_at: report and video, as far as they were written.
        checkpoint: of the training; without one, there is nothing to try.
        arguments: of its command line.
        has_own_data: whether it was trained on other than simulated traffic.
        recording: to try the detector on; the user's own FILE unless there is one.
    """
    lines = [f"look:  {', '.join(map(str, looked_at))}"] if looked_at else []
    if checkpoint is None:
        return lines
    ckpt = shlex.quote(str(checkpoint))
    file = "FILE" if recording is None else shlex.quote(str(recording))
    lines.append(f"try:   python -m etram_det detect {file} --ckpt_path {ckpt}")
    if has_own_data:
        go_on = f"export --ckpt_path {ckpt} --output detector.onnx  # runs without PyTorch"
    else:
        words = [f"--config {shlex.quote(each)}" for each in _configurations(arguments)]
        go_on = " ".join(["fit", *words, "--data.root FOLDER  # of your own recordings"])
    return [*lines, f"go on: python -m etram_det {go_on}"]


def _configurations(arguments: Sequence[str]) -> Iterator[str]:
    """Files and names that follow ``--config``."""
    for i, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--config", "-c"):
            yield from [value] if equals else arguments[i + 1 : i + 2]


def arguments_of(trainer: Any) -> Sequence[str]:
    """The command line of a run; nothing where it was not started by one."""
    found = (getattr(each, "arguments", None) for each in trainer.callbacks)
    return next((each for each in found if each is not None), ())
