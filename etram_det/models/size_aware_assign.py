"""Assignment by which small boxes get anchor points that lie a few pixels off.

SimOTA counts by IoU. Predictions that miss a box of 12 px by 4 px in both directions have an IoU of
0.29 only; ten of them give it two anchor points, where a large box with the same error gets nine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etram_det.errors import UserError
from etram_det.models.assign import Similarities, SimOTA
from etram_det.models.box_losses import box_iou, wasserstein_similarity
from etram_det.models.size_weight import require_labels

Similarity = Literal["max", "nwd", "iou", "blend"]
Use = Literal["cost", "points", "quality"]


class SizeAwareSimOTA(SimOTA):
    """SimOTA with the normalised Wasserstein distance (NWD) beside the IoU.

    Args:
        similarity: of a predicted and a true box: ``max``, the larger one of IoU and NWD; ``nwd``
            or ``iou`` alone; ``blend``, from NWD for the smallest boxes to IoU for large ones, by
            the share ``exp(-area / small_area)``.
        scale: distance in pixels of the network's frame at which the NWD is 1/e.
        adaptive_quantile: quantile, in (0, 1), of the square roots of the training labels' areas
            that replaces ``scale``. It is computed once, before training starts, and stored in the
            checkpoint.
        acts_on: where the similarity replaces the IoU: ``cost`` of a point, number of ``points``
            of a box, ``quality``, the class target of a point.
        small_points: fewest points of a small box, in [1, 10].
        small_area: area in square pixels of the network's frame up to which a box is small.

    Raises:
        UserError: if a value is out of its range or a name is unknown.
    """

    scale: Tensor
    has_scale: Tensor

    def __init__(
        self,
        similarity: Similarity = "max",
        scale: float = 12.8,
        adaptive_quantile: float | None = None,
        acts_on: Sequence[Use] = ("cost", "points", "quality"),
        small_points: int = 1,
        small_area: float = 1024,
    ) -> None:
        super().__init__()
        unknown = set(acts_on) - set(get_args(Use))
        for name, value, is_right, must, remedy in (
            ("similarity", similarity, similarity in get_args(Similarity),
             f"be one of {', '.join(get_args(Similarity))}", "use max, the default"),
            ("scale", scale, 0 < scale < float("inf"),
             "be a positive number of pixels", "use 12.8"),
            ("adaptive_quantile", adaptive_quantile,
             adaptive_quantile is None or 0 < adaptive_quantile < 1,
             "be in (0, 1)", "use 0.5 for the median side, or null for a fixed scale"),
            ("acts_on", ", ".join(sorted(unknown)), not unknown,
             f"be among {', '.join(get_args(Use))}", "use [cost, points, quality] for all"),
            ("small_points", small_points, 1 <= small_points <= 10, "be in [1, 10]", "use 1"),
            ("small_area", small_area, small_area > 0, "be above 0", "use 1024 (32x32 px)"),
        ):  # fmt: skip
            if not is_right:
                raise UserError(f"model.assignment.{name}: must {must}, got {value}: {remedy}")
        self.similarity = similarity
        self.adaptive_quantile = adaptive_quantile
        self.acts_on = frozenset(acts_on)
        self.small_points, self.small_area = small_points, float(small_area)
        adaptive = adaptive_quantile is not None
        self.register_buffer("scale", torch.tensor(float(scale)), persistent=adaptive)
        self.register_buffer("has_scale", torch.tensor(not adaptive), persistent=adaptive)

    @property
    def adapted(self) -> bool:
        """Whether the scale is set, or taken from the training labels."""
        return bool(self.has_scale)

    def adapt(self, areas: NDArray[np.floating]) -> None:
        """Take the scale from the labels that will be trained on.

        Args:
            areas: ``[M]`` areas of the training labels in square pixels of the input frame.

        Raises:
            UserError: if there are no labels.
        """
        require_labels(areas, "model.assignment.adaptive_quantile", "set scale")
        assert self.adaptive_quantile is not None
        self.scale.fill_(float(np.quantile(np.sqrt(areas), self.adaptive_quantile)))
        self.has_scale.fill_(True)

    def similarities(self, boxes: Tensor, predicted: Tensor) -> Similarities:
        """How well ``predicted`` boxes ``[N, C, 4]`` fit ``boxes`` ``[N, M, 4]``, ``cxcywh``."""
        boxes, predicted = boxes[:, :, None], predicted[:, None]
        iou = box_iou(boxes, predicted)
        similar = iou if self.similarity == "iou" else self._with_distance(boxes, predicted, iou)
        return Similarities(*(similar if use in self.acts_on else iou for use in get_args(Use)))

    def _with_distance(self, boxes: Tensor, predicted: Tensor, iou: Tensor) -> Tensor:
        nwd = wasserstein_similarity(boxes, predicted, self.scale)
        if self.similarity == "nwd":
            return nwd
        if self.similarity == "max":
            return torch.maximum(iou, nwd)
        share = torch.exp(-boxes[..., 2] * boxes[..., 3] / self.small_area)
        return torch.lerp(iou, nwd, share)

    def least_points(self, boxes: Tensor) -> int | Tensor:
        """Fewest points of boxes ``[N, M, 4]``: a number, or one for each ``[N, M]`` int64."""
        if self.small_points == 1:
            return 1
        small = boxes[..., 2] * boxes[..., 3] <= self.small_area
        return 1 + (self.small_points - 1) * small.long()
