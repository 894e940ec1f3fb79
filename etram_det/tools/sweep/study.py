"""An Optuna study in a folder that several processes and machines can share.

The study is a journal file, ``study.journal``: every process appends to it and reads what the
others wrote. Optuna knows no heartbeat for such storage, so each trial's folder holds a file
``alive`` that its process touches; a trial whose file has grown old is given to someone else.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from etram_det.errors import UserError
from etram_det.tools.sweep.space import Choice, SearchSpace
from etram_det.types import dotted_items

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
BEAT_S = 10.0
# Network file systems may show a file's new time only after a minute.
STALE_S = 120.0
_STOP_S = 30.0

# Settings that may differ between the machines of a study, or that a trial sets itself.
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

# Trains with a settings file and writes what is shown into a log; calls the function every
# ``BEAT_S`` seconds or so; returns the exit code.
Runner = Callable[[Path, Path, Callable[[], None]], int]


class TrialFailed(Exception):
    """A run ended without a figure; the text tells why."""


def run_fit(settings: Path, log: Path, beat: Callable[[], None]) -> int:
    """Train in a process of its own, which leaves no memory behind and dies with an interrupt.

    Args:
        settings: configuration file of ``fit``.
        log: file for all that the run shows.
        beat: called while the run goes on, every :data:`BEAT_S` seconds.

    Returns:
        The exit code; minus the signal's number where one ended the run.
    """
    command = [sys.executable, "-m", "etram_det", "fit", "--config", str(settings)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    return process.wait(BEAT_S)
                except subprocess.TimeoutExpired:
                    beat()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


class SharedStudy:
    """A study and the runs of its trials, in one folder.

    Args:
        output: folder of the study, made if it is not there.
        space: what is searched.
        metric: figure of ``metrics.json`` that is maximised.
        seeds: seeds of the runs of each trial, whose mean figure is the trial's.
        sampler_seed: seed of the choices; with the trial's number it sets them.
        runner: trains with a settings file.

    Raises:
        UserError: if Optuna is missing, or the folder holds a study with other settings.
    """

    def __init__(
        self,
        output: Path,
        space: SearchSpace,
        metric: str,
        seeds: Sequence[int],
        sampler_seed: int = 0,
        runner: Runner = run_fit,
    ) -> None:
        self.output = output
        self.space = space
        self.metric = metric
        self.seeds = tuple(seeds)
        self._sampler_seed = sampler_seed
        self._runner = runner
        self.study = _open_study(output)
        _require_same_settings(self.study, output, self._settings())

    def folder_of(self, number: int) -> Path:
        """Folder of a trial: its settings, logs, and a run folder for each seed."""
        return self.output / "trials" / f"{number:04d}"

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that count: without those that wait, and those that another one retries."""
        every = self.study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("retries") for trial in every}
        return [
            trial
            for trial in every
            if trial.state.name != "WAITING"
            and trial.number not in retried
            and "surplus" not in trial.user_attrs
        ]

    def next_trial(self, total: int) -> optuna.Trial | None:
        """Start a trial, unless there are enough, counting those that run elsewhere.

        Trials of killed processes are started anew. Where only trials are left of which it is not
        known whether their process lives, this waits until it is.

        Args:
            total: number of trials that the study is to have.
        """
        while True:
            self._free_killed_trials()
            if len(self.trials()) < total:
                trial = self.study.ask()
                if sum(other.number < trial.number for other in self.trials()) < total:
                    return trial
                # Two processes took the last place at the same time.
                trial.set_user_attr("surplus", True)
                self._tell_failed(trial.number)
            elif not any(2 * BEAT_S < age for age in self._ages_s().values()):
                return None
            else:
                time.sleep(BEAT_S)

    def run(self, trial: optuna.Trial) -> None:
        """Train with each seed and tell the study the mean figure, or why there is none.

        If this is interrupted, the trial goes back to the study, to be started anew.
        """
        import optuna

        # Seeded by the number: processes with the same seed must not make the same choices.
        seed = self._sampler_seed * 1_000_003 + trial.number
        self.study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
        folder = self.folder_of(trial.number)
        alive = folder / "alive"
        try:
            folder.mkdir(parents=True)
            alive.touch()
            choice = self.space.draw(trial)
            figures: dict[str, float] = {}
            for run_seed in self.seeds:
                figures[str(run_seed)] = self._train(folder, choice, run_seed, alive.touch)
                trial.set_user_attr("values", figures)
            self.study.tell(trial, statistics.fmean(figures.values()))
        except TrialFailed as failure:
            trial.set_user_attr("error", str(failure))
            self._tell_failed(trial.number)
        except (
            BaseException
        ):  # an interrupt, a full disk: nothing that the settings are to blame for
            self._start_anew(trial.number, trial.params)
            raise
        finally:
            alive.unlink(missing_ok=True)

    def _train(self, folder: Path, choice: Choice, seed: int, beat: Callable[[], None]) -> float:
        """The figure of one run."""
        config = self.space.configuration(choice)
        config["seed_everything"] = seed
        config["trainer"]["logger"] = {
            "class_path": "pytorch_lightning.loggers.TensorBoardLogger",
            "init_args": {
                "save_dir": str(folder),
                "name": "",
                "version": f"seed_{seed}",
                "default_hp_metric": False,
            },
        }
        settings = folder / f"seed_{seed}.yaml"
        settings.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        log = folder / f"seed_{seed}.log"
        code = self._runner(settings, log, beat)
        if code != 0:
            raise TrialFailed(_reason(code, log))
        results = folder / f"seed_{seed}" / "metrics.json"
        if not results.is_file():
            raise TrialFailed("no evaluation: trainer.val_check_interval exceeds the run's steps")
        figure = json.loads(results.read_text(encoding="utf-8")).get(self.metric)
        if figure is None or not math.isfinite(figure):
            raise TrialFailed(f"{self.metric} is unknown: the validation split has no such boxes")
        return float(figure)

    def _ages_s(self) -> dict[int, float]:
        """Of each running trial, how long ago its process gave a sign of life."""
        running = [trial for trial in self.trials() if trial.state.name == "RUNNING"]
        if not running:
            return {}
        # The clock of the file system, which need not be this machine's.
        with tempfile.NamedTemporaryFile(dir=self.output) as probe:
            now = os.stat(probe.name).st_mtime
        ages = {}
        for trial in running:
            try:
                last = (self.folder_of(trial.number) / "alive").stat().st_mtime
            except FileNotFoundError:  # it begins just now, or was killed doing so
                last = now - seconds_of(trial)
            ages[trial.number] = now - last
        return ages

    def _free_killed_trials(self) -> None:
        for number, age in self._ages_s().items():
            if age > STALE_S:
                self._start_anew(number, self.study.trials[number].params)

    def _start_anew(self, number: int, params: Mapping[str, Any]) -> None:
        """Fail a running trial and let the next one have its settings."""
        if self._tell_failed(number):
            self.study.enqueue_trial(dict(params), user_attrs={"retries": number})

    def _tell_failed(self, number: int) -> bool:
        """Fail a running trial; False if another process did before."""
        import optuna

        try:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
        except (RuntimeError, ValueError):
            return False
        return True

    def _settings(self) -> dict[str, Any]:
        """What must stay the same for the trials of a study to compare, by dotted key."""
        settings = {
            "metric": self.metric,
            "seeds": list(self.seeds),
            **{name: list(bounds) for name, bounds in self.space.ranges.items()},
            "variants": list(self.space.variants),
        }
        for name, config in self.space.variants.items():
            settings |= {
                f"{name}: {key}": value
                for key, value in dotted_items(config)
                if key not in _FREE_SETTINGS and not key.startswith("trainer.logger.")
            }
        return dict(json.loads(json.dumps(settings, default=str)))


def _open_study(output: Path) -> optuna.Study:
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise UserError(
            "sweep: needs Optuna, which is not installed: pip install 'etram-det[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = output / JOURNAL
    if (output / "trials").exists() and not journal.exists():
        raise UserError(
            f"output: {output} holds trials without their {JOURNAL}: bring it back or choose "
            "another folder"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        # The other kind of lock, a symbolic link, is not to be had on every system.
        backend = JournalFileBackend(str(journal), JournalFileOpenLock(str(journal)))
        return optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="sweep",
            direction="maximize",
            load_if_exists=True,
        )
    except OSError as error:
        raise UserError(f"output: {output} cannot be written ({error}): choose another") from error
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{journal}: must be a study of this command, found a damaged or foreign file "
            f"({error}): choose another --output"
        ) from error


def _require_same_settings(study: optuna.Study, output: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a new study; refuse others than those of an old one."""
    old = study.user_attrs.get("settings")
    if old is None:
        study.set_user_attr("settings", settings)
        return
    for key in old | settings:
        if old.get(key) != settings.get(key):
            raise UserError(
                f"{key}: must be {old.get(key)} as in the study in {output}, found "
                f"{settings.get(key)}: repeat the study's settings or choose another --output"
            )


def _reason(code: int, log: Path) -> str:
    """Why a run failed, from the last line that it showed."""
    if code < 0:
        return f"ended by signal {-code}"
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    return last.rpartition("etram_det: error: ")[2]  # a progress bar may stand before it


def seconds_of(trial: optuna.trial.FrozenTrial) -> float:
    """How long a trial took, or has taken so far."""
    assert trial.datetime_start is not None
    end = trial.datetime_complete or datetime.now()
    return (end - trial.datetime_start).total_seconds()
