"""Evaluation protocols: which boxes count, and what their score is.

``full`` judges a detector by everything that is labelled. ``prophesee`` repeats the filter of
Prophesee's Automotive Dataset Toolbox as RVT applies it, for comparison with published numbers;
it removes most small objects. ``prophesee_gen1`` is the same with the bounds for Gen1's smaller
sensor. ``etram_fork`` also ignores classes, which is what eTraM's fork of RVT prints as "Overall".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from etram_det.metrics.frames import EvaluationFrames, FrameBoxes

ProtocolName = Literal["full", "prophesee", "etram_fork", "prophesee_gen1"]

SKIPPED_US = 500_000


@dataclass(frozen=True)
class Protocol:
    """How boxes are chosen and scored.

    Attributes:
        filtered: drop boxes of the first 0.5 s and small ones, from labels and detections, then
            leave out the frames that have no label left. Unfiltered, every labelled frame counts,
            those without boxes too.
        uses_objectness: score is objectness times class confidence, else class confidence alone.
        class_agnostic: treat all boxes as one class.
        min_side_px: shortest side, on the sensor, of a box that the filter keeps.
        min_diagonal_px: its shortest diagonal.
    """

    filtered: bool
    uses_objectness: bool
    class_agnostic: bool
    min_side_px: int = 20
    min_diagonal_px: int = 60

    def apply(self, frames: EvaluationFrames) -> EvaluationFrames:
        """The frames and boxes that count, boxes still in the pixels in which they came."""
        if self.class_agnostic:
            frames = frames.without_classes()
        if not self.filtered:
            return frames
        frames = EvaluationFrames(
            frames.recording,
            frames.time_us,
            frames.scale,
            frames.truth.select(self._large_enough(frames.truth, frames.scale)),
            frames.detections.select(self._large_enough(frames.detections, frames.scale)),
        )
        has_truth = np.bincount(frames.truth.frame, minlength=len(frames)) > 0
        return frames.select(has_truth & (frames.time_us > SKIPPED_US))

    def _large_enough(self, boxes: FrameBoxes, scale: np.ndarray) -> np.ndarray:
        size = boxes.size * scale[boxes.frame]
        long_enough = (size**2).sum(axis=1) >= self.min_diagonal_px**2
        return (size >= self.min_side_px).all(axis=1) & long_enough


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "full": Protocol(filtered=False, uses_objectness=True, class_agnostic=False),
    "prophesee": Protocol(filtered=True, uses_objectness=False, class_agnostic=False),
    "etram_fork": Protocol(filtered=True, uses_objectness=False, class_agnostic=True),
    "prophesee_gen1": Protocol(
        filtered=True,
        uses_objectness=False,
        class_agnostic=False,
        min_side_px=10,
        min_diagonal_px=30,
    ),
}
