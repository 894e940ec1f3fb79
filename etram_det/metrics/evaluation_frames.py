"""The boxes of many frames in flat arrays, as every part of the evaluation reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

# Relative error of an area from corners in single precision, for sides of 16 px and more on sensors
# of up to 2048 px.
SINGLE_PRECISION = 2e-5


@dataclass(frozen=True)
class FrameBoxes:
    """Boxes of many frames, each frame's in their own order.

    Attributes:
        frame: ``[D]`` int64, index of the frame that holds the box.
        boxes: ``[D, 4]`` float64, ``xyxy`` in pixels.
        classes: ``[D]`` int64, class ids.
        scores: ``[D]`` float64 in [0, 1]; ones for ground truth.
        motion: ``[D, 2]`` float64, speed in sensor pixels a second and seconds since the track
            last moved, of :func:`~etram_det.metrics.motion.motion_of`; None for detections and
            where no label has a known speed.
        given_size: ``[D, 2]`` float64, width and height where the boxes came with them, which
            differences of corners give with a rounding error; None where corners were given.
        crowd: ``[D]`` bool, ground truth that is a region of many objects (COCO's ``iscrowd``):
            it does not count, nor do the detections in it; None where there is none.
    """

    frame: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    motion: np.ndarray | None = None
    given_size: np.ndarray | None = None
    crowd: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def size(self) -> np.ndarray:
        """``[D, 2]`` width and height, in pixels."""
        if self.given_size is not None:
            return self.given_size
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def area(self) -> np.ndarray:
        """``[D]`` area, in square pixels."""
        return self.size.prod(axis=1)

    def in_frame(self, frame: int) -> FrameBoxes:
        """The boxes of one frame, best score first."""
        boxes = self.select(self.frame == frame)
        return boxes.select(np.argsort(-boxes.scores, kind="stable"))

    def select(self, kept: np.ndarray) -> FrameBoxes:
        """The boxes where ``kept`` ``[D]`` is true, or those of these indices in their order."""
        columns: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        columns = {name: x if x is None else x[kept] for name, x in columns.items()}
        return FrameBoxes(**columns)

    def scaled(self, factors: np.ndarray) -> FrameBoxes:
        """The boxes in other pixels, so many ``[D, 2]`` to each of the present ones, in x and y."""
        size = None if self.given_size is None else self.given_size * factors
        return replace(self, boxes=self.boxes * np.tile(factors, 2), given_size=size)


@dataclass(frozen=True)
class EvaluationFrames:
    """The frames to be evaluated, with what is there and what was found.

    Attributes:
        recording: ``[F]`` str, name of each frame's recording.
        time_us: ``[F]`` int64, time in the recording.
        start_us: ``[F]`` int64, where the clock of its recording starts.
        scale: ``[F, 2]`` float64, sensor pixels per pixel of the boxes, in x and y.
        truth: ground-truth boxes.
        detections: detected boxes.
        area_error: greatest relative error of the areas of boxes; 0 where their sizes were given.
        rank: ``[F]`` int64, the order of the frames where it is not that of recording and time.
    """

    recording: np.ndarray
    time_us: np.ndarray
    start_us: np.ndarray
    scale: np.ndarray
    truth: FrameBoxes
    detections: FrameBoxes
    area_error: float = SINGLE_PRECISION
    rank: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.recording)

    def ordered(self) -> EvaluationFrames:
        """The same frames by recording and time, or by their rank.

        Boxes of equal score count in the order of their frames, so a fixed order makes metrics
        independent of how the frames were shared out among lanes and processes.
        """
        if self.rank is not None:
            return self._take(np.argsort(self.rank))
        return self._take(np.lexsort((self.time_us, self.recording)))

    def select(self, kept: np.ndarray) -> EvaluationFrames:
        """The frames where ``kept`` ``[F]`` is true, with their boxes."""
        return self._take(np.flatnonzero(kept))

    def native(self) -> EvaluationFrames:
        """The same frames with boxes in sensor pixels."""
        return self.with_boxes(
            lambda boxes: boxes.scaled(self.scale[boxes.frame]), scale=np.ones_like(self.scale)
        )

    def without_classes(self) -> EvaluationFrames:
        """The same frames with all boxes in class 0.

        Boxes of equal score count in the order of their former classes, as in pycocotools.
        """

        def merged(boxes: FrameBoxes) -> FrameBoxes:
            boxes = boxes.select(np.argsort(boxes.classes, kind="stable"))
            return replace(boxes, classes=np.zeros_like(boxes.classes))

        return self.with_boxes(merged)

    def with_boxes(
        self, change: Callable[[FrameBoxes], FrameBoxes], **others: Any
    ) -> EvaluationFrames:
        """The same frames with both kinds of boxes changed, and other attributes replaced."""
        truth, detections = change(self.truth), change(self.detections)
        return replace(self, truth=truth, detections=detections, **others)

    def _take(self, order: np.ndarray) -> EvaluationFrames:
        place = np.full(len(self), -1, dtype=np.int64)
        place[order] = np.arange(len(order))

        def taken(boxes: FrameBoxes) -> FrameBoxes:
            frame = place[boxes.frame]
            return replace(boxes, frame=frame).select(frame >= 0)

        names = ("recording", "time_us", "start_us", "scale")
        of_frame = {name: getattr(self, name)[order] for name in names}
        of_frame["rank"] = None if self.rank is None else self.rank[order]
        return self.with_boxes(taken, **of_frame)
