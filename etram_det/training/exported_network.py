"""An exported detector in the place of the network in Lightning's validate, test and predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import ops

from etram_det.checkpoint.file import Checkpoint
from etram_det.inference.engine import Runtime, exported_engine
from etram_det.inference.exported_file import ExportedDetector
from etram_det.types import State


class _Decoded(NamedTuple):
    """What a head's output is after its boxes were decoded, ``[N, A, 5 + K]``."""

    decoded: Tensor

    def decode(self) -> Tensor:
        """Centres and sides in pixels, objectness, class probabilities."""
        return self.decoded


class ExportedNetwork(nn.Module):
    """The methods of :class:`~etram_det.models.detector.Detector` that an evaluation calls.

    A runtime computes each window of each lane by itself, on the CPU or the device that it chooses.

    Args:
        exported: the file.
        runtime: as for :func:`~etram_det.inference.engine.engine_for`.

    Attributes:
        path: of the file.

    Raises:
        UserError: the runtime is not installed or cannot read the file.
    """

    def __init__(self, exported: ExportedDetector, runtime: Runtime = "auto") -> None:
        super().__init__()
        self._exported, self.path = exported, exported.path
        self._engine = exported_engine(exported, runtime)
        self._frame_shape: tuple[int, ...] = ()

    def features(self, events: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """Decoded predictions ``[T * B, A, 5 + K]`` in the place of features, and the state.

        Args:
            events: ``[T, B, C, H, W]`` counts.
            state: one (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` for zeros.

        Raises:
            UserError: the file was exported for frames of another size.
        """
        steps, lanes, _, height, width = events.shape
        self._exported.require_size((height, width))
        frames = events.cpu().numpy().astype(self._exported.frame_settings.dtype, copy=False)
        before = self._rows(state, lanes, height, width)
        decoded, after = [], []
        for lane, rows in enumerate(before):
            found = [self._run(frames[0, lane], rows)]
            found += [self._run(frame) for frame in frames[1:, lane]]
            decoded.append(torch.stack(found))
            after.append(self._engine.state)
        new = [
            torch.from_numpy(np.concatenate(each)).to(events.device)
            for each in zip(*after, strict=True)
        ]
        pairs = list(zip(new[::2], new[1::2], strict=True))
        by_frame = torch.stack(decoded, dim=1).flatten(0, 1)
        assert len(by_frame) == steps * lanes
        return [by_frame.to(events.device)], pairs

    def predict(self, features: Sequence[Tensor]) -> _Decoded:
        """The predictions ``[N, A, 5 + K]`` of any selection of frames."""
        return _Decoded(features[0])

    def _rows(
        self, state: State | None, lanes: int, height: int, width: int
    ) -> list[list[np.ndarray]]:
        """The state of each lane, as the runtimes take it."""
        if state is None:
            shapes = self._exported.state_shapes(height, width)
            return [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(lanes)]
        parts = [part.detach().float().cpu().numpy() for part in chain.from_iterable(state)]
        return [[np.ascontiguousarray(part[i : i + 1]) for part in parts] for i in range(lanes)]

    def _run(self, frame: np.ndarray, state: list[np.ndarray] | None = None) -> Tensor:
        """Predictions ``[A, 5 + K]`` of a frame ``[C, H, W]``, after a state or the latest one."""
        if state is not None:
            if frame.shape != self._frame_shape:  # at which an engine starts anew
                self._engine.run(frame)
                self._frame_shape = frame.shape
            self._engine.state = state
        boxes, objectness, classes = map(torch.from_numpy, self._engine.run(frame))
        return torch.cat(
            [ops.box_convert(boxes, "xyxy", "cxcywh"), objectness[:, None], classes], dim=1
        )


def settings_of(exported: ExportedDetector) -> Checkpoint:
    """What the file says of network, classes and frames, as a checkpoint without weights."""
    names = list(exported.class_names)
    frames = {**asdict(exported.frame_settings), "class_names": names}
    content = {
        "hyper_parameters": {
            **exported.network,
            "in_channels": exported.frame_settings.channels,
            "class_names": names,
        },
        "EventDataModule": {"settings": frames},
    }
    return Checkpoint(content, exported.path)
