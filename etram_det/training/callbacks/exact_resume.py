"""Exact resume: training goes on from a checkpoint as if it had never stopped.

Lightning keeps weights, optimiser, schedule, scaler and its counters. What is added here: the
carried state of the lanes, the random numbers, gradients that are being accumulated, each for all
processes, and counters that tell of the moment *between* two steps, wherever in a step or a
validation the checkpoint was written. The data module keeps the place in the plan of batches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from etram_det.errors import UserError
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps


class ExactResume(Callback):
    """Saves what an exact resume needs and Lightning does not keep, and restores it.

    It must come before the callbacks that write checkpoints, where Lightning puts it.
    """

    def __init__(self) -> None:
        self._is_in_validation = False
        self._stored: dict[str, Any] | None = None
        self._has_step_to_spare = False

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
        """Add the state of all processes, and let the counters tell of whole steps."""
        if trainer.state.fn != "fit":
            return
        guard = _guard(trainer)
        own = {
            "random": _random_states(),
            "lanes": _on_cpu(pl_module.train_states.rows),
            "gradients": _accumulated_gradients(trainer, pl_module),
            "unfinished_step": None if guard is None else guard.unfinished_step(),
        }
        processes: list[Any] = [own]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            distributed.all_gather_object(processes, own)
        loops = checkpoint["loops"]["fit_loop"]
        _count_whole_steps(trainer, loops, self._is_in_validation)
        checkpoint["resume"] = {"processes": processes}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]
    ) -> None:
        """Take what is to be restored once training starts."""
        self._stored = checkpoint.get("resume") if trainer.state.fn == "fit" else None
        if self._stored is None:
            return
        with _damage_told(trainer):
            self._prepare(trainer, checkpoint)

    def _prepare(self, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        loops = checkpoint["loops"]["fit_loop"]
        _require_counts(loops)
        data = getattr(trainer, "datamodule", None)
        if not getattr(data, "resumes_exactly", False):
            # The plan of batches is another one: its epoch starts anew, and so do the lanes.
            self._stored = {"processes": []}
            batches = loops["epoch_loop.batch_progress"]
            batches["current"] = dict.fromkeys(batches["current"], 0)
            batches["is_last_batch"] = False
        validates = loops["epoch_loop.val_loop.batch_progress"]["current"]["ready"] > 0
        self._has_step_to_spare = validates and checkpoint["global_step"] >= trainer.max_steps > -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let a validation that is due after the last step take place.

        Lightning would not enter its loop, as no step is left.
        """
        if self._has_step_to_spare:
            trainer.fit_loop.epoch_loop.max_steps += 1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Restore the state of this process, at the last moment before its first step."""
        stored, self._stored = self._stored, None
        if stored is None:
            return
        loop = trainer.fit_loop.epoch_loop
        if _validation_is_due(trainer) and not loop._should_accumulate():
            # Lightning passes once more through the end of that step, and counts it there.
            loop._batches_that_stepped -= 1
        with _damage_told(trainer):
            _require_fitting_moments(trainer.optimizers)
            if trainer.global_rank < len(stored["processes"]):
                _restore(trainer, pl_module, stored["processes"][trainer.global_rank])


def _count_whole_steps(trainer: pl.Trainer, loops: dict[str, Any], is_in_validation: bool) -> None:
    """Let the counters of the training loops tell of the moment between two steps.

    Lightning writes them as they stand in the middle of a step, of a validation or after the end,
    and knows only some of these cases when it starts again. Here, the steps that are done are
    counted as completed, the epoch as begun, and a validation as not begun: it is run from its
    start if it is due after the last step, otherwise left out.
    """
    loop = trainer.fit_loop.epoch_loop
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    is_in_step_end = batches["total"]["processed"] > batches["total"]["completed"]
    is_begun = batches["total"]["ready"] > batches["total"]["processed"]
    if (is_in_step_end or trainer.validating) and not loop._should_accumulate():
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    for counts in (batches["total"], batches["current"]):
        done = counts["processed"]
        counts.update(ready=done, started=done, completed=done)
    if is_begun:
        batches["is_last_batch"] = False
    for counts in (epochs["total"], epochs["current"]):
        done = max(counts["ready"] - 1, 0)
        counts.update(processed=done, completed=done)
    is_due = is_in_validation or (is_in_step_end and _validation_is_due(trainer))
    validation = loops["epoch_loop.val_loop.batch_progress"]
    for counts in (validation["total"], validation["current"]):
        # One batch begun and none done is what Lightning takes for a broken-off validation.
        counts.update(ready=int(is_due), started=int(is_due), processed=0, completed=0)
    validation["is_last_batch"] = False


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """Whether the configuration has a validation after the last step that is done."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


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


def _on_cpu(rows: Any) -> Any:
    """Lane states as tensors of their own: a view would be written with all that it is part of."""
    if rows is None:
        return None
    return [(hidden.clone().cpu(), cell.clone().cpu()) for hidden, cell in rows]


def _guard(trainer: Any) -> NonFiniteSteps | None:
    """The callback that knows what a bad step would have to undo, if the run has it."""
    return next((each for each in trainer.callbacks if isinstance(each, NonFiniteSteps)), None)


@contextmanager
def _damage_told(trainer: pl.Trainer) -> Iterator[None]:
    """Turn what a damaged state leads to into a line for its user."""
    try:
        yield
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{trainer.ckpt_path}: what the checkpoint keeps for an exact resume is damaged "
            f"({what}): choose another one, or start from its weights by model.init_from"
        ) from error


def _require_counts(loops: Any, are_counts: bool = False) -> None:
    """Refuse what stands for the progress of loops and is no count."""
    for name, value in loops.items():
        if isinstance(value, dict):
            _require_counts(value, are_counts or name.endswith("progress"))
        elif are_counts and not isinstance(value, int):
            raise TypeError(f"{name} must be a count, found {value!r}")


def _require_fitting_moments(optimizers: list[Optimizer]) -> None:
    """Refuse running means of gradients that are not of their parameters' shapes ``[*]``."""
    for optimizer in optimizers:
        for parameter, kept in optimizer.state.items():
            for name, value in kept.items():
                if name.startswith("exp_avg") and value.shape != parameter.shape:
                    shapes = tuple(parameter.shape), tuple(value.shape)
                    raise ValueError("{} must be {}, found {}".format(name, *shapes))


def _require_shapes(what: str, found: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse tensors that are not of these shapes."""
    theirs = [tuple(each.shape) for each in found]
    if theirs != list(shapes):
        raise ValueError(f"{what} must be {list(shapes)}, found {theirs}")


def _restore(trainer: Any, module: Any, own: dict[str, Any]) -> None:
    """Give a process back its random numbers, lanes and the step that it was in."""
    _restore_random_states(own["random"])
    if own["lanes"] is not None:
        data = trainer.datamodule
        shapes = module.detector.state_shapes(data.train_lanes, *data.input_size)
        for part in zip(*own["lanes"], strict=True):
            _require_shapes("lanes", part, shapes)
        module.train_states.rows = [
            (hidden.to(module.device), cell.to(module.device)) for hidden, cell in own["lanes"]
        ]
    for name, parameter in module.named_parameters():
        if name in own["gradients"]:
            parameter.grad = own["gradients"][name].to(parameter)
    unfinished = own.get("unfinished_step")  # older checkpoints have none
    if unfinished and (guard := _guard(trainer)) is not None:
        shapes = [tuple(each.shape) for each in module.detector.buffers()]
        _require_shapes("statistics", unfinished["statistics"], shapes)
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


def _restore_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
