"""Frames of windows that were cut from a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from etram_det.data.recording import OUTSIDE, REPAIRED
from etram_det.data.representation import FrameSettings, Representation
from etram_det.inference.live.windows import Window, WindowCutter
from etram_det.inference.placement import Placement, Resize

_NOISE = 50_000  # events


class Counted(Protocol):
    """What was dropped and repaired of events: a recording, or a :class:`FrameMaker`.

    Attributes:
        sensor_size: height and width of the sensor in pixels.
        dropped: number of events left out, by reason.
        events: number of events in windows, and of repaired ones.
        repaired_share: share of the events, in [0, 1], whose timestamp was repaired.
    """

    sensor_size: tuple[int, int]
    dropped: dict[str, int]
    events: dict[str, int]
    repaired_share: float


@dataclass
class FrameMaker:
    """Makes windows into the network's frames, as recordings are.

    Attributes:
        sensor_size: height and width of the sensor in pixels.
        settings: how events become frames.
        resize: how the sensor's picture fills them.
        placement: where the sensor's picture lies in them.
        dropped, events, repaired_share: as in :class:`Counted`.
    """

    sensor_size: tuple[int, int]
    settings: FrameSettings
    resize: Resize
    placement: Placement = field(init=False)
    dropped: dict[str, int] = field(default_factory=lambda: {OUTSIDE: 0})
    events: dict[str, int] = field(default_factory=lambda: {"in windows": 0, REPAIRED: 0})
    repaired_share: float = 0.0

    def __post_init__(self) -> None:
        height, width = self.sensor_size
        input_size = self.settings.input_size or (height // 2, width // 2)
        self.placement = Placement.fitting(self.sensor_size, input_size, self.resize)
        self._representation = Representation(
            self.sensor_size, self.placement.counted_size, self.settings
        )

    def frame(self, window: Window) -> NDArray[Any]:
        """The frame ``[C, H, W]`` of a window."""
        x, y, t, p = window.columns
        frame = np.empty(self._representation.shape, self._representation.dtype)
        bounds = window.end_us - self.settings.window_ms * 1000, window.end_us
        self.dropped[OUTSIDE] += self._representation.fill(frame, x, y, p, t, bounds)
        self.events["in windows"] += len(t)
        return self.placement.place(frame)

    def count_repaired(self, cutter: WindowCutter) -> None:
        """Take over how many timestamps were repaired in the stream that this cut."""
        self.events[REPAIRED] = cutter.num_repaired
        self.repaired_share = cutter.num_repaired / max(cutter.num_events, 1)

    def noise(self, dtypes: tuple[np.dtype[Any], ...]) -> NDArray[Any]:
        """A frame of noise, made of columns of these types as others are: to warm up with."""
        random, window_us = np.random.default_rng(0), self.settings.window_ms * 1000
        limits = (self.sensor_size[1], self.sensor_size[0], window_us, 2)
        x, y, t, p = (
            random.integers(0, limit, _NOISE).astype(dtype)
            for limit, dtype in zip(limits, dtypes, strict=True)
        )
        frame = np.empty(self._representation.shape, self._representation.dtype)
        self._representation.fill(frame, x, y, p, np.sort(t).astype(np.int64), (0, window_us))
        return self.placement.place(frame)
