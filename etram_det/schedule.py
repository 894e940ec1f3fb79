"""The learning rate's way through a training."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import OneCycleLR


class OneCycle(OneCycleLR):
    """PyTorch's one-cycle schedule, which a resumed run may lengthen or shorten.

    PyTorch's takes its length from the checkpoint and fails at the first step beyond it.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the checkpoint's step, on the cycle of the length that is set now."""
        own = {name: vars(self)[name] for name in ("total_steps", "_schedule_phases")}
        super().load_state_dict(state_dict | own)
