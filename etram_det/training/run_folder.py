"""The run folder: the one place for all that a run leaves, whatever its loggers."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from etram_det.training.lightning_internals import FolderLogger, has_version, log_into

_LOGGERS_NAME = "lightning_logs"  # of Lightning's loggers, unless set
_EVALUATIONS = "evaluations"


@dataclass
class RunPlace:
    """Where a run folder is, or is to be made.

    Attributes:
        parent: folder of the folders.
        stem: the new folder is ``<stem>_<n>``, with the first number above all that are there.
        first: name of the first one, ``<stem>_0`` unless set.
        folder: the run folder itself, where it need not be a new one.
        logs: where loggers would write a folder of their own, but for this place.
        events: where TensorBoard's logger writes a folder of the same name, unless that is the run
            folder.
        steps_before: training steps behind a run that goes on.
    """

    parent: Path
    stem: str = "version"
    first: str = ""
    folder: Path | None = None
    logs: Path | None = None
    events: Path | None = None
    steps_before: int = 0

    def make(self) -> Path:
        """Make the folder; of processes that do so at the same time, each gets its own.

        Raises:
            OSError: it cannot be written.
        """
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        while self.folder is None:
            names = [each.name for each in self.parent.glob(f"{self.stem}*")]
            numbers = [int(name.rpartition("_")[2]) for name in names if self._is_numbered(name)]
            number = max(numbers, default=0 if self.first in names else -1) + 1
            name = self.first if self.first and number == 0 else f"{self.stem}_{number}"
            try:
                (self.parent / name).mkdir(parents=True)
            except FileExistsError:
                continue
            self.folder = self.parent / name
        return self.folder

    def _is_numbered(self, name: str) -> bool:
        return re.fullmatch(rf"{re.escape(self.stem)}_\d+", name) is not None


def place_of_evaluation(command: str, run: Path | None, runs: Path) -> RunPlace:
    """Where an evaluation goes: into the run folder of its checkpoint, if it has one.

    Its curves, and all of it where the checkpoint lies in no run, are kept apart from trainings:
    in ``evaluations`` beside the folders of runs.

    Args:
        command: ``validate``, ``test`` or ``predict``, after which the folder is named.
        run: run folder of the checkpoint; None for one that lies elsewhere.
        runs: folder of the runs of its name.
    """
    apart = runs.parent / _EVALUATIONS
    if run is None or not os.access(run, os.W_OK):
        return RunPlace(apart, command, first=command, logs=runs)
    own, known = run.resolve(), runs.parent.resolve()
    events = apart / own.relative_to(known) if own.is_relative_to(known) else None
    return RunPlace(run, command, first=command, logs=runs, events=events)


class RunTrainer(Trainer):
    """Lightning's trainer with one folder for each run, its ``log_dir``, whatever the loggers.

    Checkpoints without a folder of their own go to ``checkpoints`` in it. TensorBoard's and CSV
    loggers write there, except where they were given another place.
    """

    place: RunPlace | None = None  # without one, ``log_dir`` is Lightning's
    _run_folder: Path | None = None

    @property
    def log_dir(self) -> str | None:
        """The run folder, made and agreed upon by all processes as the first command starts."""
        if self.place is None or getattr(self, "fast_dev_run", False):
            return super().log_dir
        if self._run_folder is None:
            made = str(self.place.make()) if self.is_global_zero else ""
            self._run_folder = self.place.folder = Path(self.strategy.broadcast(made))
            for logger in self.loggers:
                self._let_log(logger, self._run_folder)
            for callback in self.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                    callback.dirpath = str(self._run_folder / "checkpoints")
        return str(self._run_folder)

    def _let_log(self, logger: Logger, folder: Path) -> None:
        """Let a logger write into the run folder, if it can and has no other place."""
        if not isinstance(logger, FolderLogger) or has_version(logger):
            return
        assert self.place is not None
        own, saved_in = (
            Path(os.path.expandvars(each)).expanduser()
            for each in (logger.root_dir, logger.save_dir)
        )
        logs = self.place.logs or self.place.parent
        saves_there = saved_in in (logs.parent, Path(self.default_root_dir))
        if own.resolve() != logs.resolve() and not (saves_there and own.name == _LOGGERS_NAME):
            return
        if isinstance(logger, TensorBoardLogger) and self.place.events is not None:
            folder = self.place.events / folder.name
        steps = self.place.steps_before
        rows = _rows_until(folder / "metrics.csv", steps) if self.is_global_zero else []
        log_into(logger, folder, purge_step=steps + 1 if steps else None)
        if isinstance(logger, CSVLogger) and rows:
            # Its writer starts a new file: give it what the run has logged before.
            logger.experiment.metrics = rows
            logger.save()


def _rows_until(file: Path, step: int) -> list[dict[str, str]]:
    """What a CSV logger has written of the steps before a checkpoint; none for a new run."""
    if not step or not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if row.get("step", "").isdecimal() and int(row["step"]) < step]
