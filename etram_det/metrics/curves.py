"""Precision over recall for every class and size bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numba
import numpy as np

from etram_det.metrics.frames import EvaluationFrames
from etram_det.metrics.matching import IGNORED, IOU_THRESHOLDS, TRUE, AreaRange, match

RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)


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


class Evaluator:
    """Matches all frames once, then gives the curves over any choice of them.

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
        self._max_detections = np.array(max_detections)
        self._matches = match(frames, num_classes, area_ranges, max_detections[-1])

    def curves(self, kept: np.ndarray) -> Curves:
        """Curves over the frames where ``kept`` ``[F]`` is true."""
        matches, num_boxes = self._matches, self._count(kept)
        num_classes, num_ranges = num_boxes.shape
        precision = np.full(
            (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), num_classes, num_ranges), nan
        )
        recall = np.full((len(IOU_THRESHOLDS), *num_boxes.shape, len(self._max_detections)), nan)
        for class_id in range(num_classes):
            of_class = slice(matches.first[class_id], matches.first[class_id + 1])
            counted = kept[matches.frame[of_class]]
            _accumulate(
                matches.status[:, :, of_class][:, :, counted],
                matches.rank[of_class][counted],
                num_boxes[class_id],
                self._max_detections,
                RECALL_THRESHOLDS,
                precision[:, :, class_id],
                recall[:, class_id],
            )
        return Curves(precision, recall, num_boxes)

    def _count(self, kept: np.ndarray) -> np.ndarray:
        """``[K, A]`` ground-truth boxes of the frames that are kept."""
        truth = self._truth.select(kept[self._truth.frame])
        area = truth.area
        counts = [
            np.bincount(truth.classes[(low <= area) & (area <= high)], minlength=self._num_classes)
            for low, high in self._area_ranges
        ]
        return np.stack(counts, axis=1)


@numba.njit(cache=True)
def _accumulate(
    status: np.ndarray,
    rank: np.ndarray,
    num_boxes: np.ndarray,
    limits: np.ndarray,
    recall_thresholds: np.ndarray,
    precision: np.ndarray,
    recall: np.ndarray,
) -> None:
    """Fill in precision ``[I, R, A]`` and recall ``[I, A, L]`` of one class.

    ``status`` ``[A, I, D]`` and ``rank`` ``[D]`` are those of its detections, best score first.
    """
    running, reached = np.empty(len(rank)), np.empty(len(rank))
    for a in range(len(num_boxes)):
        if num_boxes[a] == 0:
            continue
        for i in range(status.shape[1]):
            num_true, num_counted = 0, 0
            recall[i, a] = 0
            for d in range(len(rank)):
                if status[a, i, d] == IGNORED:
                    continue
                if status[a, i, d] == TRUE:
                    num_true += 1
                    recall[i, a] += rank[d] < limits
                running[num_counted] = num_true / (num_counted + 1)
                reached[num_counted] = num_true / num_boxes[a]
                num_counted += 1
            recall[i, a] /= num_boxes[a]
            for d in range(num_counted - 2, -1, -1):
                running[d] = max(running[d], running[d + 1])
            d = 0
            for r in range(len(recall_thresholds)):
                while d < num_counted and reached[d] < recall_thresholds[r]:
                    d += 1
                precision[i, r, a] = running[d] if d < num_counted else 0


def _mean_of_known(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else nan
