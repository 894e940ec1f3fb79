"""Which checkpoint a command means by ``last`` or ``best``, and which one a run resumes from."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.cli.flags import BASELINE, configurations
from etram_det.errors import UserError
from etram_det.types import dotted_items

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
# Dotted name of a setting, its value in a checkpoint's run and now.
Difference = tuple[str, Any, Any]

_log = logging.getLogger(__name__)


def chosen_checkpoint(command: str, config: Mapping[str, Any]) -> str | None:
    """The file that ``ckpt_path`` and ``resume`` stand for, logged in a line.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: of the command, as plain values.

    Returns:
        Its path, or None for a start from nothing.

    Raises:
        UserError: if ``last`` or ``best`` is asked for and there is none.
    """
    path, resume = config.get("ckpt_path"), config.get("resume")
    is_requeued = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if command == "fit" and (resume == "auto" or (is_requeued and resume != "never")):
        if found := _newest_of_same_settings(_checkpoints(config, "last.ckpt"), config):
            instead = f", not from ckpt_path {path}: a new run would start there" if path else ""
            _log.info("resume: going on from %s, after %d steps%s", *found, instead)
            return str(found[0])
    if path not in ("best", "last"):
        return path
    paths = _checkpoints(config, f"{path}.ckpt")
    if not paths:
        raise UserError(
            f"ckpt_path: {path} must be {path}.ckpt of an earlier run, got none in "
            f"{_folder_of_runs(config)}: set it to the path of a checkpoint"
        )
    _log.info("ckpt_path: %s", paths[0])
    return str(paths[0])


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


def _folder_of_runs(config: Mapping[str, Any]) -> Path:
    """The folder whose ``version_<n>`` are the runs of a configuration."""
    trainer = config["trainer"]
    loggers = trainer.get("logger")
    logger = loggers[0] if isinstance(loggers, list) and loggers else loggers
    settings = logger.get("init_args", {}) if isinstance(logger, Mapping) else {}
    folder = Path(settings.get("save_dir") or trainer.get("default_root_dir") or ".")
    return folder / (settings.get("name") or "lightning_logs")


def _checkpoints(config: Mapping[str, Any], name: str) -> list[Path]:
    """All checkpoints of a name in the runs of a configuration, the newest first."""
    folder = (config.get("checkpoint") or {}).get("dirpath")
    runs = _folder_of_runs(config)
    found = Path(folder).glob(name) if folder else runs.glob(f"version_*/checkpoints/{name}")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_of_same_settings(
    paths: Sequence[Path], config: Mapping[str, Any]
) -> tuple[Path, int] | None:
    """The first checkpoint that was trained with the same model, data and seed, and its step."""
    nearest: tuple[Path, list[Difference]] | None = None
    for path in paths:
        try:
            theirs = _config_beside(path) or read_checkpoint(path, whole=False).config
            differences = [
                each for each in _differences(theirs, config) if each[0].split(".")[0] in _SECTIONS
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
    before, now = (
        {
            name: _class_of(value) if name.endswith(".class_path") else value
            for name, value in dotted_items(config)
            if value != {} and name not in _WITHOUT_EFFECT
        }
        for config in (theirs, ours)
    )
    before = {name: x for name, x in _baseline().items() if name in now} | before
    return [
        (name, before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


@cache
def _baseline() -> dict[str, Any]:
    """Values of all settings in the baseline, by dotted name."""
    text = (configurations() / BASELINE).read_text(encoding="utf-8")
    return dict(dotted_items(yaml.safe_load(text)))


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
