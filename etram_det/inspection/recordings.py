"""Recordings to look into: their labels, and what a detector sees and remembers in them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import Boxes, Image, labelled_picture
from etram_det.inspection.checkpoints import InspectedCheckpoint
from etram_det.metrics.evaluation import part_of_day
from etram_det.models.backbone import STRIDES
from etram_det.models.postprocessing import decode_detections
from etram_det.types import Detections, State

NMS_THRESHOLD = 0.45


def recordings_of(data: EventDataModule, split: str) -> list[Recording]:
    """The labelled recordings of ``train``, ``val`` or ``test``; traffic is simulated if needed."""
    with warnings.catch_warnings():
        # A progress bar in a notebook would like to have widgets.
        warnings.filterwarnings("ignore", message='install "ipywidgets"')
        data.prepare_data()
        data.setup({"train": "fit", "val": "validate", "test": "test"}[split])
    return data.recordings[split]


def fullest_frames(
    data: EventDataModule, recordings: Sequence[Recording], number: int
) -> dict[str, Image]:
    """Of labelled recordings, by day and by night in turns, the frame with most labels.

    Args:
        data: where the recordings come from.
        recordings: of which a picture is made each.
        number: most pictures.
    """
    with_boxes = (recording for recording in recordings if len(recording.label_boxes))
    by_part = sorted(with_boxes, key=lambda recording: part_of_day(recording.name) or "")
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
    """Name and time of frame ``t``, and its picture with its labels, dashed beside detections."""
    corners, classes = recording.boxes(t) or (np.empty((0, 4)), np.empty(0, np.int64))
    boxes = [Boxes(corners, classes, dashed=found is not None)]
    if found is not None:
        boxes.append(Boxes(found.boxes.numpy(), found.classes.numpy(), found.scores.numpy()))
    [frame] = recording.frames(t, t + 1)
    picture = labelled_picture(frame, class_names, boxes, "", settings.representation)
    return f"{recording.name}, {recording.frame_end_us[t] / 1e6:.2f} s", picture


@dataclass(frozen=True)
class Observation:
    """What a detector saw and remembered in consecutive frames of a recording.

    Attributes:
        strides: of the scales of the pyramid, in pixels of the frame.
        frames: ``[F, C, H, W]`` its input.
        seconds: ``[F]`` ends of the frames.
        detections: of each frame.
        hidden: for each of the four stages, ``[F, h, w]`` root mean square of the LSTM's hidden
            state over its channels.
        cell: the same of its cell state.
        memory: the same of the cell state's distance from the median of all places: what is
            remembered there and not elsewhere.
        features: for each scale of the pyramid, the same of what goes to the head.
    """

    strides: tuple[int, ...]
    frames: NDArray[Any]
    seconds: NDArray[np.float64]
    detections: list[Detections]
    hidden: list[NDArray[np.float32]]
    cell: list[NDArray[np.float32]]
    memory: list[NDArray[np.float32]]
    features: list[NDArray[np.float32]]


@torch.no_grad()
def observe(
    checkpoint: InspectedCheckpoint,
    recording: Recording,
    num_frames: int,
    score_threshold: float = 0.3,
) -> Observation:
    """Follow a recording from its start, and keep what goes on inside.

    Args:
        checkpoint: whose detector looks.
        recording: where it looks.
        num_frames: most frames.
        score_threshold: least objectness times class confidence of a detection, in [0, 1].
    """
    detector = checkpoint.trained.detector
    frames = recording.frames(0, min(num_frames, len(recording)))
    state: State | None = None
    found: list[Detections] = []
    parts: dict[str, list[list[NDArray[np.float32]]]] = defaultdict(list)
    for frame in frames:
        features, state = detector.features(torch.from_numpy(frame)[None, None], state)
        fused = detector.fpn(features)
        found += decode_detections(
            detector.head(fused).decode(),
            score_threshold,
            NMS_THRESHOLD,
            frame_size=frame.shape[-2:],
        )
        hidden, cell = zip(*state, strict=True)
        # Of each channel, the distance from the median of all places.
        memory = [x - x.flatten(2).median(dim=2).values[..., None, None] for x in cell]
        shown = {"hidden": hidden, "cell": cell, "memory": memory, "features": fused}
        for name, tensors in shown.items():
            parts[name].append([_root_mean_square(x) for x in tensors])
    maps = {name: [np.stack(each) for each in zip(*of, strict=True)] for name, of in parts.items()}
    strides, seconds = STRIDES[detector.first_stage :], recording.frame_end_us[: len(frames)] / 1e6
    return Observation(strides, frames, seconds, found, **maps)


def pictures_of(
    checkpoint: InspectedCheckpoint, recording: Recording, seen: Observation, shown: Iterable[int]
) -> dict[str, Image]:
    """The frames ``shown``, labels dashed and what was detected solid, by name and time."""
    names, settings = checkpoint.trained.class_names, checkpoint.trained.frame_settings
    return dict(labelled_frame(recording, t, names, settings, seen.detections[t]) for t in shown)


def _root_mean_square(x: torch.Tensor) -> NDArray[np.float32]:
    """``[h, w]`` over the channels of ``[1, C, h, w]``."""
    return x[0].float().square().mean(dim=0).sqrt().numpy()
