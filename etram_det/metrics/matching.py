"""COCO's matching of detections with ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numba
import numpy as np

from etram_det.metrics.bootstrap import FALSE, IGNORED, TRUE
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes

# linspace, not arange: the last digits decide whether an IoU of exactly 0.6 matches at 0.6.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

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
        truth_in_ranges(truth, by_speed, ranges),
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


def truth_in_ranges(truth: FrameBoxes, by_speed: bool, ranges: Sequence[Range]) -> np.ndarray:
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
