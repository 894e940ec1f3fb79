"""AdamW for a detector, and RVT's one-cycle schedule of its learning rate."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR


class OneCycle(OneCycleLR):
    """PyTorch's one-cycle schedule, but a resumed run may lengthen or shorten it.

    PyTorch takes the length from the checkpoint and fails at the first step beyond it.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the checkpoint's step, with the length that is set now."""
        own = {name: vars(self)[name] for name in ("total_steps", "_schedule_phases")}
        super().load_state_dict(state_dict | own)


def adamw(
    network: nn.Module, settings: Any, effective_batch: int, num_groups: int | None
) -> torch.optim.AdamW:
    """AdamW for a network.

    Args:
        network: whose parameters are trained.
        settings: of the module: ``learning_rate`` and ``weight_decay``.
        effective_batch: lanes of a step, over all processes and accumulated batches.
        num_groups: of the optimiser in a checkpoint to go on from; None for a new training.
    """
    highest = settings.learning_rate
    if highest is None:
        highest = 2e-4 * math.sqrt(effective_batch / 8)
    optimizer = torch.optim.AdamW(
        _parameter_groups(network, settings.weight_decay, num_groups),
        lr=highest,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    # Gradients are clipped after they are unscaled, so a GradScaler must do that, not the step.
    cast(Any, optimizer)._step_supports_amp_scaling = False
    return optimizer


def _parameter_groups(network: nn.Module, weight_decay: float, num_groups: int | None) -> Any:
    """Parameters to optimise: biases, norms and layer scales in a group without decay."""
    parameters = list(network.parameters())
    if (num_groups or (2 if weight_decay else 1)) == 1:
        return parameters
    return [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def one_cycle(optimizer: torch.optim.Optimizer, settings: Any, total_steps: int) -> OneCycle:
    """The schedule ``linear`` or ``cosine``.

    Args:
        optimizer: at the highest learning rate.
        settings: of the module: ``schedule``, ``warmup_share``, ``div_factor`` and
            ``final_div_factor``.
        total_steps: of the training.
    """
    return OneCycle(
        optimizer,
        max_lr=optimizer.param_groups[0]["lr"],
        total_steps=total_steps,
        pct_start=settings.warmup_share,
        anneal_strategy="cos" if settings.schedule == "cosine" else "linear",
        cycle_momentum=False,
        div_factor=settings.div_factor,
        # PyTorch divides the first learning rate by its factor, RVT the highest.
        final_div_factor=settings.final_div_factor / settings.div_factor,
    )


def adapt_to_own_step(optimizer_state: dict[str, Any]) -> int:
    """Set a stored optimiser's groups to the step used here; returns their number.

    Those of an earlier version are not fused: they could not skip a step on the device.
    """
    groups = optimizer_state["param_groups"]
    for group in groups:
        group["fused"], group["foreach"] = True, None
    return len(groups)
