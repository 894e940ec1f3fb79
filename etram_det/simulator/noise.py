"""What the sensor adds to the events of the scene, and what its read-out loses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.pixels import EVENT, SensorSettings

# Share of the noise that is leakage, whose events are all positive.
_LEAK_SHARE = 0.1


class Noise:
    """Background activity, more of it in the dark, and hot pixels that fire in bursts.

    As in v2e (Hu, Liu and Delbruck, CVPR workshops 2021, section 4) the rate of a pixel falls
    linearly with its intensity, from its rate in the dark to its rate in bright light. A hot pixel
    takes turns between silence and bursts, a random telegraph signal.

    Args:
        sensor: rates.
        size: height and width in pixels.
        rng: draws everything.
    """

    _BURSTS_SHARE = 0.4  # of the time of a hot pixel
    _BRIGHT = 0.3  # intensity from which noise is at its least

    def __init__(
        self, sensor: SensorSettings, size: tuple[int, int], rng: np.random.Generator
    ) -> None:
        self.sensor, self.size, self.rng = sensor, size, rng
        num_hot = rng.binomial(size[0] * size[1], sensor.hot_pixels)
        self.hot = rng.integers(size[0] * size[1], size=num_hot)
        self.bursts = rng.random(num_hot) < self._BURSTS_SHARE

    def rates_hz(self, intensity: NDArray[np.float32]) -> NDArray[np.float32]:
        """Noise events per second of pixels with an intensity; white in daylight is 1."""
        dark = 1 - np.minimum(intensity / self._BRIGHT, 1)
        low, high = self.sensor.background_hz, self.sensor.dark_noise_hz
        return np.asarray(low + max(high - low, 0.0) * dark, np.float32)

    def between(self, start_us: int, end_us: int, image: NDArray[np.float32]) -> NDArray[Any]:
        """Noise events as ``EVENT``, not sorted, under an image ``[H, W]`` of intensities."""
        seconds, rng = (end_us - start_us) * 1e-6, self.rng
        height, width = self.size
        most_hz = max(self.sensor.background_hz, self.sensor.dark_noise_hz)
        number = rng.poisson(height * width * most_hz * seconds)
        anywhere = rng.integers(height * width, size=number)
        kept = rng.random(number) * most_hz < self.rates_hz(image.ravel()[anywhere])
        anywhere = anywhere[kept]
        # The bursts' ends and starts keep their share of the time.
        ends = -np.expm1(-seconds / self.sensor.hot_burst_s)
        share = self._BURSTS_SHARE
        change = np.where(self.bursts, ends, ends * share / (1 - share))
        self.bursts ^= rng.random(len(self.hot)) < change
        hot_hz = np.where(self.bursts, self.sensor.hot_pixel_hz / share, 0.0)
        pixel = np.concatenate([anywhere, np.repeat(self.hot, rng.poisson(hot_hz * seconds))])
        noise = np.empty(len(pixel), EVENT)
        noise["y"], noise["x"] = np.divmod(pixel, width)
        noise["p"] = rng.random(len(pixel)) < 0.5 + 0.5 * _LEAK_SHARE
        noise["t"] = rng.integers(start_us, end_us, size=len(pixel))
        return noise


@njit(cache=True, nogil=True)
def _read_out(
    times_us: NDArray[np.int64], event_us: float, buffer: int, free_us: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_], float]:
    read_us, kept = np.empty_like(times_us), np.empty(len(times_us), np.bool_)
    for i in range(len(times_us)):
        waits_us = max(free_us - times_us[i], 0.0)
        kept[i] = waits_us < buffer * event_us
        if kept[i]:
            free_us = times_us[i] + waits_us + event_us
        read_us[i] = times_us[i] + np.int64(waits_us)
    return read_us, kept, free_us


class ReadOut:
    """Reads events out one after the other, at a limited rate.

    A queue with constant service time and limited room: an event that finds others waiting is late,
    with its timestamp, and one that finds the queue full is lost (such bottlenecks of event
    cameras' buses are described by Gallego et al., "Event-based vision: a survey", IEEE TPAMI 44,
    2022, section 2).

    Args:
        sensor: rate and room.

    Attributes:
        num_lost: events lost so far.
    """

    def __init__(self, sensor: SensorSettings) -> None:
        self.event_us, self.buffer = 1e6 / sensor.readout_hz, sensor.readout_buffer
        self.free_us, self.num_lost = 0.0, 0
        self.late = np.empty(0, EVENT)

    def read(self, events: NDArray[Any], end_us: int) -> NDArray[Any]:
        """Events that are read before ``end_us``; others wait for the next call.

        Args:
            events: sorted by time, as ``EVENT``.
            end_us: all of them happened before.
        """
        read_us, kept, self.free_us = _read_out(
            np.ascontiguousarray(events["t"]), self.event_us, self.buffer, self.free_us
        )
        if lost := int(len(kept) - kept.sum()):
            self.num_lost += lost
            events, read_us = events[kept], read_us[kept]
        events["t"] = read_us
        if len(self.late):
            events = np.concatenate([self.late, events])
        now = int(np.searchsorted(events["t"], end_us, side="right"))
        self.late = events[now:]
        return events[:now]
