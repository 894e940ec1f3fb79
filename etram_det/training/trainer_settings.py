"""What a trainer must be set to: for its schedule, and at all."""

from __future__ import annotations

from pytorch_lightning import Trainer

from etram_det.errors import UserError

# The rest of Lightning's turn weights or batches into another type, which states and losses refuse.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def require_steps(schedule: str, trainer: Trainer) -> None:
    """Refuse a training of no steps, or an endless one of a schedule that falls over all steps.

    Raises:
        UserError: if the number of steps is 0, or unknown to a schedule that needs it.
    """
    if trainer.max_steps == 0:
        raise UserError(
            "trainer.max_steps: must be at least 1 for fit, got 0: set a number of steps, or use "
            "validate"
        )
    if schedule != "constant" and trainer.max_steps == trainer.max_epochs == -1:
        raise UserError(
            f"trainer.max_steps: must be a number of steps for model.schedule {schedule}, got -1: "
            "set trainer.max_steps or trainer.max_epochs, or model.schedule to constant"
        )


def require_precision(precision: str | int | None) -> None:
    """Refuse a ``trainer.precision`` that states and losses do not take.

    Raises:
        UserError: naming those that they take.
    """
    if str(precision or PRECISIONS[0]) not in (*PRECISIONS, "32", "bf16", "16"):
        raise UserError(
            f"trainer.precision: must be one of {', '.join(PRECISIONS)}, got {precision}: "
            "set one of them"
        )


def require_ranges(trainer: Trainer) -> None:
    """Refuse settings of a trainer that Lightning takes and that mean nothing.

    Raises:
        UserError: naming the setting.
    """
    for name, least in (("accumulate_grad_batches", 1), ("gradient_clip_val", 0)):
        value = getattr(trainer, name)
        if value is not None and value < least:
            raise UserError(f"trainer.{name}: must be at least {least}, got {value:g}: raise it")
    interval = trainer.val_check_interval
    if isinstance(interval, (int, float)) and interval <= 0:
        raise UserError(
            f"trainer.val_check_interval: must be above 0, got {interval}: set a number of "
            "steps, or a share of an epoch"
        )
