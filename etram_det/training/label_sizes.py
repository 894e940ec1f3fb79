"""Thresholds of the loss and the scale of the assignment, where they follow the labels' sizes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.models.losses import YOLOXLoss
from etram_det.models.size_aware_assign import SizeAwareSimOTA

_log = logging.getLogger(__name__)


def follow_label_sizes(loss: YOLOXLoss, datamodule: Any) -> None:
    """Set what follows the training labels, and log it. What was restored before is kept.

    Args:
        loss: with its assignment.
        datamodule: an EventDataModule that has found its recordings, or None.

    Raises:
        UserError: if something is to follow the labels and there is no data module.
    """
    weight, assignment = loss.size_weight, loss.assignment
    if weight is not None and not weight.adapted:
        weight.adapt(_label_areas(datamodule, "loss.adaptive_quantiles", "set the thresholds"))
        _log.info(
            "model.loss: thresholds that follow the training labels: %.0f and %.0f px²",
            weight.small_threshold,
            weight.medium_threshold,
        )
    if isinstance(assignment, SizeAwareSimOTA) and not assignment.adapted:
        assignment.adapt(_label_areas(datamodule, "assignment.adaptive_quantile", "set scale"))
        _log.info(
            "model.assignment: scale that follows the training labels: %.1f px", assignment.scale
        )


def _label_areas(datamodule: Any, setting: str, remedy: str) -> NDArray[np.floating]:
    """Areas ``[M]`` of all training labels, in square pixels of the frame."""
    if datamodule is None:
        raise UserError(
            f"model.{setting}: must have the labels of an EventDataModule, got plain loaders: "
            f"{remedy}, or use fit with datamodule=…"
        )
    return np.concatenate([each.label_areas() for each in datamodule.recordings["train"]])
