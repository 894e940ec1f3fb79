"""Checkpoints to look into: their settings, parameters and size weights."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from etram_det.checkpoint.file import read_checkpoint
from etram_det.data.datamodule import EventDataModule
from etram_det.inference.streaming_detector import TrainedDetector, read_detector
from etram_det.models.size_weight import SizeWeight, WeightType
from etram_det.report.run_files import read_settings
from etram_det.simulator.dataset import SimulationSettings
from etram_det.training.module import DetectionModule

Weighting = Callable[[NDArray[np.float64]], NDArray[Any]]


@dataclass(frozen=True)
class InspectedCheckpoint:
    """A checkpoint with the settings of its run.

    Attributes:
        path: the file.
        trained: its detector, class names and frames.
        step: training steps that it has behind it.
        model: settings of the network, evaluation and optimiser.
        config: all settings of the run by section, ``model``, ``data``, ``trainer``; empty where
            neither the checkpoint nor its run folder holds them.
        size_weight: of the loss; None if it had none, or is not known.
    """

    path: Path
    trained: TrainedDetector
    step: int
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    size_weight: SizeWeight | None

    def module(self) -> DetectionModule:
        """The detector with its metric, for ``Trainer.validate``."""
        module = DetectionModule(**_known(DetectionModule, self.model, {"compile"}))
        module.detector = self.trained.detector
        return module

    def data(self, root: str | Path | None = None) -> EventDataModule:
        """All data of the run, not augmented, with frames as the detector knows them.

        Args:
            root: folder of other recordings of the same classes.
        """
        settings = _known(EventDataModule, self.config.get("data", {}), {"augmentation", "subset"})
        if self.trained.knows_frames or not settings:
            stored = asdict(self.trained.frame_settings)
            settings |= {name: value for name, value in stored.items() if value is not None}
        if isinstance(simulation := settings.get("simulation"), Mapping):
            settings["simulation"] = SimulationSettings.of(simulation)
        if root is not None:
            settings["root"] = str(root)
        return EventDataModule(**settings | {"class_names": self.trained.class_names})


def read(path: str | Path) -> InspectedCheckpoint:
    """Read a checkpoint for inspection, without running code that it may hold.

    Args:
        path: the file; settings that it does not hold are looked for in its run folder.

    Raises:
        UserError: it is missing, damaged, or no checkpoint of this project.
    """
    path = Path(path)
    checkpoint, trained = read_checkpoint(path), read_detector(path)
    config = checkpoint.config or read_settings(path.resolve().parent.parent)
    weight = _size_weight(config, checkpoint.tensors)
    return InspectedCheckpoint(path, trained, checkpoint.step, checkpoint.settings, config, weight)


def newest_checkpoints(folder: str | Path, name: str = "best.ckpt") -> list[Path]:
    """Checkpoints of this name in all runs below a folder, if it is there; the newest first."""
    found = Path(folder).glob(f"**/checkpoints/{name}")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def parameter_counts(checkpoint: InspectedCheckpoint) -> dict[str, int]:
    """Numbers that are learnt, by part of the network."""
    counts: Counter[str] = Counter()
    for name, parameter in checkpoint.trained.detector.named_parameters():
        part, *inner = name.split(".")
        if part == "backbone":  # then "stages", its index and its module
            part = f"backbone, stage {int(inner[1]) + 1}: {inner[2]}"
        counts["pyramid" if part == "fpn" else part] += parameter.numel()
    return dict(counts)


def size_weights(
    checkpoint: InspectedCheckpoint,
) -> tuple[dict[str, Weighting], tuple[float, float]]:
    """Weights by area, as the checkpoint's loss had them and of each other type.

    A loss without weights has those of ``size_aware.yaml`` beside its own.

    Returns:
        By name, what gives weights ``[M]`` of areas ``[M]`` in square pixels; and the thresholds.
    """
    own = checkpoint.size_weight
    like = own or SizeWeight(2.5)
    thresholds = float(like.small_threshold), float(like.medium_threshold)
    # Without a mean of 1: of a single box it says nothing.
    weights: dict[str, Weighting] = {
        kind: partial(_weigh, SizeWeight(like.size_aware_weight, *thresholds, kind))
        for kind in get_args(WeightType)
    }
    if own is None:
        return {"this run: no weights": np.ones_like, **weights}, thresholds
    return {f"this run: {own.weight_type}": weights.pop(own.weight_type), **weights}, thresholds


def short_names(*checkpoints: InspectedCheckpoint) -> list[str]:
    """Names that differ for each checkpoint: run, version and file, with a number where equal."""
    names = ["/".join((*c.path.resolve().parts[-4:-2], c.path.stem)) for c in checkpoints]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _weigh(weight: SizeWeight, areas: NDArray[np.float64]) -> NDArray[Any]:
    return weight(torch.from_numpy(areas)).numpy()


def _known(of: type, settings: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    """The settings that this release's class takes, but for some."""
    known = inspect.signature(of).parameters.keys() - left_out
    return {name: value for name, value in settings.items() if name in known}


def _size_weight(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> SizeWeight | None:
    """The loss's weighting; computed thresholds are in the checkpoint, set ones in the settings."""
    loss = config.get("model", {}).get("loss") or {}
    settings = loss.get("init_args", {})
    if "size_aware_weight" not in settings:
        return None
    weight = SizeWeight(**_known(SizeWeight, settings, set()))
    prefix = "loss.size_weight."
    computed = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    if weight.adaptive_quantiles and computed:
        weight.load_state_dict(computed)
    return weight
