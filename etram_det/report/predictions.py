"""Detections on disk: one box file for each recording, in the data set's own format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import BOX_DTYPE
from etram_det.files import replacing
from etram_det.types import Detections


class BoxFileWriter:
    """Collects the detections of one recording and writes them as ``<name>_bbox.npy``.

    Times are the ends of the frames' windows; boxes are in pixels of the sensor. The score,
    objectness times class confidence, is in ``class_confidence``.

    Args:
        folder: where the file goes; made if missing.
        recording: name of the recording.
    """

    def __init__(self, folder: Path, recording: str) -> None:
        self.path = folder / f"{recording}_bbox.npy"
        self.parts: list[NDArray] = []

    def add(self, time_us: int, detections: Detections, scale: tuple[float, float]) -> None:
        """Take the detections of one frame.

        Args:
            time_us: end of the frame's window.
            detections: boxes ``[D, 4]`` ``xyxy`` in pixels of the input frame.
            scale: pixels of the sensor per pixel of the input frame, in x and y.
        """
        boxes = detections.boxes.cpu().numpy() * np.array([*scale, *scale], dtype=np.float32)
        part = np.zeros(len(detections), dtype=BOX_DTYPE)
        part["t"] = time_us
        part["x"], part["y"] = boxes[:, 0], boxes[:, 1]
        part["w"], part["h"] = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        part["class_id"] = detections.classes.cpu().numpy()
        part["class_confidence"] = detections.scores.cpu().numpy()
        self.parts.append(part)

    def write(self) -> Path:
        """Write the file beside its final name, then move it into place."""
        boxes = np.concatenate(self.parts) if self.parts else np.zeros(0, dtype=BOX_DTYPE)
        with replacing(self.path) as unfinished, unfinished.open("wb") as file:
            np.save(file, boxes, allow_pickle=False)
        return self.path
