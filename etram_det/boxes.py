"""Boxes on disk: the records of eTraM's and Prophesee's box files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# x and y are the upper left corner, in pixels of the sensor.
BOX_DTYPE = np.dtype(
    {
        "names": ["t", "x", "y", "w", "h", "class_id", "track_id", "class_confidence"],
        "formats": ["<i8", "<f4", "<f4", "<f4", "<f4", "<u4", "<u4", "<f4"],
        "offsets": [0, 8, 12, 16, 20, 24, 28, 32],
        "itemsize": 40,
    }
)
NO_TRACK = 2**32 - 1  # the track id of a box without one, where others have some
# Of a CSV file of boxes; boxes are in pixels, times in microseconds.
CSV_COLUMNS = ("t", "class_id", "class_name", "score", "x", "y", "w", "h", "track_id")


def corners(boxes: NDArray[Any]) -> NDArray[np.float32]:
    """Boxes ``[D, 4]``, ``xyxy``, of records ``[D]`` with the fields of :data:`BOX_DTYPE`."""
    left, top = boxes["x"], boxes["y"]
    return np.stack([left, top, left + boxes["w"], top + boxes["h"]], axis=1)


def has_tracks(boxes: NDArray[Any]) -> bool:
    """Whether boxes ``[M]`` have track ids; 0 is one where there are others."""
    ids = boxes["track_id"]
    return bool(((ids != 0) & (ids != NO_TRACK)).any())


def signed_tracks(ids: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Track ids ``[M]`` of boxes as signed numbers, -1 for ``NO_TRACK``."""
    return np.where(ids == NO_TRACK, -1, ids.astype(np.int64))
