"""The learning rate's way through a training."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import OneCycleLR

from etram_det.errors import UserError


def require_steps(schedule: str, max_steps: int, max_epochs: int | None) -> None:
    """Refuse a training of no steps, or one without end whose schedule needs to know it.

    Args:
        schedule: ``constant``, or one that falls over all steps.
        max_steps: most steps of the training, -1 for any number.
        max_epochs: most epochs of the training, -1 for any number.

    Raises:
        UserError: if there is no number of steps to train for.
    """
    if max_steps == 0:
        raise UserError(
            "trainer.max_steps: at least 1 is required by fit, found 0: raise it, or evaluate with "
            "validate"
        )
    if schedule != "constant" and max_steps == max_epochs == -1:
        raise UserError(
            f"trainer.max_steps: a number of steps is required by model.schedule {schedule}, found "
            "-1: set trainer.max_steps or trainer.max_epochs, or model.schedule to constant"
        )


class OneCycle(OneCycleLR):
    """PyTorch's one-cycle schedule, which a resumed run may lengthen or shorten.

    PyTorch's takes its length from the checkpoint and fails at the first step beyond it.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the checkpoint's step, on the cycle of the length that is set now."""
        own = {name: vars(self)[name] for name in ("total_steps", "_schedule_phases")}
        super().load_state_dict(state_dict | own)
