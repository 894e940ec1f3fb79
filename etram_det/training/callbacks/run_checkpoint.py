"""Which checkpoints a run keeps, when it writes them, and the signals that end it with one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from etram_det.checkpoint.file import read_checkpoint, write_checkpoint
from etram_det.errors import StoppedBySignal, UserError
from etram_det.training.lightning_internals import slurm_environment

# Printed at Ctrl-C, as a step may take long.
_ASKED = b"\netram_det: ending after this step, with a checkpoint; Ctrl-C again ends at once\n"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads checkpoints without running code; writes them beside their place, then moves them."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; whatever stops the writing leaves the file that was there before.

        Raises:
            UserError: if the file cannot be written, because the disk is full, say.
        """
        path = Path(path)
        try:
            write_checkpoint(path, checkpoint)
        except UserError as error:
            kept = "the one before it is intact" if path.is_file() else "there is none before it"
            message = f"{error}: {kept}: make room, then use --resume auto"
            raise UserError(message, exit_code=1) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU; code that it may hold is never run.

        Raises:
            UserError: if it is no checkpoint, or holds more than tensors and plain values.
        """
        # Not mapped: the optimiser would keep the file open for as long as it trains on the CPU.
        return read_checkpoint(path, mapped=False).content


class RunCheckpoint(ModelCheckpoint):
    """Keeps the best checkpoints of a run, and ``last.ckpt``, from which it resumes.

    ``last.ckpt`` is written every so many steps and minutes, before and after each validation,
    at the end, and at once when the process is asked to end by Ctrl-C, SIGTERM or SIGUSR1.

    Args:
        monitor: metric of the validation by which checkpoints are the best, as it is
            logged: ``val/AP``, ``val/AP50``, ``val/AP_small``, ``val/AP_<class>`` …
        mode: whether higher (``max``) or lower (``min``) is better.
        save_top_k: how many of the best to keep; 0 for none, -1 for all.
        filename: name of the best, without ``.ckpt``: ``best``, or ``best-{step}`` where more than
            one is kept, unless set.
        dirpath: folder of the checkpoints: ``checkpoints`` in the run folder unless set.
        every_n_steps: training steps between two writings of ``last.ckpt``; null for no such
            limit.
        every_n_minutes: minutes between two writings of ``last.ckpt``, which is what a crash may
            cost; null for no such limit.

    Raises:
        UserError: if a limit is not above 0, the metric is none of the validation, or several
            checkpoints would have one name.
    """

    def __init__(
        self,
        *,
        monitor: str = "val/AP",
        mode: Literal["min", "max"] = "max",
        save_top_k: int = 1,
        filename: str | None = None,
        dirpath: str | None = None,
        every_n_steps: int | None = 1000,
        every_n_minutes: float | None = 10.0,
    ) -> None:
        limits = {"every_n_steps": every_n_steps, "every_n_minutes": every_n_minutes}
        for name, value in limits.items():
            if value is not None and value <= 0:
                raise UserError(
                    f"checkpoint.{name}: must be above 0, got {value}: set null for no such limit"
                )
        if not monitor.startswith("val/"):
            raise _no_such_metric(monitor)
        if filename and save_top_k not in (0, 1) and "{step" not in filename:
            raise UserError(
                f"checkpoint.filename: must hold {{step}} where several are kept, got {filename}: "
                "add it, or set checkpoint.save_top_k to 1"
            )
        super().__init__(
            dirpath=dirpath,
            filename=filename or ("best" if save_top_k in (0, 1) else "best-{step}"),
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._signals = _StopSignals()
        self._saved_step: int | None = None
        self._saved_at_s = 0.0

    @staticmethod
    def of(trainer: Any) -> RunCheckpoint | None:
        """The one of a trainer, whatever other checkpoint callbacks it has; None without one."""
        return next((each for each in trainer.callbacks if isinstance(each, RunCheckpoint)), None)

    def require_monitor_among(self, names: Sequence[str]) -> None:
        """Refuse to monitor a metric that is not among the ``names`` that a validation logs.

        Raises:
            UserError: if it is none of them.
        """
        if self.monitor not in [f"val/{name}" for name in names]:
            raise _no_such_metric(str(self.monitor))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to Ctrl-C from here on, as loading processes start before the training does."""
        self._signals.listen_to({signal.SIGINT})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave Ctrl-C to others."""
        self._signals.is_over = True

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leave Ctrl-C to others."""
        self._signals.is_over = True

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals from here on: the training will see them before its first step."""
        self._signals.listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, and count the minutes from here."""
        super().on_train_start(trainer, pl_module)
        self._signals.listen(trainer)
        self._saved_at_s = time.monotonic()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        """Between two steps: write ``last.ckpt`` if it is time to; end if asked to.

        Several processes look at every ``trainer.log_every_n_steps``-th step.

        Raises:
            StoppedBySignal: if this process, or another one of the run, was asked to end.
        """
        step = trainer.global_step
        number, is_time = 0, False
        # To agree is to wait for the devices: several processes do so where they wait anyway.
        if trainer.world_size == 1 or step % max(trainer.log_every_n_steps, 1) == 0:
            number, is_time = self._agreed(trainer)
        is_turn = bool(self.every_n_steps and step and step % self.every_n_steps == 0)
        if (number or is_time or is_turn) and self._saved_step != step:
            self._save_last(trainer)
        if number:
            self._stop(trainer, number)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt``: a validation may take long, and training is safe then."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_last(trainer)
            self._saved_step = None  # what the validation finds is still to be saved

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End if asked to: a resumed run starts with this validation.

        Raises:
            StoppedBySignal: if this process, or another one of the run, was asked to end.
        """
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if number := self._agreed(trainer)[0]:
                self._stop(trainer, number)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint if it is among the best, and ``last.ckpt``."""
        if self.save_top_k:
            require_value(trainer, str(self.monitor))
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save_last(trainer)
            self._saved_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``last.ckpt`` if training ends here, unless it was just written."""
        is_over = (
            trainer.should_stop
            or trainer.global_step >= trainer.max_steps > -1
            or trainer.current_epoch + 1 >= (trainer.max_epochs or -1) > -1
        )
        if is_over and self._saved_step != trainer.global_step:
            self._save_last(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best checkpoints so far, also where the run folder was moved."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            moved = folder / Path(path).name
            return str(moved) if path and moved.is_file() else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        moved = {name: here(state_dict[name]) for name in paths}
        super().load_state_dict(
            state_dict | moved | {"best_k_models": best, "dirpath": self.dirpath}
        )

    def _agreed(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """Number of the signal that any process received, and whether the minutes are over."""
        elapsed_s = time.monotonic() - self._saved_at_s
        is_time = self.every_n_minutes is not None and elapsed_s >= 60 * self.every_n_minutes
        number = self._signals.received
        if trainer.world_size > 1:
            wishes = torch.tensor([number, is_time], device=trainer.strategy.root_device)
            number, is_time = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        return number, bool(is_time)

    def _save_last(self, trainer: pl.Trainer) -> None:
        if getattr(trainer, "fast_dev_run", False):
            return
        self.last_model_path = str(Path(str(self.dirpath)) / "last.ckpt")
        trainer.save_checkpoint(self.last_model_path, weights_only=False)
        self._saved_step = trainer.global_step
        self._saved_at_s = time.monotonic()

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        text = f"after {trainer.global_step} steps: checkpoint {self.last_model_path}"
        if number == self._signals.requeues:
            text += f"; {requeue_job()}" if trainer.is_global_zero else ""
        else:
            text += "; use --resume auto to go on"
        raise StoppedBySignal(number, text)


def require_value(trainer: Any, monitor: str) -> None:
    """Refuse to go on where a training's validation has no value of the monitored metric.

    Raises:
        UserError: it has none, as there are no labels of its class or size.
    """
    if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:
        return
    if monitor not in trainer.callback_metrics:
        raise UserError(
            f"checkpoint.monitor: must be a metric of labels that the validation has, got "
            f"{monitor}: use val/AP, or other recordings for the validation",
            exit_code=1,
        )


def _no_such_metric(monitor: str) -> UserError:
    return UserError(
        "checkpoint.monitor: must be a precision or recall of the validation, got "
        f"{monitor}: use val/AP, val/AP50, val/AR or val/AP_<size bin or class>"
    )


class _StopSignals:
    """Remembers that this process was asked to end; training looks between its steps.

    A handler can run in the middle of anything, a step or the writing of a checkpoint included, so
    it does no work. Lightning's own handlers, which write and requeue at once, are replaced.
    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the last such signal
        self.is_over = False  # whether there is no training any more that would look
        # After which SLURM is asked to start the job again, SIGUSR1 unless set; 0 for none.
        self.requeues = 0

    def listen(self, trainer: pl.Trainer) -> None:
        """Take over from Lightning's handlers, which a trainer puts back when it ends."""
        environment = slurm_environment(trainer)
        if environment is not None and environment.auto_requeue:
            self.requeues = int(environment.requeue_signal or 0)
        if trainer.received_sigterm:  # since Lightning listened
            self.received = signal.SIGTERM
        self.listen_to(
            {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", 0), self.requeues}
        )

    def listen_to(self, numbers: Iterable[int]) -> None:
        """Remember signals of these numbers; 0 is none."""
        self.is_over = False
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in {*numbers} - {0}:
                signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        if number == signal.SIGINT:
            if self.is_over or self.received == number:
                raise KeyboardInterrupt
            os.write(2, _ASKED)  # not by a stream, whose lock the interrupted code may hold
        self.received = number


def requeue_job() -> str:
    """Have SLURM start this job again; returns in a few words what came of it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {job} could not be requeued: scontrol: {error.strerror}"
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        return f"job {job} could not be requeued: scontrol: {said}"
    return f"SLURM has requeued job {job}"
