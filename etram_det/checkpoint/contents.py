"""What a checkpoint must hold to be read, to be whole, and to fit a network and its data."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from etram_det.errors import UserError

# A layout is one of: a type or a tuple of types; a list of one layout, that of each element of a
# list or tuple; a dict of layouts by key, where `str` or `int` as key stands for all keys of this
# type and a name that ends with "?" may be missing; a function that checks by itself.


class Placeholder:
    """Stands where a checkpoint names something of no use here; does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor ``[*]`` is neither sparse, quantized, complex nor without its data."""
    is_there = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
    if not is_there or tensor.is_complex():
        return False
    # A tensor may claim to be larger than what is stored of it.
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


class _Damage(Exception):
    """Place, what must be there, and what is there instead."""


def _refuse(where: str, required: str, found: object) -> NoReturn:
    shown = tuple(found.shape) if isinstance(found, Tensor) else repr(found)[:80]
    raise _Damage(f"{where} must be {required}, got {shown}")


def _check(layout: Any, found: Any, where: str) -> None:
    """Raise ``_Damage`` where a value is not of a layout."""
    if isinstance(layout, (type, tuple)):
        _check_type(layout, found, where)
    elif isinstance(layout, list):
        if not isinstance(found, (list, tuple)):
            _refuse(where, "a list", found)
        for i, each in enumerate(found):
            _check(layout[0], each, f"{where}.{i}")
    elif isinstance(layout, dict):
        _check_by_key(layout, found, where)
    else:
        layout(found, where)


def _check_type(layout: Any, found: Any, where: str) -> None:
    if not isinstance(found, layout) or (isinstance(found, Tensor) and not _is_plain(found)):
        kinds = layout if isinstance(layout, tuple) else (layout,)
        names = [kind.__name__.replace("NoneType", "None") for kind in kinds]
        _refuse(where, " or ".join(names), found)


def _check_by_key(layout: dict[Any, Any], found: Any, where: str) -> None:
    if not isinstance(found, Mapping):
        _refuse(where, "values by name", found)
    for key, inner in layout.items():
        if isinstance(key, type):
            for name, value in found.items():
                _check_type(key, name, f"a name in {where or 'it'}")
                _check(inner, value, f"{where}.{name}")
        elif (name := key.removesuffix("?")) in found:
            _check(inner, found[name], f"{where}.{name}")
        elif name == key:
            _refuse(f"{where}.{name}", "there", None)


def _or(empty: object, layout: Any) -> Callable[[Any, str], None]:
    return lambda found, where: None if found == empty else _check(layout, found, where)


def _fulfilling(required: str, is_met: Callable[[Any], Any]) -> Callable[[Any, str], None]:
    return lambda found, where: None if is_met(found) else _refuse(where, required, found)


def _is_count(found: Any) -> bool:
    return isinstance(found, int) and found >= 0


def _words(number: int) -> Callable[[Any, str], None]:
    """So many 32-bit words of a random generator."""

    def are_words(found: Any) -> bool:
        is_list = isinstance(found, (list, tuple)) and len(found) == number
        return is_list and all(_is_count(word) and word < 2**32 for word in found)

    return _fulfilling(f"{number} words of 32 bits", are_words)


def _row(*layouts: Any) -> Callable[[Any, str], None]:
    """A list or tuple with a layout for each element."""

    def check(found: Any, where: str) -> None:
        if not isinstance(found, (list, tuple)) or len(found) != len(layouts):
            _refuse(where, f"a list of {len(layouts)}", found)
        for i, (layout, each) in enumerate(zip(layouts, found, strict=True)):
            _check(layout, each, f"{where}.{i}")

    return check


def _torch_generator(found: Any, where: str) -> None:
    shape = torch.get_rng_state().shape
    _check_type(Tensor, found, where)
    if found.dtype != torch.uint8 or found.shape != shape:
        _refuse(where, f"{shape[0]} bytes", found)


def _named_settings(found: Any, where: str) -> None:
    if not isinstance(found, Placeholder):
        _check({str: object, "class_names?": [str]}, found, where)


def _callbacks(found: Any, where: str) -> None:
    _check({str: {}}, found, where)
    for key, state in found.items():
        # Lightning writes settings of a callback behind its name.
        _check(_CALLBACKS.get(key.partition("{")[0], {}), state, f"{where}.{key}")


def _loop(found: Any, where: str) -> None:
    _check({str: {}}, found, where)
    for name, value in found.items():
        layout: dict[str, Any] = {"_batches_that_stepped?": _count}
        if name.endswith("progress"):
            layout = {"optimizer": {str: _PROGRESS}} if "optimizer" in value else _PROGRESS
        _check(layout, value, f"{where}.{name}")


_count = _fulfilling("a count", _is_count)
_version = _fulfilling("a version", lambda x: isinstance(x, str) and re.fullmatch(r"\d[\w.+-]*", x))
_PROGRESS = {"total": {str: _count}, "current": {str: _count}}
_NUMBER = (int, float, Tensor)
_RECORDINGS = {str: [int]}
_CALLBACKS = {
    "BadSteps": {"num_skipped": _count, "num_in_a_row": _count},
    "BadRecordings": {str: _count},
    "ResultsWriter": _or({}, {"step": _count, "results": {"evaluation": {}}}),
    "RunCheckpoint": {
        "monitor": str,
        "best_model_score": (Tensor, type(None)),
        "best_model_path": str,
        "best_k_models": {str: Tensor},
        "kth_best_model_path": str,
        "kth_value": Tensor,
        "last_model_path": str,
    },
}
_PROVENANCE = {
    "config?": {str: object},
    "data?": {
        str: {
            "recordings": [{"frames": int, "labelled": int, "boxes": int, "bytes": int}],
            "digest": str,
        }
    },
    "starts?": [
        {
            "step": _count,
            "time": str,
            "command": str,
            "git": _or(None, {"commit": (str, type(None)), "dirty": bool}),
            "versions": {"etram_det": str},
        }
    ],
}
_PROCESS = {
    "random": {
        "python": _row(int, _words(625), (float, type(None))),
        "numpy": _row(str, _words(624), int, int, float),
        "torch": _torch_generator,
        "cuda": (Tensor, type(None)),
    },
    "lanes": _or(None, [_row(Tensor, Tensor)]),
    "gradients": {str: Tensor},
    "unfinished_step?": _or(None, {"losses": [Tensor], "statistics": [Tensor]}),
}
_SETTINGS = {  # that shape the network
    **dict.fromkeys(
        ("embed_dim?", "dim_head?", "mlp_ratio?", "partition_split?", "in_channels?"), int
    ),
    **dict.fromkeys(("dim_multiplier?", "num_blocks?", "fpn_stages?"), [int]),
    **dict.fromkeys(("layer_scale_init?", "fpn_depth?", "stem_norm_eps?"), (int, float)),
}
_READABLE = {
    "state_dict": {str: Tensor},
    "pytorch-lightning_version?": _version,
    "hyper_parameters?": _named_settings,
}
_WHOLE = {
    "epoch?": _count,
    "hyper_parameters?": _SETTINGS,
    "callbacks?": _callbacks,
    "EventDataModule?": {
        "epoch?": _count,
        "step?": _count,
        "settings?": {str: object},
        "recordings?": _RECORDINGS,
        "validation?": _RECORDINGS,
    },
    "loops?": _or(None, {f"{name}_loop": _loop for name in ("fit", "validate", "test", "predict")}),
    "lr_schedulers?": [{"last_epoch?": int}],
    "optimizer_states?": [
        {
            "state": {int: {"step?": _NUMBER}},
            "param_groups": [{"params": [int], "lr": _NUMBER, "weight_decay?": _NUMBER}],
        }
    ],
    "provenance?": _PROVENANCE,
    "resume?": {"processes": [_PROCESS]},
}


def require_readable(path: Path, content: Any) -> None:
    """Refuse what holds no tensors, or no version, step and settings that any reader could take.

    Args:
        path: the file, for messages.
        content: what it holds.

    Raises:
        UserError: naming the part, what it must be and what it is.
    """
    if not isinstance(content, dict) or not content.get("state_dict"):
        raise UserError(f"{path}: must be a checkpoint with a state_dict, got none in it")
    # Lightning goes on from the step of what has an optimiser.
    step = "global_step" if "optimizer_states" in content else "global_step?"
    _require(_READABLE | {step: _count}, path, content)


def require_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of this project of which a part is not what a training writes.

    Arguments and error are those of :func:`require_readable`.
    """
    _require(_WHOLE, path, content)


def _require(layout: dict[str, Any], path: Path, content: Mapping[str, Any]) -> None:
    try:
        _check(layout, content, "")
    except _Damage as damage:
        what = str(damage).removeprefix(".")
        raise UserError(
            f"{path}: {what}: the checkpoint is damaged: use another one, or copy it again"
        ) from None


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
            f"data.class_names: must be the checkpoint's {theirs}, got {ours}: set "
            "data.class_names to the classes that the checkpoint was trained on, or use another "
            "checkpoint"
        )
    channels = stored.get("in_channels", in_channels)
    if channels != in_channels:
        raise UserError(
            f"data.bins, data.representation: must make frames of the checkpoint's {channels} "
            f"channels, got {in_channels}: set them as they were when the checkpoint was trained, "
            "or use another checkpoint"
        )
