"""Checkpoints to look into: their settings, parameters and size weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from etram_det.checkpoint.file import read_checkpoint
from etram_det.data.datamodule import EventDataModule
from etram_det.errors import UserError
from etram_det.inference.streaming_detector import TrainedDetector, read_detector
from etram_det.inspection.recordings import open_data
from etram_det.models.size_weight import SizeWeight, WeightType

_FEW_RECORDINGS = {"train": 6, "val": 2, "test": 0}  # of a short run: made in some seconds


@dataclass(frozen=True)
class InspectedCheckpoint:
    """A checkpoint with the settings of its run.

    Attributes:
        path: the file.
        trained: its detector, class names and frames.
        step: training steps that it has behind it.
        model: settings of the network, evaluation and optimiser.
        config: all settings of the run by section, ``model``, ``data``, ``trainer``; empty where
            neither the checkpoint nor its run folder tells.
        size_weight: how the loss weighted boxes by their size; None if it did not, or if that is
            not known.
    """

    path: Path
    trained: TrainedDetector
    step: int
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    size_weight: SizeWeight | None

    def data(self, root: str | Path | None = None) -> EventDataModule:
        """The data of the run, with frames as the detector knows them.

        Args:
            root: folder of other recordings of the same classes.
        """
        settings = dict(self.config.get("data", {}))
        if self.trained.tells_frames or not settings:
            stored = asdict(self.trained.frames)
            settings |= {name: value for name, value in stored.items() if value is not None}
        if root is not None:
            settings["root"] = str(root)
        return open_data(**settings | {"class_names": self.trained.class_names})


def read(path: str | Path) -> InspectedCheckpoint:
    """Read a checkpoint for inspection, without running code that it may hold.

    Args:
        path: the file; settings that it does not hold are looked for in its run folder.

    Raises:
        UserError: it is missing, damaged, or no checkpoint of this project.
    """
    path = Path(path)
    checkpoint = read_checkpoint(path)
    config = checkpoint.config or _config_beside(path)
    return InspectedCheckpoint(
        path=path,
        trained=read_detector(path),
        step=checkpoint.step,
        model=checkpoint.settings,
        config=config,
        size_weight=_size_weight(config, checkpoint.tensors),
    )


def newest_checkpoints(folder: str | Path, name: str = "best.ckpt") -> list[Path]:
    """Checkpoints of all runs below a folder, the newest first.

    Args:
        folder: ``runs``, say; it need not be there.
        name: of the files.
    """
    found = Path(folder).glob(f"**/checkpoints/{name}")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def short_run(configs: str | Path, folder: str | Path, steps: int) -> Path:
    """Train the quick configuration for some steps on a few recordings of simulated traffic.

    Args:
        configs: folder of the configurations.
        folder: where the run folder goes.
        steps: how many; some hundred make a detector, some ten a first impression.

    Returns:
        Its last checkpoint.

    Raises:
        UserError: the training failed; it has said why.
    """
    from etram_det.cli.commands import run

    names = ("size_aware", "quick")
    flags = [flag for name in names for flag in ("--config", str(Path(configs) / f"{name}.yaml"))]
    budget = {"max_steps": steps, "val_check_interval": steps, "enable_progress_bar": "false"}
    flags += [f"--trainer.{name}={value}" for name, value in budget.items()]
    flags += [f"--data.simulation.{split}={n}" for split, n in _FEW_RECORDINGS.items()]
    flags += ["--pictures.number=0", f"--trainer.logger.save_dir={folder}"]
    if run(["fit", *flags]):
        raise UserError("the short run failed: its message stands above")
    return newest_checkpoints(folder, "last.ckpt")[0]


def parameter_counts(checkpoint: InspectedCheckpoint) -> dict[str, int]:
    """Numbers that are learnt, by part of the network."""
    detector = checkpoint.trained.detector
    parts: dict[str, torch.nn.Module] = {}
    for i, stage in enumerate(detector.backbone.stages):
        for name, child in stage.named_children():
            parts[f"backbone, stage {i + 1}: {name}"] = child
    parts |= {"pyramid": detector.fpn, "head": detector.head}
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    rest = sum(p.numel() for p in detector.parameters()) - sum(counts.values())
    return {name: n for name, n in (counts | {"other": rest}).items() if n}


def size_weights(
    checkpoint: InspectedCheckpoint,
) -> tuple[dict[str, Callable[[NDArray[np.float64]], NDArray[Any]]], tuple[float, float]]:
    """Weights by area, as the checkpoint's loss had them and in each other way for them to fall.

    Args:
        checkpoint: one whose loss had no weights has those of ``size_aware.yaml`` beside its own.

    Returns:
        By name, what gives weights ``[M]`` of areas ``[M]`` in square pixels; and the thresholds.
    """
    own = checkpoint.size_weight
    largest = own.size_aware_weight if own else 2.5
    thresholds = own or SizeWeight()
    small, medium = float(thresholds.small_threshold), float(thresholds.medium_threshold)
    kinds = {kind: SizeWeight(largest, small, medium, kind) for kind in get_args(WeightType)}
    first = "this run: no weights" if own is None else f"this run: {own.weight_type}"
    others = {kind: weight for kind, weight in kinds.items() if not own or kind != own.weight_type}
    # Of a single box a mean of 1 says nothing, so it is left out.
    same = None if own is None else kinds[own.weight_type]
    return {
        first: np.ones_like if same is None else _on_arrays(same),
        **{kind: _on_arrays(weight) for kind, weight in others.items()},
    }, (small, medium)


def short_names(*checkpoints: InspectedCheckpoint) -> list[str]:
    """Names that tell checkpoints apart: run, version and file, with a number where equal."""
    names = ["/".join((*c.path.resolve().parts[-4:-2], c.path.stem)) for c in checkpoints]
    return [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, 1)]


def _on_arrays(weight: SizeWeight) -> Callable[[NDArray[np.float64]], NDArray[Any]]:
    return lambda areas: weight(torch.from_numpy(areas)).numpy()


def _config_beside(path: Path) -> dict[str, Any]:
    """The configuration in the run folder of a checkpoint; nothing where none can be read."""
    file = path.resolve().parent.parent / "config.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _size_weight(
    config: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]
) -> SizeWeight | None:
    """The loss's weighting; computed thresholds are in the checkpoint, set ones in the settings."""
    loss = config.get("model", {}).get("loss") or {}
    settings = loss.get("init_args", {})
    if "size_aware_weight" not in settings:
        return None
    known = inspect.signature(SizeWeight).parameters
    weight = SizeWeight(**{name: settings[name] for name in known if name in settings})
    prefix = "loss.size_weight."
    computed = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if weight.adaptive_quantiles and computed:
        weight.load_state_dict(computed)
    return weight
