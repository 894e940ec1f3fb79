"""Which class was taken for which, with background as a class of its own."""

from __future__ import annotations

import numpy as np

from etram_det.metrics.frames import EvaluationFrames


def confusion_matrix(
    frames: EvaluationFrames,
    num_classes: int,
    *,
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> np.ndarray:
    """Count boxes by true and by detected class.

    Detections take turns, best score first; each takes the free ground-truth box of its frame
    that it overlaps most, of whatever class.

    Args:
        frames: what to evaluate.
        num_classes: K; class ids lie below it.
        score_threshold: detections below this score in [0, 1] are left out.
        iou_threshold: least overlap of a pair, in [0, 1].

    Returns:
        ``[K + 1, K + 1]`` int64: rows true classes, columns detected classes, background last.
        Missed boxes lie in the last column, false detections in the last row.
    """
    truth = frames.truth
    detections = frames.detections.select(frames.detections.scores >= score_threshold)
    matched_truth = np.zeros(len(truth), dtype=bool)
    matched_detection = np.zeros(len(detections), dtype=bool)
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    detection, box, overlap = _overlapping_pairs(frames, detections.frame, detections.boxes)
    order = np.lexsort((-overlap, detection, -detections.scores[detection]))
    for pair in order[overlap[order] >= iou_threshold]:
        d, t = detection[pair], box[pair]
        if not (matched_detection[d] or matched_truth[t]):
            matched_detection[d] = matched_truth[t] = True
            matrix[truth.classes[t], detections.classes[d]] += 1
    missed, false = truth.classes[~matched_truth], detections.classes[~matched_detection]
    matrix[:-1, -1] = np.bincount(missed, minlength=num_classes)
    matrix[-1, :-1] = np.bincount(false, minlength=num_classes)
    return matrix


def _overlapping_pairs(
    frames: EvaluationFrames, detection_frame: np.ndarray, detection_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, ground-truth box and IoU, each ``[P]``, of all pairs that share a frame."""
    by_frame = np.argsort(frames.truth.frame, kind="stable")
    num_truth = np.bincount(frames.truth.frame, minlength=len(frames))
    first_truth = np.cumsum(num_truth) - num_truth
    repeats = num_truth[detection_frame]
    detection = np.repeat(np.arange(len(detection_frame)), repeats)
    offset = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    box = by_frame[first_truth[detection_frame[detection]] + offset]
    a, b = detection_boxes[detection], frames.truth.boxes[box]
    shared = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = shared.clip(min=0).prod(axis=1)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1) - intersection
    return detection, box, intersection / np.maximum(union, np.finfo(float).tiny)
