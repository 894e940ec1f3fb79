"""What an experiment runs and compares, read from its YAML file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from etram_det.errors import UserError
from etram_det.simulator.dataset import SimulationSettings

_KEYS = ("training", "evaluation", "settings", "variants", "runs", "comparisons")
_RUN_KEYS = ("variants", "seeds", "steps")


class Run(NamedTuple):
    """One training.

    Attributes:
        variant: name of its variant.
        seed: of ``seed_everything``.
        steps: number of optimiser steps.
    """

    variant: str
    seed: int
    steps: int

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}, {self.steps} steps"


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment.

    Attributes:
        file: where it was read from.
        training: the simulated set whose training split is used.
        evaluation: that whose validation split is used.
        variants: settings of each variant as ``fit`` takes them, by its name.
        runs: in the order in which they are made.
        comparisons: pairs of variants, the second one compared with the first.
    """

    file: Path
    training: SimulationSettings
    evaluation: SimulationSettings
    variants: Mapping[str, Sequence[str]]
    runs: Sequence[Run]
    comparisons: Sequence[tuple[str, str]]


def read_plan(file: Path) -> ExperimentPlan:
    """Read an experiment's file.

    Raises:
        UserError: it is missing or no YAML, or a key or a name in it is wrong.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"plan: {file} cannot be read ({error.strerror}): use another") from error
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file}: must be YAML, got other text ({reason}): mend it") from error
    if not isinstance(content, dict) or set(content) != set(_KEYS):
        got = ", ".join(map(str, content)) if isinstance(content, dict) else content
        raise UserError(f"{file}: must have the keys {', '.join(_KEYS)}, got {got}: set these")
    shared = _flags(_mapping(file, "settings", content["settings"]))
    for name in _mapping(file, "variants", content["variants"]):
        if not isinstance(name, str):
            raise UserError(f"{file}: variants: must have text for names, got {name}: quote it")
    variants = {
        name: _settings(file, name, variant) + shared
        for name, variant in content["variants"].items()
    }
    runs = [
        run
        for group in _list(file, "runs", content["runs"])
        for run in _runs(file, _mapping(file, "runs", group), variants)
    ]
    for pair in _list(file, "comparisons", content["comparisons"]):
        _require_known(file, "comparisons", _list(file, "comparisons", pair), variants)
        if len(pair) != 2:
            raise UserError(
                f"{file}: comparisons: must be pairs of variants, got {', '.join(pair)}: set two"
            )
    return ExperimentPlan(
        file,
        _simulation(file, "training", content["training"]),
        _simulation(file, "evaluation", content["evaluation"]),
        variants,
        list(dict.fromkeys(runs)),
        [(first, second) for first, second in content["comparisons"]],
    )


def _settings(file: Path, name: str, variant: Any) -> list[str]:
    """What ``fit`` is given for a variant."""
    variant = _mapping(file, f"variants.{name}", variant)
    if "configs" not in variant or set(variant) - {"configs", "settings"}:
        raise UserError(
            f"{file}: variants.{name}: must have configs and may have settings, got "
            f"{', '.join(variant)}: set these"
        )
    names = _list(file, f"variants.{name}.configs", variant["configs"])
    configs = [flag for each in names for flag in ("--config", str(each))]
    settings = _mapping(file, f"variants.{name}.settings", variant.get("settings", {}))
    return configs + _flags(settings)


def _flags(settings: Mapping[str, Any]) -> list[str]:
    texts = {
        k: v if isinstance(v, str) else json.dumps(v, default=str) for k, v in settings.items()
    }
    return [f"--{key}={text}" for key, text in texts.items()]


def _runs(file: Path, group: Mapping[str, Any], variants: Mapping[str, Any]) -> Iterator[Run]:
    """The runs of a group, seed by seed, so that all variants have the same seeds early."""
    if set(group) != set(_RUN_KEYS):
        raise UserError(
            f"{file}: runs: each must have the keys {', '.join(_RUN_KEYS)}, got "
            f"{', '.join(group)}: set these"
        )
    names, seeds = (_list(file, f"runs.{key}", group[key]) for key in ("variants", "seeds"))
    _require_known(file, "runs", names, variants)
    for number in (*seeds, group["steps"]):
        if type(number) is not int:
            raise UserError(
                f"{file}: runs: seeds and steps must be whole numbers, got {number}: set these"
            )
    for seed in seeds:
        for variant in names:
            yield Run(variant, seed, group["steps"])


def _simulation(file: Path, key: str, value: Any) -> SimulationSettings:
    try:
        return SimulationSettings.of(_mapping(file, key, value))
    except TypeError as error:
        reason = str(error).rpartition("__init__() ")[2]
        raise UserError(
            f"{file}: {key}: must be settings of simulate, got others ({reason}): see simulate "
            "--help"
        ) from error


def _list(file: Path, key: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{file}: {key}: must be a list, got {value}: set [{value}]")
    return value


def _mapping(file: Path, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{file}: {key}: must be a mapping, got {value}: set names and values")
    return value


def _require_known(file: Path, key: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"{file}: {key}: must name variants, got {name}: use {', '.join(known)}"
            )
