"""Weight of a box by its area, shared by all terms of a size-aware loss."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from etram_det.errors import UserError

WeightType = Literal["exponential", "linear", "step", "power", "gaussian"]


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision ``[*]`` as float32: areas and exponentials overflow in float16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def require_labels(areas: NDArray[np.floating], setting: str, remedy: str) -> None:
    """Refuse to follow the areas ``[M]`` of training labels where there are none.

    Raises:
        UserError: naming the setting that follows them.
    """
    if not len(areas):
        raise UserError(
            f"{setting}: must have boxes to follow, got no box in the training split: {remedy}, or "
            "check data.root and data.filters"
        )


class SizeWeight(nn.Module):
    """Weight of a box by its area: ``W`` for the smallest, 1 for large ones.

    With ``W = size_aware_weight``, ``s = small_threshold``, ``m = medium_threshold``:

    - ``exponential``: ``W * exp(-area / s)``, bounded by 1 and ``W``;
    - ``linear``: from ``W`` at area 0 straight down to 1 at area ``m``, 1 beyond;
    - ``step``: ``W`` up to area ``s``, ``(W + 1) / 2`` up to area ``m``, else 1;
    - ``power``: ``1 + (W - 1) / (1 + area / s)``;
    - ``gaussian``: ``1 + (W - 1) * exp(-(area / s)² / 2)``.

    Args:
        size_aware_weight: largest weight ``W``, at least 1.
        small_threshold: area ``s`` in square pixels up to which a box counts as small.
        medium_threshold: area ``m`` in square pixels up to which a box counts as medium.
        weight_type: how the weight falls with area.
        adaptive_quantiles: quantiles, in (0, 1), of the training labels' areas that replace both
            thresholds once :meth:`adapt` is called. The thresholds are then part of the state.
        unit_mean: divide by the mean weight of the given boxes, so that their mean weight is 1.

    Raises:
        UserError: if a value is out of its range or the type is unknown.
    """

    small_threshold: Tensor
    medium_threshold: Tensor
    adapted: Tensor

    def __init__(
        self,
        size_aware_weight: float = 2.0,
        small_threshold: float = 1024,
        medium_threshold: float = 9216,
        weight_type: WeightType = "exponential",
        *,
        adaptive_quantiles: tuple[float, float] | None = None,
        unit_mean: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= size_aware_weight < float("inf"):
            raise UserError(
                f"size_aware_weight: must be at least 1, got {size_aware_weight}: "
                "set 1 to turn the weighting off"
            )
        if not 0 < small_threshold < medium_threshold:
            raise UserError(
                "small_threshold, medium_threshold: must be positive and in ascending order, "
                f"got {small_threshold} and {medium_threshold}: set the smaller one first"
            )
        if weight_type not in get_args(WeightType):
            raise UserError(
                f"weight_type: must be one of {', '.join(get_args(WeightType))}, "
                f"got {weight_type!r}: use exponential, the default"
            )
        if adaptive_quantiles and not 0 < adaptive_quantiles[0] < adaptive_quantiles[1] < 1:
            raise UserError(
                "adaptive_quantiles: must be two shares in (0, 1) in ascending order, "
                f"got {list(adaptive_quantiles)}: use [0.33, 0.67] for thirds"
            )
        self.size_aware_weight = size_aware_weight
        self.weight_type = weight_type
        self.adaptive_quantiles = adaptive_quantiles
        self.unit_mean = unit_mean
        # Given thresholds belong to the configuration, computed ones to the checkpoint, so that a
        # resumed run keeps them.
        for name, value in {
            "small_threshold": torch.tensor(float(small_threshold)),
            "medium_threshold": torch.tensor(float(medium_threshold)),
            "adapted": torch.tensor(adaptive_quantiles is None),
        }.items():
            self.register_buffer(name, value, persistent=adaptive_quantiles is not None)

    def adapt(self, areas: NDArray[np.floating]) -> None:
        """Take the thresholds from the labels that will be trained on.

        Args:
            areas: ``[M]`` areas of the training labels in square pixels of the input frame.

        Raises:
            UserError: if there are no labels.
        """
        require_labels(areas, "adaptive_quantiles", "set the thresholds")
        assert self.adaptive_quantiles is not None
        small, medium = np.quantile(areas, self.adaptive_quantiles)
        self.small_threshold.fill_(float(small))
        self.medium_threshold.fill_(float(medium))
        self.adapted.fill_(True)

    def of_boxes(self, boxes_cxcywh: Tensor, used: Tensor | None = None) -> Tensor:
        """Weights ``[P]`` of true boxes ``[P, 4]`` in pixels of the input frame.

        With ``unit_mean``, the mean is that of the boxes that are ``used`` ``[P]``; of all unless
        given.
        """
        size = at_least_float32(boxes_cxcywh[:, 2:])
        return self(size[:, 0] * size[:, 1], used)

    def forward(self, area: Tensor, used: Tensor | None = None) -> Tensor:
        """Weights of areas in square pixels, any shape, in [1, W] unless ``unit_mean``.

        They are float32, or float64 for areas in float64. ``used`` is as in :meth:`of_boxes`.
        """
        # Rounding must not push a weight past its bounds.
        weight = self._falling(at_least_float32(area)).clamp(1, self.size_aware_weight)
        if not self.unit_mean:
            return weight
        if used is None:
            return weight / weight.mean()
        return weight / ((weight * used).sum() / used.sum())

    def _falling(self, area: Tensor) -> Tensor:
        largest, small, medium = self.size_aware_weight, self.small_threshold, self.medium_threshold
        if self.weight_type == "exponential":
            return largest * torch.exp(-area / small)
        if self.weight_type == "linear":
            return 1 + (largest - 1) * (1 - area / medium).clamp(min=0)
        if self.weight_type == "power":
            return 1 + (largest - 1) / (1 + area / small)
        if self.weight_type == "gaussian":
            return 1 + (largest - 1) * torch.exp(-((area / small) ** 2) / 2)
        # Each threshold that the area does not exceed adds half of W - 1.
        return 1 + (largest - 1) / 2 * ((area <= small).to(area.dtype) + (area <= medium))
