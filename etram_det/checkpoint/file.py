"""Checkpoints: read without running code, compared, written in one piece, carried over."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etram_det.checkpoint.contents import Placeholder, is_plain, require_readable
from etram_det.errors import UserError
from etram_det.files import replacing

# What torch.load raises for files that are no checkpoint, or one that was cut or overwritten.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
# Modules that belong to one scale each: their index counts from the finest scale.
_OF_ONE_SCALE = re.compile(r"(fpn\.(?:reduce|merge_down|downsample|merge_up)|head\.[a-z_]+)\.(\d+)")
# Kept by normalisation layers beside their parameters, and of the same fate.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# Name of a parameter, its shape in the checkpoint and in the network, None where it is not there.
Mismatch = tuple[str, "tuple[int, ...] | None", "tuple[int, ...] | None"]


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


def read_checkpoint(
    path: str | Path, setting: str = "ckpt_path", ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code that it may hold.

    PyTorch's restricted reader (``weights_only=True``) takes tensors and plain values only.

    Args:
        path: the file.
        setting: what the user set to the path, for messages.
        ignored: dotted names of classes and functions that the file may mention. They are neither
            imported nor called: an empty placeholder takes their place.

    Raises:
        UserError: if the file is missing, cut short, no checkpoint, or holds more than tensors
            and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{setting}: no file {path}: give the path of a checkpoint (.ckpt)")
    stand_ins: list[Any] = [(Placeholder, name) for name in ignored]
    if ignored:
        # It is filled after it was made, for which PyTorch wants a dict.
        stand_ins.append((_empty_dict, "collections.defaultdict"))
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # A pickle of another protocol than PyTorch's: refused below, if it is none of its own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch names what it refused as "GLOBAL <name>".
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if not refused:
            found = "a plain pickle, which may hold code" if _is_pickle(path) else "something else"
            raise UserError(
                f"{path}: must be a checkpoint that PyTorch wrote, found {found}: not loaded; "
                f"{setting} wants a .ckpt file"
            ) from error
        raise UserError(
            f"{path}: must hold only tensors and plain values, but it holds {refused[1]}: not "
            "loaded, since that could run code; if you trust the file, keep its tensors alone: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)"
        ) from error
    except _DAMAGE as error:
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({reason}): it may be cut short, or something "
            "else; copy it again or choose another file"
        ) from error
    tensors = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(tensors, Mapping) or not tensors:
        raise UserError(f"{path}: must be a checkpoint with a state_dict, found none in it")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not is_plain(tensor):
            raise UserError(
                f"{path}: the state_dict must hold plain, named tensors, found "
                f"{type(tensor).__name__} as {name!r}"
            )
    require_readable(path, checkpoint)
    return checkpoint


def _is_pickle(path: Path) -> bool:
    """Whether a file starts as pickles of protocol 2 and later do."""
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


def write_checkpoint(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its final name, then move it into place.

    Raises:
        UserError: if the file cannot be written; nothing is left of it then.
    """
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save(dict(checkpoint), file)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer gives its own error, raised from what the file's said.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise  # what came in between, such as the loss of a loading process
        raise UserError(f"{path}: cannot be written ({cause.strerror or cause})") from error


def detector_of(
    checkpoint: Mapping[str, Any], path: str | Path, setting: str = "ckpt_path"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The detector's tensors in a checkpoint of this project, and the module's settings.

    Args:
        checkpoint: as read from a file.
        path: the file, for messages.
        setting: what the user set to the path, for messages.

    Raises:
        UserError: if it is a checkpoint of another project.
    """
    settings = checkpoint.get("hyper_parameters", {})
    prefix = "detector."
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    if not tensors or "class_names" not in settings:
        raise UserError(
            f"{setting}: must be a checkpoint of this project, {path} is none: import RVT's with "
            "python -m etram_det import-rvt"
        )
    return tensors, settings


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
        name_in_source: how the checkpoint itself calls its tensors, where it does otherwise.

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
                f"found {tuple(found[name].shape)}: the checkpoint is of another architecture"
            )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - 2
    return ", ".join(names[:2]) + (f" and {rest} more" if rest > 0 else "")


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
    tensors, settings = _weights_and_settings(path, dim_head)
    own = detector.state_dict()
    theirs = _by_own_scales(tensors, _num_scales(own) - _num_scales(tensors))
    known = list(settings["class_names"])
    rows = [known.index(name) if name in known else -1 for name in class_names]
    loaded: dict[str, Tensor] = {}
    num_loaded: dict[str, int] = {}
    not_loaded: list[Mismatch] = []
    for name, tensor in own.items():
        value = theirs[name][1] if name in theirs else None
        loaded[name], num_loaded[name] = _fitting(name, tensor, value, rows)
        if num_loaded[name] < tensor.numel() and not name.endswith(_STATISTICS):
            shape = None if value is None else tuple(value.shape)
            not_loaded.append((name, shape, tuple(tensor.shape)))
    not_loaded += [
        (their_name, tuple(value.shape), None)
        for name, (their_name, value) in theirs.items()
        if name not in own and not name.endswith(_STATISTICS)
    ]
    sizes = {name: parameter.numel() for name, parameter in detector.named_parameters()}
    if not any(num_loaded[name] for name in sizes):
        raise UserError(
            f"model.init_from: no tensor of {path} fits this network: the sizes under model must "
            f"be near the checkpoint's, model.embed_dim {settings.get('embed_dim')}"
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
    """What a tensor becomes, and how many of its numbers come from the checkpoint.

    Args:
        name: of the tensor in the network.
        own: its value so far.
        theirs: the checkpoint's, if it has one.
        rows: for each class, its row in the checkpoint's class outputs, -1 for none.
    """
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


def _weights_and_settings(
    path: str | Path, dim_head: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Those of ``detector_of``, for attention heads of this width."""
    setting = "model.init_from"
    tensors, settings = detector_of(read_checkpoint(path, setting), path, setting)
    if settings.get("dim_head", dim_head) != dim_head:
        raise UserError(
            f"model.dim_head: must be that of model.init_from, {settings['dim_head']}, found "
            f"{dim_head}: attention heads of another width do not fit the weights"
        )
    return tensors, settings


def _num_scales(tensors: Mapping[str, Tensor]) -> int:
    return len({match[1] for name in tensors if (match := re.match(r"head\.stems\.(\d+)", name))})


def _by_own_scales(tensors: Mapping[str, Tensor], shift: int) -> dict[str, tuple[str, Tensor]]:
    """Under the network's numbering of scales, each tensor with its name in the checkpoint.

    Both pyramids end with stage 4, so they differ in the stage that they start with.
    """
    renamed = {}
    for name, tensor in tensors.items():
        own_name = name
        if match := _OF_ONE_SCALE.match(name):
            own_name = f"{match[1]}.{int(match[2]) + shift}{name[match.end() :]}"
        renamed[own_name] = name, tensor
    return renamed
