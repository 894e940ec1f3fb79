"""Losses: YOLOX's baseline, and box losses that give small objects more weight.

A variant is chosen by ``model.loss.class_path``; see CONTRIBUTING.md for adding one.
Boxes are ``cxcywh`` in pixels of the input frame throughout this file.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etram_det.boxes import cxcywh_to_xyxy
from etram_det.models.assign import simota
from etram_det.models.head import HeadOutput
from etram_det.types import UserError

WeightType = Literal["exponential", "linear", "step"]


class SizeWeight:
    """Weight of a box by its area: ``size_aware_weight`` for the smallest, 1 for large ones.

    With ``W = size_aware_weight``, ``s = small_threshold``, ``m = medium_threshold``:

    - ``exponential``: ``W * exp(-area / s)``, bounded by 1 and ``W``;
    - ``linear``: from ``W`` at area 0 straight down to 1 at area ``m``, 1 beyond;
    - ``step``: ``W`` up to area ``s``, ``(W + 1) / 2`` up to area ``m``, else 1.

    Args:
        size_aware_weight: largest weight ``W``, at least 1.
        small_threshold: area ``s`` in square pixels up to which a box counts as small.
        medium_threshold: area ``m`` in square pixels up to which a box counts as medium.
        weight_type: ``exponential``, ``linear`` or ``step``.

    Raises:
        UserError: if a value is out of its range or the type is unknown.
    """

    def __init__(
        self,
        size_aware_weight: float = 2.0,
        small_threshold: float = 1024,
        medium_threshold: float = 9216,
        weight_type: WeightType = "exponential",
    ) -> None:
        if size_aware_weight < 1:
            raise UserError(
                f"size_aware_weight: must be at least 1, found {size_aware_weight}: "
                "1 turns the weighting off"
            )
        if not 0 < small_threshold < medium_threshold:
            raise UserError(
                "small_threshold, medium_threshold: must be positive and in ascending order, "
                f"found {small_threshold} and {medium_threshold}"
            )
        if weight_type not in ("exponential", "linear", "step"):
            raise UserError(
                f"weight_type: must be one of exponential, linear, step, found {weight_type!r}"
            )
        self.size_aware_weight = size_aware_weight
        self.small_threshold = small_threshold
        self.medium_threshold = medium_threshold
        self.weight_type = weight_type

    def __call__(self, area: Tensor) -> Tensor:
        """Weights in [1, ``size_aware_weight``] of areas in square pixels, any shape, float32."""
        area, largest = area.float(), self.size_aware_weight
        if self.weight_type == "exponential":
            return (largest * torch.exp(-area / self.small_threshold)).clamp(1, largest)
        if self.weight_type == "linear":
            return largest - (largest - 1) * (area / self.medium_threshold).clamp(0, 1)
        beyond_small = torch.where(area <= self.medium_threshold, (largest + 1) / 2, 1.0)
        return torch.where(area <= self.small_threshold, largest, beyond_small)


class IOULoss(nn.Module):
    """Box loss of YOLOX: one minus the squared IoU."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Loss ``[P]`` in [0, 1] of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return 1 - self.iou(pred.float(), target.float()) ** 2

    @staticmethod
    def iou(pred: Tensor, target: Tensor) -> Tensor:
        """IoU ``[P]`` of boxes ``[P, 4]`` one by one."""
        a, b = cxcywh_to_xyxy(pred), cxcywh_to_xyxy(target)
        size = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])
        # No gradient flows where boxes do not touch, as in YOLOX.
        overlap = size.prod(dim=1) * (size > 0).all(dim=1)
        union = pred[:, 2:].prod(dim=1) + target[:, 2:].prod(dim=1) - overlap
        return overlap / (union + 1e-16)


class SizeAwareIOULoss(IOULoss):
    """IoU loss, weighted by the area of the true box.

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
        return self.size_weight(target_boxes[:, 2] * target_boxes[:, 3])

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Weighted loss ``[P]`` of predicted and true boxes ``[P, 4]``, both ``cxcywh``."""
        return self.compute_size_weights(target) * super().forward(pred, target)


class YOLOXLoss(nn.Module):
    """The detector's training loss: assignment, then box, objectness and class terms.

    ``loss = 5 * box + objectness + class``, each summed over its points and divided by the number
    of foreground points. The class target of a point is its overlap with its box.

    Args:
        box: loss of the foreground points' boxes; YOLOX's IoU loss unless set.
        box_gain: factor of the box term.
    """

    def __init__(self, box: IOULoss | None = None, box_gain: float = 5.0) -> None:
        super().__init__()
        self.box = IOULoss() if box is None else box
        self.box_gain = box_gain

    def forward(
        self, output: HeadOutput, boxes_cxcywh: Tensor, classes: Tensor
    ) -> dict[str, Tensor]:
        """Loss of ``N`` labelled frames, in float32.

        Args:
            output: predictions at ``A`` anchor points of ``N`` frames.
            boxes_cxcywh: ``[N, M, 4]`` true boxes in pixels.
            classes: ``[N, M]`` int64 class ids; -1 where padded.

        Returns:
            Scalars: ``loss``, its parts ``box_loss`` (times its gain), ``objectness_loss`` and
            ``class_loss``, and ``num_foreground``, foreground points for each true box.
        """
        assignment = simota(output, boxes_cxcywh, classes)
        foreground = assignment.foreground
        num_foreground = foreground.sum().clamp(min=1).float()
        frame, anchor = foreground.nonzero(as_tuple=True)
        box_index = assignment.box_index[frame, anchor]

        box = self.box(output.boxes_cxcywh()[frame, anchor], boxes_cxcywh[frame, box_index])
        one_hot = F.one_hot(classes[frame, box_index], output.classes.shape[-1])
        class_target = one_hot * assignment.iou[frame, anchor, None]
        class_loss = F.binary_cross_entropy_with_logits(
            output.classes[frame, anchor].float(), class_target, reduction="sum"
        )
        objectness = F.binary_cross_entropy_with_logits(
            output.objectness.float(), foreground.float(), reduction="sum"
        )
        parts = {
            "box_loss": self.box_gain * box.sum() / num_foreground,
            "objectness_loss": objectness / num_foreground,
            "class_loss": class_loss / num_foreground,
        }
        loss = torch.stack(list(parts.values())).sum()
        num_boxes = (classes >= 0).sum().clamp(min=1)
        return {"loss": loss, **parts, "num_foreground": foreground.sum() / num_boxes}
