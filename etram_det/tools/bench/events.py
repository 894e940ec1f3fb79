"""Random events, and the plain histogram of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def random_events(
    num_events: int, size: tuple[int, int], window_us: int = 50_000
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Columns x, y, p and t in ascending time, even over the sensor.

    Args:
        num_events: length of the columns.
        size: height and width of the sensor in pixels.
        window_us: stamps are below it.
    """
    random = np.random.default_rng(0)
    return (
        random.integers(0, size[1], num_events).astype(np.uint16),
        random.integers(0, size[0], num_events).astype(np.uint16),
        random.integers(0, 2, num_events).astype(np.int16),
        np.sort(random.integers(0, window_us, num_events)),
    )


def plain_histogram(
    x: NDArray[Any],
    y: NDArray[Any],
    p: NDArray[Any],
    t_us: NDArray[Any],
    sensor_size: tuple[int, int],
    bins: int,
    count_cutoff: int,
) -> NDArray[np.uint8]:
    """The stacked histogram at half the sensor's size in plain torch, all events in one go.

    Args:
        x: ``[E]`` columns.
        y: ``[E]`` rows.
        p: ``[E]`` polarities, 0 and 1.
        t_us: ``[E]`` stamps in ascending order.
        sensor_size: height and width in pixels, both even.
        bins: parts in time.
        count_cutoff: counts saturate at it.

    Returns:
        ``[2 * bins, H / 2, W / 2]``.
    """
    columns = (torch.from_numpy(values.astype(np.int64)) for values in (x, y, p, t_us))
    column, row, polarity, time = columns
    inside = (column < sensor_size[1]) & (row < sensor_size[0])
    share = (time - time[0]).float() / (time[-1] - time[0]).float().clamp(min=1)
    time_bin = (share * bins).floor().long().clamp(max=bins - 1)
    height, width = sensor_size[0] // 2, sensor_size[1] // 2
    flat = ((polarity * bins + time_bin) * height + row // 2) * width + column // 2
    counts = torch.bincount(flat[inside], minlength=2 * bins * height * width)
    return counts.clamp(max=count_cutoff).byte().view(2 * bins, height, width).numpy()
