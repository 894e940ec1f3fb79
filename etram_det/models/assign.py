"""SimOTA: assigns anchor points to boxes, for all frames of a batch at once.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021", section 2. A form of it for small objects
is in ``size_aware_assign.py``; one is chosen by ``model.assignment.class_path``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etram_det.models.box_losses import box_iou
from etram_det.models.head import HeadOutput

CENTER_RADIUS = 1.5  # cells around a box's centre: candidates are 3x3 cells in each scale
NUM_BEST = 10  # similarities, whose sum is a box's number of anchor points
SIMILARITY_COST = 3.0
OUTSIDE_COST = 1.0e6
# Pairs of a box and a candidate that are compared at once: some 0.3 GB in all.
_MOST_PAIRS = 1 << 23


@dataclass
class Assignment:
    """The anchor points that are assigned to a box, in ``P`` slots of each frame.

    Their number is known without a look at the values, so nothing waits for the device: a box takes
    at most ten points, which makes ``P = 10 * M``. Slots in use come first, points in ascending
    order.

    Attributes:
        anchor: ``[N, P]`` int64, the point in ``[0, A)`` of each slot.
        used: ``[N, P]`` bool, false for slots without a foreground point.
        box: ``[N, P]`` int64, the box in ``[0, M)`` of each point; any where not used.
        fit: ``[N, P]`` float32 in [0, 1], how well a point's prediction fits its box, which is its
            class target: the IoU in SimOTA; 0 where not used.
        num_anchors: ``A``.
    """

    anchor: Tensor
    used: Tensor
    box: Tensor
    fit: Tensor
    num_anchors: int

    def at_anchors(self, values: Tensor) -> Tensor:
        """Values ``[N, P]`` of the slots as ``[N, A]``: 0 for the background."""
        zeros = values.new_zeros(values.shape[0], self.num_anchors)
        return zeros.scatter_add(1, self.anchor, values * self.used)

    @property
    def foreground(self) -> Tensor:
        """``[N, A]`` bool."""
        return self.at_anchors(torch.ones_like(self.fit)) > 0

    @property
    def box_index(self) -> Tensor:
        """``[N, A]`` int64, the box in ``[0, M)`` of a foreground point."""
        return self.at_anchors(self.box)

    @property
    def quality(self) -> Tensor:
        """``[N, A]`` float32 in [0, 1], how well a foreground point's prediction fits its box."""
        return self.at_anchors(self.fit)


@dataclass
class Similarities:
    """How well predictions fit boxes, ``[N, M, C]`` float32 in [0, 1], for each of three uses.

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

    def forward(self, output: HeadOutput, boxes_cxcywh: Tensor, classes: Tensor) -> Assignment:
        """Assign ``[N, A]`` points to boxes; arguments as of :func:`simota`."""
        return simota(output, boxes_cxcywh, classes, self)

    def similarities(self, boxes: Tensor, predicted: Tensor) -> Similarities:
        """How well ``predicted`` boxes ``[N, C, 4]`` fit ``boxes`` ``[N, M, 4]``, ``cxcywh``."""
        iou = box_iou(boxes[:, :, None], predicted[:, None])
        return Similarities(iou, iou, iou)

    def least_points(self, boxes: Tensor) -> int | Tensor:
        """Fewest points of boxes ``[N, M, 4]``: a number, or one for each ``[N, M]`` int64."""
        return 1


@torch.no_grad()
def simota(
    output: HeadOutput,
    boxes_cxcywh: Tensor,
    classes: Tensor,
    rules: SimOTA | None = None,
) -> Assignment:
    """Assign anchor points to boxes by the cost of their predictions.

    A point is a candidate if it lies within 1.5 cells of the centre of any box of its frame. A box
    takes as many of the cheapest candidates as the sum of its ten best similarities (IoUs in
    SimOTA), at least one. A point taken by several boxes goes to the one with the least cost. Ties
    go to the first. All of it is computed in float32.

    The candidates of a frame are computed from the centres of its boxes, and crowded frames are
    assigned some at a time, so that memory is bounded. Padding is a box that takes no point, so
    that all shapes follow from those of the arguments.

    Args:
        output: predictions at ``A`` anchor points of ``N`` frames.
        boxes_cxcywh: ``[N, M, 4]`` float32 in pixels of the input frame.
        classes: ``[N, M]`` int64 class ids; -1 where padded.
        rules: what makes predictions similar to boxes; the IoU, as in SimOTA, if None.
    """
    rules = SimOTA() if rules is None else rules
    num_boxes = classes.shape[1]
    if not num_boxes:
        nothing = classes.new_zeros(len(classes), 0)
        return Assignment(nothing, nothing > 0, nothing, nothing.float(), output.strides.shape[0])
    boxes = boxes_cxcywh.float()
    num_frames, num_anchors = len(classes), output.strides.shape[0]
    num_candidates = min(9 * len(output.scales) * num_boxes, num_anchors)
    at_once = max(_MOST_PAIRS // (num_boxes * num_candidates), 1)
    if num_frames <= at_once:
        return _assigned(output, boxes, classes, rules)
    # By bounds that a compiled graph can compute for other numbers of frames as well.
    starts = [part * at_once for part in range(-(-num_frames // at_once))]
    bounds = [(i, min(i + at_once, num_frames)) for i in starts]
    parts = [_assigned(output.of_frames(i, j), boxes[i:j], classes[i:j], rules) for i, j in bounds]
    return Assignment(
        torch.cat([part.anchor for part in parts]),
        torch.cat([part.used for part in parts]),
        torch.cat([part.box for part in parts]),
        torch.cat([part.fit for part in parts]),
        num_anchors,
    )


def _assigned(output: HeadOutput, boxes: Tensor, classes: Tensor, rules: SimOTA) -> Assignment:
    """As :func:`simota`, for all frames at once."""
    num_boxes = classes.shape[1]
    anchor, valid = _candidates(output, boxes, classes)
    similar = rules.similarities(boxes, output.boxes_cxcywh(anchor))
    valid = valid[:, None] & (classes >= 0)[..., None]  # [N, M, C]
    cost = _class_cost(output, anchor, classes) - SIMILARITY_COST * torch.log(similar.cost + 1e-8)
    cost = torch.where(_near_centre(output, boxes, anchor), cost, cost + OUTSIDE_COST)
    cost = torch.where(valid, cost, torch.inf)
    number = _num_points(similar.points * valid, rules.least_points(boxes))
    matched = _resolve_conflicts(_cheapest(cost, number), cost)

    # A candidate belongs to one box at most. Those that belong to one, in their order:
    place = torch.arange(anchor.shape[1], 0, -1, device=anchor.device)
    slots = (place * matched.any(dim=1)).topk(min(NUM_BEST * num_boxes, anchor.shape[1]))
    box = matched.int().argmax(dim=1)
    fit = torch.where(matched, similar.quality, 0.0).sum(dim=1)
    return Assignment(
        anchor.gather(1, slots.indices),
        slots.values > 0,
        box.gather(1, slots.indices),
        fit.gather(1, slots.indices),
        output.strides.shape[0],
    )


def _candidates(output: HeadOutput, boxes_cxcywh: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Points within 1.5 cells of a box's centre: in each scale at most 3x3 for each box.

    These are ``[N, C]`` anchor points of each frame in ascending order, ``C = 9 * S * M`` or all
    ``A`` if these are fewer, and ``[N, C]`` bool, false where one is a duplicate or no candidate.
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
    valid = valid & (anchor != F.pad(anchor[:, :-1], (1, 0), value=-1))
    if anchor.shape[1] > num_anchors:
        anchor = torch.where(valid, anchor, num_anchors).sort(dim=1).values[:, :num_anchors]
        valid = anchor < num_anchors
    return anchor.clamp(max=num_anchors - 1), valid


def _near_centre(output: HeadOutput, boxes_cxcywh: Tensor, anchor: Tensor) -> Tensor:
    """``[N, M, C]`` bool: the point is within 1.5 cells of the box's own centre in x and y."""
    strides = output.strides[anchor]
    points = (output.cells[anchor] + 0.5) * strides[..., None]  # [N, C, 2]
    x, y = (points[:, None] - boxes_cxcywh[:, :, None, :2]).abs().unbind(-1)
    return torch.maximum(x, y) < (CENTER_RADIUS * strides)[:, None]


def _class_cost(output: HeadOutput, anchor: Tensor, classes: Tensor) -> Tensor:
    """Binary cross-entropy ``[N, M, C]`` of a point's class scores with a box's one-hot class.

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
    of_box = classes.clamp(min=0)[..., None].expand(-1, -1, anchor.shape[1])
    return not_class.sum(dim=-1)[:, None] + correction.gather(1, of_box)


def _num_points(similarity: Tensor, least: int | Tensor) -> Tensor:
    """Number ``[N, M]`` int64 of anchor points that each box takes (dynamic k)."""
    best = similarity.topk(min(NUM_BEST, similarity.shape[-1])).values
    return best.sum(dim=-1).long().clamp(min=least)


def _cheapest(cost: Tensor, num_points: Tensor) -> Tensor:
    """``[N, M, C]`` bool: among the ``num_points`` ``[N, M]`` cheapest; ties go to the first."""
    smallest = cost.topk(min(NUM_BEST, cost.shape[-1]), largest=False).values
    last = smallest.gather(-1, (num_points - 1).clamp(max=smallest.shape[-1] - 1)[..., None])
    below, equal = cost < last, cost == last
    room = num_points[..., None] - below.sum(dim=-1, keepdim=True)
    return (below | (equal & (equal.cumsum(dim=-1) <= room))) & cost.isfinite()


def _resolve_conflicts(matched: Tensor, cost: Tensor) -> Tensor:
    """Matches ``[N, M, C]`` in which each point keeps only its cheapest box."""
    contested = matched.sum(dim=1, keepdim=True) > 1
    num_boxes = cost.shape[1]
    box = torch.arange(num_boxes, device=cost.device)[:, None]
    is_least = cost == cost.amin(dim=1, keepdim=True)
    first = torch.where(is_least, box, num_boxes).amin(dim=1, keepdim=True)
    return torch.where(contested, box == first, matched)
