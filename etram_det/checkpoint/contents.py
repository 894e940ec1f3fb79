"""What a checkpoint may hold beside what its reader lets through: damage that would show late."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etram_det.errors import UserError


class Placeholder:
    """Stands where a checkpoint names something of no use here; takes all and does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is there as a whole: neither sparse, quantized, complex nor without data.

    Args:
        tensor: ``[*]``, of any type.
    """
    is_there = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    if not is_there or tensor.is_complex():
        return False
    # A tensor may claim to be larger than what is stored of it.
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def require_readable(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse what cannot be Lightning's version, steps, schedules or a module's settings.

    Args:
        path: the file, for messages.
        checkpoint: what it holds.

    Raises:
        UserError: if one of these is something else.
    """
    version = checkpoint.get("pytorch-lightning_version", "2.0")
    if not isinstance(version, str) or not re.fullmatch(r"\d[\w.+-]*", version):
        raise UserError(f"{path}: pytorch-lightning_version must be one, found {version!r}")
    step = checkpoint.get("global_step", None if "optimizer_states" in checkpoint else 0)
    if not isinstance(step, int) or step < 0:
        raise UserError(f"{path}: global_step must be the number of steps so far, found {step!r}")
    schedules = checkpoint.get("lr_schedulers", [])
    for schedule in schedules if isinstance(schedules, list) else [None]:
        if not isinstance(schedule, dict) or not isinstance(schedule.get("last_epoch", 0), int):
            raise UserError(f"{path}: lr_schedulers must tell their last_epoch, found {schedule}")
    settings = checkpoint.get("hyper_parameters", {})
    if isinstance(settings, Placeholder):
        return
    are_named = isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)
    names = settings.get("class_names", ()) if are_named else None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: hyper_parameters must be settings by name, class_names a list of names, "
            f"found {str(settings)[:80]}"
        )


def require_same_data(
    stored: Mapping[str, Any], class_names: Sequence[str], in_channels: int
) -> None:
    """Refuse a checkpoint that was trained on other classes or on frames of other channels.

    Args:
        stored: the module's settings in the checkpoint; what they do not tell is not compared.
        class_names: name of each class that the data has, in the order of the ids.
        in_channels: channels of the data's frames.

    Raises:
        UserError: if the names differ, or their order, or the number of channels.
    """
    theirs, ours = list(stored.get("class_names", class_names)), list(class_names)
    if theirs != ours:
        raise UserError(
            f"data.class_names: must be the checkpoint's {theirs}, found {ours}: set "
            "data.class_names to the classes that the checkpoint was trained on, or choose another "
            "checkpoint"
        )
    channels = stored.get("in_channels", in_channels)
    if channels != in_channels:
        raise UserError(
            f"data.bins, data.representation: must make frames of the checkpoint's {channels} "
            f"channels, found {in_channels}: set them as they were when the checkpoint was "
            "trained, or choose another checkpoint"
        )


def require_same_kind(path: object, name: str, theirs: object, ours: object) -> None:
    """Refuse a stored setting that is no number, or row of numbers, where ours is.

    Args:
        path: the file, for messages.
        name: of the setting.
        theirs: its value in the checkpoint.
        ours: its value in the configuration.

    Raises:
        UserError: if theirs cannot take the place of ours.
    """
    if not _is_of_the_kind(theirs, ours):
        raise UserError(
            f"{path}: its {name} must be like {ours}, found {theirs}: the checkpoint is damaged; "
            "copy it again or choose another one"
        )


def _is_of_the_kind(theirs: object, ours: object) -> bool:
    if isinstance(ours, (list, tuple)):
        return isinstance(theirs, (list, tuple)) and all(
            _is_of_the_kind(their, our) for our in ours[:1] for their in theirs
        )
    return isinstance(theirs, (int, float) if isinstance(ours, float) else int)
