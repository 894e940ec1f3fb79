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


def joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Events one part after the other; copied as plain bytes, which is faster."""
    if len(parts) == 1:
        return parts[0]
    plain = np.dtype((np.void, EVENT.itemsize))
    return np.concatenate([np.empty(0, plain), *(x.view(plain) for x in parts)]).view(EVENT)


@njit(cache=True, nogil=True)
def in_order(first: NDArray[Any], second: NDArray[Any], start_us: int) -> NDArray[Any]:
    """The events of two arrays by time, of which 16 bits count from ``start_us`` on.

    Events of one time keep their order, those of the second array last.
    """
    places = np.zeros((1 << 16) + 1, np.int64)
    for events in (first, second):
        for i in range(len(events)):
            places[((events[i].t - start_us) & 0xFFFF) + 1] += 1
    for i in range(1 << 16):
        places[i + 1] += places[i]
    ordered = np.empty(len(first) + len(second), first.dtype)
    for events in (first, second):
        for i in range(len(events)):
            time = (events[i].t - start_us) & 0xFFFF
            ordered[places[time]] = events[i]
            places[time] += 1
    return ordered


@njit(cache=True, nogil=True)
def _read_out(
    events: NDArray[Any], event_us: float, buffer: int, free_us: float
) -> tuple[int, float]:
    """Move the events that are read to the start, at the time when they are; count them."""
    number = 0
    for i in range(len(events)):
        time_us = events[i].t
        waits_us = max(free_us - time_us, 0.0)
        if waits_us < buffer * event_us:
            free_us = time_us + waits_us + event_us
            events[number] = events[i]
            events[number].t = time_us + np.int64(waits_us)
            number += 1
    return number, free_us


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
            events: sorted by time, as ``EVENT``; changed.
            end_us: all of them happened before.
        """
        number, self.free_us = _read_out(events, self.event_us, self.buffer, self.free_us)
        self.num_lost += len(events) - number
        events = joined([self.late, events[:number]]) if len(self.late) else events[:number]
        now = int(np.searchsorted(events["t"], end_us, side="right"))
        self.late = events[now:]
        return events[:now]
