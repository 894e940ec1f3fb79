"""Non-finite steps: skipped, counted, and the end of a run if there are many in a row."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from etram_det.checkpoint.file import write_checkpoint
from etram_det.errors import UserError
from etram_det.types import Batch

_log = logging.getLogger(__name__)


class NonFiniteSteps(Callback):
    """Skips optimiser steps that are not finite, and stops after many in a row.

    A step is non-finite if on any process its loss, a gradient, a running statistic of batch
    normalisation or the state of a lane is. Then the weights and the optimiser stay as
    they are, the running statistics go back to what they were before the step's batches, and lanes
    with a non-finite state start anew. All processes decide alike. A skipped step counts as a
    step: the plan of the data, the learning rate and ``max_steps`` go on.

    Infinite gradients of a finite loss are not counted under a ``GradScaler`` (``16-mixed``): it
    skips them by itself and lowers its scale.

    The count is logged as ``train/skipped_steps``.

    Args:
        most_in_a_row: non-finite steps in a row that end the run; the last one's batch is kept as
            ``bad_batch_rank<n>.pt`` in the run folder.

    Raises:
        UserError: if the number is not positive.
    """

    state_key = "BadSteps"  # in checkpoints, since the first release

    def __init__(self, most_in_a_row: int = 10) -> None:
        if most_in_a_row < 1:
            raise UserError(
                f"non_finite_steps.most_in_a_row: must be at least 1, got {most_in_a_row}: set it "
                "to 1 or more"
            )
        self.most_in_a_row = most_in_a_row
        self.num_skipped = self.num_in_a_row = 0
        self._folder = Path()
        # Of the batches since the last step, more than one where gradients are accumulated.
        self._batches: list[Batch] = []
        self._losses: list[Tensor] = []
        self._parts: list[dict[str, Tensor]] = []
        self._losses_before: list[Tensor] = []  # of those that a resumed step had already
        self._statistics: list[Tensor] = []
        self._scaler_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, int]:
        """The counts, which a resumed run goes on from."""
        return {"num_skipped": self.num_skipped, "num_in_a_row": self.num_in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Take over the counts of a checkpoint."""
        self.num_skipped = state_dict["num_skipped"]
        self.num_in_a_row = state_dict["num_in_a_row"]

    def unfinished_step(self) -> dict[str, list[Tensor]] | None:
        """State of a step that waits for further batches; None between two steps.

        Returns:
            ``losses`` ``[]`` of its batches so far, and running ``statistics`` ``[*]`` from before
            them, on the CPU.
        """
        losses = [*self._losses_before, *self._losses]
        if not losses:
            return None
        return {
            "losses": [each.cpu() for each in losses],
            "statistics": [each.clone().cpu() for each in self._statistics],
        }

    def go_on_with_step(self, losses: list[Tensor], statistics: list[Tensor]) -> None:
        """Take over losses ``[]`` and statistics ``[*]`` that :meth:`unfinished_step` returned."""
        self._losses_before, self._statistics = losses, statistics

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ask for the run folder, which all processes must do together."""
        self._folder = Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, *_: Any) -> None:
        """Keep the running statistics as they are before the batches of a step."""
        if not self._batches and not self._losses_before:
            buffers = list(pl_module.detector.buffers())
            if len(self._statistics) != len(buffers):
                self._statistics = [torch.empty_like(each) for each in buffers]
            torch._foreach_copy_(self._statistics, buffers)
        self._batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss ``[]`` of a batch ``[T, B, C, H, W]``, which a scaler leaves as finite."""
        self._losses.append(loss.detach())
        self._parts.append(pl_module.loss_parts)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Check the step, and skip it if it is not finite.

        Raises:
            UserError: if too many steps in a row were not finite.
        """
        in_gradients, ranks = self._check(trainer, pl_module, optimizer)
        if not in_gradients and not ranks:
            self.num_in_a_row = 0
        else:
            self.num_skipped += 1
            self.num_in_a_row += 1
            self._undo(trainer, pl_module, optimizer)
            self._report(trainer, ranks)
        self._batches, self._losses, self._parts, self._losses_before = [], [], [], []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log the count. A non-finite loss is no reason to lower the scale of a ``GradScaler``."""
        if self._scaler_state is not None:
            _scaler(trainer).load_state_dict(self._scaler_state)
            self._scaler_state = None
        pl_module.log("train/skipped_steps", float(self.num_skipped), batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the count, if there is one."""
        if self.num_skipped and trainer.is_global_zero:
            counts = self.num_skipped, trainer.global_step
            _log.warning("%d of %d training steps were skipped, as they were not finite", *counts)

    def _check(
        self, trainer: pl.Trainer, module: Any, optimizer: Optimizer
    ) -> tuple[bool, list[int]]:
        """Whether gradients are not finite, and the processes on which anything else is not."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        gradients = [each.grad for each in parameters if each.grad is not None]
        states = [part for pair in module.train_states.rows or () for part in pair]
        buffers = [each for each in module.detector.buffers() if each.is_floating_point()]
        others = [*self._losses_before, *self._losses, *states, *buffers]
        flags = torch.zeros(1 + trainer.world_size, device=module.device)
        if _scaler(trainer) is None:
            flags[0] = _any_not_finite(gradients)
        flags[1 + trainer.global_rank] = _any_not_finite(others)
        if trainer.world_size > 1:
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        # The only moment at which a step waits for the device.
        in_gradients, *on_ranks = flags.tolist()
        return bool(in_gradients), [rank for rank, is_on_it in enumerate(on_ranks) if is_on_it]

    def _undo(self, trainer: pl.Trainer, module: Any, optimizer: Optimizer) -> None:
        """Leave nothing of the step's batches behind."""
        optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
        torch._foreach_copy_(list(module.detector.buffers()), self._statistics)
        module.train_states.clear_not_finite()
        if (scaler := _scaler(trainer)) is not None:
            self._scaler_state = scaler.state_dict()

    def _report(self, trainer: pl.Trainer, ranks: list[int]) -> None:
        """Log which batches were not finite; raise ``UserError`` after too many in a row."""
        rank, step = trainer.global_rank, trainer.global_step
        is_mine = rank in ranks or not ranks
        others = f"not finite on process {', '.join(map(str, ranks))}"
        message = self._description() if is_mine else others
        if self.num_in_a_row < self.most_in_a_row:
            if rank == (ranks or [0])[0]:
                _log.warning("step %d is skipped (%d so far): %s", step, self.num_skipped, message)
            return
        kept = self._keep_batches(rank, step) if is_mine else ""
        raise UserError(
            f"non_finite_steps.most_in_a_row: {self.num_in_a_row} training steps in a row were "
            f"not finite, step {step} the last: {message}{kept}: look at these recordings, or "
            "train anew: set model.init_from to the last checkpoint and model.learning_rate lower",
            exit_code=1,
        )

    def _description(self) -> str:
        """Loss parts, recordings and their times in seconds, of the batches that are not finite."""
        losses = [bool(loss.isfinite()) for loss in self._losses]
        texts = []
        for batch, parts, is_finite in zip(self._batches, self._parts, losses, strict=True):
            if all(losses) or not is_finite:
                values = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
                what = "gradient or state not finite" if is_finite else "loss not finite"
                texts.append(f"{what} ({values or 'no labels'}) in {_recordings(batch)}")
        return "; ".join(texts)

    def _keep_batches(self, rank: int, step: int) -> str:
        """Write the step's batches to the run folder; return where they are."""
        path = self._folder / f"bad_batch_rank{rank}.pt"
        pairs = zip(self._batches, self._parts, strict=True)
        kept = [_plain(batch) | {"loss_parts": parts} for batch, parts in pairs]
        try:
            write_checkpoint(path, {"step": step, "batches": kept})
        except UserError as error:
            return f"; the batch is lost: {error}"
        return f"; the batch is in {path}"


def _scaler(trainer: pl.Trainer) -> Any:
    return getattr(trainer.precision_plugin, "scaler", None)


def _any_not_finite(tensors: list[Tensor]) -> Tensor | bool:
    """Whether any number in tensors ``[*]`` is nan or infinite, without waiting for the device."""
    if not tensors:
        return False
    # Of all reductions the fastest. It overflows where the squares do, which Adam takes as well.
    norms = torch._foreach_norm(tensors, 2, dtype=torch.float32)
    return ~torch.stack(norms).isfinite().all()


def _recordings(batch: Batch) -> str:
    """Names of a batch's recordings, with the stretch of each in seconds."""
    texts = []
    for b, name in enumerate(batch.recording):
        times_us = batch.time_us[:, b][~batch.padded[:, b]].tolist()
        if times_us:
            texts.append(f"{name} at {times_us[0] / 1e6:.2f} to {times_us[-1] / 1e6:.2f} s")
    return ", ".join(texts)


def _plain(batch: Batch) -> dict[str, Any]:
    """A batch as tensors and plain values, which load without running code."""
    values = vars(batch) | {"labels": vars(batch.labels)}
    return {
        name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()
    }
