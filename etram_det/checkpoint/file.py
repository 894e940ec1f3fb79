"""The reader and writer of checkpoints: every key of the file is spelled here."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etram_det.checkpoint.contents import Placeholder, require_readable, require_whole
from etram_det.errors import UserError
from etram_det.files import replacing

_PLANNED_FACTS = 6  # of a recording in the training plan; the simulator's version is the last
# What torch.load raises for files that are no checkpoint, or one that was cut or overwritten.
_DAMAGE = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
# Kept by normalisation layers beside their parameters, and treated like them.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_DETECTOR = "detector."  # prefix of the detector's tensors


@dataclass
class Checkpoint:
    """A checkpoint by the names of its parts; what it lacks is empty, zero or None.

    Attributes:
        content: all of it, as Lightning reads and writes it.
        path: the file, for messages.
    """

    content: dict[str, Any]
    path: str | Path = "checkpoint"

    @staticmethod
    def of_weights(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint from which training starts with a fresh optimiser.

        Args:
            tensors: of the detector by its own names, of any shape ``[*]``.
            settings: of the module, ``class_names`` included.
        """
        content = {
            # Lightning wants to know who wrote a checkpoint, in case its layout changed since.
            "pytorch-lightning_version": version("pytorch-lightning"),
            "epoch": 0,
            "global_step": 0,
            "state_dict": {f"{_DETECTOR}{name}": tensor for name, tensor in tensors.items()},
            "optimizer_states": [],
            "lr_schedulers": [],
            "hyper_parameters": dict(settings),
        }
        return Checkpoint(content)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors ``[*]`` of the module, those of detector and loss, by their names in it."""
        return self.content["state_dict"]

    @tensors.setter
    def tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put other tensors ``[*]`` in their place."""
        self.content["state_dict"] = tensors

    @property
    def detector_tensors(self) -> dict[str, Tensor]:
        """Tensors ``[*]`` of the detector by their names in it."""
        own = (name for name in self.tensors if name.startswith(_DETECTOR))
        return {name.removeprefix(_DETECTOR): self.tensors[name] for name in own}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the module, without those that Lightning adds for itself."""
        stored = self.content.get("hyper_parameters", {})
        return {name: value for name, value in stored.items() if not name.startswith("_")}

    @property
    def class_names(self) -> list[str]:
        """Name of each class id."""
        return list(self.settings.get("class_names", ()))

    @property
    def frame_settings(self) -> dict[str, Any]:
        """Settings of the data that was trained on: frames, labels, plan."""
        # Under the name of its class Lightning keeps the state of the data module.
        stored = self.content.get("EventDataModule", {}).get("settings", {})
        return {name.removeprefix("data."): value for name, value in stored.items()}

    @property
    def step(self) -> int:
        """Number of training steps behind it."""
        return self.content.get("global_step", 0)

    @property
    def epoch(self) -> int:
        """Number of epochs behind it."""
        return self.content.get("epoch", 0)

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Configuration, data and starts of its run; empty for imported weights."""
        facts = self.content.get("provenance")
        return facts if isinstance(facts, Mapping) else {}

    @provenance.setter
    def provenance(self, facts: Mapping[str, Any]) -> None:
        self.content["provenance"] = facts

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration of its run by section."""
        config = self.provenance.get("config")
        return config if isinstance(config, Mapping) else {}

    @property
    def knows_simulation_only(self) -> bool:
        """Whether all recordings of its run's training are known to be simulated."""
        found = (self.provenance.get("data") or {}).get("train", {}).get("recordings", [])
        if found:
            return all("simulator_version" in each for each in found)
        # Trained from Python: the plan's recordings, whose last number is that version.
        planned = self.content.get("EventDataModule", {}).get("recordings")
        if isinstance(planned, Mapping) and planned:
            return all(len(each) == _PLANNED_FACTS and each[-1] > 0 for each in planned.values())
        data = self.config.get("data") or {}
        return bool(data) and data.get("root", "") is None

    @property
    def best(self) -> dict[str, Any] | None:
        """The best validation so far, its ``metric``, ``value`` and ``file``."""
        for name, kept in self.content.get("callbacks", {}).items():
            if name.startswith("RunCheckpoint") and kept["best_model_score"] is not None:
                value = float(kept["best_model_score"])
                return {"metric": kept["monitor"], "value": value, "file": kept["best_model_path"]}
        return None

    @property
    def validation(self) -> Mapping[str, Any] | None:
        """Step and results of the latest validation; None if there was none."""
        return self.content.get("callbacks", {}).get("ResultsWriter") or None

    @property
    def optimizer_states(self) -> list[dict[str, Any]]:
        """State of each optimiser; empty for weights alone."""
        return self.content.get("optimizer_states", [])

    @property
    def has_optimizer(self) -> bool:
        """Whether a training can go on with its optimiser and schedule."""
        return bool(self.optimizer_states)

    @property
    def has_training_state(self) -> bool:
        """Whether Lightning can train on, be it with a fresh optimiser and schedule."""
        return {"optimizer_states", "lr_schedulers"} <= self.content.keys()

    @property
    def fit_loop(self) -> dict[str, Any] | None:
        """Progress of Lightning's training loops."""
        return (self.content.get("loops") or {}).get("fit_loop")

    @property
    def resume(self) -> Mapping[str, Any] | None:
        """What an exact resume needs beside Lightning's own state."""
        return self.content.get("resume")

    @resume.setter
    def resume(self, state: Mapping[str, Any]) -> None:
        self.content["resume"] = state

    def require_own(self, setting: str) -> None:
        """Refuse a checkpoint of another project.

        Raises:
            UserError: naming the ``setting`` that the user set to the path, and the file.
        """
        if not self.detector_tensors or not self.class_names:
            raise UserError(
                f"{setting}: must be a checkpoint of this project, got {self.path}: use "
                "python -m etram_det import-rvt for RVT's"
            )


def parameters_by_part(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Number of a detector's parameters by part; running statistics are none.

    Args:
        tensors: of the detector, by name, each ``[*]`` of any shape.
    """
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        if name.endswith(STATISTICS):
            continue
        stage = re.match(r"backbone\.stages\.(\d+)\.", name)
        part = f"backbone stage {int(stage[1]) + 1}" if stage else name.partition(".")[0]
        counts[part] += tensor.numel()
    return dict(counts)


def read_checkpoint(
    path: str | Path,
    setting: str = "ckpt_path",
    ignored: Collection[str] = (),
    mapped: bool = True,
    whole: bool = True,
) -> Checkpoint:
    """Read a checkpoint onto the CPU without running code that it may hold.

    PyTorch's restricted reader (``weights_only=True``) takes tensors and plain values only.

    Args:
        path: the file.
        setting: what the user set to the path, for messages.
        ignored: dotted names of classes and functions that the file may mention. They are neither
            imported nor called: an empty placeholder takes their place.
        mapped: whether tensors stay in the file until they are used. The file must not be
            overwritten in place while they are; replacing it is safe.
        whole: whether all parts of a training's checkpoint must be well-formed, not only its
            tensors, step and settings.

    Raises:
        UserError: if the file is missing, cut short, no checkpoint, or holds more than tensors
            and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{setting}: no file {path}: give the path of a checkpoint (.ckpt)")
    stand_ins: list[Any] = [(Placeholder, name) for name in ignored]
    if ignored:
        # It is filled after it was made, for which PyTorch wants a dict.
        stand_ins.append((lambda *_: {}, "collections.defaultdict"))
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            # A pickle of another protocol than PyTorch's: refused below, if it is none of its own.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            mapped = mapped and zipfile.is_zipfile(path)  # not so before PyTorch 1.6
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _refusal(path, setting, error) from error
    except _DAMAGE as error:
        reason = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({reason}): it may be cut short, or something "
            "else; copy it again or choose another file"
        ) from error
    require_readable(path, content)
    checkpoint = Checkpoint(content, path)
    if whole and not ignored and checkpoint.detector_tensors:
        require_whole(path, content)
    return checkpoint


def _refusal(path: Path, setting: str, error: pickle.UnpicklingError) -> UserError:
    """Why PyTorch's restricted reader refused a file."""
    # PyTorch names what it refused as "GLOBAL <name>".
    if refused := re.search(r"GLOBAL (\S+)", str(error)):
        return UserError(
            f"{path}: must hold only tensors and plain values, but it holds {refused[1]}: not "
            "loaded, since that could run code; if you trust the file, keep its tensors alone: "
            "torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW)"
        )
    with path.open("rb") as file:
        is_pickle = file.read(1) == pickle.PROTO  # as pickles of protocol 2 and later start
    found = "a plain pickle, which may hold code" if is_pickle else "something else"
    if path.suffix == ".onnx":
        found = "an exported file, which detect, live and bench stream take"
    return UserError(
        f"{path}: must be a checkpoint that PyTorch wrote, got {found}: not loaded: set {setting} "
        "to a .ckpt file"
    )


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its final name, then move it into place.

    Raises:
        UserError: if the file cannot be written; nothing is left of it then.
    """
    try:
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            torch.save(dict(content), file)
    except (OSError, RuntimeError) as error:
        # PyTorch's writer gives its own error, raised from what the file's said.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise  # what came in between, such as the loss of a loading process
        raise UserError(f"{path}: cannot be written ({cause.strerror or cause})") from error
