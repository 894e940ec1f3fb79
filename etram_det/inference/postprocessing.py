"""From predictions at all anchor points to detections, in NumPy and numba.

The same as ``decode_detections`` of ``etram_det.models.postprocessing`` with the most likely class
of each box, for where PyTorch is not installed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from etram_det.types import Detections


class Predictions(NamedTuple):
    """What the network says of one window, at ``A`` anchor points.

    Attributes:
        boxes: ``[A, 4]`` float32, ``xyxy`` in pixels of the frame.
        objectness: ``[A]`` float32 in [0, 1].
        classes: ``[A, K]`` float32 in [0, 1], probability of each class given an object.
    """

    boxes: NDArray[np.float32]
    objectness: NDArray[np.float32]
    classes: NDArray[np.float32]


def detections_of(
    predictions: Predictions,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
    content_size: tuple[int, ...],
    class_agnostic: bool = False,
) -> Detections[NDArray[Any]]:
    """Detections of one window: thresholds, then suppression class by class.

    Args:
        predictions: at all anchor points.
        score_threshold: least objectness times class confidence, in [0, 1].
        nms_threshold: IoU in [0, 1] above which the lower-scored of two boxes of a class is
            dropped.
        max_detections: detections kept, best first.
        content_size: height and width to which boxes are cut before the suppression; what lies
            outside is dropped.
        class_agnostic: suppress boxes whatever their classes.
    """
    classes = predictions.classes.argmax(axis=1)
    confidence = predictions.classes.max(axis=1)
    scores = predictions.objectness * confidence
    sides = np.array([content_size[1], content_size[0]] * 2, np.float32)
    boxes = predictions.boxes.clip(0, sides)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    rows = np.flatnonzero(inside & (scores >= score_threshold))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    groups = np.zeros_like(classes) if class_agnostic else classes
    rows = rows[_kept(boxes[rows], groups[rows], nms_threshold, max_detections)]
    return Detections(
        boxes[rows], predictions.objectness[rows], confidence[rows], classes[rows].astype(np.int64)
    )


def kept_boxes(boxes: NDArray[np.float32], nms_threshold: float) -> NDArray[np.int64]:
    """Rows of boxes ``[D, 4]``, best first, that overlap no better one of any class."""
    return _kept(boxes, np.zeros(len(boxes), np.int64), nms_threshold, len(boxes))


@numba.njit(cache=True, nogil=True)
def _kept(
    boxes: NDArray[np.float32], classes: NDArray[np.int64], threshold: float, most: int
) -> NDArray[np.int64]:
    """Rows of boxes ``[D, 4]``, best first, that overlap no better one of their class."""
    kept = np.empty(min(most, len(boxes)), np.int64)
    number = 0
    for i in range(len(boxes)):
        if number == len(kept):
            break
        left, top, right, bottom = boxes[i]
        area = (right - left) * (bottom - top)
        is_free = True
        for k in range(number):
            j = kept[k]
            if classes[j] != classes[i]:
                continue
            width = min(right, boxes[j, 2]) - max(left, boxes[j, 0])
            height = min(bottom, boxes[j, 3]) - max(top, boxes[j, 1])
            if width <= 0 or height <= 0:
                continue
            shared = width * height
            other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            if shared / (area + other - shared) > threshold:
                is_free = False
                break
        if is_free:
            kept[number] = i
            number += 1
    return kept[:number]
