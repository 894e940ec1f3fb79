"""Stacked histograms in plain PyTorch: the oracle of the kernel."""

import numpy as np
import torch


def oracle(events, window_us, sensor_size, input_size, options):
    """The frame of a window, and the number of events outside the sensor."""
    x, y, p, t = (torch.from_numpy(events[name].astype(np.int64)) for name in "xypt")
    inside = (x >= 0) & (x < sensor_size[1]) & (y >= 0) & (y < sensor_size[0])
    if len(t) == 0:
        return np.zeros((2 * options.bins, *input_size), np.uint8), 0
    first, last = (t[0], t[-1]) if options.timing == "events" else window_us
    share = (t - first).float() / float(max(last - first, 1))
    time_bin = (share * options.bins).floor().long().clamp(max=options.bins - 1)
    channel = (p > 0).long() * options.bins + time_bin
    flat = (channel * sensor_size[0] + y) * sensor_size[1] + x
    counts = torch.bincount(
        flat[inside], minlength=2 * options.bins * sensor_size[0] * sensor_size[1]
    ).reshape(2 * options.bins, *sensor_size)
    for axis in (1, 2):
        source, target = sensor_size[axis - 1], input_size[axis - 1]
        if options.downsample == "nearest":
            kept = ((torch.arange(target) + 0.5) * source / target).floor().long()
            counts = counts.index_select(axis, kept)
        else:
            pooled = torch.zeros(*counts.shape[:axis], target, *counts.shape[axis + 1 :]).long()
            counts = pooled.index_add(axis, torch.arange(source) * target // source, counts)
    return counts.clamp(max=options.count_cutoff).byte().numpy(), int((~inside).sum())
