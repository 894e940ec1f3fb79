"""Progress of a training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from etram_det.training.callbacks.loggers import is_logged


class RunProgressBar(TQDMProgressBar):
    """One bar for the whole training, which shows when the run will end.

    Lightning's own counts an epoch, which is of no interest where training goes by steps.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shown: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start where a resumed run left off, so that its pace counts only what is done now."""
        super().on_train_start(trainer)
        self.train_progress_bar.initial = trainer.fit_loop.total_batch_idx + 1
        batches = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self.train_progress_bar.total = batches

    def on_train_epoch_start(self, *_: Any) -> None:
        """Leave the bar as it is: it is that of the whole run."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count batches from the start of the run."""
        loss = trainer.callback_metrics.get("train/loss")
        step = trainer.global_step
        if loss is not None and step and is_logged(trainer, step - 1):
            others = super().get_metrics(trainer, pl_module)  # of callbacks of the user's own
            self._shown = {**others, "train/loss": float(loss)}
            self._shown.pop("v_num", None)
        index = trainer.fit_loop.total_batch_idx
        super().on_train_batch_end(trainer, pl_module, outputs, batch, index)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Text behind the bar: the loss and the like, of the last step that Lightning logged.

        To read it is to wait for the step.
        """
        return dict(self._shown)
