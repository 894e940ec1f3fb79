"""Recordings to look into, with their labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import Image
from etram_det.drawing.labelled_frames import Boxes, labelled_picture
from etram_det.metrics.evaluation import part_of_day
from etram_det.types import Detections


def recordings_of(data: EventDataModule, split: str) -> list[Recording]:
    """The labelled recordings of a split; simulated traffic is made, where it is needed.

    Args:
        data: where they come from.
        split: ``"train"``, ``"val"`` or ``"test"``.
    """
    with warnings.catch_warnings():
        # A progress bar in a notebook would like to have widgets.
        warnings.filterwarnings("ignore", message='install "ipywidgets"')
        data.prepare_data()
        data.setup({"train": "fit", "val": "validate", "test": "test"}[split])
    return data.recordings[split]


def fullest_frames(
    data: EventDataModule, recordings: Sequence[Recording], number: int
) -> dict[str, Image]:
    """Of several recordings, by day and by night in turns, the frame with most labels.

    Args:
        data: where the recordings come from.
        recordings: labelled ones.
        number: how many pictures; fewer, if there are not so many recordings.
    """
    by_part = sorted(recordings, key=lambda recording: part_of_day(recording.name) or "")
    # From either end of the days followed by the nights.
    chosen = [by_part[i // 2 if i % 2 == 0 else -1 - i // 2] for i in range(len(by_part))]
    fullest = ((each, int(np.bincount(each.label_frame).argmax())) for each in chosen[:number])
    names, settings = data.class_names, data.frame_settings
    return dict(labelled_frame(each, t, names, settings) for each, t in fullest)


def labelled_frame(
    recording: Recording,
    t: int,
    class_names: Sequence[str],
    settings: FrameSettings,
    found: Detections | None = None,
) -> tuple[str, Image]:
    """Name and time of a frame, and its picture with its labels, dashed beside detections.

    Args:
        recording: where it comes from.
        t: its index.
        class_names: name of each class id.
        settings: how it was made.
        found: detections in it.
    """
    corners, classes = recording.boxes(t) or (np.empty((0, 4)), np.empty(0, np.int64))
    boxes = [Boxes(corners, classes, dashed=found is not None)]
    if found is not None:
        boxes.append(Boxes(found.boxes.numpy(), found.classes.numpy(), found.scores.numpy()))
    [frame] = recording.frames(t, t + 1)
    picture = labelled_picture(frame, class_names, boxes, "", settings.representation)
    return f"{recording.name}, {recording.frame_end_us[t] / 1e6:.2f} s", picture
