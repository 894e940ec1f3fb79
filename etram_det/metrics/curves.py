"""Precision over recall for every class and size bin, by one pass of faster-coco-eval."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import nan

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from etram_det.metrics.frames import EvaluationFrames, FrameBoxes

# linspace, not arange: the last digits decide whether an IoU of exactly 0.6 matches at 0.6.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)

# Bounds of an area in square pixels, both included.
AreaRange = tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """COCO's precision and recall, nan for a class that has no ground truth in a size range.

    Attributes:
        precision: ``[I, R, K, A]`` float64 in [0, 1], greatest precision at a recall of at least
            R, for IoU thresholds I, classes K, area ranges A and the largest number of detections.
        recall: ``[I, K, A, L]`` float64 in [0, 1], recall reached with at most L detections for
            each frame and class.
        num_boxes: ``[K, A]`` int64, ground-truth boxes.
    """

    precision: np.ndarray
    recall: np.ndarray
    num_boxes: np.ndarray

    def average_precision(
        self, *, classes: Sequence[int] | None = None, area: int = 0, iou: float | None = None
    ) -> float:
        """Mean precision over recall, IoU and those classes that have ground truth; nan if none.

        Args:
            classes: ids to average over, all by default.
            area: index of the area range.
            iou: one of ``IOU_THRESHOLDS`` in place of their mean.
        """
        precision = self.precision[..., area]
        if classes is not None:
            precision = precision[:, :, list(classes)]
        if iou is not None:
            precision = precision[np.isclose(IOU_THRESHOLDS, iou)]
        return _mean_of_known(precision)

    def average_recall(
        self, *, classes: Sequence[int] | None = None, area: int = 0, limit: int = -1
    ) -> float:
        """Mean recall over IoU and those classes that have ground truth; nan if none.

        Args:
            classes: ids to average over, all by default.
            area: index of the area range.
            limit: index of the number of detections, the largest by default.
        """
        recall = self.recall[:, :, area, limit]
        if classes is not None:
            recall = recall[:, list(classes)]
        return _mean_of_known(recall)

    def count(self, *, classes: Sequence[int] | None = None, area: int = 0) -> int:
        """Ground-truth boxes of these classes, all by default, in one area range."""
        counts = self.num_boxes[:, area]
        return int(counts.sum() if classes is None else counts[list(classes)].sum())


class Matcher:
    """Matches detections with ground truth as COCO does, over any choice of the same frames.

    Args:
        frames: what to evaluate; areas are judged in the pixels of its boxes.
        num_classes: K; class ids lie below it.
        area_ranges: A ranges; a box on a bound that two ranges share counts in both, as in COCO.
        max_detections: L numbers of detections for each frame and class, ascending.
    """

    def __init__(
        self,
        frames: EvaluationFrames,
        num_classes: int,
        area_ranges: Sequence[AreaRange],
        max_detections: Sequence[int],
    ) -> None:
        self._truth = frames.truth
        self._num_classes = num_classes
        self._area_ranges = area_ranges
        self._max_detections = max_detections
        with _garbage_collection_paused():
            self._coco_truth = _coco_dataset(frames.truth, len(frames), num_classes)
            self._coco_detections = _coco_dataset(frames.detections, len(frames), num_classes)

    def curves(self, kept: np.ndarray) -> Curves:
        """Curves over the frames where ``kept`` ``[F]`` is true, in one pass of the backend."""
        num_boxes = self._count(kept)
        shape = (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), *num_boxes.shape)
        if not num_boxes.any():
            recall = np.full((shape[0], *num_boxes.shape, len(self._max_detections)), nan)
            return Curves(np.full(shape, nan), recall, num_boxes)
        backend = COCOeval_faster(self._coco_truth, self._coco_detections, "bbox")
        backend.params.imgIds = np.flatnonzero(kept).tolist()
        backend.params.iouThrs = IOU_THRESHOLDS
        backend.params.recThrs = RECALL_THRESHOLDS
        backend.params.areaRng = [list(bounds) for bounds in self._area_ranges]
        backend.params.maxDets = list(self._max_detections)
        with _garbage_collection_paused():
            backend.evaluate()
            backend.accumulate()
        precision, recall = backend.eval["precision"][..., -1], backend.eval["recall"]
        return Curves(
            np.where(precision < 0, nan, precision), np.where(recall < 0, nan, recall), num_boxes
        )

    def _count(self, kept: np.ndarray) -> np.ndarray:
        """``[K, A]`` ground-truth boxes of the frames that are kept."""
        truth = self._truth.select(kept[self._truth.frame])
        area = truth.area
        counts = [
            np.bincount(truth.classes[(low <= area) & (area <= high)], minlength=self._num_classes)
            for low, high in self._area_ranges
        ]
        return np.stack(counts, axis=1)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Spare the search for cycles, which hundreds of thousands of small objects would trigger."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _coco_dataset(boxes: FrameBoxes, num_frames: int, num_classes: int) -> COCO:
    """Boxes in COCO's own form; ids start at 1 because 0 means unmatched there."""
    columns = zip(
        boxes.frame.tolist(),
        boxes.classes.tolist(),
        np.concatenate([boxes.boxes[:, :2], boxes.size], axis=1).tolist(),
        boxes.area.tolist(),
        boxes.scores.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": i,
            "image_id": frame,
            "category_id": class_id,
            "bbox": xywh,
            "area": area,
            "score": score,
            "iscrowd": 0,
        }
        for i, (frame, class_id, xywh, area, score) in enumerate(columns, start=1)
    ]
    return COCO(
        {
            "images": [{"id": i} for i in range(num_frames)],
            "categories": [{"id": i} for i in range(num_classes)],
            "annotations": annotations,
        }
    )


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else nan
