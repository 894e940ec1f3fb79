"""What a benchmark runs on: network, sizes, precision and simulated input."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.inference.engine import Runtime
from etram_det.inference.exported_file import ExportedDetector
from etram_det.inference.streaming_detector import TrainedDetector
from etram_det.models.detector import Detector
from etram_det.models.head import HeadOutput, YOLOXHead

NUM_CLASSES = 8
BOXES_PER_FRAME = 8
Preset = Literal["tiny", "small", "base"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_PRESETS: dict[str, tuple[int, int, float]] = {  # embed_dim, dim_head, fpn_depth
    "tiny": (32, 32, 0.33),
    "small": (48, 24, 0.33),
    "base": (64, 32, 0.67),
}
_STRIDES = (4, 8, 16, 32)  # of four scales


@dataclass(frozen=True)
class BenchSettings:
    """What is measured: the arguments of ``bench_command`` that have the same names.

    Attributes:
        source: a detector to stream, in place of random weights of the preset.
    """

    preset: Preset
    input_size: tuple[int, int]
    lanes: int
    steps: int
    scales: Literal[3, 4]
    precision: tuple[Precision, ...]
    compile: Literal["none", "stages"]
    gradient_checkpointing: bool
    repeats: int
    device: torch.device
    runtimes: tuple[Runtime, ...] = ("pytorch",)
    source: TrainedDetector | ExportedDetector | None = None

    def __post_init__(self) -> None:
        for name in ("lanes", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: must be at least 1, got {getattr(self, name)}: raise it")
        if min(self.input_size) < 1:
            raise UserError(
                "input_size: must be height and width of at least 1 pixel, got "
                f"{self.input_size}: raise it"
            )
        if not self.precision:
            raise UserError(f"precision: must be some of {', '.join(DTYPES)}, got none: set one")

    @property
    def frame(self) -> str:
        """The sizes in words."""
        height, width = self.input_size
        if self.source is not None:
            return f"{self.source.network.get('embed_dim', 64)} channels, {height}x{width}"
        return f"{self.preset}, {height}x{width}, {self.scales} scales"

    @property
    def frames(self) -> FrameSettings:
        """How events become frames."""
        return FrameSettings() if self.source is None else self.source.frame_settings

    @property
    def trained(self) -> TrainedDetector | ExportedDetector:
        """The detector to stream, of random weights unless there is another one."""
        if self.source is not None:
            return self.source
        names = tuple(f"class {i}" for i in range(NUM_CLASSES))
        detector = self.detector(torch.device("cpu"))
        return TrainedDetector(detector, names, self.frames, True, self.network)

    @property
    def network(self) -> dict[str, Any]:
        """Arguments of the detector."""
        if self.source is not None:
            return dict(self.source.network)
        return {"num_classes": NUM_CLASSES, **self.architecture}

    @property
    def architecture(self) -> dict[str, Any]:
        """Those of the preset, by their names."""
        embed_dim, dim_head, fpn_depth = _PRESETS[self.preset]
        return {
            "embed_dim": embed_dim,
            "dim_head": dim_head,
            "fpn_depth": fpn_depth,
            "fpn_stages": (2, 3, 4) if self.scales == 3 else (1, 2, 3, 4),
        }

    def detector(self, device: torch.device | None = None) -> Detector:
        """A detector with random weights, the same each time, unless there is another one."""
        if isinstance(self.source, TrainedDetector) and device is None:
            return copy.deepcopy(self.source.detector).to(self.device)
        torch.manual_seed(0)
        detector = Detector(**self.network, gradient_checkpointing=self.gradient_checkpointing)
        return detector.to(self.device if device is None else device)

    def events(self, steps: int, lanes: int) -> Tensor:
        """Frames ``[T, B, C, H, W]`` uint8, nine in ten of their counts zero."""
        generator = torch.Generator().manual_seed(0)
        shape = (steps, lanes, self.frames.channels, *self.input_size)
        counts = torch.randint(-90, 10, shape, generator=generator, dtype=torch.int8)
        return counts.clamp(min=0).to(torch.uint8).to(self.device)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """As Lightning does it for ``trainer.precision``."""
    if precision == "32-true":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def random_boxes(
    num_frames: int, num_boxes: int, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Boxes ``[N, M, 4]`` ``cxcywh`` of 8 to 72 pixels in frames of a size, and classes."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(num_frames, num_boxes, 2, generator=generator)
    centre = centre * torch.tensor([size[1], size[0]])
    sides = 8 + 64 * torch.rand(num_frames, num_boxes, 2, generator=generator)
    classes = torch.randint(0, NUM_CLASSES, (num_frames, num_boxes), generator=generator)
    return torch.cat([centre, sides], dim=-1).to(device), classes.to(device)


@torch.no_grad()
def head_output(num_frames: int, size: tuple[int, int], device: torch.device) -> HeadOutput:
    """Random predictions in ``N`` frames of a size, at all points of four scales."""
    head = YOLOXHead(dims=(4,) * 4, strides=_STRIDES, num_classes=NUM_CLASSES).eval().to(device)
    grids = [(size[0] // stride, size[1] // stride) for stride in _STRIDES]
    points = head([torch.zeros(1, 4, *grid, device=device) for grid in grids])
    generator = torch.Generator().manual_seed(0)
    shape = (num_frames, len(points.strides), 5 + NUM_CLASSES)
    random = torch.randn(shape, generator=generator).to(device)
    return replace(
        points, offsets=0.5 * random[..., :4], objectness=random[..., 4], classes=random[..., 5:]
    )


def random_events(
    num_events: int, size: tuple[int, int], window_us: int = 50_000
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Columns x, y, p and t below ``window_us`` in ascending time, all over a sensor of a size."""
    random = np.random.default_rng(0)
    return (
        random.integers(0, size[1], num_events).astype(np.uint16),
        random.integers(0, size[0], num_events).astype(np.uint16),
        random.integers(0, 2, num_events).astype(np.int16),
        np.sort(random.integers(0, window_us, num_events)),
    )
