"""The containers that travel between data, model and metric.

Letters in shapes, here and everywhere: ``T`` time steps, ``B`` lanes, ``N`` labelled frames,
``C`` channels, ``H W`` height and width, ``S`` pyramid scales, ``A`` anchor points, ``M`` boxes of
a frame (padded), ``D`` detections, ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # files, drawing and inference work without PyTorch
    from torch import Tensor
    from typing_extensions import Self

# One (hidden, cell) pair [B, C, h, w] for each backbone stage; one row for each lane.
State: TypeAlias = "list[tuple[Tensor, Tensor]]"

Array = TypeVar("Array", "Tensor", NDArray[Any])


@dataclass
class Container:
    """What holds tensors, some of them in containers of their own."""

    def _mapped(self, function: Any) -> Self:
        changes: dict[str, Any] = {}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Container):
                changes[name] = value._mapped(function)
            elif hasattr(value, "shape"):
                changes[name] = function(value)
        return replace(self, **changes)

    def to(self, device: Any, non_blocking: bool = False) -> Self:
        """The same content on ``device``."""
        return self._mapped(lambda x: x.to(device, non_blocking=non_blocking))


@dataclass
class Labels(Container):
    """Ground-truth boxes of ``N`` labelled frames, padded to the fullest one.

    Attributes:
        frame: ``[N]`` int64, place of each labelled frame in the batch, ``t * B + b``, ascending.
        boxes: ``[N, M, 4]`` float32, ``xyxy`` in pixels of the input frame; zeros where padded.
            A metric also takes float64.
        classes: ``[N, M]`` int64, class ids; -1 where padded.
        tracks: ``[N, M]`` int64, track ids; -1 where padded; None where they are not known.
    """

    frame: Tensor
    boxes: Tensor
    classes: Tensor
    tracks: Tensor | None = None

    def __len__(self) -> int:
        return self.frame.shape[0]

    @property
    def valid(self) -> Tensor:
        """``[N, M]`` bool, true for a box and false for padding."""
        return self.classes >= 0

    def of_frame(self, index: int) -> tuple[Tensor, Tensor]:
        """Boxes ``[M_i, 4]`` and classes ``[M_i]`` of one labelled frame, without padding."""
        valid = self.valid[index]
        return self.boxes[index][valid], self.classes[index][valid]

    @staticmethod
    def stack(
        frame: list[int],
        boxes: list[Tensor],
        classes: list[Tensor],
        tracks: list[Tensor] | None = None,
    ) -> Labels:
        """Pad per-frame boxes ``[M_i, 4]``, classes and track ids ``[M_i]`` into one container."""
        import torch

        most = max((len(c) for c in classes), default=0)
        dtype = torch.float64 if any(b.dtype == torch.float64 for b in boxes) else torch.float32
        padded_boxes = torch.zeros(len(frame), most, 4, dtype=dtype)
        padded_classes = torch.full((len(frame), most), -1, dtype=torch.int64)
        padded_tracks = None if tracks is None else padded_classes.clone()
        for i, (frame_boxes, frame_classes) in enumerate(zip(boxes, classes, strict=True)):
            padded_boxes[i, : len(frame_classes)] = frame_boxes
            padded_classes[i, : len(frame_classes)] = frame_classes
            if padded_tracks is not None and tracks is not None:
                padded_tracks[i, : len(frame_classes)] = tracks[i]
        frames = torch.tensor(frame, dtype=torch.int64)
        return Labels(frames, padded_boxes, padded_classes, padded_tracks)


@dataclass
class Detections(Container, Generic[Array]):
    """What the detector found in one frame, best score first.

    The arrays are tensors in training and evaluation, and NumPy's in inference and in files.

    Attributes:
        boxes: ``[D, 4]`` float32, ``xyxy`` in pixels of the input frame.
        objectness: ``[D]`` float32 in [0, 1].
        class_confidence: ``[D]`` float32 in [0, 1], probability of the class given an object.
        classes: ``[D]`` int64, class ids.
    """

    boxes: Array
    objectness: Array
    class_confidence: Array
    classes: Array

    def __len__(self) -> int:
        return self.classes.shape[0]

    @property
    def scores(self) -> Array:
        """``[D]`` objectness times class confidence."""
        return self.objectness * self.class_confidence

    def numpy(self) -> Detections[NDArray[Any]]:
        """The same detections in NumPy arrays, on the host."""
        arrays = (getattr(self, each.name) for each in fields(self))
        return Detections(
            *(x if isinstance(x, np.ndarray) else x.detach().cpu().numpy() for x in arrays)
        )


@dataclass(kw_only=True)
class BatchOfLanes(Container):
    """What belongs to ``T`` consecutive frames of ``B`` lanes, but for the frames.

    Attributes:
        labels: the boxes of those of the ``T * B`` frames that are labelled.
        reset: ``[B]`` bool, true where the lane starts a recording with this chunk.
        lane: ``[B]`` int64, the row of the carried state that each lane uses.
        padded: ``[T, B]`` bool, true for frames past the end of a recording.
        time_us: ``[T, B]`` int64, end of each frame's window; -1 where padded.
        recording: name of each lane's recording, ``B`` of them.
        scale: ``[B, 2]`` float32, pixels of the sensor per pixel of the input frame, in x and y.
        stream: ``[B]`` bool, true for lanes that follow a recording, false for random chunks.
        faults: for each lane whose chunk could not be read, by its place among the ``B``, what was
            wrong; all its frames are padding then.
        num_outside: for each lane that has some, events of its frames outside the sensor, which
            were dropped.
        repaired_share: for each lane that has some, the share of its recording's events, in
            [0, 1], whose timestamp was behind an earlier one and was repaired.
        start_us: for each lane whose recording's clock does not start at 0, where it does.
    """

    labels: Labels
    reset: Tensor
    lane: Tensor
    padded: Tensor
    time_us: Tensor
    recording: list[str]
    scale: Tensor
    stream: Tensor
    faults: dict[int, str] = field(default_factory=dict)
    num_outside: dict[int, int] = field(default_factory=dict)
    repaired_share: dict[int, float] = field(default_factory=dict)
    start_us: dict[int, int] = field(default_factory=dict)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, for copies that overlap with computing."""
        return self._mapped(lambda x: x.pin_memory())


@dataclass(kw_only=True)
class Batch(BatchOfLanes):
    """``T`` consecutive frames of ``B`` lanes, and what belongs to them.

    Attributes:
        events: ``[T, B, 2 * bins, H, W]`` uint8, stacked histograms.
    """

    events: Tensor

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return self.events.shape[-2], self.events.shape[-1]


def dotted_items(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of nested settings; an empty group is a value itself.

    Args:
        settings: by name, groups as mappings.
        prefix: of all names, with its dot.
    """
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from dotted_items(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
