"""Boxes on disk: the records of eTraM's and Prophesee's box files."""

from __future__ import annotations

import numpy as np

# x and y are the upper left corner, in pixels of the sensor.
BOX_DTYPE = np.dtype(
    {
        "names": ["t", "x", "y", "w", "h", "class_id", "track_id", "class_confidence"],
        "formats": ["<i8", "<f4", "<f4", "<f4", "<f4", "<u4", "<u4", "<f4"],
        "offsets": [0, 8, 12, 16, 20, 24, 28, 32],
        "itemsize": 40,
    }
)
