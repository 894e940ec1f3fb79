"""Provenance of a run and its checkpoints: settings, versions, command, data."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import SaveConfigCallback

import etram_det
from etram_det.checkpoint.file import Checkpoint
from etram_det.files import write_text

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "numpy", "h5py")


class Provenance(SaveConfigCallback):
    """Writes ``config.yaml`` and ``provenance.json`` to the run folder, and both into checkpoints.

    Args:
        arguments: of the command line, the command first.
    """

    def __init__(self, *args: Any, arguments: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arguments = list(arguments)
        self.facts: dict[str, Any] = {}
        self._file = Path()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the run folder, which all processes agree upon, and save what belongs there."""
        self._file = Path(str(trainer.log_dir)) / "provenance.json"
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gather the facts on the first process, and write them to the run folder."""
        config = json.loads(
            self.parser.dump(self.config, skip_unset=False, skip_validation=True, format="json")
        )
        data: Any = getattr(trainer, "datamodule", None)
        self.facts = {
            "config": config,
            "seed": config.get("seed_everything"),
            "data": {} if data is None else data.fingerprints(),
            "starts": [{"step": 0, **_surroundings(self.arguments)}],
        }
        self._write()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the facts into the checkpoint."""
        Checkpoint(checkpoint).provenance = self.facts

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """List the starts that a resumed run has had before."""
        stored = Checkpoint(checkpoint)
        before = stored.provenance.get("starts", [])
        if trainer.state.fn == "fit" and before and self.facts:
            this = self.facts["starts"][-1] | {"step": stored.step}
            self.facts["starts"] = [*before, this]
            self._write()

    def _write(self) -> None:
        write_text(self._file, json.dumps(self.facts, indent=2) + "\n")


def _surroundings(arguments: Sequence[str]) -> dict[str, Any]:
    """Time, command and versions that a run is started with."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "etram_det", *arguments]),
        "git": _git_state(),
        "versions": {
            "etram_det": etram_det.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
            "cuda": torch.version.cuda,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "system": platform.platform(),
        },
    }


def _git_state() -> dict[str, Any] | None:
    """Commit of the package's own checkout, and whether files differ from it; None without one."""
    folder = Path(etram_det.__file__).parent
    # An installed package can lie within a checkout of something else.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(changed)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=folder, stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
