"""What became of labels and detections at one score: found, taken for another class, missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes

# What becomes of a ground-truth box, in the order of `outcomes_by_size`.
OUTCOMES = ("found", "other_class", "missed")
LOCALISATION_IOU = 0.1  # from here on, a detection is off its label and no false alarm


@dataclass(frozen=True)
class Pairing:
    """Which detection took which ground-truth box.

    Attributes:
        truth: the ``M`` ground-truth boxes.
        detections: the ``D`` detections that took turns, as they were given.
        detection_of: ``[M]`` int64, detection that took each ground-truth box; -1 for none.
        truth_of: ``[D]`` int64, ground-truth box that each detection took; -1 for none.
        near_of: ``[D]`` int64, ground-truth box that no detection took and that this one, which
            took none, is off from: a localisation error. -1 for none.
    """

    truth: FrameBoxes
    detections: FrameBoxes
    detection_of: np.ndarray
    truth_of: np.ndarray
    near_of: np.ndarray

    @property
    def is_false_alarm(self) -> np.ndarray:
        """``[D]`` bool, detections that took no box and are off from none."""
        return (self.truth_of < 0) & (self.near_of < 0)


def pair_boxes(
    frames: EvaluationFrames, *, score_threshold: float, iou_threshold: float = 0.5
) -> Pairing:
    """Pair detections with ground truth, whatever the class.

    Detections take turns, best score first; each takes the free ground-truth box of its frame
    that it overlaps most. A box that was detected as several classes counts as the likeliest one.
    Crowds are left out, with the detections that lie in them and take nothing.
    Then those that took none take turns again, for the boxes that are left and an IoU of 0.1.

    Args:
        frames: what to evaluate.
        score_threshold: detections below this score in [0, 1] are left out.
        iou_threshold: least overlap of a pair, in [0, 1].
    """
    truth, crowds = frames.truth, None
    if (is_crowd := truth.crowd) is not None:
        truth, crowds = truth.select(~is_crowd), truth.select(is_crowd)
    detections = frames.detections.select(frames.detections.scores >= score_threshold)
    detections = detections.select(_best_of_each_box(detections))
    detection, box = _pairs_in_frames(detections.frame, truth.frame, len(frames))
    overlap = overlaps(detections.boxes[detection], truth.boxes[box])
    order = np.lexsort((-overlap, detection, -detections.scores[detection]))
    detection_of, near = (np.full(len(truth), -1, dtype=np.int64) for _ in range(2))
    truth_of, near_of = (np.full(len(detections), -1, dtype=np.int64) for _ in range(2))
    rounds = ((iou_threshold, detection_of, truth_of), (LOCALISATION_IOU, near, near_of))
    for least, taken_by, taken in rounds:
        for pair in order[overlap[order] >= least]:
            d, t = detection[pair], box[pair]
            is_free = truth_of[d] < 0 and detection_of[t] < 0
            if is_free and taken[d] < 0 and taken_by[t] < 0:
                taken[d], taken_by[t] = t, d
    if crowds is not None:
        kept = (truth_of >= 0) | ~_in_crowd(detections, crowds, len(frames), iou_threshold)
        detections, truth_of, near_of = detections.select(kept), truth_of[kept], near_of[kept]
        detection_of[truth_of[truth_of >= 0]] = np.flatnonzero(truth_of >= 0)
    return Pairing(truth, detections, detection_of, truth_of, near_of)


def confusion_matrix(pairing: Pairing, num_classes: int) -> np.ndarray:
    """Count boxes by true and by detected class, of K classes.

    Returns:
        ``[K + 1, K + 1]`` int64: rows true classes, columns detected classes, background last.
        Missed boxes lie in the last column, false detections in the last row.
    """
    truth, detections = pairing.truth.classes, pairing.detections.classes
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    paired = pairing.detection_of >= 0
    np.add.at(matrix, (truth[paired], detections[pairing.detection_of[paired]]), 1)
    matrix[:-1, -1] = np.bincount(truth[~paired], minlength=num_classes)
    false = detections[pairing.truth_of < 0]
    matrix[-1, :-1] = np.bincount(false, minlength=num_classes)
    return matrix


def localisation_errors(pairing: Pairing, num_classes: int) -> np.ndarray:
    """Detections ``[K]`` int64 by class that are off from a box; the matrix has them as false."""
    near = pairing.detections.classes[pairing.near_of >= 0]
    return np.bincount(near, minlength=num_classes)


def outcomes_by_size(pairing: Pairing, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Count what became of ground-truth boxes by K classes and area, which doubles from bin to bin.

    Returns:
        The ``Q + 1`` bounds of the areas, powers of two in square pixels, the lower one included;
        and counts ``[3, K, Q]`` int64 of boxes that were ``OUTCOMES``: found, taken for another
        class, missed. Boxes under one square pixel are in the first bin.
    """
    truth = pairing.truth
    # The exponent that frexp gives is one above the logarithm, rounded down.
    octave = np.frexp(np.maximum(truth.area, 1))[1] - 1
    first, last = (octave.min(), octave.max()) if len(truth) else (0, 0)
    paired = pairing.detection_of >= 0
    outcome = np.where(paired, OUTCOMES.index("other_class"), OUTCOMES.index("missed"))
    detected = pairing.detections.classes[pairing.detection_of[paired]]
    outcome[np.flatnonzero(paired)[detected == truth.classes[paired]]] = OUTCOMES.index("found")
    counts = np.zeros((len(OUTCOMES), num_classes, last - first + 1), dtype=np.int64)
    np.add.at(counts, (outcome, truth.classes, octave - first), 1)
    return 2.0 ** np.arange(first, last + 2), counts


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU ``[P]`` in [0, 1] of boxes ``[P, 4]`` ``xyxy``, pair by pair; either may be ``[4]``."""
    shared = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = shared.clip(min=0).prod(axis=-1)
    area_a, area_b = ((boxes[..., 2:] - boxes[..., :2]).prod(axis=-1) for boxes in (a, b))
    return intersection / np.maximum(area_a + area_b - intersection, np.finfo(float).tiny)


def _in_crowd(
    detections: FrameBoxes, crowds: FrameBoxes, num_frames: int, least_share: float
) -> np.ndarray:
    """``[D]`` bool: so large a share of the detection lies in a crowd of its frame."""
    detection, crowd = _pairs_in_frames(detections.frame, crowds.frame, num_frames)
    a, b = detections.boxes[detection], crowds.boxes[crowd]
    shared = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    share = shared.clip(min=0).prod(axis=1) / np.maximum(detections.area[detection], 1e-9)
    return np.bincount(detection, share >= least_share, minlength=len(detections)) > 0


def _best_of_each_box(detections: FrameBoxes) -> np.ndarray:
    """``[D]`` bool: no equal box of the same frame has a better score."""
    order = np.argsort(-detections.scores, kind="stable")
    rows = np.column_stack([detections.frame, detections.boxes])[order]
    _, first = np.unique(rows, axis=0, return_index=True)
    is_best = np.zeros(len(detections), dtype=bool)
    is_best[order[first]] = True
    return is_best


def _pairs_in_frames(
    detection_frame: np.ndarray, truth_frame: np.ndarray, num_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Detection and ground-truth box, each ``[P]``, of all pairs that share a frame."""
    by_frame = np.argsort(truth_frame, kind="stable")
    num_truth = np.bincount(truth_frame, minlength=num_frames)
    first_truth = np.cumsum(num_truth) - num_truth
    repeats = num_truth[detection_frame]
    detection = np.repeat(np.arange(len(detection_frame)), repeats)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return detection, by_frame[first_truth[detection_frame[detection]] + offset]
