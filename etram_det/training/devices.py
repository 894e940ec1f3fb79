"""Devices: what is missing of them, what they compute, and how much fits into their memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from etram_det.errors import UserError
from etram_det.models.arithmetic import lacks_bfloat16
from etram_det.models.detector import Detector
from etram_det.training.lightning_internals import misfit_of_devices

_FULL, _HALF = "32-true", "bf16-mixed"
# Of the activations in full precision; states and what normalises stay in it.
_HALF_OF_FULL = 0.6
_USABLE = 0.85  # share of the memory that activations can have: the rest is cut up, or the driver's


def why_no_cuda() -> str | None:
    """Why there is no CUDA device, in PyTorch's words; None where there is one."""
    if torch.cuda.is_available():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "PyTorch finds none"


def in_own_words(error: Exception) -> UserError:
    """What Lightning says of settings that do not fit, with the setting where it is a device."""
    reason = " ".join(str(error).split())
    if (setting := misfit_of_devices(reason)) is None:
        return UserError(reason)
    why = why_no_cuda()
    if why is None and setting == "devices":
        return UserError(
            f"trainer.{setting}: must be devices that are there, {torch.cuda.device_count()} of "
            f"them, got others ({reason}): set trainer.devices to auto"
        )
    return UserError(
        f"trainer.{setting}: must be a device that is there, got one that is not "
        f"({why or reason}): set trainer.accelerator to cpu or auto"
    )


def require_arithmetic(trainer: Trainer) -> None:
    """Refuse a precision that the device does not compute.

    Raises:
        UserError: naming the device and what it computes.
    """
    device = trainer.strategy.root_device
    if str(trainer.precision).startswith("bf16") and lacks_bfloat16(device):
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"trainer.precision: must be 16-mixed or 32-true on {name}, which does not compute in "
            f"bfloat16, got {trainer.precision}: set 16-mixed"
        )


@contextmanager
def kept_for_backward() -> Iterator[dict[int, Tensor]]:
    """What forward passes keep for their backward passes: tensors ``[*]``, by their memory."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        """Note a tensor ``[*]``."""
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield kept


def bytes_of_a_lane(detector: Detector, events: Tensor) -> int:
    """What a training step keeps of one lane, in float32, without computing it.

    Args:
        detector: on the device ``meta``.
        events: ``[T, 1, C, H, W]`` there, a chunk with all frames labelled.
    """
    with kept_for_backward() as kept:
        output, _ = detector(events)
    for parameter in detector.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    of_forward = sum(x.untyped_storage().nbytes() for x in kept.values())
    outputs = (output.offsets, output.objectness, output.classes)
    return of_forward + 2 * events.nbytes + sum(x.nbytes for x in outputs)


def what_fits(
    hparams: Any, lanes: int, size: tuple[int, int], num_steps: int, total_bytes: int
) -> str:
    """How many lanes a training fits into the memory of a device, by estimate, in words.

    Args:
        hparams: settings of the module.
        lanes: that did not fit.
        size: height and width of the frames in pixels.
        num_steps: of a chunk.
        total_bytes: of the device.
    """
    names = [name for name in signature(Detector).parameters if name in hparams]
    settings = {name: hparams[name] for name in names}
    shape = (num_steps, 1, hparams["in_channels"], *size)
    events = torch.empty(shape, dtype=torch.uint8, device="meta")
    fitting = {}
    for checkpointing in (False, True):
        with torch.device("meta"):
            detector = Detector(
                num_classes=len(hparams["class_names"]),
                **(settings | {"gradient_checkpointing": checkpointing}),
            )
        # Weights, gradients and both means of Adam.
        fixed = sum(4 * each.nbytes for each in detector.parameters())
        lane = bytes_of_a_lane(detector, events)
        left = _USABLE * total_bytes - fixed
        for precision, share in ((_FULL, 1.0), (_HALF, _HALF_OF_FULL)):
            fitting[precision, checkpointing] = max(int(left / (share * lane)), 0)
    return (
        f"of {lanes} lanes of {num_steps} frames of {size[1]}x{size[0]}, by estimate "
        f"{fitting[_FULL, False]} fit with trainer.precision {_FULL}, {fitting[_HALF, False]} with "
        f"{_HALF}; with model.gradient_checkpointing {fitting[_FULL, True]} and "
        f"{fitting[_HALF, True]}: set data.train_lanes and these so"
    )


def out_of_memory(error: Exception, device: torch.device, module: Any, data: Any) -> str | None:
    """What does not fit into a device that is full, in one line; None for any other error."""
    if not isinstance(error, torch.OutOfMemoryError) or device.type != "cuda":
        return None
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory
    where = f"{memory / 2**30:.0f} GiB of {properties.name}"
    if not module.training:
        height, width = data.input_size
        return (
            f"data.eval_lanes: must fit into the {where}, got {data.eval_lanes} lanes of "
            f"{data.num_steps} frames of {width}x{height} in evaluation: lower data.eval_lanes "
            "(results stay the same), or set trainer.precision bf16-mixed"
        )
    fits = what_fits(module.hparams, data.train_lanes, data.input_size, data.num_steps, memory)
    return f"data.train_lanes: must fit into the {where}: {fits}"
