"""Average precision and recall by object size, as a metric that Lightning can accumulate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from etram_det.errors import UserError
from etram_det.metrics.evaluation import EvaluationResult, evaluate
from etram_det.metrics.evaluation_frames import SINGLE_PRECISION, EvaluationFrames, FrameBoxes
from etram_det.metrics.motion import with_motion
from etram_det.metrics.settings import (
    COUNTED_DETECTIONS,
    MOTION_BINS,
    SIZE_BINS,
    EvaluationSettings,
    PixelFrame,
    ProtocolName,
    class_groups_by_id,
)
from etram_det.types import Detections, Labels

# What one update appends, as the rows of a tensor for each name. The number of rows for a frame
# stands in ``frames``, so states of several processes can be joined one after the other.
_STATES: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
    # Time, start of clock, bytes of name, labels, detections, whether boxes are float64.
    "frames": ((6,), torch.int64),
    "scale": ((2,), torch.float64),
    "names": ((), torch.uint8),
    "label_boxes": ((4,), torch.float64),
    "label_classes": ((), torch.int64),
    "label_tracks": ((), torch.int64),  # -1 where they are not known
    "detection_boxes": ((4,), torch.float64),
    "detection_classes": ((), torch.int64),
    "detection_scores": ((), torch.float64),
}
_DECIMALS = 9  # of a size in pixels: what lies behind is rounding


class SizeBinnedMAP(Metric):
    """COCO's AP and AR: overall, by size bin, by class, by group, by day and night.

    Areas and scores follow the protocol and the pixels that are chosen here, and every report
    names them. A metric without ground truth is nan and left out of means. All frames are kept on
    the host, where they are evaluated in double precision: boxes and scores may be given in it.

    Example:
        >>> import torch
        >>> from etram_det import Detections, Labels, SizeBinnedMAP
        >>> metric = SizeBinnedMAP(class_names=["pedestrian", "car"])
        >>> box, pedestrian = torch.tensor([[10.0, 10.0, 26.0, 40.0]]), torch.tensor([0])
        >>> found = Detections(box, torch.tensor([0.9]), torch.tensor([0.8]), pedestrian)
        >>> labels = Labels.stack([0], [box], [pedestrian])
        >>> metric.update([found], labels, ["day_1"], torch.tensor([100_000]), torch.ones(1, 2))
        >>> round(float(metric.compute()["AP_small"]), 3)
        1.0

    Attributes:
        settings: what is reported and how it is counted.
        result: curves, confusion and per-recording metrics of the last ``compute()``, on every
            process over the frames of all of them; None before it.

    Args:
        class_names: name of each class id.
        size_bins: least and greatest area of each size bin in square pixels, ascending. Both
            bounds are included, as in COCO: a box on a shared bound counts in both bins.
        pixel_frame: pixels in which areas are measured: the network's input or the sensor's.
        protocol: ``full`` counts every label and scores by objectness times class confidence.
            ``prophesee`` drops the first 0.5 s and boxes with a side under 20 or a diagonal under
            60 sensor pixels, and scores by class confidence, as published results do.
            ``etram_fork`` is ``prophesee`` with classes ignored.
        class_groups: class ids or names of each group; its metrics are means over its classes.
        max_detections: most detections that count for each frame and class.
        motion_bins: least and greatest speed of each motion bin in sensor pixels a second, as the
            size bins; metrics by motion are there where labels have track ids.

    Raises:
        UserError: for an unknown choice, bins that overlap, or a group with unknown classes.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        size_bins: Mapping[str, tuple[float, float]] = SIZE_BINS,
        pixel_frame: PixelFrame = "network",
        protocol: ProtocolName = "full",
        class_groups: Mapping[str, Sequence[int | str]] | None = None,
        max_detections: int = COUNTED_DETECTIONS,
        motion_bins: Mapping[str, tuple[float, float]] = MOTION_BINS,
    ) -> None:
        super().__init__(dist_sync_fn=_gathered)
        self.settings = EvaluationSettings(
            tuple(class_names),
            dict(size_bins),
            pixel_frame,
            protocol,
            class_groups_by_id(class_groups or {}, class_names),
            max_detections,
            dict(motion_bins),
        )
        self.result: EvaluationResult | None = None
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        super().reset()
        self.result = None
        # A process without frames must still have something of the right type to gather.
        for name, (row_shape, dtype) in _STATES.items():
            getattr(self, name).append(torch.empty((0, *row_shape), dtype=dtype))

    def _apply(self, fn: Any, exclude_state: Sequence[str] = ()) -> Any:
        """Move to another device, but for the states ``[F, *]``."""
        return super()._apply(fn, (*exclude_state, *_STATES))

    def update(
        self,
        detections: Sequence[Detections],
        labels: Labels,
        recording: Sequence[str],
        time_us: Tensor,
        scale: Tensor,
        start_us: Tensor | None = None,
    ) -> None:
        """Add labelled frames with what was detected in them.

        Args:
            detections: one for each of the ``N`` labelled frames.
            labels: ground truth of the same frames, in pixels of the network's input.
            recording: name of each frame's recording.
            time_us: ``[N]`` int64, time of each frame in its recording.
            scale: ``[N, 2]``, sensor pixels per pixel of the boxes, in x and y.
            start_us: ``[N]`` int64, where the clock of each frame's recording starts, from which
                protocols count; 0 unless given.

        Raises:
            ValueError: an argument is not as long as ``labels``, or of another shape.
        """
        start_us = torch.zeros_like(time_us) if start_us is None else start_us
        _require_shapes(detections, labels, recording, time_us, scale, start_us)
        if len(labels) == 0:
            return
        names = [name.encode() for name in recording]
        padded = labels.classes.shape[1]
        sizes = torch.tensor(
            [
                [len(name), padded, len(found), _is_double(labels.boxes, found.boxes)]
                for name, found in zip(names, detections, strict=True)
            ]
        )
        by_class_only = not self.settings.rules.uses_objectness
        scores = [found.class_confidence if by_class_only else found.scores for found in detections]
        rows = {
            "frames": torch.cat([time_us[:, None].cpu(), start_us[:, None].cpu(), sizes], 1),
            "scale": scale,
            "names": torch.tensor(list(b"".join(names)), dtype=torch.uint8),
            "label_boxes": labels.boxes.flatten(0, 1),
            "label_classes": labels.classes.flatten(),
            "label_tracks": _tracks_of(labels).flatten(),
            "detection_boxes": torch.cat([found.boxes for found in detections]),
            "detection_classes": torch.cat([found.classes for found in detections]),
            "detection_scores": torch.cat(scores),
        }
        for name, (_, dtype) in _STATES.items():
            # In two steps, as some devices have no double precision.
            getattr(self, name).append(rows[name].detach().cpu().to(dtype))

    def compute(self) -> dict[str, Tensor]:
        """All metrics of the frames so far.

        Returns:
            Scalar float32 tensors by the keys of
            :meth:`~etram_det.metrics.evaluation.EvaluationResult.flat_metrics`, nan where there
            is no ground truth.

        Raises:
            UserError: if labels or detections hold a class id without a name.
        """
        self.result = evaluate(self._collect(), self.settings)
        metrics = self.result.flat_metrics()
        values = torch.tensor(list(metrics.values()), dtype=torch.float32, device=self.device)
        return dict(zip(metrics, values.unbind(), strict=True))

    def _collect(self) -> EvaluationFrames:
        """All frames of the states, without the labels' padding."""
        # Lists on each process, tensors after they were gathered.
        state = {name: dim_zero_cat(getattr(self, name)).cpu().numpy() for name in _STATES}
        time_us, start_us, name_bytes, num_labels, num_detections, is_double = state["frames"].T
        ends = np.cumsum(name_bytes)
        name_data = state["names"].tobytes()
        recording = [
            name_data[end - length : end].decode()
            for end, length in zip(ends.tolist(), name_bytes.tolist(), strict=True)
        ]
        index = np.arange(len(time_us))
        labels = FrameBoxes(
            np.repeat(index, num_labels),
            state["label_boxes"],
            state["label_classes"],
            np.ones(len(state["label_classes"])),
        )
        detections = FrameBoxes(
            np.repeat(index, num_detections),
            state["detection_boxes"],
            state["detection_classes"],
            state["detection_scores"],
        )
        valid = labels.classes >= 0
        labels, tracks = labels.select(valid), state["label_tracks"][valid]
        names = self.settings.class_names
        for source, boxes in {"labels": labels, "detections": detections}.items():
            if (highest := boxes.classes.max(initial=-1)) >= len(names):
                raise UserError(
                    f"class_names: must hold a name for every class id, got id {highest} in "
                    f"{source} with {len(names)} names ({', '.join(names)}): set those of the data",
                    exit_code=1,
                )
        if exact := bool(is_double.all()):
            labels, detections = _with_sizes(labels), _with_sizes(detections)
        frames = EvaluationFrames(
            np.array(recording, dtype=str),
            time_us,
            start_us,
            state["scale"],
            labels,
            detections,
            0.0 if exact else SINGLE_PRECISION,
        )
        return with_motion(frames, tracks, self.settings.moving_above)


def _gathered(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """A state ``[F, *]`` of all processes on the host; NCCL gathers on the devices alone."""
    if "nccl" in str(distributed.get_backend(group)):
        tensor = tensor.cuda()
    return [each.cpu() for each in gather_all_tensors(tensor, group)]


def _is_double(labels: Tensor, detections: Tensor) -> bool:
    """Whether boxes are in double precision; a frame's detections may be none, in any."""
    types = {labels.dtype, *([detections.dtype] if len(detections) else [])}
    return types == {torch.float64}


def _with_sizes(boxes: FrameBoxes) -> FrameBoxes:
    """The boxes with the sizes that corners in double precision come from, such as 56.78 px."""
    return replace(boxes, given_size=np.round(boxes.size, _DECIMALS))


def _tracks_of(labels: Labels) -> Tensor:
    """Track ids ``[N, M]``, -1 where they are not known."""
    return torch.full_like(labels.classes, -1) if labels.tracks is None else labels.tracks


def _require_shapes(
    detections: Sequence[Detections],
    labels: Labels,
    recording: Sequence[str],
    time_us: Tensor,
    scale: Tensor,
    start_us: Tensor,
) -> None:
    """Refuse arguments of ``update`` that do not fit together; shapes alone are on the host."""
    num_frames, padded = len(labels), labels.boxes.shape[1:2]
    for name, given in (("detections", detections), ("recording", recording)):
        if len(given) != num_frames:
            raise ValueError(
                f"{name}: must have one entry for each of {num_frames} frames in labels, got "
                f"{len(given)}: use one for each frame"
            )
    shapes = [
        ("time_us", time_us, (num_frames,)),
        ("start_us", start_us, (num_frames,)),
        ("scale", scale, (num_frames, 2)),
        ("labels.boxes", labels.boxes, (num_frames, *padded, 4)),
        ("labels.classes", labels.classes, (num_frames, *padded)),
        ("labels.tracks", _tracks_of(labels), (num_frames, *padded)),
    ]
    for i, found in enumerate(detections):
        number = len(found.classes)
        shapes += [
            (f"detections[{i}].boxes", found.boxes, (number, 4)),
            (f"detections[{i}].classes", found.classes, (number,)),
            (f"detections[{i}].objectness", found.objectness, (number,)),
            (f"detections[{i}].class_confidence", found.class_confidence, (number,)),
        ]
    for name, tensor, shape in shapes:
        if tensor.shape != shape:
            raise ValueError(
                f"{name}: must be of shape {list(shape)}, got {list(tensor.shape)}: use this shape"
            )
