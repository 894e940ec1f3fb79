"""An Optuna study in a folder that several processes share, and the runs of its trials.

Optuna does the sharing: its database holds the study, its heartbeat finds the trials of killed
processes, and its retry callback queues them again.
"""

from __future__ import annotations

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
import yaml
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileOpenLock

from etram_det.errors import UserError
from etram_det.tools.sweep.runs import fit_in_process, reason_of_failure
from etram_det.tools.sweep.space import Choice, SearchSpace
from etram_det.types import dotted_items

DATABASE = "study.db"
HEARTBEAT_S = 10
GRACE_S = 120  # without a heartbeat, after which a trial's process counts as killed
_LOCKED_S = 60  # that a process waits for the others' transactions

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
_RETRY = RetryHeartbeatStaleTrialCallback()

# Settings that may differ between the processes of a study, or that a trial sets itself.
_FREE_SETTINGS = {
    "seed_everything",
    "data.root",
    "data.num_workers",
    "data.pin_memory",
    "data.multiprocessing_context",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.logger",
}

# Trains with a settings file, writes what the run prints into a log, and returns the exit code.
Runner = Callable[[Path, Path], int]


class TrialFailed(Exception):
    """A run ended without a value of the metric; the text says why."""


def run_fit(settings: Path, log: Path) -> int:
    """Train with a configuration file; what it prints goes into a log. Returns the exit code."""
    return fit_in_process(["--config", str(settings)], log).code


@dataclass
class SharedStudy:
    """A study and the runs of its trials, in one folder.

    Attributes:
        output: folder of the study, made if it is not there.
        space: what is searched.
        metric: metric of ``metrics.json`` that is maximised.
        seeds: seeds of the runs of each trial, whose mean is the trial's value.
        sampler_seed: seed of the choices, which it sets together with the trial's number.
        storage: URL of the database; None for ``study.db`` in the folder.
        runner: trains with a settings file; ``run_fit`` unless given.

    Raises:
        UserError: if the study cannot be opened or has other settings.
    """

    output: Path
    space: SearchSpace
    metric: str
    seeds: Sequence[int]
    sampler_seed: int = 0
    storage: str | None = None
    runner: Runner | None = None

    def __post_init__(self) -> None:
        self._total = self._latest = 0
        self.study = _open_study(self.output, self.storage)
        _require_same_settings(self.study, self.output, self._settings())

    def folder_of(self, number: int) -> Path:
        """Folder of a trial: its settings, logs, and a run folder for each seed."""
        return self.output / "trials" / f"{number:04d}"

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that count: without those that wait, and those that another one retries."""
        every = self.study.get_trials(deepcopy=False)
        retried = {number for trial in every for number in _RETRY.retry_history(trial)}
        return [
            trial
            for trial in every
            if trial.state.name != "WAITING"
            and trial.number not in retried
            and "surplus" not in trial.user_attrs
        ]

    def run(self, total: int, report: Callable[[int], None]) -> None:
        """Run trials until the study has ``total``, those of other processes included.

        Trials of killed processes are started anew; while trials run elsewhere, this waits until it
        is known whether their processes live. An interrupt gives the own trial back.

        Args:
            total: number of trials that the study is to have.
            report: is called with the number of each trial that ended here.
        """
        self._total = total
        known_at = time.monotonic() + GRACE_S + HEARTBEAT_S
        while True:
            optuna.storages.fail_stale_trials(self.study)
            trials = self.trials()
            if len(trials) < total:
                try:
                    self.study.optimize(self._objective, n_trials=1, catch=(TrialFailed,))
                except (KeyboardInterrupt, OSError):  # nothing that the settings are to blame for
                    _RETRY(self.study, self.study.trials[self._latest])
                    raise
                if any(trial.number == self._latest for trial in self.trials()):
                    report(self._latest)
            elif all(each.state.is_finished() for each in trials) or time.monotonic() > known_at:
                return
            else:
                time.sleep(HEARTBEAT_S)

    def _objective(self, trial: optuna.Trial) -> float:
        """Train with each seed; returns the mean of the metric."""
        self._latest = trial.number
        if sum(other.number < trial.number for other in self.trials()) >= self._total:
            # Two processes took the last place at the same time.
            trial.set_user_attr("surplus", True)
            raise TrialFailed("surplus")
        # Seeded by the number: processes with the same seed must not make the same choices.
        seed = self.sampler_seed * 1_000_003 + trial.number
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
        folder = self.folder_of(trial.number)
        folder.mkdir(parents=True)
        choice = self.space.draw(trial)
        values: dict[str, float] = {}
        try:
            for run_seed in self.seeds:
                values[str(run_seed)] = self._train(folder, choice, run_seed)
                trial.set_user_attr("values", values)
        except TrialFailed as end:
            trial.set_user_attr("error", str(end))
            raise
        return statistics.fmean(values.values())

    def _train(self, folder: Path, choice: Choice, seed: int) -> float:
        """The metric of one run."""
        config = self.space.configuration(choice)
        config["seed_everything"] = seed
        place = {"save_dir": str(folder), "name": "", "version": f"seed_{seed}"}
        config["trainer"]["logger"] = {
            "class_path": "etram_det.training.tensorboard.RunTensorBoardLogger",
            "init_args": {**place, "default_hp_metric": False},
        }
        # Nobody looks at hundreds of runs.
        config["results"] = config.get("results", {}) | {"pictures": 0, "video_s": 0.0}
        settings, log = folder / f"seed_{seed}.yaml", folder / f"seed_{seed}.log"
        settings.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        code = (self.runner or run_fit)(settings, log)
        if code != 0:
            raise TrialFailed(reason_of_failure(code, log))
        results = folder / f"seed_{seed}" / "metrics.json"
        if not results.is_file():
            raise TrialFailed("no evaluation: trainer.val_check_interval exceeds the run's steps")
        value = json.loads(results.read_text(encoding="utf-8")).get(self.metric)
        if value is None or not math.isfinite(value):
            raise TrialFailed(f"{self.metric} is unknown: the validation split has no such boxes")
        return float(value)

    def _settings(self) -> dict[str, Any]:
        """What must stay the same for the trials of a study to compare, by dotted key."""
        settings = {"metric": self.metric, "seeds": self.seeds, **self.space.ranges}
        settings["variants"] = list(self.space.variants)
        for name, config in self.space.variants.items():
            settings |= {
                f"{name}: {key}": value
                for key, value in dotted_items(config)
                if key not in _FREE_SETTINGS and not key.startswith("trainer.logger.")
            }
        return dict(json.loads(json.dumps(settings, default=str)))


def _open_study(output: Path, storage: str | None) -> optuna.Study:
    if storage is None and (output / "trials").exists() and not (output / DATABASE).exists():
        raise UserError(
            f"output: {output} holds trials without their {DATABASE}: bring it back or choose "
            "another folder (study.journal, of earlier releases, is not read any more)"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = JournalFileOpenLock(str(output / DATABASE))
        lock.acquire()  # one process makes the tables
    except OSError as error:
        raise UserError(f"output: {output} cannot be written ({error}): choose another") from error
    try:
        return optuna.create_study(
            storage=_open_storage(storage or f"sqlite:///{output / DATABASE}"),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
        )
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, ImportError) as error:
        raise UserError(
            f"{storage or output / DATABASE}: must be a database of this command, got one that "
            f"cannot be opened ({str(error).splitlines()[0]}): choose another --output or --storage"
        ) from error
    finally:
        lock.release()


def _open_storage(url: str) -> RDBStorage:
    is_sqlite = url.startswith("sqlite")
    options = {"timeout": _LOCKED_S, "isolation_level": None} if is_sqlite else {}
    storage = RDBStorage(
        url,
        engine_kwargs={"connect_args": options},
        heartbeat_interval=HEARTBEAT_S,
        grace_period=GRACE_S,
        heartbeat_stale_trial_callback=_RETRY,
    )
    if is_sqlite:
        # SQLite locks no rows: without this, two processes could start one waiting trial.
        begin = "BEGIN IMMEDIATE"
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql(begin)
        )
    return storage


def _require_same_settings(study: optuna.Study, output: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a new study; refuse others than those of an old one."""
    old = study.user_attrs.get("settings")
    if old is None:
        if any((output / "trials").glob("*")):
            raise UserError(
                f"output: {output} holds trials of another study than this new one: choose another "
                "folder, or the --storage that these trials are in"
            )
        study.set_user_attr("settings", settings)
        return
    for key in old | settings:
        if old.get(key) != settings.get(key):
            raise UserError(
                f"{key}: must be {old.get(key)} as in the study in {output}, got "
                f"{settings.get(key)}: repeat the study's settings or choose another --output"
            )
