"""SimOTA: which anchor points learn which box, for the whole batch at once.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from etram_det.models.head import HeadOutput

CENTER_RADIUS = 1.5  # cells around a box's centre that may learn it
CANDIDATES = 10  # best overlaps that decide how many anchor points a box gets
IOU_COST = 3.0
OUTSIDE_COST = 1.0e6


@dataclass
class Assignment:
    """The anchor points that learn a box.

    Attributes:
        foreground: ``[N, A]`` bool.
        box_index: ``[N, A]`` int64, the box in ``[0, M)`` that a foreground point learns.
        iou: ``[N, A]`` float32, overlap of a foreground point's prediction with its box.
    """

    foreground: Tensor
    box_index: Tensor
    iou: Tensor


def pairwise_iou(boxes_cxcywh: Tensor, others_cxcywh: Tensor) -> Tensor:
    """IoU ``[N, M, A]`` of boxes ``[N, M, 4]`` with boxes ``[N, A, 4]``; 0 where both are empty."""
    a, b = boxes_cxcywh[:, :, None], others_cxcywh[:, None]
    low = torch.maximum(a[..., :2] - a[..., 2:] / 2, b[..., :2] - b[..., 2:] / 2)
    high = torch.minimum(a[..., :2] + a[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2)
    overlap = (high - low).clamp(min=0).prod(dim=-1)
    union = a[..., 2:].prod(dim=-1) + b[..., 2:].prod(dim=-1) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny)


@torch.no_grad()
def simota(output: HeadOutput, boxes_cxcywh: Tensor, classes: Tensor) -> Assignment:
    """Assign anchor points to boxes by the cost of their predictions.

    A point is a candidate if it lies within 1.5 cells of the centre of any box of its frame. A box
    takes as many of the cheapest candidates as the sum of its ten best overlaps, at least one; a
    point taken by several boxes goes to the one it costs least. The arithmetic is float32.

    Args:
        output: predictions at ``A`` anchor points of ``N`` frames.
        boxes_cxcywh: ``[N, M, 4]`` float32 in pixels of the input frame.
        classes: ``[N, M]`` int64 class ids; -1 where padded.
    """
    valid = classes >= 0
    num_frames, num_anchors = output.objectness.shape
    if boxes_cxcywh.shape[1] == 0:
        nothing = output.objectness.new_zeros(num_frames, num_anchors, dtype=torch.float32)
        return Assignment(nothing.bool(), nothing.long(), nothing)
    near = _near_centre(output, boxes_cxcywh) & valid[:, :, None]
    candidate = near.any(dim=1, keepdim=True) & valid[:, :, None]

    iou = pairwise_iou(boxes_cxcywh.float(), output.boxes_cxcywh()) * candidate
    cost = _class_cost(output, classes) - IOU_COST * torch.log(iou + 1e-8)
    cost = torch.where(near, cost, cost + OUTSIDE_COST)
    cost = torch.where(candidate, cost, torch.inf)

    num_candidates = min(CANDIDATES, num_anchors)
    num_points = iou.topk(num_candidates, dim=-1).values.sum(dim=-1).int().clamp(min=1)
    cheapest = cost.topk(num_candidates, dim=-1, largest=False)
    rank = torch.arange(num_candidates, device=cost.device)
    taken = (rank < num_points[..., None]) & cheapest.values.isfinite()
    matched = torch.zeros_like(candidate).scatter(2, cheapest.indices, taken)

    contested = matched.sum(dim=1) > 1
    box_index = torch.where(contested, cost.argmin(dim=1), matched.int().argmax(dim=1))
    matched_iou = iou.gather(1, box_index[:, None])[:, 0]
    foreground = matched.any(dim=1)
    return Assignment(foreground, box_index, matched_iou * foreground)


def _near_centre(output: HeadOutput, boxes_cxcywh: Tensor) -> Tensor:
    """``[N, M, A]``: is the anchor point within 1.5 cells of the box's centre, in x and y."""
    points = (output.cells + 0.5) * output.strides[:, None]
    distance = (points - boxes_cxcywh[:, :, None, :2]).abs().amax(dim=-1)
    return distance < CENTER_RADIUS * output.strides


def _class_cost(output: HeadOutput, classes: Tensor) -> Tensor:
    """Binary cross-entropy ``[N, M, A]`` of a point's class scores with a box's one-hot class.

    The score is the geometric mean of objectness and class probability. Summed over ``K`` classes
    for "none of them" once, then corrected for the one class of each box, so that nothing of size
    ``[N, M, A, K]`` is made.
    """
    objectness = output.objectness.float().sigmoid()[..., None]
    probability = (output.classes.float().sigmoid() * objectness).sqrt()
    is_class = -probability.log().clamp(min=-100)  # [N, A, K]
    not_class = -torch.log1p(-probability).clamp(min=-100)
    correction = (is_class - not_class).transpose(1, 2)  # [N, K, A]
    index = classes.clamp(min=0)[..., None].expand(-1, -1, correction.shape[-1])
    return not_class.sum(dim=-1)[:, None] + correction.gather(1, index)
