"""What the parts of a training's checkpoint must look like, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from etram_det.checkpoint.contents import is_plain
from etram_det.errors import UserError

# A layout is one of: a type or a tuple of types; a list of one layout, that of each element of a
# list or tuple; a dict of layouts by key, where `str` or `int` as key stands for all keys of this
# type and a name that ends with "?" may be missing; a function that checks by itself.
_NUM_PYTHON, _NUM_NUMPY = 625, 624  # words in the states of the two Mersenne Twisters


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
    if not isinstance(found, layout) or (isinstance(found, Tensor) and not is_plain(found)):
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


def _or_none(layout: Any) -> Callable[[Any, str], None]:
    return lambda found, where: None if found is None else _check(layout, found, where)


def _or_empty(layout: Any) -> Callable[[Any, str], None]:
    return lambda found, where: None if found == {} else _check(layout, found, where)


def _count(found: Any, where: str) -> None:
    if not isinstance(found, int) or found < 0:
        _refuse(where, "a count", found)


def _words(number: int) -> Callable[[Any, str], None]:
    """So many 32-bit words of a random generator."""

    def check(found: Any, where: str) -> None:
        _check([_count], found, where)
        if len(found) != number or any(word >= 2**32 for word in found):
            _refuse(where, f"{number} words of 32 bits", found)

    return check


def _row(*layouts: Any) -> Callable[[Any, str], None]:
    """A list or tuple with a layout for each element."""

    def check(found: Any, where: str) -> None:
        if not isinstance(found, (list, tuple)) or len(found) != len(layouts):
            _refuse(where, f"a list of {len(layouts)}", found)
        for i, (layout, each) in enumerate(zip(layouts, found, strict=True)):
            _check(layout, each, f"{where}.{i}")

    return check


def _torch_generator(found: Any, where: str) -> None:
    """State ``[*]`` of PyTorch's generator on the CPU."""
    shape = torch.get_rng_state().shape
    _check_type(Tensor, found, where)
    if found.dtype != torch.uint8 or found.shape != shape:
        _refuse(where, f"{shape[0]} bytes", found)


def _callbacks(found: Any, where: str) -> None:
    _check({str: {}}, found, where)
    for key, state in found.items():
        # Lightning writes settings of a callback behind its name.
        _check(_CALLBACKS.get(key.partition("{")[0], {}), state, f"{where}.{key}")


def _loop(found: Any, where: str) -> None:
    """Progress and state of one of Lightning's loops and of those within it."""
    _check({str: {}}, found, where)
    for name, value in found.items():
        layout: dict[str, Any] = {"_batches_that_stepped?": _count}
        if name.endswith("progress"):
            layout = {"optimizer": {str: _PROGRESS}} if "optimizer" in value else _PROGRESS
        _check(layout, value, f"{where}.{name}")


_PROGRESS = {"total": {str: _count}, "current": {str: _count}}
_NUMBER = (int, float, Tensor)
_RECORDINGS = {str: [int]}
_CALLBACKS = {
    "BadSteps": {"num_skipped": _count, "num_in_a_row": _count},
    "BadRecordings": {str: _count},
    "ResultsWriter": _or_empty({"step": _count, "results": {"evaluation": {}}}),
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
            "git": _or_none({"commit": (str, type(None)), "dirty": bool}),
            "versions": {"etram_det": str},
        }
    ],
}
_PROCESS = {
    "random": {
        "python": _row(int, _words(_NUM_PYTHON), (float, type(None))),
        "numpy": _row(str, _words(_NUM_NUMPY), int, int, float),
        "torch": _torch_generator,
        "cuda": (Tensor, type(None)),
    },
    "lanes": _or_none([_row(Tensor, Tensor)]),
    "gradients": {str: Tensor},
    "unfinished_step?": _or_none({"losses": [Tensor], "statistics": [Tensor]}),
}
_SETTINGS = {  # that shape the network
    **dict.fromkeys(
        ("embed_dim?", "dim_head?", "mlp_ratio?", "partition_split?", "in_channels?"), int
    ),
    **dict.fromkeys(("dim_multiplier?", "num_blocks?", "fpn_stages?"), [int]),
    **dict.fromkeys(("layer_scale_init?", "fpn_depth?"), (int, float)),
}
_LAYOUT = {
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
    "loops?": _or_none({f"{name}_loop": _loop for name in ("fit", "validate", "test", "predict")}),
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


def require_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of this project of which a part is not what a training writes.

    Args:
        path: the file, for messages.
        content: what it holds.

    Raises:
        UserError: naming the part, what it must be and what it is.
    """
    try:
        _check(_LAYOUT, content, "")
    except _Damage as damage:
        what = str(damage).removeprefix(".")
        raise UserError(
            f"{path}: {what}: the checkpoint is damaged. Use another one, or copy it again"
        ) from None
