"""Which packages each command needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from etram_det.cli.commands import LIGHTNING_COMMANDS, TOOLS

# Modules of the package's own dependencies, and those that a machine without PyTorch has.
WITHOUT_TORCH = (
    *("cv2", "eventcv", "filelock", "h5py", "hdf5plugin", "jsonargparse", "numba", "numpy"),
    *("platformdirs", "rich", "yaml"),
)
ALL = (
    *("jinja2", "matplotlib", "pytorch_lightning", "tensorboard", "torch", "torchmetrics"),
    *("torchvision", *WITHOUT_TORCH),
)
_BASIC = ("cache", "detect", "doctor", "live")  # which run without PyTorch
_INSTALL_ALL = "pip install etram-det"


@dataclass(frozen=True)
class Use:
    """Something that one can do with a command.

    Attributes:
        name: of the command, and what of it.
        needed: modules that must be there.
        one_of: modules of which one must be there.
        remedy: how to install them.
    """

    name: str
    needed: tuple[str, ...]
    remedy: str = _INSTALL_ALL
    one_of: tuple[str, ...] = ()

    def missing(self, broken: Sequence[str] = ()) -> list[str]:
        """Modules that are missing or in ``broken``; of ``one_of`` all where none is there."""
        lacking = [name for name in self.needed if name in broken or not is_installed(name)]
        others = [name for name in self.one_of if name in broken or not is_installed(name)]
        return lacking + (others if len(others) == len(self.one_of) else [])


# What an extra of the package adds.
_EXTRAS = {
    "export": ("etram-det[export]", ("onnx", "onnxruntime", "onnxscript")),
    "sweep": ("etram-det[sweep]", ("optuna",)),
    "detect --track": ("etram-det[track]", ("edgefirst.tracker",)),
    "live, with a camera": ("etram-det[camera]", ("neuromorphic_drivers",)),
    "fit --config log_wandb": ("etram-det[wandb]", ("wandb",)),
}


def uses() -> list[Use]:
    """All commands, and what of them needs more than they do."""
    found = []
    for name in (*LIGHTNING_COMMANDS, *TOOLS):
        remedy, more = _EXTRAS.get(name, ("", ()))
        base = WITHOUT_TORCH if name in _BASIC else ALL
        found.append(Use(name, (*more, *base), f"pip install '{remedy}'" if more else _INSTALL_ALL))
    remedy = "pip install 'etram-det[openvino]' or 'etram-det[onnx]'"
    both = ("openvino", "onnxruntime")
    found.append(Use("detect, live: a checkpoint (.ckpt)", ("torch", "torchvision")))
    found.append(Use("detect, live: an exported file (.onnx)", (), remedy, both))
    for name, (extra, more) in _EXTRAS.items():
        if name not in TOOLS:
            found.append(Use(name, more, f"pip install '{extra}'"))
    return found


def is_installed(module: str) -> bool:
    """Whether there is a module, which is not imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor the package that it would be in
        return False
