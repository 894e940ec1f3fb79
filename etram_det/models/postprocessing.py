"""From the head's decoded output to detections: thresholds and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import ops

from etram_det.types import Detections


def decode_detections(
    decoded: Tensor, score_threshold: float, nms_threshold: float, max_detections: int = 300
) -> list[Detections]:
    """Detections of each frame from the head's decoded output, as YOLOX does it.

    A box takes its most likely class. Boxes with ``objectness * class`` below the threshold are
    dropped, the rest is suppressed class by class.

    Args:
        decoded: ``[N, A, 5 + K]``: cx, cy, w, h in pixels, objectness, class probabilities.
        score_threshold: least ``objectness * class``, in [0, 1].
        nms_threshold: IoU in [0, 1] above which the lower-scored box of one class goes.
        max_detections: boxes kept of each frame, best first.

    Returns:
        One :class:`~etram_det.types.Detections` for each of the ``N`` frames.
    """
    boxes = ops.box_convert(decoded[..., :4].float(), "cxcywh", "xyxy")
    objectness = decoded[..., 4].float()
    class_confidence, classes = decoded[..., 5:].float().max(dim=-1)
    scores = objectness * class_confidence
    detections = []
    for i in range(decoded.shape[0]):
        kept = torch.nonzero(scores[i] >= score_threshold).squeeze(1)
        order = ops.batched_nms(boxes[i, kept], scores[i, kept], classes[i, kept], nms_threshold)
        kept = kept[order[:max_detections]]
        detections.append(
            Detections(
                boxes[i, kept], objectness[i, kept], class_confidence[i, kept], classes[i, kept]
            )
        )
    return detections
