"""A training's checkpoint for others: weights in half precision, and the facts of its run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etram_det.checkpoint.file import Checkpoint, write_checkpoint
from etram_det.errors import UserError

MOST_BYTES = 5_000_000
# Folders of the machine that it was trained on; file and folder names stay.
_FOLDERS = re.compile(r"(?<![\w.~])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\"=,\\/]+[\\/])+")


def publish(checkpoint: Checkpoint, output: Path) -> None:
    """Write what others need of a checkpoint to detect with it, and to know what it is.

    Weights are in float16; biases, scales and running statistics, of which there are few, stay as
    they are. Settings, data, versions and the latest validation stay; the optimiser and all else
    that a training goes on from are left out. No folder of this machine is in it.

    Args:
        checkpoint: one of this project.
        output: the file to write.

    Raises:
        UserError: it is larger than ``MOST_BYTES``, or cannot be written; no file is left.
    """
    tensors = {name: _half(tensor) for name, tensor in checkpoint.detector_tensors.items()}
    size = sum(each.numel() * each.element_size() for each in tensors.values())
    if size > MOST_BYTES:
        raise UserError(
            f"publish: weights must be of {MOST_BYTES / 1e6:g} MB at most, got "
            f"{size / 1e6:.1f} MB in half precision: use a smaller network, such as "
            "model.embed_dim 16"
        )
    content = Checkpoint.of_weights(tensors, checkpoint.settings).content
    facts = {
        "epoch": checkpoint.epoch,
        "global_step": checkpoint.step,
        "hyper_parameters": content["hyper_parameters"],
        "EventDataModule": {
            "settings": {f"data.{name}": x for name, x in checkpoint.frame_settings.items()}
        },
        "provenance": dict(checkpoint.provenance),
        "callbacks": {"ResultsWriter": dict(checkpoint.validation or {})},
    }
    write_checkpoint(output, content | _without_folders(facts))


def _half(tensor: Tensor) -> Tensor:
    """Weights ``[O, I, …]`` in float16; what has one dimension or none as it is."""
    is_weight = tensor.is_floating_point() and tensor.ndim > 1
    return tensor.to(torch.float16) if is_weight else tensor.clone()


def _without_folders(value: Any) -> Any:
    """Plain values whose texts name files and folders without those that they lie in."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {name: _without_folders(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_folders(each) for each in value)
    return value
