"""What a checkpoint must hold to be read at all, and to fit a network and its data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etram_det.errors import UserError


class Placeholder:
    """Stands where a checkpoint names something of no use here; does nothing."""

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


def require_readable(path: Path, content: Any) -> None:
    """Refuse what holds no tensors, or no version, step and settings that any reader could take.

    Args:
        path: the file, for messages.
        content: what it holds.

    Raises:
        UserError: naming what is missing or something else.
    """
    tensors = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(tensors, Mapping) or not tensors:
        raise UserError(f"{path}: must be a checkpoint with a state_dict, got none in it")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not is_plain(tensor):
            raise UserError(
                f"{path}: the state_dict must hold plain, named tensors, got "
                f"{type(tensor).__name__} as {name!r}"
            )
    version = content.get("pytorch-lightning_version", "2.0")
    if not isinstance(version, str) or not re.fullmatch(r"\d[\w.+-]*", version):
        raise UserError(f"{path}: pytorch-lightning_version must be one, got {version!r}")
    step = content.get("global_step", None if "optimizer_states" in content else 0)
    if not isinstance(step, int) or step < 0:
        raise UserError(f"{path}: global_step must be the number of steps so far, got {step!r}")
    settings = content.get("hyper_parameters", {})
    if isinstance(settings, Placeholder):
        return
    are_named = isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings)
    names = settings.get("class_names", ()) if are_named else None
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{path}: hyper_parameters must be settings by name, class_names a list of names, "
            f"got {str(settings)[:80]}"
        )


def require_same_tensors(
    found: Mapping[str, Tensor],
    required: Mapping[str, Tensor],
    source: str,
    name_in_source: Mapping[str, str] | None = None,
) -> None:
    """Refuse tensors that are not exactly those of a network, by name and shape.

    Args:
        found: tensors of the checkpoint by this project's names, of any shape ``[*]``.
        required: tensors of the network by their names; only the shapes count.
        source: file or setting, for messages.
        name_in_source: names of the tensors in the checkpoint, where they differ.

    Raises:
        UserError: if a tensor is missing, is one too many, or has another shape.
    """
    theirs = name_in_source or {}
    extra = [theirs.get(name, name) for name in found if name not in required]
    if extra:
        raise UserError(
            f"{source}: holds {_listed(extra)}, which this network does not have: it must be a "
            "checkpoint of the same architecture, with every tensor used"
        )
    missing = [name for name in required if name not in found]
    if missing:
        raise UserError(
            f"{source}: lacks {_listed(missing)}{' (so named here)' if theirs else ''}: all "
            "tensors of the network are required; the checkpoint may be of another architecture, "
            "or incomplete"
        )
    for name, tensor in required.items():
        if found[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {theirs.get(name, name)} must have the shape {tuple(tensor.shape)}, "
                f"got {tuple(found[name].shape)}: the checkpoint is of another architecture"
            )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - 2
    return ", ".join(names[:2]) + (f" and {rest} more" if rest > 0 else "")


def require_same_data(
    stored: Mapping[str, Any], class_names: Sequence[str], in_channels: int
) -> None:
    """Refuse a checkpoint that was trained on other classes or on frames of other channels.

    Args:
        stored: the module's settings in the checkpoint; what they lack is not compared.
        class_names: name of each class that the data has, in the order of the ids.
        in_channels: channels of the data's frames.

    Raises:
        UserError: if the names differ, or their order, or the number of channels.
    """
    theirs, ours = list(stored.get("class_names", class_names)), list(class_names)
    if theirs != ours:
        raise UserError(
            f"data.class_names: must be the checkpoint's {theirs}, got {ours}: Set "
            "data.class_names to the classes that the checkpoint was trained on, or use another "
            "checkpoint"
        )
    channels = stored.get("in_channels", in_channels)
    if channels != in_channels:
        raise UserError(
            f"data.bins, data.representation: must make frames of the checkpoint's {channels} "
            f"channels, got {in_channels}: Set them as they were when the checkpoint was trained, "
            "or use another checkpoint"
        )
