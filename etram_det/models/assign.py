"""SimOTA: assigns anchor points to boxes, for all frames of a batch at once.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2. A form of it for small objects
is in ``size_aware_assign.py``; one is chosen by ``model.assignment.class_path``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from etram_det.models.box_losses import box_iou
from etram_det.models.head import HeadOutput

CENTER_RADIUS = 1.5  # cells around a box's centre: candidates are 3x3 cells in each scale
NUM_BEST = 10  # similarities, whose sum is a box's number of anchor points
SIMILARITY_COST = 3.0
OUTSIDE_COST = 1.0e6


@dataclass
class Assignment:
    """The anchor points that are assigned to a box.

    Attributes:
        foreground: ``[N, A]`` bool.
        box_index: ``[N, A]`` int64, the box in ``[0, M)`` of a foreground point.
        quality: ``[N, A]`` float32 in [0, 1], how well a foreground point's prediction fits its
            box, which is its class target: the IoU in SimOTA.
    """

    foreground: Tensor
    box_index: Tensor
    quality: Tensor


@dataclass
class Similarities:
    """How well predictions fit boxes, ``[G, C]`` float32 in [0, 1], for each of three uses.

    Attributes:
        cost: in the cost by which points are chosen.
        points: in the number of points that a box takes.
        quality: in the class target of the points.
    """

    cost: Tensor
    points: Tensor
    quality: Tensor


class SimOTA(nn.Module):
    """YOLOX's assignment, as RVT uses it: predictions fit a box as well as their IoU says.

    Variants override :meth:`similarities` and :meth:`least_points`.
    """

    def forward(
        self,
        output: HeadOutput,
        boxes_cxcywh: Tensor,
        classes: Tensor,
        rows: Tensor | None = None,
    ) -> Assignment:
        """Assign ``[N, A]`` points to boxes; arguments as of :func:`simota`."""
        return simota(output, boxes_cxcywh, classes, rows, self)

    def similarities(self, boxes: Tensor, predicted: Tensor) -> Similarities:
        """How well ``predicted`` boxes ``[G, C, 4]`` fit ``boxes`` ``[G, 4]``, all ``cxcywh``."""
        iou = box_iou(boxes[:, None], predicted)
        return Similarities(iou, iou, iou)

    def least_points(self, boxes: Tensor) -> int | Tensor:
        """Fewest points of boxes ``[G, 4]``: a number, or one for each ``[G]`` int64."""
        return 1


@torch.no_grad()
def simota(
    output: HeadOutput,
    boxes_cxcywh: Tensor,
    classes: Tensor,
    rows: Tensor | None = None,
    rules: SimOTA | None = None,
) -> Assignment:
    """Assign anchor points to boxes by the cost of their predictions.

    A point is a candidate if it lies within 1.5 cells of the centre of any box of its frame. A box
    takes as many of the cheapest candidates as the sum of its ten best similarities (IoUs in
    SimOTA), at least one. A point taken by several boxes goes to the one with the least cost. Ties
    go to the first. All of it is computed in float32.

    No tensor of boxes times anchor points is built: the candidates of a frame are computed from
    the centres of its boxes, and the boxes of all frames form one list.

    Args:
        output: predictions at ``A`` anchor points of ``N`` frames.
        boxes_cxcywh: ``[N, M, 4]`` float32 in pixels of the input frame.
        classes: ``[N, M]`` int64 class ids; -1 where padded.
        rows: ``[G]`` int64, indices in ``N * M`` of the boxes that are not padding. Computed here
            if None, at the cost of a device synchronisation.
        rules: what makes predictions similar to boxes; the IoU, as in SimOTA, if None.
    """
    rules = SimOTA() if rules is None else rules
    num_frames, num_anchors = output.objectness.shape
    max_boxes = max(boxes_cxcywh.shape[1], 1)
    if rows is None:
        rows = (classes.flatten() >= 0).nonzero().squeeze(1)
    frame, column = rows // max_boxes, rows % max_boxes  # [G]
    boxes = boxes_cxcywh.flatten(0, 1)[rows].float()
    anchor, valid = _candidates(output, boxes_cxcywh.float(), classes)

    predicted = output.boxes_cxcywh().gather(1, anchor[..., None].expand(-1, -1, 4))
    similar = rules.similarities(boxes, predicted[frame])
    cost = _class_cost(output, anchor, frame, classes.flatten()[rows])
    cost = cost - SIMILARITY_COST * torch.log(similar.cost + 1e-8)
    cost = torch.where(_near_centre(output, boxes, anchor[frame]), cost, cost + OUTSIDE_COST)
    cost = torch.where(valid[frame], cost, torch.inf)
    number = _num_points(similar.points * valid[frame], rules.least_points(boxes))
    matched = _resolve_conflicts(_cheapest(cost, number), cost, frame, anchor.shape)

    def at_anchors(values: Tensor) -> Tensor:
        """``[G, C]`` values of matched pairs as ``[N, A]``: a point has at most one."""
        values = values * matched
        by_slot = values.new_zeros(anchor.shape).index_add_(0, frame, values)
        return values.new_zeros(num_frames, num_anchors).scatter_add_(1, anchor, by_slot)

    return Assignment(
        at_anchors(torch.ones_like(cost)) > 0,
        at_anchors(column[:, None].expand(cost.shape)),
        at_anchors(similar.quality),
    )


def _candidates(output: HeadOutput, boxes_cxcywh: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Points within 1.5 cells of a box's centre: in each scale at most 3x3 for each box.

    These are ``[N, C]`` anchor points of each frame in ascending order, ``C = 9 * S * M``, and
    ``[N, C]`` bool, false where one is a duplicate or no candidate.
    """
    step = torch.arange(-1, 2, device=boxes_cxcywh.device)
    num_anchors = output.strides.shape[0]
    centre_x, centre_y = boxes_cxcywh[..., 0, None, None], boxes_cxcywh[..., 1, None, None]
    anchors = []
    offset = 0
    for height, width, stride in output.scales:
        x, y = (centre_x / stride).floor() + step, (centre_y / stride).floor() + step[:, None]
        near_x = ((x + 0.5) * stride - centre_x).abs() < CENTER_RADIUS * stride
        near_y = ((y + 0.5) * stride - centre_y).abs() < CENTER_RADIUS * stride
        near_x, near_y = near_x & (x >= 0) & (x < width), near_y & (y >= 0) & (y < height)
        candidate = near_x & near_y & (classes >= 0)[..., None, None]
        anchor = torch.where(candidate, offset + y * width + x, num_anchors)
        anchors.append(anchor.long().flatten(1))
        offset += height * width
    anchor = torch.cat(anchors, dim=1).sort(dim=1).values
    valid = anchor < num_anchors
    valid[:, 1:] &= anchor[:, 1:] != anchor[:, :-1]
    return anchor.clamp(max=num_anchors - 1), valid


def _near_centre(output: HeadOutput, boxes_cxcywh: Tensor, anchor: Tensor) -> Tensor:
    """``[G, C]`` bool: the anchor point is within 1.5 cells of the box's own centre in x and y."""
    strides = output.strides[anchor]
    points = (output.cells[anchor] + 0.5) * strides[..., None]
    distance = (points - boxes_cxcywh[:, None, :2]).abs().amax(dim=-1)
    return distance < CENTER_RADIUS * strides


def _class_cost(output: HeadOutput, anchor: Tensor, frame: Tensor, classes: Tensor) -> Tensor:
    """Binary cross-entropy ``[G, C]`` of a point's class scores with a box's one-hot class.

    The score is the geometric mean of objectness and class probability. The sum over ``K`` classes
    is computed once as if none were present, then corrected for the class of each box.
    """
    num_classes = output.classes.shape[-1]
    objectness = output.objectness.gather(1, anchor).float().sigmoid()[..., None]
    logits = output.classes.gather(1, anchor[..., None].expand(-1, -1, num_classes))
    probability = (logits.float().sigmoid() * objectness).sqrt()
    is_class = -probability.log().clamp(min=-100)  # [N, C, K]
    not_class = -torch.log1p(-probability).clamp(min=-100)
    correction = (is_class - not_class).transpose(1, 2)  # [N, K, C]
    return not_class.sum(dim=-1)[frame] + correction[frame, classes]


def _num_points(similarity: Tensor, least: int | Tensor) -> Tensor:
    """Number ``[G]`` int64 of anchor points that each box takes (dynamic k)."""
    best = similarity.topk(min(NUM_BEST, similarity.shape[1]), dim=1).values
    return best.sum(dim=1).long().clamp(min=least)


def _cheapest(cost: Tensor, num_points: Tensor) -> Tensor:
    """``[G, C]`` bool: among the ``num_points`` ``[G]`` cheapest; ties go to the first."""
    smallest = cost.topk(min(NUM_BEST, cost.shape[1]), dim=1, largest=False).values
    last = smallest.gather(1, (num_points - 1).clamp(max=smallest.shape[1] - 1)[:, None])
    below, equal = cost < last, cost == last
    room = num_points[:, None] - below.sum(dim=1, keepdim=True)
    return (below | (equal & (equal.cumsum(dim=1) <= room))) & cost.isfinite()


def _resolve_conflicts(matched: Tensor, cost: Tensor, frame: Tensor, shape: torch.Size) -> Tensor:
    """Matches ``[G, C]`` in which each of the ``(N, C)`` points keeps only its cheapest box."""
    contested = matched.new_zeros(shape, dtype=torch.int32).index_add_(0, frame, matched.int()) > 1
    place = frame[:, None].expand_as(cost)
    least = cost.new_full(shape, torch.inf).scatter_reduce_(0, place, cost, "amin")
    row = torch.arange(len(frame), device=cost.device)[:, None]
    row = torch.where(cost == least[frame], row, len(frame))
    first = row.new_full(shape, len(frame)).scatter_reduce_(0, place, row, "amin")
    return torch.where(contested[frame], row == first[frame], matched)
