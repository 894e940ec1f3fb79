"""Weights taken over from a checkpoint of another number of scales or classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from etram_det.checkpoint.file import STATISTICS, read_checkpoint
from etram_det.errors import UserError

# Modules that belong to one scale each: their index counts from the finest scale.
_OF_ONE_SCALE = re.compile(r"(fpn\.(?:reduce|merge_down|downsample|merge_up)|head\.[a-z_]+)\.(\d+)")
# Name of a parameter, its shape in the checkpoint and in the network, None where it is not there.
Mismatch = tuple[str, "tuple[int, ...] | None", "tuple[int, ...] | None"]


@dataclass(frozen=True)
class Transfer:
    """What a network took over from a checkpoint of other shapes.

    Attributes:
        num_loaded: numbers taken over, among the network's parameters.
        num_parameters: numbers in the network's parameters.
        carried_classes: classes whose rows in the head were taken over, by name.
        new_classes: classes that the checkpoint does not know.
        not_loaded: each parameter that was not taken over as a whole.
    """

    num_loaded: int
    num_parameters: int
    carried_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    not_loaded: tuple[Mismatch, ...]

    def lines(self) -> list[str]:
        """What was not loaded, one line each, and the summary as the last line."""
        width = max((len(name) for name, _, _ in self.not_loaded), default=0)
        lines = [
            f"not loaded  {name:<{width}}  checkpoint {_shown(theirs)}, model {_shown(ours)}"
            for name, theirs, ours in self.not_loaded
        ]
        share = self.num_loaded / self.num_parameters
        return [
            *lines,
            f"{share:.1%} of the parameters loaded ({self.num_loaded:,} of "
            f"{self.num_parameters:,}); class rows by name: "
            f"{', '.join(self.carried_classes) or 'none'}; "
            f"new classes: {', '.join(self.new_classes) or 'none'}",
        ]


def _shown(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(shape)


def carry_over(
    path: str | Path, detector: nn.Module, class_names: Sequence[str], dim_head: int
) -> Transfer:
    """Load what fits of a checkpoint of another number of scales or classes.

    Scales are matched by their stage, rows of the class outputs by the classes' names, all else
    by name and shape. What does not fit keeps its start value.

    Args:
        path: checkpoint of this project, imported ones included.
        detector: the :class:`~etram_det.models.detector.Detector` to load into.
        class_names: the detector's classes.
        dim_head: channels of the detector's attention heads; they decide what the channels of a
            projection mean.

    Raises:
        UserError: if it is no such checkpoint, has other attention heads, or nothing in it fits.
    """
    source = read_checkpoint(path, "model.init_from")
    source.require_own("model.init_from")
    their_dim = source.settings.get("dim_head", dim_head)
    if their_dim != dim_head:
        raise UserError(
            f"model.dim_head: must be that of model.init_from, {their_dim}, got {dim_head}: "
            f"set model.dim_head to {their_dim}"
        )
    tensors, own = source.detector_tensors, detector.state_dict()
    # Both pyramids end with stage 4, so they differ in the stage that they start with.
    theirs = _by_own_scales(tensors, _num_scales(own) - _num_scales(tensors))
    known = source.class_names
    rows = [known.index(name) if name in known else -1 for name in class_names]
    loaded: dict[str, Tensor] = {}
    num_loaded: dict[str, int] = {}
    not_loaded: list[Mismatch] = []
    for name, tensor in own.items():
        value = theirs[name][1] if name in theirs else None
        loaded[name], num_loaded[name] = _fitting(name, tensor, value, rows)
        if num_loaded[name] < tensor.numel() and not name.endswith(STATISTICS):
            shape = None if value is None else tuple(value.shape)
            not_loaded.append((name, shape, tuple(tensor.shape)))
    not_loaded += [
        (their_name, tuple(value.shape), None)
        for name, (their_name, value) in theirs.items()
        if name not in own and not name.endswith(STATISTICS)
    ]
    sizes = {name: parameter.numel() for name, parameter in detector.named_parameters()}
    if not any(num_loaded[name] for name in sizes):
        raise UserError(
            f"model.init_from: must fit this network, got no tensor of its shapes in {path}: set "
            f"model.embed_dim to {source.settings.get('embed_dim')}, as in the checkpoint"
        )
    detector.load_state_dict(loaded)
    return Transfer(
        sum(num_loaded[name] for name in sizes),
        sum(sizes.values()),
        tuple(name for name in class_names if name in known),
        tuple(name for name in class_names if name not in known),
        tuple(not_loaded),
    )


def _fitting(
    name: str, own: Tensor, theirs: Tensor | None, rows: Sequence[int]
) -> tuple[Tensor, int]:
    """What a tensor becomes, and how many of its numbers come from the checkpoint's ``rows``."""
    by_class = name.startswith("head.class_outputs.")
    if theirs is None or theirs.shape[by_class:] != own.shape[by_class:]:
        return own, 0
    if not by_class:
        return theirs, own.numel()
    merged = own.clone()
    for i, row in enumerate(rows):
        if row >= 0:
            merged[i] = theirs[row]
    return merged, sum(row >= 0 for row in rows) * own[0].numel()


def _num_scales(tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in tensors if (match := re.match(r"head\.stems\.(\d+)", name))})


def _by_own_scales(tensors: Mapping[str, Tensor], shift: int) -> dict[str, tuple[str, Tensor]]:
    """Under the network's numbering of scales, each tensor with its name in the checkpoint."""
    renamed = {}
    for name, tensor in tensors.items():
        own_name = name
        if match := _OF_ONE_SCALE.match(name):
            own_name = f"{match[1]}.{int(match[2]) + shift}{name[match.end() :]}"
        renamed[own_name] = name, tensor
    return renamed
