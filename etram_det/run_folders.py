"""Run folders: which checkpoint a command means by ``last``, and which one a run goes on from."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etram_det.checkpoint import read_checkpoint
from etram_det.types import UserError

# What makes two runs the same one, but for what does not show in the result.
_PARTS = ("seed_everything", "model", "data")
_NO_MATTER = (
    "data.num_workers",
    "data.pin_memory",
    "data.multiprocessing_context",
    "data.eval_lanes",
    "data.predict_split",
)


logger = logging.getLogger("etram_det")


def chosen_checkpoint(command: str, config: Mapping[str, Any]) -> str | None:
    """The file that ``ckpt_path`` and ``resume`` stand for, told in a line.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        config: of the command, as plain values.

    Returns:
        Its path, a word of Lightning's, or None for a start from nothing.

    Raises:
        UserError: if ``last`` or ``best`` is asked for and there is none.
    """
    path, resume = config.get("ckpt_path"), config.get("resume")
    is_requeued = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
    if command == "fit" and (resume == "auto" or (is_requeued and resume != "never")):
        if found := _newest_of_same_settings(_checkpoints(config, "last.ckpt"), config):
            logger.info("resume: going on from %s, after %d steps", *found)
            return str(found[0])
        logger.info("resume: no last.ckpt of these settings yet: a new run starts")
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
    changes = [
        f"{name} was {before} and is {now}"
        for name, before, now in _differences(theirs or config, config)
        if name.startswith(("model.", "trainer."))
    ]
    if changes:
        logger.info("ckpt_path: settings changed since then: %s", "; ".join(changes))


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

    A file that cannot be read is passed over: it is none of this run's, which are whole.
    """
    for path in paths:
        try:
            checkpoint = read_checkpoint(path)
        except UserError:
            continue
        theirs = _config_in(checkpoint)
        if theirs and not any(
            name.split(".")[0] in _PARTS for name, _, _ in _differences(theirs, config)
        ):
            return path, checkpoint["global_step"]
    return None


def _config_in(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration that a checkpoint tells, empty where it tells none."""
    provenance = checkpoint.get("provenance")
    config = provenance.get("config") if isinstance(provenance, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Dotted name, their value and ours of the settings that differ so that it can show."""
    flat_theirs, flat_ours = dict(_leaves(theirs)), dict(_leaves(ours))
    names = sorted(flat_theirs.keys() | flat_ours.keys())
    return [
        (name, flat_theirs.get(name), flat_ours.get(name))
        for name in names
        if name not in _NO_MATTER and flat_theirs.get(name) != flat_ours.get(name)
    ]


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
