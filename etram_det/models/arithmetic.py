"""How a device computes: the same in every command, and what it lacks."""

from __future__ import annotations

import torch


def use_tensor_float_32() -> None:
    """Let products of float32 run as TensorFloat-32, in every command that computes.

    Does nothing on machines without it. PyTorch's convolutions do so of themselves.
    """
    torch.set_float32_matmul_precision("high")


def lacks_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device or its driver has no bfloat16 but by emulation."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return not torch.cuda.is_bf16_supported(including_emulation=False)
