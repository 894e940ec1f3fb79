"""Where a sensor's picture lies in the network's frame, for sensors of any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.data.layouts import open_recording
from etram_det.data.raw import RawRecording
from etram_det.data.recording import Note, Recording
from etram_det.data.representation import FrameSettings

Size = tuple[int, int]
Resize = Literal["stretch", "letterbox"]


@dataclass(frozen=True)
class Placement:
    """A sensor's picture in the upper left corner of the network's frame; the rest is empty.

    Attributes:
        sensor_size: height and width of the sensor in pixels.
        content_size: height and width of its picture in the frame.
        input_size: height and width of the frame.
    """

    sensor_size: Size
    content_size: Size
    input_size: Size

    @staticmethod
    def fitting(sensor_size: Size, input_size: Size, resize: Resize) -> Placement:
        """The placement that fills the frame as far as ``resize`` allows.

        Args:
            sensor_size: height and width of the sensor in pixels.
            input_size: height and width of the frame in pixels.
            resize: ``"stretch"`` fills the frame, each side by a factor of its own;
                ``"letterbox"`` scales both sides by one factor, which keeps the shape of things.
        """
        if resize == "stretch":
            return Placement(sensor_size, input_size, input_size)
        factor = min(input_size[0] / sensor_size[0], input_size[1] / sensor_size[1])
        height, width = (max(1, round(side * factor)) for side in sensor_size)
        return Placement(sensor_size, (height, width), input_size)

    @property
    def counted_size(self) -> Size:
        """Height and width in which events are counted: no finer than the sensor."""
        (height, width), (sensor_height, sensor_width) = self.content_size, self.sensor_size
        return min(height, sensor_height), min(width, sensor_width)

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the sensor for each pixel of the frame, in x and y."""
        (height, width), (content_height, content_width) = self.sensor_size, self.content_size
        return width / content_width, height / content_height

    def place(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Frames ``[*, H, W]`` of the network, from frames ``[*, h, w]`` of ``counted_size``.

        Where the sensor is the coarser one, its pixels are repeated.
        """
        for axis, (wanted, counted) in enumerate(
            zip(self.content_size, self.counted_size, strict=True), start=-2
        ):
            if wanted != counted:
                frames = frames.take(np.arange(wanted) * counted // wanted, axis=axis)
        if self.content_size == self.input_size:
            return frames
        placed = np.zeros((*frames.shape[:-2], *self.input_size), frames.dtype)
        placed[..., : self.content_size[0], : self.content_size[1]] = frames
        return placed


def open_placed(
    path: Path, frame_settings: FrameSettings, resize: Resize
) -> tuple[Recording, Placement]:
    """A recording to detect in, and where its frames lie in the network's.

    Frames that are stored as such keep the size they have, which a note says.

    Args:
        path: what ``open_recording`` takes.
        frame_settings: how events become frames; ``input_size`` unset for half of the sensor's
            size.
        resize: as in :meth:`Placement.fitting`.

    Raises:
        UserError: there is no such file, or it cannot be read as a recording.
    """
    recording = open_recording(path, replace(frame_settings, input_size=None))
    if not isinstance(recording, RawRecording):
        size = recording.input_size
        if frame_settings.input_size not in (None, size):
            (h, w), (height, width) = size, frame_settings.input_size
            text = f"its frames are used as stored, at {h}x{w}, not at {height}x{width}"
            recording.notes.append(Note(f"input_size: {text}: detect in its events for that", True))
        return recording, Placement(recording.sensor_size, size, size)
    input_size = frame_settings.input_size or recording.input_size
    placement = Placement.fitting(recording.sensor_size, input_size, resize)
    if placement.counted_size != recording.input_size:
        recording = open_recording(path, replace(frame_settings, input_size=placement.counted_size))
    return recording, placement
