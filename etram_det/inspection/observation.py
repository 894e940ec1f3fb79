"""What a detector sees and remembers in a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from etram_det.data.recording import Recording
from etram_det.drawing.frames import Image
from etram_det.inspection.checkpoints import InspectedCheckpoint
from etram_det.inspection.recordings import labelled_frame
from etram_det.models.backbone import STRIDES
from etram_det.models.postprocessing import decode_detections
from etram_det.types import Detections, State

NMS_THRESHOLD = 0.45


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
        memory: for each of the four stages, ``[F, h, w]`` how far the cell state of a place lies
            from the median of all places, root mean square over its channels: what is remembered
            there and not elsewhere.
        features: for each scale of the pyramid, ``[F, h, w]`` root mean square of what goes to
            the head.
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
        num_frames: how far; all frames, if there are fewer.
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
        found += decode_detections(detector.head(fused).decode(), score_threshold, NMS_THRESHOLD)
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
    """Frames with their labels dashed and what was detected solid, by name and time.

    Args:
        checkpoint: whose class names are written.
        recording: where the labels come from.
        seen: what a detector saw in it.
        shown: indices of the frames.
    """
    trained = checkpoint.trained
    return dict(
        labelled_frame(
            recording, t, trained.class_names, trained.frame_settings, seen.detections[t]
        )
        for t in shown
    )


def _root_mean_square(x: torch.Tensor) -> NDArray[np.float32]:
    """``[h, w]`` over the channels of ``[1, C, h, w]``."""
    return x[0].float().square().mean(dim=0).sqrt().numpy()
