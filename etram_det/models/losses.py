"""Training losses: YOLOX's, and the same with weights for small objects.

A variant is chosen by ``model.loss.class_path``; docs/losses.md lists them, CONTRIBUTING.md shows
how to add one. Boxes are ``cxcywh`` in pixels of the input frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etram_det.errors import UserError
from etram_det.models.assign import Assignment, SimOTA
from etram_det.models.box_losses import BoxLoss, IOULoss, SizeAwareIOULoss
from etram_det.models.class_losses import BCELoss, ClassLoss, FocalLoss, SizeAwareFocalLoss
from etram_det.models.head import HeadOutput
from etram_det.models.size_weight import SizeWeight, WeightType

__all__ = [
    "IOULoss",
    "SizeAwareFocalLoss",
    "SizeAwareIOULoss",
    "SizeAwareLossWrapper",
    "SizeWeight",
    "YOLOXLoss",
]

Term = Literal["box", "class", "objectness"]


class YOLOXLoss(nn.Module):
    """The detector's training loss: assignment, then box, objectness and class terms.

    ``loss = 5 * box + objectness + class``, each summed over its points and divided by the number
    of foreground points. The class target of a point is its IoU with its box, or what else the
    assignment takes for its quality.

    Attributes:
        assignment: chooses the foreground points; the module sets it to ``model.assignment``.
        size_weight: weight of a foreground point by its box's area; None for no weighting.
        weighted_terms: the terms that it applies to.

    Args:
        box: loss of the foreground points' boxes; YOLOX's IoU loss unless set.
        classification: loss of the foreground points' classes; YOLOX's binary cross-entropy
            unless set.
        box_gain: factor of the box term.
    """

    size_weight: SizeWeight | None

    def __init__(
        self,
        box: BoxLoss | None = None,
        classification: ClassLoss | None = None,
        box_gain: float = 5.0,
    ) -> None:
        super().__init__()
        self.box = IOULoss() if box is None else box
        self.classification = BCELoss() if classification is None else classification
        self.box_gain = box_gain
        self.assignment = SimOTA()
        self.size_weight = None
        self.weighted_terms: frozenset[Term] = frozenset()

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
            ``class_loss``, and ``num_foreground``, foreground points per true box.
        """
        assignment: Assignment = self.assignment(output, boxes_cxcywh, classes)
        # All slots of the assignment are computed, used or not: to select some is to wait.
        used, num_classes = assignment.used.flatten(), output.classes.shape[-1]
        # By frame first: Triton 3.6 cannot compile one sum of all, fused with those of the losses.
        num_foreground = assignment.used.sum(dim=1).sum()
        points = num_foreground.clamp(min=1).float()
        target = boxes_cxcywh.gather(1, assignment.box[..., None].expand(-1, -1, 4)).flatten(0, 1)
        weights = self._weights(target, used)

        # In place of what is not used, a square that fits, and no gradient for what stood there.
        square = target.new_ones(4)
        target = torch.where(used[:, None], target, square)
        pred = output.boxes_cxcywh(assignment.anchor, assignment.used).flatten(0, 1)
        box = self.box(torch.where(used[:, None], pred, square), target)
        logits = output.classes.gather(1, assignment.anchor[..., None].expand(-1, -1, num_classes))
        logits = torch.where(used[:, None], logits.flatten(0, 1), 0.0)
        of_slot = classes.gather(1, assignment.box).flatten()
        one_hot = of_slot[:, None] == torch.arange(num_classes, device=classes.device)
        class_loss = self.classification(logits, one_hot * assignment.fit.flatten()[:, None])
        foreground, objectness_weight = assignment.foreground, None
        if self.size_weight is not None and "objectness" in self.weighted_terms:
            # Background has no size and keeps weight 1.
            of_foreground = weights["objectness"].view_as(assignment.used)
            objectness_weight = assignment.at_anchors(of_foreground) + ~foreground
        objectness = F.binary_cross_entropy_with_logits(
            output.objectness.float(), foreground.float(), objectness_weight, reduction="sum"
        )
        parts = {
            "box_loss": self.box_gain * (weights["box"] * box).sum() / points,
            "objectness_loss": objectness / points,
            "class_loss": (weights["class"][:, None] * class_loss).sum() / points,
        }
        loss = torch.stack(list(parts.values())).sum()
        num_boxes = (classes >= 0).sum().clamp(min=1)
        return {"loss": loss, **parts, "num_foreground": num_foreground / num_boxes}

    def _weights(self, target: Tensor, used: Tensor) -> dict[Term, Tensor]:
        """Weights ``[P]`` of all slots in each term: 0 where not ``used`` ``[P]``."""
        plain = used.float()
        weights: dict[Term, Tensor] = {"box": plain, "class": plain, "objectness": plain}
        if self.size_weight is not None:
            of_size = torch.where(used, self.size_weight.of_boxes(target, used), 0.0)
            weights |= dict.fromkeys(self.weighted_terms, of_size)
        return weights


class SizeAwareLossWrapper(YOLOXLoss):
    """YOLOX's loss with IoU, focal and objectness terms in which small boxes weigh more.

    Each term in ``weighted_terms`` is weighted by the area of the true box.

    Example:
        >>> import torch
        >>> from etram_det import Detector, SizeAwareLossWrapper
        >>> detector = Detector(num_classes=2, embed_dim=8, dim_head=4)
        >>> output, _ = detector(torch.zeros(1, 2, 20, 64, 64))  # N = 2 frames
        >>> boxes = torch.tensor([[[30.0, 30.0, 12.0, 20.0]]] * 2)  # cxcywh in pixels
        >>> losses = SizeAwareLossWrapper(size_aware_weight=2.5)(
        ...     output, boxes, classes=torch.tensor([[1], [0]])
        ... )
        >>> sorted(losses)
        ['box_loss', 'class_loss', 'loss', 'num_foreground', 'objectness_loss']

    Args:
        size_aware_weight: weight of the smallest boxes, at least 1; large ones have weight 1.
        small_threshold: area in square pixels of the network's frame up to which a box is small.
        medium_threshold: area in square pixels up to which a box counts as medium.
        weight_type: how the weight falls with area: ``exponential``, ``linear``, ``step``,
            ``power`` or ``gaussian``; docs/losses.md has the formulas.
        adaptive_quantiles: two quantiles of the training labels' areas, such as [0.33, 0.67], that
            replace both thresholds. They are computed once, before training starts, and stored in
            the checkpoint.
        weighted_terms: terms that the weight applies to: ``box``, ``class``, ``objectness``.
        unit_mean: keep the mean weight of each batch's foreground points at 1, so that the weight
            does not act as a higher learning rate.
        box: loss of the foreground points' boxes; YOLOX's IoU loss unless set.
        classification: loss of the foreground points' classes; focal loss unless set.
        box_gain: factor of the box term.

    Raises:
        UserError: if a value is out of its range or a name is unknown.
    """

    def __init__(
        self,
        size_aware_weight: float = 2.0,
        small_threshold: float = 1024,
        medium_threshold: float = 9216,
        weight_type: WeightType = "exponential",
        adaptive_quantiles: tuple[float, float] | None = None,
        weighted_terms: Sequence[Term] = ("box", "class", "objectness"),
        unit_mean: bool = False,
        box: BoxLoss | None = None,
        classification: ClassLoss | None = None,
        box_gain: float = 5.0,
    ) -> None:
        super().__init__(box, FocalLoss() if classification is None else classification, box_gain)
        unknown = set(weighted_terms) - set(get_args(Term))
        if unknown:
            raise UserError(
                f"weighted_terms: must be among {', '.join(get_args(Term))}, "
                f"got {', '.join(sorted(unknown))}: use [box] to weight the box loss alone"
            )
        self.weighted_terms = frozenset(weighted_terms)
        self.size_weight = SizeWeight(
            size_aware_weight,
            small_threshold,
            medium_threshold,
            weight_type,
            adaptive_quantiles=adaptive_quantiles,
            unit_mean=unit_mean,
        )
