"""Recordings to look into, with their labels."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.drawing.frames import Image
from etram_det.drawing.labelled_frames import Boxes, labelled_picture
from etram_det.metrics.evaluation import part_of_day
from etram_det.simulator.dataset import SimulationSettings
from etram_det.simulator.event_camera import SensorSettings


def open_data(**settings: Any) -> EventDataModule:
    """A data module of settings that are plain values, as a configuration holds them.

    Those that this release does not know are left out, as are those of training alone.

    Args:
        settings: of ``data``; all have defaults.
    """
    known = inspect.signature(EventDataModule).parameters.keys() - {"augmentation", "subset"}
    kept = {name: value for name, value in settings.items() if name in known}
    simulation = kept.get("simulation")
    if isinstance(simulation, Mapping):
        sensor = SensorSettings(**simulation.get("sensor", {}))
        kept["simulation"] = SimulationSettings(**{**simulation, "sensor": sensor})
    return EventDataModule(**kept)


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
    pictures = {}
    for recording in chosen[:number]:
        t = int(np.bincount(recording.label_frame).argmax())
        pictures[f"{recording.name}, {recording.frame_end_us[t] / 1e6:.2f} s"] = labelled_picture(
            recording.frames(t, t + 1)[0],
            data.class_names,
            [labels_of(recording, t)],
            representation=data.frame_settings.representation,
        )
    return pictures


def labels_of(recording: Recording, frame: int, dashed: bool = False) -> Boxes:
    """The labels of a frame as boxes to draw; none where it is not labelled.

    Args:
        recording: where they come from.
        frame: its index.
        dashed: whether they are drawn dashed, beside detections.
    """
    corners, classes = recording.boxes(frame) or (np.empty((0, 4)), np.empty(0, np.int64))
    return Boxes(corners, classes, dashed=dashed)
