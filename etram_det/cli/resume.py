"""Run folders: which checkpoint a command means by ``last``, and which one a run goes on from."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etram_det.checkpoint.file import read_checkpoint
from etram_det.errors import UserError
from etram_det.types import leaves

# What makes two runs the same one, but for what does not show in the result.
_PARTS = ("seed_everything", "model", "data")
_NO_MATTER = (
    "data.num_workers",
    "data.pin_memory",
    "data.multiprocessing_context",
    "data.eval_lanes",
    "data.predict_split",
    "data.on_bad_recording",  # the name before 0.2
    "data.on_unreadable_recording",
)
# Set once with the optimiser, which goes on as the checkpoint has it.
_KEPT_BY_OPTIMISER = ("model.learning_rate", "model.weight_decay")
_MOST_TOLD = 3  # differences to a run that is passed over
# Dotted name of a setting, its value in a checkpoint's run and now.
Difference = tuple[str, Any, Any]

logger = logging.getLogger("etram_det")


def chosen_checkpoint(command: str, config: Mapping[str, Any]) -> str | None:
    """The file that ``ckpt_path`` and ``resume`` stand for, told in a line.

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
            logger.info("resume: going on from %s, after %d steps%s", *found, instead)
            return str(found[0])
    if path not in ("best", "last"):
        return path
    paths = _checkpoints(config, f"{path}.ckpt")
    if not paths:
        raise UserError(
            f"ckpt_path: no {path}.ckpt of an earlier run in {_folder_of_runs(config)}: give the "
            "path of a checkpoint"
        )
    logger.info("ckpt_path: %s", paths[0])
    return str(paths[0])


def tell_changes(checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Tell which settings of model and trainer are not those that a checkpoint was trained with.

    Args:
        checkpoint: what a run goes on from.
        config: of ``fit``, as plain values.
    """
    theirs = _config_in(checkpoint)
    differences = _differences(theirs or config, config)
    changes = [each for each in differences if each[0].startswith(("model.", "trainer."))]
    if changes:
        logger.info("ckpt_path: settings changed since then: %s", _in_words(changes))
    if kept := [name for name, _, _ in changes if name in _KEPT_BY_OPTIMISER]:
        logger.info(
            "ckpt_path: %s: the optimiser goes on with the checkpoint's; a new training from its "
            "weights, by model.init_from, takes the new one",
            ", ".join(kept),
        )


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
    found = (
        [path for path in [Path(folder) / name] if path.is_file()]
        if folder
        else _folder_of_runs(config).glob(f"version_*/checkpoints/{name}")
    )
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _newest_of_same_settings(
    paths: Sequence[Path], config: Mapping[str, Any]
) -> tuple[Path, int] | None:
    """The first checkpoint that was trained with the same model, data and seed, and its step.

    Where there is none, it tells the one with the fewest differences; of files that cannot be
    read, it tells why.
    """
    nearest: tuple[Path, list[Difference]] | None = None
    for path in paths:
        try:
            checkpoint = read_checkpoint(path)
        except UserError as error:
            logger.warning("resume: passed over: %s", error)
            continue
        theirs = _config_in(checkpoint)
        differences = [
            each for each in _differences(theirs, config) if each[0].split(".")[0] in _PARTS
        ]
        if theirs and not differences:
            return path, checkpoint["global_step"]
        if theirs and (nearest is None or len(differences) < len(nearest[1])):
            nearest = path, differences
    others = ""
    if nearest is not None:
        rest = "; …" if len(nearest[1]) > _MOST_TOLD else ""
        others = f"; in {nearest[0]}, {_in_words(nearest[1][:_MOST_TOLD])}{rest}"
    logger.info("resume: no last.ckpt of these settings yet: a new run starts%s", others)
    return None


def _config_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration that a checkpoint tells, empty where it tells none."""
    provenance = checkpoint.get("provenance")
    config = provenance.get("config") if isinstance(provenance, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _in_words(differences: Sequence[Difference]) -> str:
    return "; ".join(f"{name} was {before} and is {now}" for name, before, now in differences)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Difference]:
    """Dotted name, their value and ours of the settings that differ so that it can show."""
    flat_theirs, flat_ours = dict(leaves(theirs)), dict(leaves(ours))
    names = sorted(flat_theirs.keys() | flat_ours.keys())
    return [
        (name, flat_theirs.get(name), flat_ours.get(name))
        for name in names
        if name not in _NO_MATTER and flat_theirs.get(name) != flat_ours.get(name)
    ]
