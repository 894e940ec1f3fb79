"""Box losses: how far a predicted box is from the true one, point by point.

Boxes are ``cxcywh`` in pixels of the input frame throughout this file.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision import ops
from torchvision.ops import box_convert

from etram_det.errors import UserError
from etram_det.models.size_weight import SizeWeight, WeightType, at_least_float32

# Far below a pixel: boxes without area would divide 0 by 0.
_MIN_SIDE_PX = 1e-3


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU ``[*]`` in [0, 1] of ``cxcywh`` boxes ``[*, 4]``, whose shapes are broadcast.

    No gradient flows where boxes do not touch, as in YOLOX.
    """
    # Coordinate by coordinate: PyTorch reduces a last axis of two slowly.
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.unbind(-1), b.unbind(-1)
    width = torch.minimum(ax + aw / 2, bx + bw / 2) - torch.maximum(ax - aw / 2, bx - bw / 2)
    height = torch.minimum(ay + ah / 2, by + bh / 2) - torch.maximum(ay - ah / 2, by - bh / 2)
    overlap = width * height * ((width > 0) & (height > 0))
    return overlap / (aw * ah + bw * bh - overlap + 1e-16)


def wasserstein_similarity(a: Tensor, b: Tensor, scale: float | Tensor) -> Tensor:
    """Normalised Wasserstein distance ``[*]`` of boxes, in (0, 1], 1 for equal ones.

    A box is modelled as a Gaussian with its centre as mean and half its sides as standard
    deviations. With ``d`` the 2-Wasserstein distance of two of them it is ``exp(-d / scale)``.

    Source: Wang et al., "A Normalized Gaussian Wasserstein Distance for Tiny Object Detection",
    2021.

    Args:
        a: ``cxcywh`` boxes ``[*, 4]`` in pixels, at least float32.
        b: the same; shapes are broadcast.
        scale: distance in pixels at which the similarity is 1/e.
    """
    x, y, width, height = (a - b).unbind(-1)
    squared = x**2 + y**2 + (width**2 + height**2) / 4
    # The square root has no finite slope at 0, where the boxes are equal.
    return torch.exp(-(squared + 1e-12).sqrt() / scale)


class BoxLoss(nn.Module):
    """Base class of box losses: ``forward(pred, target)`` maps two ``[P, 4]`` to ``[P]``."""


class IOULoss(BoxLoss):
    """Box loss of YOLOX: one minus the squared IoU."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` in [0, 1] of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return 1 - box_iou(at_least_float32(pred), at_least_float32(target)) ** 2


class GIOULoss(BoxLoss):
    """One minus the generalised IoU (Rezatofighi et al., 2019), in [0, 2]."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return ops.generalized_box_iou_loss(_corners(pred), _corners(target))


class DIOULoss(BoxLoss):
    """One minus IoU, plus the centres' distance (Zheng et al., 2020), in [0, 2]."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return ops.distance_box_iou_loss(_corners(pred), _corners(target))


class CIOULoss(BoxLoss):
    """The distance loss of DIoU, plus the difference in shape (Zheng et al., 2020)."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return ops.complete_box_iou_loss(_corners(pred), _corners(target))


class NWDLoss(BoxLoss):
    """One minus the normalised Wasserstein distance, in [0, 1]: errors of small boxes in pixels.

    See :func:`wasserstein_similarity`. It saturates beyond a few ``scale``, hence its use in a
    :class:`BlendedBoxLoss`.

    Args:
        scale: distance in pixels of the input frame at which the similarity is 1/e; 12.8 is the
            mean side of the boxes that its authors trained on.

    Raises:
        UserError: if the scale is not positive.
    """

    def __init__(self, scale: float = 12.8) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise UserError(
                f"model.loss: scale of NWDLoss: must be a positive number of pixels, got {scale}: "
                "use 12.8, as its authors do"
            )
        self.scale = scale

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        pred, target = at_least_float32(pred), at_least_float32(target)
        return 1 - wasserstein_similarity(pred, target, self.scale)


class BlendedBoxLoss(BoxLoss):
    """A weighted mean of two box losses.

    Args:
        first: one box loss; YOLOX's IoU loss unless set.
        second: the other; the Wasserstein loss unless set.
        share: weight of the second loss, in [0, 1]; the first has ``1 - share``.

    Raises:
        UserError: if the share is out of its range.
    """

    def __init__(
        self, first: BoxLoss | None = None, second: BoxLoss | None = None, share: float = 0.5
    ) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise UserError(f"share: must be in [0, 1], got {share}: use 0.5 for equal weights")
        self.first = IOULoss() if first is None else first
        self.second = NWDLoss() if second is None else second
        self.share = share

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return torch.lerp(self.first(pred, target), self.second(pred, target), self.share)


class SizeAwareIOULoss(IOULoss):
    """YOLOX's IoU loss, weighted by the area of the true box.

    Example:
        >>> import torch
        >>> from etram_det import SizeAwareIOULoss
        >>> boxes = torch.tensor([[50.0, 50.0, 16.0, 16.0], [50.0, 50.0, 64.0, 64.0]])  # cxcywh
        >>> loss = SizeAwareIOULoss(size_aware_weight=2.5)
        >>> loss.compute_size_weights(boxes)
        tensor([1.9470, 1.0000])
        >>> loss(boxes + 4, boxes).shape
        torch.Size([2])

    Args:
        size_aware_weight: weight of the smallest boxes, at least 1.
        small_threshold: area in square pixels up to which a box counts as small.
        medium_threshold: area in square pixels up to which a box counts as medium.
        weight_type: how the weight falls with area, see :class:`SizeWeight`.
    """

    def __init__(
        self,
        size_aware_weight: float = 2.0,
        small_threshold: float = 1024,
        medium_threshold: float = 9216,
        weight_type: WeightType = "exponential",
    ) -> None:
        super().__init__()
        self.size_weight = SizeWeight(
            size_aware_weight, small_threshold, medium_threshold, weight_type
        )

    def compute_size_weights(self, target_boxes: Tensor) -> Tensor:
        """Weights ``[P]`` of true boxes ``[P, 4]`` ``cxcywh``."""
        return self.size_weight.of_boxes(target_boxes)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Weighted loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return self.compute_size_weights(target) * super().forward(pred, target)


def _corners(boxes_cxcywh: Tensor) -> Tensor:
    """Corners ``[P, 4]`` of boxes that have some area."""
    centre, size = at_least_float32(boxes_cxcywh).split(2, dim=1)
    return box_convert(torch.cat([centre, size.clamp(min=_MIN_SIDE_PX)], dim=1), "cxcywh", "xyxy")
