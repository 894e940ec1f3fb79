"""Ending a training whose metric has stopped improving."""

from __future__ import annotations

import logging
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping

from etram_det.errors import UserError
from etram_det.training.callbacks.run_checkpoint import require_value

_log = logging.getLogger(__name__)


class RunEarlyStopping(EarlyStopping):
    """Ends a training whose metric has stopped improving; off unless ``patience`` is set.

    The count of validations is part of the checkpoint: a resumed run ends where the unbroken one
    does.

    Args:
        patience: validations in a row without improvement that end the training, at least 1; null:
            none do.
        min_delta: an improvement must be greater than this, at least 0.
        monitor: metric of the validation, as it is logged. Follows ``checkpoint.monitor``.
        mode: whether higher (``max``) or lower (``min``) is better. Follows ``checkpoint.mode``.

    Raises:
        UserError: if ``patience`` or ``min_delta`` is out of its range.
    """

    def __init__(
        self,
        *,
        patience: int | None = None,
        min_delta: float = 0.0,
        monitor: str = "val/AP",
        mode: Literal["min", "max"] = "max",
    ) -> None:
        if patience is not None and patience < 1:
            raise UserError(
                f"early_stopping.patience: must be at least 1, got {patience}: set null for none"
            )
        if not min_delta >= 0:
            raise UserError(
                f"early_stopping.min_delta: must be at least 0, got {min_delta}: raise it"
            )
        if min_delta and patience is None:
            _log.warning("early_stopping.min_delta: without effect, as patience is not set")
        super().__init__(
            monitor,
            min_delta,
            patience or 0,
            mode=mode,
            check_finite=False,
            check_on_train_epoch_end=False,
        )

    @property
    def is_on(self) -> bool:
        """Whether it ends trainings at all."""
        return self.patience > 0

    @staticmethod
    def require_validations(trainer: Any) -> None:
        """Raise where a training would wait for validations that it does not have.

        Args:
            trainer: before its training, with its callbacks.

        Raises:
            UserError: ``patience`` is set, and validations are switched off.
        """
        waits = any(isinstance(each, RunEarlyStopping) for each in trainer.callbacks)
        if waits and trainer.limit_val_batches == 0:
            raise UserError(
                "early_stopping.patience: must be null without validations, which "
                "trainer.limit_val_batches 0 switches off: unset one of them"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End at once where the checkpoint that is resumed from has seen the last validation."""
        if self.wait_count >= self.patience:
            trainer.should_stop = True
            self._log_end("raise early_stopping.patience to go on")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the validation, and end the training if it was the last one without improvement.

        Raises:
            UserError: it has no value of the metric, as there are no labels of its class or size.
        """
        require_value(trainer, self.monitor)
        was_over = trainer.should_stop
        super().on_validation_end(trainer, pl_module)
        if trainer.should_stop and not was_over:
            self._log_end("training ends here")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of now."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def _log_end(self, what: str) -> None:
        message = "early_stopping: %s has not improved on %.3f in %d validations: %s"
        _log.info(message, self.monitor, self.best_score, self.wait_count, what)
