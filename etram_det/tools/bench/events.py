"""Random events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def random_events(
    num_events: int, size: tuple[int, int], window_us: int = 50_000
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Columns x, y, p and t in ascending time, evenly spread over the sensor.

    Args:
        num_events: length of the columns.
        size: height and width of the sensor in pixels.
        window_us: timestamps are below it.
    """
    random = np.random.default_rng(0)
    return (
        random.integers(0, size[1], num_events).astype(np.uint16),
        random.integers(0, size[0], num_events).astype(np.uint16),
        random.integers(0, 2, num_events).astype(np.int16),
        np.sort(random.integers(0, window_us, num_events)),
    )
