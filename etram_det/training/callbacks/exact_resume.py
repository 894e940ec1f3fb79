"""Exact resume: training goes on from a checkpoint as if it had never stopped.

Lightning keeps weights, optimiser, schedule, scaler and its counters. What is added here: the
carried state of the lanes, the random numbers, gradients that are being accumulated, each for all
processes, and counters of the moment *between* two steps, wherever in a step or a validation the
checkpoint was written. The data module keeps the place in the plan of batches.
The layout of all this is checked as the checkpoint is read; here, that it fits this run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from etram_det.checkpoint.file import Checkpoint
from etram_det.errors import UserError
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from etram_det.training.lightning_internals import (
    add_logged_step,
    ends_optimizer_step,
    forget_logged_step,
    validation_is_due,
)

# Progress that an exact resume reads, by Lightning's names.
_BATCHES, _VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"


class ExactResume(Callback):
    """Saves what an exact resume needs and Lightning does not keep, and restores it.

    It must come before the callbacks that write checkpoints, where Lightning puts it.
    """

    def __init__(self) -> None:
        self._is_in_validation = False
        self._stored: Checkpoint | None = None  # until the optimisers are there
        self._resumed_from: str | None = None
        self._processes: Sequence[Mapping[str, Any]] = ()
        self._has_step_to_spare = False
        self._on_hosts: Any = None  # process group that sends through the hosts' memory

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Open a way from host to host, as lane states of all processes would fill a device."""
        self._on_hosts = None  # for the default one
        if stage == "fit" and trainer.world_size > 1 and distributed.get_backend() != "gloo":
            self._on_hosts = distributed.new_group(backend="gloo")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that a checkpoint from here on has this validation before it."""
        self._is_in_validation = True
        if self._has_step_to_spare:
            trainer.fit_loop.epoch_loop.max_steps -= 1
            self._has_step_to_spare = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that a checkpoint from here on has this validation behind it."""
        self._is_in_validation = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state of all processes, and set the counters to complete steps."""
        if trainer.state.fn != "fit":
            return
        guard, rows = _guard(trainer), pl_module.train_states.rows
        own = {
            "random": _random_states(),
            # Clones: a view would be written with all that it is part of.
            "lanes": rows and [(hidden.clone().cpu(), cell.clone().cpu()) for hidden, cell in rows],
            "gradients": _accumulated_gradients(trainer, pl_module),
            "unfinished_step": guard and guard.unfinished_step(),
        }
        processes = [own]
        if trainer.world_size > 1:
            processes = self._gathered(own)
        stored = Checkpoint(checkpoint)
        assert stored.fit_loop is not None  # Lightning has just written it
        _count_complete_steps(trainer, stored.fit_loop, self._is_in_validation)
        stored.resume = {"processes": processes}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take what is to be restored once training starts.

        Raises:
            UserError: if the checkpoint lacks the progress of the loops.
        """
        self._stored, self._resumed_from, self._processes = None, None, ()
        if trainer.state.fn != "fit":
            return
        self._stored = stored = Checkpoint(checkpoint, str(trainer.ckpt_path))
        if stored.resume is None:
            return
        self._resumed_from = str(stored.path)
        loops = stored.fit_loop or {}
        for name in (_BATCHES, _VALIDATION):
            if "ready" not in loops.get(name, {}).get("current", {}):
                raise _does_not_fit(stored.path, f"it must hold the progress {name}, got none")
        data = getattr(trainer, "datamodule", None)
        if getattr(data, "resumes_exactly", False):
            self._processes = stored.resume["processes"]
        else:
            # The plan of batches is another one: its epoch starts anew, and so do the lanes.
            batches = loops[_BATCHES]
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        validates = loops[_VALIDATION]["current"]["ready"] > 0
        self._has_step_to_spare = validates and stored.step >= trainer.max_steps > -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the stored optimisers, and let a validation that is due take place.

        Lightning would not enter its loop where no step is left.

        Raises:
            UserError: if the optimisers are not those of this network.
        """
        stored, self._stored = self._stored, None
        if stored is not None and stored.has_optimizer:
            _require_same_optimizers(stored, trainer.optimizers)
        if self._has_step_to_spare:
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore the state of this process, at the last moment before its first step.

        Raises:
            UserError: if the state is not that of this network and these frames.
        """
        path, self._resumed_from = self._resumed_from, None
        if path is None:
            return
        if validation_is_due(trainer) and ends_optimizer_step(trainer):
            # Lightning passes once more through the end of that step, and counts it there.
            forget_logged_step(trainer)
        if trainer.global_rank < len(self._processes):
            _restore(trainer, pl_module, self._processes[trainer.global_rank], path)
        self._processes = ()

    def _gathered(self, own: dict[str, Any]) -> list[dict[str, Any]]:
        """The states of all processes on the first one, which writes them; on others their own."""
        processes: list[Any] | None = None
        if distributed.get_rank() == 0:
            processes = [None] * distributed.get_world_size()
        distributed.gather_object(own, processes, group=self._on_hosts)
        return [own] if processes is None else processes


def _count_complete_steps(
    trainer: pl.Trainer, loops: dict[str, Any], is_in_validation: bool
) -> None:
    """Set the counters of the training loops to the moment between two steps.

    Lightning writes them as they stand in the middle of a step, of a validation or after the end,
    and knows only some of these cases when it starts again. Here, the steps that are done are
    counted as completed, the epoch as begun, and a validation as not begun: it is run from its
    start if it is due after the last step, otherwise left out.
    """
    batches, epochs = loops[_BATCHES], loops["epoch_progress"]
    is_in_step_end = batches["total"]["processed"] > batches["total"]["completed"]
    is_begun = batches["total"]["ready"] > batches["total"]["processed"]
    if (is_in_step_end or trainer.validating) and ends_optimizer_step(trainer):
        add_logged_step(loops)
    for counts in (batches["total"], batches["current"]):
        done = counts["processed"]
        counts.update(ready=done, started=done, completed=done)
    if is_begun:
        batches["is_last_batch"] = False
    for counts in (epochs["total"], epochs["current"]):
        done = max(counts["ready"] - 1, 0)
        counts.update(processed=done, completed=done)
    is_due = is_in_validation or (is_in_step_end and validation_is_due(trainer))
    validation = loops[_VALIDATION]
    for counts in (validation["total"], validation["current"]):
        # One batch begun and none done is what Lightning takes for a broken-off validation.
        counts.update(ready=int(is_due), started=int(is_due), processed=0, completed=0)
    validation["is_last_batch"] = False


def _accumulated_gradients(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """Gradients by parameter, where the optimiser's step waits for further batches."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if batches.processed % trainer.accumulate_grad_batches == 0:
        return {}
    return {
        name: parameter.grad.cpu()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def _guard(trainer: Any) -> NonFiniteSteps | None:
    """The callback that knows what to undo in a non-finite step, if the run has it."""
    return next((each for each in trainer.callbacks if isinstance(each, NonFiniteSteps)), None)


def _does_not_fit(path: object, what: str) -> UserError:
    return UserError(
        f"{path}: cannot resume: {what}: the checkpoint is damaged, or of another program: use "
        "another one, or start from its weights by model.init_from"
    )


def _require_same_optimizers(stored: Checkpoint, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimisers of other parameters, or whose running means have other shapes ``[*]``."""
    states = stored.optimizer_states
    if len(states) != len(optimizers):
        what = f"optimizer_states must be {len(optimizers)}, got {len(states)}"
        raise _does_not_fit(stored.path, what)
    for state, optimizer in zip(states, optimizers, strict=True):
        groups, own_groups = state["param_groups"], optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        own_sizes = [len(group["params"]) for group in own_groups]
        if sizes != own_sizes:
            what = f"parameters of the optimiser must be {own_sizes}, got {sizes}"
            raise _does_not_fit(stored.path, what)
        for group, own in zip(groups, own_groups, strict=True):
            for number, parameter in zip(group["params"], own["params"], strict=True):
                for name in ("exp_avg", "exp_avg_sq") if "betas" in own else ():  # of Adam
                    kept = state["state"].get(number, {name: parameter}).get(name)
                    means = [kept] if isinstance(kept, Tensor) else []
                    _require_shapes(stored.path, name, means, [tuple(parameter.shape)])


def _require_shapes(
    path: object, what: str, found: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]
) -> None:
    """Refuse tensors that are not of these shapes."""
    theirs = [tuple(each.shape) for each in found]
    if theirs != list(shapes):
        raise _does_not_fit(path, f"{what} must have the shapes {list(shapes)}, got {theirs}")


def _restore(trainer: Any, module: Any, own: Mapping[str, Any], path: object) -> None:
    """Give a process back its random numbers, lanes and the step that it was in."""
    _restore_random_states(own["random"], path)
    if own["lanes"] is not None:
        data = trainer.datamodule
        shapes = module.detector.state_shapes(data.train_lanes, *data.input_size)
        for part in range(2):
            _require_shapes(path, "lanes", [pair[part] for pair in own["lanes"]], shapes)
        module.train_states.rows = [
            (hidden.to(module.device), cell.to(module.device)) for hidden, cell in own["lanes"]
        ]
    for name, parameter in module.named_parameters():
        if name in own["gradients"]:
            gradient = own["gradients"][name]
            _require_shapes(path, f"gradient of {name}", [gradient], [tuple(parameter.shape)])
            parameter.grad = gradient.to(parameter)
    unfinished = own.get("unfinished_step")  # older checkpoints have none
    if unfinished and (guard := _guard(trainer)) is not None:
        shapes = [tuple(each.shape) for each in module.detector.buffers()]
        _require_shapes(path, "statistics", unfinished["statistics"], shapes)
        guard.go_on_with_step(
            **{name: [each.to(module.device) for each in some] for name, some in unfinished.items()}
        )


def _random_states() -> dict[str, Any]:
    """States of all generators of random numbers, as tensors and plain values."""
    generator: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = generator
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _restore_random_states(states: Mapping[str, Any], path: object) -> None:
    version, words, gauss = states["python"]
    if version != 3 or words[-1] > 624 or states["numpy"][0] != "MT19937":
        raise _does_not_fit(path, "random must be states of Mersenne Twisters, got others")
    random.setstate((version, tuple(words), gauss))
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
