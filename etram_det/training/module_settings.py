"""Settings of the module: those that it passes on to the network, and ranges of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from etram_det.errors import UserError
from etram_det.models.detector import Detector

# The network's settings and their defaults, but for those that follow the data.
NETWORK = {
    name: parameter.default
    for name, parameter in signature(Detector).parameters.items()
    if name not in ("num_classes", "in_channels")
}
# Those that shape its weights or what they mean: where a checkpoint is read they follow it.
_OF_TRAINING = ("gradient_checkpointing", "box_prior", "batch_norm_momentum")
ARCHITECTURE = tuple(name for name in NETWORK if name not in _OF_TRAINING)
# What a setting must fulfil, and that in words.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda value: 0 < value < 100, "(0, 100)"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "[0, inf)"),
    "warmup_share": (lambda value: 0 < value < 1, "(0, 1)"),
    "div_factor": (lambda value: 0 < value < math.inf, "(0, inf)"),
    "final_div_factor": (lambda value: 0 < value < math.inf, "(0, inf)"),
    "score_threshold": (lambda value: 0 <= value <= 1, "[0, 1]"),
    "nms_threshold": (lambda value: 0 <= value <= 1, "[0, 1]"),
    "max_detections": (lambda value: value >= 1, "[1, inf)"),
    "forget_every": (lambda value: value >= 1, "[1, inf)"),
}


def require_in_range(settings: Mapping[str, Any]) -> None:
    """Refuse settings of the module that are out of their range.

    Raises:
        UserError: naming the setting and its range.
    """
    for name, (is_in_range, bounds) in _RANGES.items():
        if (value := settings[name]) is not None and not is_in_range(value):
            raise UserError(
                f"model.{name}: must be in {bounds}, got {value}: set a value in that range"
            )


def require_whole_parts(forget_every: int | None, num_steps: int) -> None:
    """Refuse to forget the state at other places than after every so many frames.

    Args:
        forget_every: frames after which the state is forgotten; None for never.
        num_steps: frames of a chunk.

    Raises:
        UserError: if chunks cannot be cut into whole parts of so many frames.
    """
    if forget_every is not None and num_steps % forget_every:
        raise UserError(
            f"model.forget_every: must divide data.num_steps, {num_steps}, got {forget_every}: set "
            f"1 or {num_steps}, or another data.num_steps"
        )
