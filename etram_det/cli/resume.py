"""Which checkpoint a command means by a word, and which one a run resumes from."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import etram_det
from etram_det.cli.flags import BASELINE, configurations
from etram_det.data.fingerprint import simulator_version
from etram_det.data.recording import Recording
from etram_det.errors import UserError
from etram_det.types import dotted_items

if TYPE_CHECKING:  # exported detectors run without PyTorch
    from etram_det.checkpoint.file import Checkpoint
    from etram_det.inference.exported_file import ExportedDetector

# Sections and settings that make two runs the same one, but for those that leave no trace in the
# result; of two names for a setting, the second is the one of older runs.
_SECTIONS = ("seed_everything", "model", "data")
_WITHOUT_EFFECT = (
    "data.num_workers",
    "data.pin_memory",
    "data.multiprocessing_context",
    "data.eval_lanes",
    "data.predict_split",
    "data.on_unreadable_recording",
    "data.on_bad_recording",
)
# Set once with the optimiser, which goes on as the checkpoint has it.
_KEPT_BY_OPTIMISER = ("model.learning_rate", "model.weight_decay")
_MAX_LOGGED = 3  # differences to a run that is passed over
SHIPPED = "pretrained/simulated_traffic.ckpt"  # in the package: what detect and live use unless set
_RUNS = "runs"  # where runs are kept, unless a logger or the trainer has another folder
_LIGHTNINGS_NAME = "lightning_logs"  # of runs whose loggers have none
_LOCAL_LOGGERS = (
    "RunTensorBoardLogger",
    "TensorBoardLogger",
    "CSVLogger",
)  # whose folder is the run folder
# Dotted name of a setting, its value in a checkpoint's run and now.
Difference = tuple[str, Any, Any]

_log = logging.getLogger(__name__)


def chosen_checkpoint(
    command: str, config: Mapping[str, Any], runs: Path | None = None, any_name: bool = False
) -> str | None:
    """The file that ``ckpt_path`` and ``resume`` stand for, logged in a line.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: of the command, as plain values.
        runs: folder of the runs of its name; that of its logger unless set.
        any_name: whether ``last`` and ``best`` may be those of a run of another name.

    Returns:
        Its path, or None for a start from nothing.

    Raises:
        UserError: if ``last`` or ``best`` is asked for and there is none.
    """
    path, resume = config.get("ckpt_path"), config.get("resume")
    runs = runs or folder_of_runs(config)[0]
    folder = (config.get("checkpoint") or {}).get("dirpath")
    is_requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if command == "fit" and (resume == "auto" or (is_requeued and resume != "never")):
        found = _checkpoints(runs, "last", folder)
        if same := _newest_of_same_settings(found, config):
            instead = f", not from ckpt_path {path}: a new run would start there" if path else ""
            _log.info("resume: going on from %s, after %d steps%s", *same, instead)
            return str(same[0])
    return path and named_checkpoint(path, "ckpt_path", runs.parent if any_name else runs, folder)


def named_checkpoint(
    path: str | Path, setting: str, runs: Path = Path(_RUNS), folder: str | None = None
) -> str:
    """The checkpoint that ``last``, ``best`` or ``package`` stands for, logged in a line.

    The first two are those of the newest run, the third comes with the package.

    Args:
        path: one of these words, or the path of a checkpoint, which is returned as it is.
        setting: what the user set to it, for messages.
        runs: folder of runs, of one name or of any.
        folder: of the checkpoints themselves, where they lie in no run folder.

    Raises:
        UserError: if there is none.
    """
    word = str(path)
    if word == "package":
        return str(shipped_checkpoint(setting))
    if word not in ("best", "last"):
        return word
    if word == "best":
        _require_no_others_of_newest_run(_checkpoints(runs, "best*", folder), setting)
    found = _checkpoints(runs, word, folder)
    if not found:
        raise UserError(
            f"{setting}: {word} must be {word}.ckpt of an earlier run, got none in {runs}: set it "
            "to the path of a checkpoint"
        )
    _log.info("%s: %s", setting, found[0])
    return str(found[0])


def _require_no_others_of_newest_run(all_best: Sequence[Path], setting: str) -> None:
    """Refuse ``best`` where the newest run has kept its best ones under other names.

    Args:
        all_best: the checkpoints of all runs whose names begin so, newest first.
        setting: for the message.
    """
    newest = all_best[0].parent if all_best else None
    if newest and not (newest / "best.ckpt").is_file():
        names = ", ".join(sorted(path.name for path in all_best if path.parent == newest))
        raise UserError(
            f"{setting}: best must be best.ckpt of the newest run, got {names} in {newest}: set it "
            "to the path of one"
        )


def shipped_checkpoint(setting: str = "ckpt_path", is_asked_for: bool = True) -> Path:
    """The checkpoint that comes with the package, named in a line of the log.

    Args:
        setting: what it stands for.
        is_asked_for: whether the user has set it to ``package``, rather than to nothing.

    Raises:
        UserError: the installation lacks it.
    """
    path = Path(etram_det.__file__).parent / SHIPPED
    if not path.is_file():
        raise UserError(
            f"{setting}: must be a checkpoint, got {'package' if is_asked_for else 'none'}, and "
            f"this installation lacks {SHIPPED}, which is used then: set it to the path of one"
        )
    why = setting if is_asked_for else f"{setting}: not set"
    _log.info("%s: using the package's own, trained on simulated traffic: %s", why, path)
    return path


def warning_of_simulation(checkpoint: str, name: str) -> str:
    """What is reported where a checkpoint that knows simulated traffic only meets a real recording.

    Args:
        checkpoint: the setting that chose it.
        name: of the recording.
    """
    return (
        f"{checkpoint}: trained on simulated traffic only, and {name} is a real recording: expect "
        "misses and false alarms: train on real ones (fit --data.root FOLDER --model.init_from "
        "FILE.ckpt)"
    )


def warn_of_simulation(
    detector: Checkpoint | ExportedDetector, recordings: Mapping[str, Sequence[Recording]]
) -> None:
    """Warn once where an evaluation puts real recordings to what knows simulated traffic only.

    Args:
        detector: that is evaluated.
        recordings: of the evaluation, by split.
    """
    if detector.knows_simulation_only:
        each_one = (each for of_split in recordings.values() for each in of_split)
        real = next((each.name for each in each_one if not simulator_version(each)), None)
        if real is not None:
            _log.warning("%s", warning_of_simulation("ckpt_path", real))


def run_folder_of(checkpoint: str | Path) -> Path | None:
    """The run folder that a checkpoint lies in; None for one that lies elsewhere."""
    checkpoints = Path(checkpoint).resolve().parent
    run = checkpoints.parent
    is_run = any((run / name).is_file() for name in ("config.yaml", "provenance.json"))
    if checkpoints.name != "checkpoints" or not is_run:
        return None
    return run.relative_to(Path.cwd()) if run.is_relative_to(Path.cwd()) else run


def log_changes(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Log which settings of model and trainer are not those that a checkpoint was trained with."""
    differences = _differences(checkpoint.config or config, config)
    changes = [each for each in differences if each[0].startswith(("model.", "trainer."))]
    if changes:
        _log.info("ckpt_path: settings changed since then: %s", _described(changes))
    if kept := [name for name, _, _ in changes if name in _KEPT_BY_OPTIMISER]:
        message = (
            "ckpt_path: %s: the optimiser goes on with the checkpoint's; a new training from its "
            "weights, by model.init_from, takes the new one"
        )
        _log.info(message, ", ".join(kept))


def folder_of_runs(
    config: Mapping[str, Any], logger: Mapping[str, str] | None = None
) -> tuple[Path, Path | None]:
    """The folder whose ``version_<n>`` are the runs of a configuration, whatever its loggers.

    Args:
        config: of a command, as plain values.
        logger: ``save_dir`` and ``name`` of a logger that another one, or none, has replaced.

    Returns:
        The folder; and the run folder, where the configuration names it.
    """
    trainer, before = config["trainer"], logger or {}
    chosen = trainer.get("logger")
    loggers = [
        (each["class_path"].rpartition(".")[2], each.get("init_args") or {})
        for each in (chosen if isinstance(chosen, list) else [chosen])
        if isinstance(each, Mapping)
    ]
    for kind, own in loggers:
        if kind in _LOCAL_LOGGERS:
            version, name = own.get("version"), own.get("name", _LIGHTNINGS_NAME)
            # As TensorBoard's logger reads it.
            folder = Path(os.path.expandvars(own["save_dir"])).expanduser() / (name or "")
            numbered = version if isinstance(version, str) else f"version_{version}"
            return folder, None if version is None else folder / numbered
    names = [own.get("name") for _, own in loggers] + [before.get("name"), _LIGHTNINGS_NAME]
    folder = Path(trainer.get("default_root_dir") or before.get("save_dir") or _RUNS)
    return folder / next(filter(None, names)), None


def _checkpoints(runs: Path, name: str, folder: str | None = None) -> list[Path]:
    """All checkpoints of a name in a folder, or in the runs of one or any name, newest first."""
    patterns = [f"version_*/checkpoints/{name}.ckpt", f"*/version_*/checkpoints/{name}.ckpt"]
    place, patterns = (Path(folder), [f"{name}.ckpt"]) if folder else (runs, patterns)
    found = {path for pattern in patterns for path in place.glob(pattern)}
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_of_same_settings(
    paths: Sequence[Path], config: Mapping[str, Any]
) -> tuple[Path, int] | None:
    """The first checkpoint that was trained with the same model, data and seed, and its step."""
    from etram_det.checkpoint.file import read_checkpoint

    nearest: tuple[Path, list[Difference]] | None = None
    for path in paths:
        try:
            theirs = _config_beside(path) or read_checkpoint(path, whole=False).config
            differences = [
                (name, before, now)
                for name, before, now in _differences(theirs, config)
                if name.split(".")[0] in _SECTIONS
                and not (name == "model.init_from" and _may_stand_for(now, before))
            ]
            if theirs and not differences:
                return path, read_checkpoint(path, whole=False).step
        except UserError as error:
            _log.warning("resume: passed over: %s", error)
            continue
        if theirs and (nearest is None or len(differences) < len(nearest[1])):
            nearest = path, differences
    others = ""
    if nearest is not None:
        rest = "; …" if len(nearest[1]) > _MAX_LOGGED else ""
        others = f"; in {nearest[0]}, {_described(nearest[1][:_MAX_LOGGED])}{rest}"
    _log.info("resume: no last.ckpt of these settings yet: a new run starts%s", others)
    return None


def _may_stand_for(word: Any, path: Any) -> bool:
    """Whether ``last``, ``best`` or ``package`` was the word for a path when its run began.

    The newest run is another one now.
    """
    names = {"last": "last.ckpt", "best": "best.ckpt", "package": Path(SHIPPED).name}
    return isinstance(path, str) and word in names and Path(path).name == names[word]


def _config_beside(checkpoint: Path) -> Mapping[str, Any]:
    """The configuration in the run folder of a checkpoint; empty where none can be read."""
    file = checkpoint.parent.parent / "provenance.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: the checkpoint has its own
        return {}
    config = facts.get("config") if isinstance(facts, dict) else None
    return config if isinstance(config, dict) else {}


def _described(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{name} was {before} and is {now}" for name, before, now in differences)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Difference]:
    """The settings that differ so that it can show; one newer than ``theirs`` had its default."""
    before, now, baseline = (
        {
            name: _class_of(value) if name.endswith(".class_path") else value
            for name, value in dotted_items(config)
            if value != {} and name not in _WITHOUT_EFFECT
        }
        for config in (theirs, ours, _baseline())
    )
    before = {name: x for name, x in baseline.items() if name in now} | before
    names = before.keys() | now.keys()
    if before.get("data.root") is not None and now.get("data.root") is not None:
        # Neither has seen simulated traffic, whose defaults change with the simulator.
        names = {name for name in names if not name.startswith("data.simulation.")}
    return [
        (name, before.get(name), now.get(name))
        for name in sorted(names)
        if before.get(name) != now.get(name)
    ]


@cache
def _baseline() -> dict[str, Any]:
    """All settings of the baseline."""
    text = (configurations() / BASELINE).read_text(encoding="utf-8")
    baseline: dict[str, Any] = yaml.safe_load(text)
    return baseline


def _class_of(class_path: Any) -> Any:
    """One name for all names of a class: short, moved and alias."""
    if not isinstance(class_path, str):
        return class_path
    # Nothing is imported, as the name may come from a stranger's file.
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    if isinstance(found, type):
        module, name = found.__module__, found.__qualname__
    # A class of this project keeps its name wherever it moves.
    return name if module.split(".")[0] in ("", "etram_det") else f"{module}.{name}"
