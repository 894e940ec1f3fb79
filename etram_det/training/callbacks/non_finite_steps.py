"""Non-finite steps: skipped, counted, and the end of a run if there are many in a row."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from etram_det.checkpoint.file import write_checkpoint
from etram_det.errors import UserError
from etram_det.training.callbacks.loggers import is_logged
from etram_det.types import Batch

_log = logging.getLogger(__name__)
_MOST_UNREAD = 500  # steps after which the host looks at them where Lightning logs none for long


@dataclass
class _BatchFacts:
    """What is reported of a batch whose step was not finite; the batch itself is large.

    Attributes:
        recording: name of each lane's recording.
        time_us: ``[T, B]`` int64, as in the batch.
        padded: ``[T, B]`` bool, as in the batch.
        loss: ``[]``, once it is known.
        parts: of the loss, ``[]`` each.
    """

    recording: list[str]
    time_us: Tensor
    padded: Tensor
    loss: Tensor | None = None
    parts: dict[str, Tensor] | None = None


@dataclass
class _Step:
    """A step that the host has not judged yet.

    Attributes:
        number: of the step.
        flags: ``[1 + R]`` float32, 1 where gradients are not finite, then for each process where
            anything else is not.
        batches: of the step, more than one where gradients are accumulated.
    """

    number: int
    flags: Tensor
    batches: list[_BatchFacts]


class NonFiniteSteps(Callback):
    """Skips optimiser steps that are not finite, and stops after many in a row.

    A step is non-finite if on any process its loss, a gradient, a running statistic of batch
    normalisation or the state of a lane is. Then the weights and the optimiser stay as
    they are, the running statistics go back to what they were before the step's batches, and lanes
    with a non-finite state start anew. All processes decide alike. A skipped step counts as a
    step: the plan of the data, the learning rate and ``max_steps`` go on.

    The device decides by itself. On an accelerator the host learns of it at the steps that
    Lightning logs, and after 500 at most, so reports may come some steps late, and a run ends if
    the last steps before such a moment were not finite. On a CPU, and where a ``GradScaler`` waits
    anyway, it is at once.

    Infinite gradients of a finite loss are not counted under a ``GradScaler`` (``16-mixed``): it
    skips them by itself and lowers its scale.

    The count is logged as ``train/skipped_steps``.

    Args:
        most_in_a_row: non-finite steps in a row that end the run; the last batch is kept as
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
        self._folder, self._rank = Path(), 0
        self._skipped: Tensor | None = None  # the count on the device, [] float32
        self._steps: list[_Step] = []  # since the host last looked
        # Of the batches since the last step, more than one where gradients are accumulated.
        self._batches: list[_BatchFacts] = []
        self._batch: Batch | None = None  # the last one
        self._losses_before: list[Tensor] = []  # of those that a resumed step had already
        self._statistics: list[Tensor] = []
        self._scaler_state: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, int]:
        """The counts, which a resumed run goes on from."""
        self._judge()
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
        losses = self._losses()
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
        self._rank = trainer.global_rank
        self._skipped = torch.full((), float(self.num_skipped), device=pl_module.device)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, *_: Any) -> None:
        """Keep the running statistics as they are before the batches of a step."""
        if not self._batches and not self._losses_before:
            buffers = list(pl_module.detector.buffers())
            if len(self._statistics) != len(buffers):
                self._statistics = [torch.empty_like(each) for each in buffers]
            torch._foreach_copy_(self._statistics, buffers)
        # Clones: a view would keep the memory of the whole batch.
        facts = _BatchFacts(batch.recording, batch.time_us.clone(), batch.padded.clone())
        self._batches.append(facts)
        self._batch = batch

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Keep the loss ``[]`` of a batch ``[T, B, C, H, W]``, which a scaler leaves as finite."""
        self._batches[-1].loss, self._batches[-1].parts = loss.detach(), pl_module.loss_parts

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: Any, optimizer: Optimizer
    ) -> None:
        """Check the step, and have it skipped if it is not finite.

        Raises:
            UserError: if too many steps in a row were not finite.
        """
        flags = self._flags(trainer, pl_module, optimizer)
        is_skipped = flags.amax()
        # A fused optimiser changes nothing where this is 1.
        cast(Any, optimizer).found_inf = is_skipped
        self._restore_statistics(list(pl_module.detector.buffers()), is_skipped)
        assert self._skipped is not None
        self._skipped = self._skipped + is_skipped
        self._steps.append(_Step(trainer.global_step, flags, self._batches))
        self._batches, self._losses_before = [], []
        scaler = _scaler(trainer)
        if self._is_due(trainer, flags.device):
            not_finite = self._judge(may_end=True)
            if not_finite and scaler is not None:
                self._scaler_state = scaler.state_dict()
        self._batch = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log the count. A non-finite loss is no reason to lower the scale of a ``GradScaler``."""
        if self._scaler_state is not None:
            _scaler(trainer).load_state_dict(self._scaler_state)
            self._scaler_state = None
        pl_module.log("train/skipped_steps", self._skipped, batch_size=1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the count, if there is one."""
        self._judge()
        if self.num_skipped and trainer.is_global_zero:
            counts = self.num_skipped, trainer.global_step
            _log.warning("%d of %d training steps were skipped, as they were not finite", *counts)

    def _is_due(self, trainer: Any, device: torch.device) -> bool:
        """Whether the host looks at the steps now: it waits anyway, or they have become many."""
        is_free = device.type == "cpu" or _scaler(trainer) is not None
        is_full = len(self._steps) >= _MOST_UNREAD
        return is_free or is_full or is_logged(trainer, trainer.global_step)

    def _losses(self) -> list[Tensor]:
        """Losses ``[]`` of the step's batches so far."""
        own = [each.loss for each in self._batches if each.loss is not None]
        return [*self._losses_before, *own]

    def _flags(self, trainer: pl.Trainer, module: Any, optimizer: Optimizer) -> Tensor:
        """What is not finite on which process, ``[1 + R]`` as in :class:`_Step`."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        gradients = [each.grad for each in parameters if each.grad is not None]
        buffers = [each for each in module.detector.buffers() if each.is_floating_point()]
        flags = torch.zeros(1 + trainer.world_size, device=module.device)
        if _scaler(trainer) is None:
            flags[0] = _any_not_finite(gradients)
        is_bad = _any_not_finite([*self._losses(), *buffers])
        if (bad_lanes := module.train_states.clear_not_finite()) is not None:
            is_bad = is_bad | bad_lanes.any()
        flags[1 + trainer.global_rank] = is_bad
        if trainer.world_size > 1:
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return flags

    def _restore_statistics(self, buffers: list[Tensor], is_skipped: Tensor) -> None:
        """Give buffers ``[*]`` back what they held before the step, where it is skipped."""
        for dtype in {each.dtype for each in buffers}:
            pairs = zip(buffers, self._statistics, strict=True)
            new, old = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
            before, now = (torch.cat([each.flatten() for each in some]) for some in (old, new))
            chosen = torch.where(is_skipped > 0, before, now)
            parts = torch.split(chosen, [each.numel() for each in new])
            views = [part.view_as(each) for part, each in zip(parts, new, strict=True)]
            torch._foreach_copy_(new, views)

    def _judge(self, may_end: bool = False) -> bool:
        """Count and log the non-finite steps since the host last looked, which waits for them.

        Args:
            may_end: whether too many in a row end the run.

        Returns:
            Whether the last step was one.

        Raises:
            UserError: if there were too many in a row up to the last step.
        """
        steps, self._steps = self._steps, []
        flags = torch.stack([each.flags for each in steps]).tolist() if steps else []
        for step, (in_gradients, *on_ranks) in zip(steps, flags, strict=True):
            ranks = [rank for rank, is_on_it in enumerate(on_ranks) if is_on_it]
            if not in_gradients and not ranks:
                self.num_in_a_row = 0
                continue
            self.num_skipped += 1
            self.num_in_a_row += 1
            is_over = may_end and self.num_in_a_row >= self.most_in_a_row and step is steps[-1]
            self._report(step, ranks, is_over)
        return bool(flags) and any(flags[-1])

    def _report(self, step: _Step, ranks: list[int], is_over: bool) -> None:
        """Log which batches were not finite; raise ``UserError`` if the run is over."""
        rank = self._rank
        is_mine = rank in ranks or not ranks
        others = f"not finite on process {', '.join(map(str, ranks))}"
        message = _description(step.batches) if is_mine else others
        if not is_over:
            if rank == (ranks or [0])[0]:
                counts = step.number, self.num_skipped
                _log.warning("step %d is skipped (%d so far): %s", *counts, message)
            return
        kept = self._keep_batch(step) if is_mine else ""
        raise UserError(
            f"non_finite_steps.most_in_a_row: {self.num_in_a_row} training steps in a row were "
            f"not finite, step {step.number} the last: {message}{kept}: look at these recordings, "
            "or train anew: set model.init_from to the last checkpoint and model.learning_rate "
            "lower",
            exit_code=1,
        )

    def _keep_batch(self, step: _Step) -> str:
        """Write the step's last batch to the run folder; return where it is."""
        assert self._batch is not None
        path = self._folder / f"bad_batch_rank{self._rank}.pt"
        kept = _plain(self._batch) | {"loss_parts": step.batches[-1].parts}
        try:
            write_checkpoint(path, {"step": step.number, "batches": [kept]})
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


def _description(batches: list[_BatchFacts]) -> str:
    """Loss parts, recordings and their times in seconds, of the batches that are not finite."""
    losses = [each.loss is None or bool(each.loss.isfinite()) for each in batches]
    texts = []
    for batch, is_finite in zip(batches, losses, strict=True):
        if all(losses) or not is_finite:
            parts = (batch.parts or {}).items()
            values = ", ".join(f"{name} {float(value):.4g}" for name, value in parts)
            what = "gradient or state not finite" if is_finite else "loss not finite"
            texts.append(f"{what} ({values or 'no labels'}) in {_recordings(batch)}")
    return "; ".join(texts)


def _recordings(batch: _BatchFacts) -> str:
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
