"""COCO's precision over recall, of all frames, any choice of them, or resampled recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numba
import numpy as np

from etram_det.metrics.bootstrap import (
    IGNORED,
    TRUE,
    ResampledCurves,
    count_true,
    resampled_precision,
)
from etram_det.metrics.evaluation_frames import EvaluationFrames
from etram_det.metrics.matching import IOU_THRESHOLDS, Range, match, truth_in_ranges

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
            classes: as for :meth:`average_precision`.
            area: as there.
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
        ranges: A ranges; a box on a bound that two ranges share counts in both, as in COCO.
        max_detections: L numbers of detections for each frame and class, ascending.
        by_speed: the ranges are of the speed of labels, not of areas.

    Attributes:
        matches: of all frames.
    """

    def __init__(
        self,
        frames: EvaluationFrames,
        num_classes: int,
        ranges: Sequence[Range],
        max_detections: Sequence[int],
        by_speed: bool = False,
    ) -> None:
        self._truth = frames.truth
        self._num_classes = num_classes
        self._in_range = truth_in_ranges(frames.truth, by_speed, ranges)
        self._max_detections = np.array(max_detections)
        self.matches = match(frames, num_classes, ranges, max_detections[-1], by_speed)

    def curves(self, kept: np.ndarray) -> Curves:
        """Curves over the frames where ``kept`` ``[F]`` is true."""
        everywhere = np.zeros(len(kept), dtype=np.int64)
        matches, num_boxes = self.matches, self._count(kept, everywhere, 1)[0]
        num_ious, num_recalls = len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS)
        precision = np.full((num_ious, num_recalls, *num_boxes.shape), nan)
        recall = np.full((num_ious, *num_boxes.shape, len(self._max_detections)), nan)
        for class_id in range(self._num_classes):
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

    def resampled(
        self,
        kept: np.ndarray,
        recording: np.ndarray,
        weights: np.ndarray,
        num_ranges: int | None = None,
    ) -> ResampledCurves:
        """The same over S lists of recordings, in which each stands any number of times.

        Equal to evaluating such a list, whose copies of a recording are recordings of their own;
        of equal scores in one frame, class and list, those of one detection follow each other.

        Args:
            kept: ``[F]`` bool, frames that count.
            recording: ``[F]`` int64, index of each frame's recording.
            weights: ``[S, R]`` how often each recording stands in each list.
            num_ranges: so many of the first ranges, all by default.
        """
        matches, num_recordings = self.matches, weights.shape[1]
        counts = self._count(kept, recording, num_recordings)[..., :num_ranges]
        num_boxes = np.tensordot(weights, counts, axes=1)
        jobs, found = [], []
        for class_id in range(self._num_classes):
            of_class = slice(matches.first[class_id], matches.first[class_id + 1])
            counted = kept[matches.frame[of_class]]
            status = matches.status[:num_ranges, :, of_class][:, :, counted]
            of_detection = recording[matches.frame[of_class][counted]]
            rank = matches.rank[of_class][counted]
            found.append(
                count_true(status, of_detection, rank, self._max_detections, num_recordings)
            )
            jobs += [
                (status[a], of_detection, num_boxes[:, class_id, a]) for a in range(len(status))
            ]
        shape = (len(weights), self._num_classes, -1, len(IOU_THRESHOLDS))
        precision = resampled_precision(jobs, weights, RECALL_THRESHOLDS).reshape(shape)
        precision[num_boxes == 0] = nan
        with np.errstate(invalid="ignore"):
            recall = np.tensordot(weights, np.stack(found, axis=1), axes=1)
            recall = recall / num_boxes[..., None, None]
        return ResampledCurves(precision, recall, counts > 0)

    def _count(self, kept: np.ndarray, recording: np.ndarray, num_recordings: int) -> np.ndarray:
        """``[R, K, A]`` ground-truth boxes of the frames that are kept."""
        counts = np.zeros((num_recordings, self._num_classes, len(self._in_range)), np.int64)
        of_box = recording[self._truth.frame]
        for a, in_range in enumerate(self._in_range):
            counted = in_range & kept[self._truth.frame]
            np.add.at(counts[..., a], (of_box[counted], self._truth.classes[counted]), 1)
        return counts


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
