"""Whether an exported detector computes what the checkpoint does, on windows of a recording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.inference.exported_file import PREDICTIONS, ExportedDetector
from etram_det.inference.onnxruntime_engine import ONNXRuntimeEngine
from etram_det.inference.placement import open_placed
from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.inference.streaming_detector import TrainedDetector
from etram_det.simulator.dataset import SimulationSettings, simulate

WINDOWS = 100
_LEAST_SIDE = 32  # of a simulated sensor in pixels


@dataclass(frozen=True)
class Agreement:
    """How far an exported detector is from PyTorch in float32.

    Attributes:
        windows: that were compared, the state carried from one to the next.
        differences: the largest one of boxes, objectness, classes and state: of boxes relative to
            their largest coordinate, of the rest to its value, of either to 1 where that is less.
    """

    windows: int
    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(self.differences.values())


def compare(
    trained: TrainedDetector, exported: ExportedDetector, frames: Iterator[NDArray[Any]]
) -> Agreement:
    """Run a checkpoint's detector and the exported one side by side.

    Args:
        trained: the detector as trained.
        exported: the file.
        frames: ``[C, H, W]`` each, of windows that follow each other.
    """
    ours, theirs = PyTorchEngine(trained.detector, device="cpu"), ONNXRuntimeEngine(exported)
    differences = dict.fromkeys((*PREDICTIONS, "state"), 0.0)
    windows = 0
    for windows, frame in enumerate(frames, start=1):  # noqa: B007
        expected, found = ours.run(frame), theirs.run(frame)
        assert ours.state is not None
        state = [part.numpy() for pair in ours.state for part in pair]
        pairs = [*zip(PREDICTIONS, expected, found, strict=True)]
        pairs += [("state", *each) for each in zip(state, theirs.state, strict=True)]
        for name, a, b in pairs:
            size = np.abs(a).max(axis=-1, keepdims=True) if name == "boxes" else np.abs(a)
            difference = np.abs(a - b) / np.maximum(1, size)
            # Not a number is no agreement, which is what max() would make of it.
            largest = float(np.nan_to_num(difference, nan=np.inf).max())
            differences[name] = max(differences[name], largest)
    return Agreement(windows, differences)


@contextmanager
def frames_of(
    path: Path | None, settings: FrameSettings, size: tuple[int, int]
) -> Iterator[tuple[str, Iterator[NDArray[Any]]]]:
    """Name and first windows of a recording, as frames of a size.

    Args:
        path: the recording; None for simulated traffic, which is made for the purpose.
        settings: how events become frames.
        size: height and width of the frames in pixels.

    Raises:
        UserError: it cannot be read.
    """
    # Of this recording, not of those of the training.
    settings = replace(settings, input_size=size, sensor_size=None, time_unit=None)
    with TemporaryDirectory() as folder:
        if path is None:
            seconds = (WINDOWS + 2) * settings.window_ms / 1000
            height, width = (max(side, _LEAST_SIDE) for side in size)
            one = SimulationSettings(height, width, train=0, val=0, test=1, seconds=seconds)
            simulate(Path(folder) / "traffic", one)
            (path,) = (Path(folder) / "traffic").glob("test/*_td.h5")
            settings, name = replace(settings, time_unit="us"), "simulated traffic"
        else:
            name = str(path)
        recording, placement = open_placed(path, settings, "stretch")
        if not len(recording):
            raise UserError(f"{path}: must hold a window to check the export on, got none")
        recording.prepare()

        def frames() -> Iterator[NDArray[Any]]:
            for i in range(min(WINDOWS, len(recording))):
                yield placement.place(recording.frames(i, i + 1))[0]

        yield name, frames()
