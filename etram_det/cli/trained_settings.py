"""Settings of an evaluation that follow the checkpoint: its frames, labels, recordings, rules."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from etram_det.checkpoint.file import Checkpoint
from etram_det.cli.flags import RENAMED
from etram_det.data.labels import class_names_of
from etram_det.errors import UserError
from etram_det.types import dotted_items

# What only decides how fast and where it works, which split is predicted, and how training chunks
# are drawn. All else of the data follows: which recordings, frames and labels there are, and the
# chunks and lanes on which rounding depends, so that an evaluation gives the training's metrics.
_NOT_FOLLOWED = (
    *("train_lanes", "sampling", "augmentation", "seed", "predict_split"),
    *("class_balance", "interpolate_labels", "label_phase", "least_motion_px"),
    *("num_workers", "pin_memory", "multiprocessing_context", "on_unreadable_recording"),
)
# Properties of the recordings: they follow where no other folder of them is given.
_OF_FILES = ("time_unit", "clock", "sensor_size", "subset", "subset_seed")
# What decides which detections there are and what counts as found.
_OF_EVALUATION = (
    *("score_threshold", "nms_threshold", "class_agnostic_nms", "max_detections"),
    *("protocol", "size_bins", "motion_bins", "pixel_frame", "class_groups"),
)


def trained_settings(
    checkpoint: Checkpoint, known: Collection[str], *given_root: str | None
) -> dict[str, dict[str, Any]]:
    """What an evaluation takes from a checkpoint, by section and name.

    Args:
        checkpoint: one of this project.
        known: dotted names of the settings that this release has.
        *given_root: ``data.root``, where the user has set it.

    Returns:
        Plain values; of ``data`` nothing where the checkpoint holds nothing of it.

    Raises:
        UserError: if the folder that it was trained on is gone, or its settings are damaged.
    """
    data = {**checkpoint.frame_settings, **_section(checkpoint, "data")}
    model, trainer = checkpoint.settings, _section(checkpoint, "trainer")
    left_out: tuple[str, ...] = _NOT_FOLLOWED
    if given_root and not _is_same_folder(data.get("root"), *given_root):
        left_out += _OF_FILES
    found = {
        "data": {name: value for name, value in data.items() if name not in left_out},
        "model": {name: model[name] for name in _OF_EVALUATION if name in model},
        "trainer": {name: trainer[name] for name in ("precision",) if name in trainer},
    }
    theirs = data.get("root")
    if theirs is not None and not given_root and not Path(str(theirs)).expanduser().is_dir():
        raise UserError(
            f"data.root: must be a folder of recordings, got none: that of the checkpoint's "
            f"training, {theirs}, is not there: set data.root"
        )
    try:
        plain: dict[str, Any] = json.loads(json.dumps(found))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path}: its settings must be plain values, got others ({error}): the "
            "checkpoint is damaged: use another one, or copy it again"
        ) from error
    return {section: _known(values, f"{section}.", known) for section, values in plain.items()}


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Settings in a line that can stand for a ``--config`` file."""
    return yaml.safe_dump(dict(settings), default_flow_style=True, width=2**20, sort_keys=False)


def described(
    theirs: Mapping[str, Any], before: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    """A line of what follows the checkpoint, and one of what was given against it.

    Args:
        theirs: what the checkpoint brings, as :func:`trained_settings` returns it.
        before: the configuration without the checkpoint, by section and name.
        now: the configuration with it.
    """
    settings, first, last = (dict(dotted_items(each)) for each in (theirs, before, now))
    followed, given = [], []
    for name, value in settings.items():
        if value == {}:  # a section of which it brings nothing
            continue
        was, own, is_now = (_comparable(name, x) for x in (first.get(name), value, last.get(name)))
        if is_now != own:
            given.append(
                f"{name}: {last.get(name)} as given, the checkpoint was trained with {value}"
            )
        elif was != own:
            followed.append(f"{name} {value}")
    if followed:
        yield f"ckpt_path: settings that follow the checkpoint: {', '.join(followed)}"
    if given:
        yield "; ".join(given)
    if not theirs["data"]:
        frames = ", ".join(f"{name} {now['data'][name]}" for name in ("input_size", "window_ms"))
        yield (
            "ckpt_path: holds no settings of frames and labels: using those of the "
            f"configuration ({frames}, …)"
        )


def _section(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A section of the configuration of a checkpoint's run, by the names of this release."""
    settings = checkpoint.config.get(name)
    if not isinstance(settings, Mapping):
        return {}
    prefix = f"{name}."
    return {
        RENAMED.get(prefix + each, prefix + each).removeprefix(prefix): value
        for each, value in settings.items()
    }


def _known(settings: Mapping[str, Any], prefix: str, known: Collection[str]) -> dict[str, Any]:
    """The settings that this release has; those of a group are looked at one by one."""
    found = {}
    for name, value in settings.items():
        if f"{prefix}{name}" in known:
            found[name] = value
        elif isinstance(value, Mapping) and (inner := _known(value, f"{prefix}{name}.", known)):
            found[name] = inner
    return found


def _is_same_folder(one: Any, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    return _absolute(str(one)) == _absolute(other)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _comparable(name: str, value: Any) -> Any:
    """A value of which there is one form only."""
    if name == "data.class_names" and value is not None:
        return list(class_names_of(value))
    return _absolute(value) if name == "data.root" and value else value
