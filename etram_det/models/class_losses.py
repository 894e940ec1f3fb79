"""Class losses of foreground points.

The target of a point is its IoU with its box for the box's class, and 0 for all other classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from etram_det.errors import UserError
from etram_det.models.size_weight import SizeWeight, WeightType, at_least_float32


class ClassLoss(nn.Module):
    """Base class of class losses: ``forward(pred, target)`` maps two ``[P, K]`` to ``[P, K]``."""


class BCELoss(ClassLoss):
    """Class loss of YOLOX: binary cross-entropy of each class."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P, K]`` of logits ``[P, K]`` and targets ``[P, K]`` in [0, 1]."""
        pred, target = at_least_float32(pred), at_least_float32(target)
        return F.binary_cross_entropy_with_logits(pred, target, reduction="none")


class FocalLoss(BCELoss):
    """Focal loss: cross-entropy that down-weights easy targets.

    ``(alpha * t + (1 - alpha) * (1 - t)) * |t - p|^gamma * BCE(p, t)`` with target ``t`` and
    probability ``p``: for targets 0 and 1 the focal loss of Lin et al. (2017), in between the
    quality focal loss of Li et al. (2020), which is least at ``p = t``.

    Args:
        alpha: weight of targets of 1, in [0, 1]; targets of 0 have weight ``1 - alpha``.
        gamma: focusing exponent, 0 (no focusing) or at least 1.

    Raises:
        UserError: if a value is out of its range.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        _check_focus(alpha, gamma)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P, K]`` of logits ``[P, K]`` and targets ``[P, K]`` in [0, 1]."""
        pred, target = at_least_float32(pred), at_least_float32(target)
        balance = self.alpha * target + (1 - self.alpha) * (1 - target)
        focus = (target - pred.sigmoid()).abs() ** self.gamma
        return balance * focus * super().forward(pred, target)


class VarifocalLoss(BCELoss):
    """Varifocal loss (Zhang et al., 2021): good overlaps count most, easy negatives least.

    ``t * BCE(p, t)`` where the target ``t`` is positive, ``alpha * p^gamma * BCE(p, 0)`` where it
    is 0.

    Args:
        alpha: weight of negatives, the classes that a point does not have, in [0, 1].
        gamma: focusing exponent of negatives, 0 (no focusing) or at least 1.

    Raises:
        UserError: if a value is out of its range.
    """

    def __init__(self, alpha: float = 0.75, gamma: float = 2.0) -> None:
        super().__init__()
        _check_focus(alpha, gamma)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P, K]`` of logits ``[P, K]`` and targets ``[P, K]`` in [0, 1]."""
        pred, target = at_least_float32(pred), at_least_float32(target)
        easy_negatives = self.alpha * pred.sigmoid() ** self.gamma
        return target.where(target > 0, easy_negatives) * super().forward(pred, target)


class SizeAwareFocalLoss(nn.Module):
    """Focal loss, weighted by the area of the true box.

    Example:
        >>> import torch
        >>> from etram_det import SizeAwareFocalLoss
        >>> boxes = torch.tensor([[50.0, 50.0, 16.0, 16.0]])  # cxcywh in pixels
        >>> loss = SizeAwareFocalLoss(size_aware_weight=2.5)
        >>> loss(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 0.0]]), boxes).shape  # [P, K]
        torch.Size([1, 3])

    Args:
        size_aware_weight: weight of the smallest boxes, at least 1.
        small_threshold: area in square pixels up to which a box counts as small.
        medium_threshold: area in square pixels up to which a box counts as medium.
        weight_type: how the weight falls with area, see :class:`SizeWeight`.
        alpha: weight of targets of 1, see :class:`FocalLoss`.
        gamma: focusing exponent, see :class:`FocalLoss`.
    """

    def __init__(
        self,
        size_aware_weight: float = 2.0,
        small_threshold: float = 1024,
        medium_threshold: float = 9216,
        weight_type: WeightType = "exponential",
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.focal = FocalLoss(alpha, gamma)
        self.size_weight = SizeWeight(
            size_aware_weight, small_threshold, medium_threshold, weight_type
        )

    def compute_size_weights(self, target_boxes: Tensor) -> Tensor:
        """Weights ``[P]`` of true boxes ``[P, 4]`` ``cxcywh``."""
        return self.size_weight.of_boxes(target_boxes)

    def forward(self, pred: Tensor, target: Tensor, target_boxes: Tensor) -> Tensor:
        """Weighted loss ``[P, K]``.

        Args:
            pred: ``[P, K]`` logits.
            target: ``[P, K]`` in [0, 1].
            target_boxes: ``[P, 4]`` true boxes, ``cxcywh`` in pixels of the input frame.
        """
        return self.compute_size_weights(target_boxes)[:, None] * self.focal(pred, target)


def _check_focus(alpha: float, gamma: float) -> None:
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha: must be in [0, 1], got {alpha}: use 0.25 or 0.75")
    # Between 0 and 1 the gradient is infinite where a prediction equals its target.
    if not (gamma == 0 or gamma >= 1):
        raise UserError(f"gamma: must be 0 or at least 1, got {gamma}: use 2, the usual value")
