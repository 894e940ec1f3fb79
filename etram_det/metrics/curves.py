"""COCO's matching of detections with ground truth, and the precision over recall that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numba
import numpy as np

from etram_det.metrics.bootstrap import (
    FALSE,
    IGNORED,
    TRUE,
    ResampledCurves,
    count_true,
    resampled_precision,
)
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes

# linspace, not arange: the last digits decide whether an IoU of exactly 0.6 matches at 0.6.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)

# Bounds of an area in square pixels or of a speed in sensor pixels a second, both included.
Range = tuple[float, float]


class Matches(NamedTuple):
    """What became of every detection, by class and best score first.

    Attributes:
        frame: ``[D]`` int64, index of the detection's frame.
        rank: ``[D]`` int64, place by score among the detections of its frame and class, from 0.
        first: ``[K + 1]`` int64, place of each class's first detection, and ``D``.
        score: ``[D]`` float64.
        status: ``[A, I, D]`` int8, ``TRUE`` or ``FALSE`` detection or ``IGNORED``, in area range
            A at IoU threshold I.
    """

    frame: np.ndarray
    rank: np.ndarray
    first: np.ndarray
    score: np.ndarray
    status: np.ndarray


def match(
    frames: EvaluationFrames,
    num_classes: int,
    ranges: Sequence[Range],
    max_detections: int,
    by_speed: bool = False,
) -> Matches:
    """Match detections with ground truth of their frame and class.

    Detections take turns, best score first; each takes the free box that it overlaps most, of
    those in the range before those outside it. Whatever takes a box outside the range, or takes
    none and lies outside it, is ignored. A detection has no speed: it lies in all ranges of speed.
    A crowd lies in no range, and any number of detections may take it.

    Args:
        frames: what to evaluate; areas are judged in the pixels of its boxes.
        num_classes: K; class ids lie below it.
        ranges: A ranges, both bounds included.
        max_detections: most detections that count for each frame and class.
        by_speed: the ranges are of the speed of labels, not of areas.
    """
    truth, truth_group = _by_group(frames.truth, len(frames))
    found, group = _by_group(frames.detections, len(frames))
    groups, first, sizes = np.unique(group, return_index=True, return_counts=True)
    rank = np.arange(len(found)) - np.repeat(first, sizes)
    counted = rank < max_detections
    found, rank = found.select(counted), rank[counted]
    status = _match_groups(
        np.concatenate([[0], np.cumsum(np.minimum(sizes, max_detections))]),
        np.searchsorted(truth_group, groups, side="left"),
        np.searchsorted(truth_group, groups, side="right"),
        found.boxes,
        truth.boxes,
        found.area,
        truth.area,
        _is_crowd(truth),
        IOU_THRESHOLDS,
        _in_ranges(found.area, ranges)
        if not by_speed
        else np.ones((len(ranges), len(found)), bool),
        _truth_in_ranges(truth, by_speed, ranges),
    )
    # Equal scores keep the order of their frames.
    order = np.lexsort((-found.scores, found.classes))
    return Matches(
        found.frame[order],
        rank[order],
        np.searchsorted(found.classes[order], np.arange(num_classes + 1)),
        found.scores[order],
        status[:, :, order],
    )


def _is_crowd(truth: FrameBoxes) -> np.ndarray:
    return np.zeros(len(truth), dtype=bool) if truth.crowd is None else truth.crowd


def _truth_in_ranges(truth: FrameBoxes, by_speed: bool, ranges: Sequence[Range]) -> np.ndarray:
    """Which boxes ``[M]`` have an area or a speed in each range, ``[A, M]``."""
    if not by_speed:
        measured = truth.area
    else:
        measured = np.full(len(truth), nan) if truth.motion is None else truth.motion[:, 0]
    return _in_ranges(measured, ranges) & ~_is_crowd(truth)


def _in_ranges(values: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    """Which values ``[M]`` lie in each range, ``[A, M]``."""
    return np.array([(low <= values) & (values <= high) for low, high in ranges])


def _by_group(boxes: FrameBoxes, num_frames: int) -> tuple[FrameBoxes, np.ndarray]:
    """Boxes by class, frame and falling score, and the group of class and frame of each."""
    group = boxes.classes * num_frames + boxes.frame
    order = np.lexsort((-boxes.scores, group))
    return boxes.select(order), group[order]


@numba.njit(cache=True)
def _match_groups(
    first_detection: np.ndarray,
    first_truth: np.ndarray,
    last_truth: np.ndarray,
    detections: np.ndarray,
    truth: np.ndarray,
    detection_area: np.ndarray,
    truth_area: np.ndarray,
    is_crowd: np.ndarray,
    thresholds: np.ndarray,
    detection_in: np.ndarray,
    truth_in: np.ndarray,
) -> np.ndarray:
    """Status ``[A, I, D]``, where ``detection_in`` ``[A, D]`` and ``truth_in`` ``[A, M]`` hold."""
    status = np.empty((len(truth_in), len(thresholds), len(detections)), np.int8)
    for group in range(len(first_truth)):
        begin, end = first_detection[group], first_detection[group + 1]
        of_truth = slice(first_truth[group], last_truth[group])
        boxes, crowd = truth[of_truth], is_crowd[of_truth]
        overlap = _overlaps(
            detections[begin:end], boxes, detection_area[begin:end], truth_area[of_truth], crowd
        )
        free = np.empty(len(boxes), np.bool_)
        for a in range(len(truth_in)):
            in_range = truth_in[a, of_truth]
            for i in range(len(thresholds)):
                free[:] = True
                for d in range(end - begin):
                    taken = _best(overlap[d], free, in_range, True, thresholds[i])
                    if taken < 0:
                        taken = _best(overlap[d], free, in_range, False, thresholds[i])
                    if taken >= 0:
                        free[taken] = crowd[taken]
                        status[a, i, begin + d] = TRUE if in_range[taken] else IGNORED
                    else:
                        counts = detection_in[a, begin + d]
                        status[a, i, begin + d] = FALSE if counts else IGNORED
    return status


@numba.njit(cache=True)
def _best(
    overlap: np.ndarray, free: np.ndarray, in_range: np.ndarray, wanted: bool, threshold: float
) -> int:
    """The free box, in range or not as wanted, that overlaps most and enough; -1 for none."""
    best, least = -1, threshold
    for t in range(len(overlap)):
        # Of equal overlaps the later wins, as in COCO.
        if free[t] and in_range[t] == wanted and overlap[t] >= least:
            best, least = t, overlap[t]
    return best


@numba.njit(cache=True)
def _overlaps(
    detections: np.ndarray,
    boxes: np.ndarray,
    detection_area: np.ndarray,
    area: np.ndarray,
    is_crowd: np.ndarray,
) -> np.ndarray:
    """IoU ``[D, M]``; for a crowd, the share of the detection that lies in it.

    In COCO's order of operations: the last digit decides about an IoU of exactly 0.75.
    """
    overlap = np.zeros((len(detections), len(boxes)))
    for d in range(len(detections)):
        for t in range(len(boxes)):
            a, b = detections[d], boxes[t]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                shared = width * height
                joint = detection_area[d] + area[t] - shared
                overlap[d, t] = shared / (detection_area[d] if is_crowd[t] else joint)
    return overlap


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
        self._in_range = _truth_in_ranges(frames.truth, by_speed, ranges)
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
