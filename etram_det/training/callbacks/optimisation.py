"""Learning rate, norm of the gradient and size weights of the labels, logged by step."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torchvision.ops import box_convert

from etram_det.training.callbacks.loggers import show_histogram
from etram_det.types import Batch, Labels

MAX_BATCHES = 1000  # whose labels are kept for a histogram


class OptimisationMonitor(Callback):
    """Logs facts of each optimiser step, at the steps that Lightning logs.

    - ``train/learning_rate`` of the step;
    - ``train/gradient_norm``, over all parameters, before clipping; nan for a step that was
      skipped, as its gradients were not finite;
    - ``train/size_weight``, a histogram of the weights that a size-aware loss gives to the
      training labels, over the batches since the last one. Other losses have none.
    """

    def __init__(self) -> None:
        self._labels: deque[Labels] = deque(maxlen=MAX_BATCHES)
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count on from where a run starts or goes on."""
        self._labels.clear()
        self._step = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Log the learning rate and the norm, which no step waits for."""
        if not _is_logged(trainer, trainer.global_step):
            return
        groups = optimizer.param_groups
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm(gradients) if gradients else torch.tensor(torch.nan)
        # On the CPU: to bring a number to the device is to wait for it.
        rate = torch.tensor(groups[0]["lr"], dtype=torch.float64)
        pl_module.log_dict({"train/learning_rate": rate, "train/gradient_norm": norm})

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the labels, and show their weights where it is time."""
        weight = pl_module.loss.size_weight
        if weight is None or not trainer.loggers or not trainer.is_global_zero:
            return
        if len(batch.labels):
            self._labels.append(batch.labels)
        step = trainer.global_step
        # Where gradients are accumulated, a batch need not end a step.
        if step == self._step or not self._labels or not _is_logged(trainer, step - 1):
            return
        self._step = step
        # Batch by batch, as the loss does where it keeps their mean at 1.
        weights = [
            weight.of_boxes(box_convert(each.boxes[each.valid], "xyxy", "cxcywh"))
            for each in self._labels
        ]
        show_histogram(trainer.loggers, "train/size_weight", torch.cat(weights).cpu().numpy(), step)
        self._labels.clear()


def _is_logged(trainer: Any, steps_done: int) -> bool:
    """Whether Lightning logs the step that comes after so many."""
    return (steps_done + 1) % trainer.log_every_n_steps == 0
