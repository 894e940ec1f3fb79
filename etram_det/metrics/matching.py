"""COCO's matching of detections with ground truth, for all thresholds and size bins in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from etram_det.metrics.frames import EvaluationFrames, FrameBoxes

# linspace, not arange: the last digits decide whether an IoU of exactly 0.6 matches at 0.6.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

# Bounds of an area in square pixels, both included.
AreaRange = tuple[float, float]

# What a detection is at one IoU threshold and in one area range.
FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True)
class Matches:
    """What became of every detection, by class and best score first.

    Attributes:
        frame: ``[D]`` int64, index of the detection's frame.
        rank: ``[D]`` int64, place by score among the detections of its frame and class, from 0.
        scores: ``[D]`` float64 in [0, 1].
        first: ``[K + 1]`` int64, place of each class's first detection, and ``D``.
        status: ``[A, I, D]`` int8, ``TRUE`` or ``FALSE`` detection or ``IGNORED``, in area range
            A at IoU threshold I.
    """

    frame: np.ndarray
    rank: np.ndarray
    scores: np.ndarray
    first: np.ndarray
    status: np.ndarray


def match(
    frames: EvaluationFrames,
    num_classes: int,
    area_ranges: Sequence[AreaRange],
    max_detections: int,
) -> Matches:
    """Match detections with ground truth of their frame and class.

    Detections take turns, best score first; each takes the free box that it overlaps most, of
    those in the area range before those outside it. Whatever takes a box outside the range, or
    takes none and lies outside it, is ignored.

    Args:
        frames: what to evaluate; areas are judged in the pixels of its boxes.
        num_classes: K; class ids lie below it.
        area_ranges: A ranges, both bounds included.
        max_detections: most detections that count for each frame and class.
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
        IOU_THRESHOLDS,
        np.array(area_ranges, dtype=np.float64),
    )
    # Equal scores keep the order of their frames.
    order = np.lexsort((-found.scores, found.classes))
    return Matches(
        found.frame[order],
        rank[order],
        found.scores[order],
        np.searchsorted(found.classes[order], np.arange(num_classes + 1)),
        status[:, :, order],
    )


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
    thresholds: np.ndarray,
    area_ranges: np.ndarray,
) -> np.ndarray:
    status = np.empty((len(area_ranges), len(thresholds), len(detections)), np.int8)
    for group in range(len(first_truth)):
        begin, end = first_detection[group], first_detection[group + 1]
        boxes = truth[first_truth[group] : last_truth[group]]
        overlap = _overlaps(detections[begin:end], boxes)
        in_range = np.empty(len(boxes), np.bool_)
        free = np.empty(len(boxes), np.bool_)
        for a in range(len(area_ranges)):
            low, high = area_ranges[a]
            for t in range(len(boxes)):
                in_range[t] = low <= _area(boxes[t]) <= high
            for i in range(len(thresholds)):
                free[:] = True
                for d in range(end - begin):
                    taken = _best(overlap[d], free, in_range, True, thresholds[i])
                    if taken < 0:
                        taken = _best(overlap[d], free, in_range, False, thresholds[i])
                    if taken >= 0:
                        free[taken] = False
                        status[a, i, begin + d] = TRUE if in_range[taken] else IGNORED
                    else:
                        counts = low <= _area(detections[begin + d]) <= high
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
def _overlaps(detections: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU ``[D, M]``."""
    overlap = np.zeros((len(detections), len(boxes)))
    for d in range(len(detections)):
        for t in range(len(boxes)):
            a, b = detections[d], boxes[t]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            if width > 0 and height > 0:
                shared = width * height
                overlap[d, t] = shared / (_area(a) + _area(b) - shared)
    return overlap


@numba.njit(cache=True)
def _area(box: np.ndarray) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
