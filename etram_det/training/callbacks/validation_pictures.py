"""Pictures of the same validation frames again and again, to see a detector improve."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from etram_det.drawing.frames import Boxes, Image, labelled_picture
from etram_det.errors import UserError
from etram_det.metrics.evaluation import EvaluationResult, part_of_day
from etram_det.training.callbacks.loggers import show_picture


class ValidationPictures(Callback):
    """Shows labels and detections of fixed validation frames, after each validation.

    The frames are spread over the recordings, in turns by day and by night, and over each
    recording's length. They depend on what is evaluated alone: not on seed, checkpoint or number
    of processes. Labels are dashed, detections solid, with class and score; both are those that
    the protocol counts.

    Args:
        number: pictures of each validation; 0 for none.
        score_threshold: least score of a detection that is drawn, in [0, 1].

    Raises:
        UserError: if a value is out of its range.
    """

    def __init__(self, number: int = 8, score_threshold: float = 0.3) -> None:
        if number < 0:
            raise UserError(
                f"pictures.number: must be at least 0, got {number}: set 0 for no pictures"
            )
        if not 0 <= score_threshold <= 1:
            raise UserError(
                f"pictures.score_threshold: must be in [0, 1], got {score_threshold}: set another"
            )
        self.number = number
        self.score_threshold = score_threshold

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Hand the pictures to the loggers: the metric has the boxes of all processes."""
        data = getattr(trainer, "datamodule", None)
        if trainer.sanity_checking or data is None or not trainer.loggers:
            return
        if not trainer.is_global_zero:
            return
        for name, picture in self._pictures(data, pl_module.metric.result):
            show_picture(trainer.loggers, f"val_frames/{name}", picture, pl_module.trained_steps)

    def _pictures(self, data: Any, result: EvaluationResult) -> Iterator[tuple[str, Image]]:
        """Name and picture of each chosen frame."""
        recordings = {recording.name: recording for recording in data.recordings["val"]}
        names = result.settings.reported_classes or ("any class",)
        frames, representation = result.frames, data.frame_settings.representation
        for i in choose_frames(frames.recording.tolist(), self.number):
            recording = recordings[frames.recording[i]]
            index = int(np.searchsorted(recording.frame_end_us, frames.time_us[i]))
            [frame] = recording.frames(index, index + 1)
            seconds = f"{frames.time_us[i] / 1e6:.2f}s"
            is_native = result.settings.pixel_frame == "native"
            scale = np.array(recording.scale * 2 if is_native else (1, 1, 1, 1))
            truth, found = (boxes.in_frame(i) for boxes in (frames.truth, frames.detections))
            found = found.select(found.scores >= self.score_threshold)
            boxes = [
                Boxes(truth.boxes / scale, truth.classes, dashed=True),
                Boxes(found.boxes / scale, found.classes, found.scores),
            ]
            title = f"{recording.name} {seconds}"
            picture = labelled_picture(frame, names, boxes, title, representation)
            yield f"{recording.name}_{seconds}", picture


def choose_frames(recordings: Sequence[str], number: int) -> list[int]:
    """Indices of up to ``number`` frames to show, ascending; the same for the same recordings.

    Args:
        recordings: name of each frame's recording, frames of one recording in order of time.
        number: how many to choose; fewer, if there are not so many.
    """
    of_recording: dict[str, list[int]] = {}
    for i, name in enumerate(recordings):
        of_recording.setdefault(name, []).append(i)
    parts: dict[str | None, list[str]] = {}
    for name in sorted(of_recording):
        parts.setdefault(part_of_day(name), []).append(name)
    # One of each part, then another of each, and so on.
    in_turns = [name for names in zip_longest(*parts.values()) for name in names if name]
    counts = dict.fromkeys(in_turns, 0)
    for _ in range(min(number, len(recordings))):
        # The first in turn of those with the fewest, as long as it has frames left.
        free = [name for name in counts if counts[name] < len(of_recording[name])]
        counts[min(free, key=counts.__getitem__)] += 1
    return sorted(
        of_recording[name][(2 * i + 1) * len(of_recording[name]) // (2 * count)]
        for name, count in counts.items()
        for i in range(count)  # at the middles of equal parts
    )
