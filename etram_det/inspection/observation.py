"""What a detector sees and remembers in a recording, and how good it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from etram_det.data.recording import Recording
from etram_det.drawing.frames import Image
from etram_det.drawing.labelled_frames import Boxes, labelled_picture
from etram_det.inspection.checkpoints import InspectedCheckpoint
from etram_det.inspection.recordings import labels_of
from etram_det.metrics.settings import SIZE_BINS
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.models.backbone import STRIDES
from etram_det.models.postprocessing import decode_detections
from etram_det.report.records import results_of
from etram_det.types import Detections, Labels, State

NMS_THRESHOLD = 0.45
_FRAMES_AT_ONCE = 10  # of a recording that go through the network together


@dataclass(frozen=True)
class Observation:
    """What a detector saw and remembered in consecutive frames of a recording.

    Attributes:
        strides: of the scales of the pyramid, in pixels of the frame.
        frames: ``[F, C, H, W]`` what it was given.
        time_us: ``[F]`` ends of the frames.
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
    time_us: NDArray[np.int64]
    detections: list[Detections]
    hidden: list[NDArray[np.float32]]
    cell: list[NDArray[np.float32]]
    memory: list[NDArray[np.float32]]
    features: list[NDArray[np.float32]]

    @property
    def seconds(self) -> NDArray[np.float64]:
        """``[F]`` ends of the frames in seconds."""
        return self.time_us / 1e6


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
    parts: dict[str, list[list[NDArray[np.float32]]]] = {
        name: [] for name in ("hidden", "cell", "memory", "features")
    }
    for frame in frames:
        features, state = detector.features(torch.from_numpy(frame)[None, None], state)
        fused = detector.fpn(features)
        found += decode_detections(detector.head(fused).decode(), score_threshold, NMS_THRESHOLD)
        parts["hidden"].append([_root_mean_square(hidden) for hidden, _ in state])
        parts["cell"].append([_root_mean_square(cell) for _, cell in state])
        parts["memory"].append([_root_mean_square(cell - _median(cell)) for _, cell in state])
        parts["features"].append([_root_mean_square(x) for x in fused])
    maps = {name: [np.stack(each) for each in zip(*of, strict=True)] for name, of in parts.items()}
    strides = STRIDES[detector.first_stage :]
    return Observation(strides, frames, recording.frame_end_us[: len(frames)], found, **maps)


def pictures_of(
    checkpoint: InspectedCheckpoint,
    recording: Recording,
    seen: Observation,
    shown: Iterable[int],
) -> dict[str, Image]:
    """Frames with their labels dashed and what was detected solid, by name and time.

    Args:
        checkpoint: whose class names are written.
        recording: where the labels come from.
        seen: what a detector saw in it.
        shown: indices of the frames.
    """
    pictures = {}
    for t in shown:
        found = seen.detections[t]
        boxes = [
            labels_of(recording, t, dashed=True),
            Boxes(found.boxes.numpy(), found.classes.numpy(), found.scores.numpy()),
        ]
        pictures[f"{recording.name}, {seen.seconds[t]:.2f} s"] = labelled_picture(
            seen.frames[t],
            checkpoint.trained.class_names,
            boxes,
            representation=checkpoint.trained.frame_settings.representation,
        )
    return pictures


@torch.no_grad()
def evaluate(checkpoint: InspectedCheckpoint, recordings: Sequence[Recording]) -> dict[str, Any]:
    """Size-binned average precision, as ``validate`` computes it.

    Args:
        checkpoint: whose detector is judged, by its own protocol and size bins.
        recordings: labelled ones.

    Returns:
        What ``metrics.json`` holds.
    """
    model, trained = checkpoint.model, checkpoint.trained
    choices = ("pixel_frame", "protocol", "class_groups")
    metric = SizeBinnedMAP(
        class_names=trained.class_names,
        size_bins=model.get("size_bins") or SIZE_BINS,
        **{name: model[name] for name in choices if name in model},
    )
    thresholds = (
        model.get("score_threshold", 0.001),
        model.get("nms_threshold", NMS_THRESHOLD),
        model.get("max_detections", 300),
    )
    for recording in recordings:
        state: State | None = None
        for start in range(0, len(recording), _FRAMES_AT_ONCE):
            stop = min(start + _FRAMES_AT_ONCE, len(recording))
            frames = torch.from_numpy(recording.frames(start, stop))
            features, state = trained.detector.features(frames[:, None], state)
            labelled = [t for t in range(stop - start) if recording.boxes(start + t) is not None]
            if labelled:
                output = trained.detector.predict([x[labelled] for x in features])
                metric.update(
                    decode_detections(output.decode(), *thresholds),
                    _labels(recording, start, labelled),
                    [recording.name] * len(labelled),
                    torch.from_numpy(recording.frame_end_us[start:stop][labelled]),
                    torch.tensor([recording.scale] * len(labelled)),
                )
    metric.compute()
    assert metric.result is not None
    return results_of(metric.result, score_threshold=0.3, dropped_by_data={})


def _labels(recording: Recording, start: int, labelled: Sequence[int]) -> Labels:
    boxes = [recording.boxes(start + t) for t in labelled]
    return Labels.stack(
        list(labelled),
        [torch.from_numpy(each[0]) for each in boxes if each is not None],
        [torch.from_numpy(each[1]) for each in boxes if each is not None],
    )


def _median(x: torch.Tensor) -> torch.Tensor:
    """``[1, C, 1, 1]`` over all places of ``[1, C, h, w]``."""
    return x.flatten(2).median(dim=2).values[..., None, None]


def _root_mean_square(x: torch.Tensor) -> NDArray[np.float32]:
    """``[h, w]`` over the channels of ``[1, C, h, w]``."""
    return x[0].float().square().mean(dim=0).sqrt().numpy()
