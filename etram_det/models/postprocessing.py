"""From the head's decoded output to detections: thresholds and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from etram_det.types import Detections

# Candidates of a frame that enter the suppression with every class, best first: the time of the
# suppression grows with their square, and no frame has as many road users.
_MOST_CANDIDATES = 3000


def decode_detections(
    decoded: Tensor,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int = 300,
    *,
    frame_size: tuple[int, ...] | None = None,
    every_class: bool = False,
) -> list[Detections]:
    """Detections of each frame from the head's decoded output.

    By default as YOLOX and RVT do it: a box takes its most likely class and may reach beyond the
    frame. Boxes with ``objectness * class`` below the threshold are dropped, the rest is suppressed
    class by class.

    Args:
        decoded: ``[N, A, 5 + K]``: cx, cy, w, h in pixels, objectness, class probabilities.
        score_threshold: least ``objectness * class``, in [0, 1].
        nms_threshold: IoU in [0, 1] above which the lower-scored box of one class goes.
        max_detections: boxes kept of each frame, best first.
        frame_size: height and width to which boxes are cut before the suppression, as labels are;
            what lies outside is dropped. Unset: boxes stay as predicted.
        every_class: a box counts once for each class that reaches the threshold, not for its most
            likely one alone, for the best 3,000 pairs of box and class in a frame.

    Returns:
        One :class:`~etram_det.types.Detections` for each of the ``N`` frames.
    """
    boxes = ops.box_convert(decoded[..., :4].float(), "cxcywh", "xyxy")
    objectness = decoded[..., 4].float()
    confidence = decoded[..., 5:].float()
    if not every_class:
        confidence, best = confidence.max(dim=-1, keepdim=True)
    scores = objectness[..., None] * confidence
    if frame_size is not None:
        boxes = ops.clip_boxes_to_image(boxes, (frame_size[0], frame_size[1]))
        outside = (boxes[..., 2:] <= boxes[..., :2]).any(dim=-1)
        scores = scores.masked_fill(outside[..., None], -1.0)
    detections = []
    for i in range(decoded.shape[0]):
        rows, columns = torch.nonzero(scores[i] >= score_threshold, as_tuple=True)
        if every_class and len(rows) > _MOST_CANDIDATES:
            order = scores[i, rows, columns].topk(_MOST_CANDIDATES).indices
            rows, columns = rows[order], columns[order]
        classes = columns if every_class else best[i, rows, 0]
        kept = ops.batched_nms(boxes[i, rows], scores[i, rows, columns], classes, nms_threshold)
        kept = kept[:max_detections]
        rows, columns = rows[kept], columns[kept]
        detections.append(
            Detections(
                boxes[i, rows], objectness[i, rows], confidence[i, rows, columns], classes[kept]
            )
        )
    return detections
