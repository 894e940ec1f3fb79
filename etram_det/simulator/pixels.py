"""The pixels of an event camera: from changing light to events.

A pixel follows the logarithm of its intensity through a low-pass filter whose cut-off frequency is
proportional to the intensity (v2e: Hu, Liu and Delbruck, "v2e: From video frames to realistic DVS
events", CVPR workshops 2021, section 4). It fires whenever its output has moved by a threshold
since its last event. Between two moments the logarithm is a straight line, which gives events
microsecond timestamps (ESIM: Rebecq, Gehrig and Scaramuzza, "ESIM: an open event camera simulator",
CoRL 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.ranges import require_range

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

_MOST_EVENTS = 64  # of a pixel in one step
_SETTLED = 0.01  # a pixel so near its final level is there
_MAX_LAG_US = 30_000.0
_BLOCK = 16  # pixels of a row that are skipped at once


@dataclass(frozen=True)
class SensorSettings:
    """Properties of the pixels of the simulated event camera.

    Attributes:
        contrast_threshold: change of the natural logarithm of intensity that triggers an event.
        threshold_spread: standard deviation of the threshold from pixel to pixel.
        threshold_mismatch: largest difference between the thresholds of the two polarities,
            relative to the threshold; each camera has its own.
        refractory_us: time after an event during which its pixel stays silent, in microseconds.
        dark_level: intensity that dark current adds to each pixel; white in daylight is 1. A higher
            level lowers the contrast at night.
        bandwidth_hz: cut-off frequency of a pixel at intensity 1, to which it is proportional.
        background_hz: noise events of each pixel per second in bright light.
        dark_noise_hz: noise events of each pixel per second in the dark.
        hot_pixels: share of hot pixels, in [0, 1].
        hot_pixel_hz: mean number of events of a hot pixel per second.
        hot_burst_s: mean duration of the bursts in which a hot pixel fires, in seconds.
        readout_hz: events that the sensor can read out in a second.
        readout_buffer: events that wait to be read out; more are lost.
    """

    contrast_threshold: float = 0.36
    threshold_spread: float = 0.03
    threshold_mismatch: float = 0.1
    refractory_us: int = 500
    dark_level: float = 0.015
    bandwidth_hz: float = 3000.0
    background_hz: float = 0.1
    dark_noise_hz: float = 0.8
    hot_pixels: float = 1e-5
    hot_pixel_hz: float = 100.0
    hot_burst_s: float = 0.3
    readout_hz: float = 1.0e7
    readout_buffer: int = 20_000

    def __post_init__(self) -> None:
        for name, low in (
            ("contrast_threshold", 0.01),
            ("threshold_spread", 0),
            ("threshold_mismatch", 0),
            ("refractory_us", 0),
            ("dark_level", 1e-4),
            ("bandwidth_hz", 1),
            ("background_hz", 0),
            ("dark_noise_hz", 0),
            ("hot_pixels", 0),
            ("hot_pixel_hz", 0),
            ("hot_burst_s", 0.001),
            ("readout_hz", 1000),
            ("readout_buffer", 1),
        ):
            high = 1 if name in ("hot_pixels", "threshold_mismatch") else math.inf
            require_range(f"sensor.{name}", getattr(self, name), low, high)


class Pixels(NamedTuple):
    """State of the pixels, ``[H, W]`` each, and what they have in common.

    ``level`` is the output at ``seen_us``; from then on it moves towards ``target``.
    """

    image: NDArray[np.float32]  # current intensity
    last_image: NDArray[np.float32]  # intensity at the last comparison
    target: NDArray[np.float32]  # logarithm of that intensity
    level: NDArray[np.float32]
    seen_us: NDArray[np.float32]  # since the start of the current slice
    reference: NDArray[np.float32]  # level of the last threshold crossing
    thresholds: NDArray[np.float32]  # [2, H, W], for negative and positive events
    last_us: NDArray[np.int64]  # time of the last event
    changed: NDArray[np.int64]  # [H, 2] first and last column that may not be at rest
    dark_level: float
    refractory_us: int
    lag_us: float  # time constant at intensity 1


def draw_pixels(
    rng: np.random.Generator, sensor: SensorSettings, image: NDArray[np.float32]
) -> Pixels:
    """Pixels that see an image ``[H, W]`` at rest."""
    mismatch = 0.5 * rng.uniform(-1, 1) * sensor.threshold_mismatch
    thresholds = rng.standard_normal((2, *image.shape), np.float32)
    thresholds *= np.float32(sensor.threshold_spread)
    for part, factor in zip(thresholds, (1 - mismatch, 1 + mismatch), strict=True):
        part += np.float32(sensor.contrast_threshold * factor)
    np.maximum(thresholds, np.float32(0.3 * sensor.contrast_threshold), out=thresholds)
    level = np.log(image + np.float32(sensor.dark_level))
    # At the start, a pixel is anywhere between two thresholds.
    apart = (rng.random(image.shape, np.float32) - np.float32(0.5)) * sensor.contrast_threshold
    return Pixels(
        image,
        image.copy(),
        level,
        level.copy(),
        np.zeros(image.shape, np.float32),
        level + apart,
        thresholds,
        np.full(image.shape, -sensor.refractory_us, np.int64),
        np.tile([image.shape[1], -1], (len(image), 1)),
        sensor.dark_level,
        sensor.refractory_us,
        1e6 / (2 * math.pi * sensor.bandwidth_hz),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def with_room(events: NDArray[Any], num_events: int, columns: int) -> NDArray[Any]:
    """The array of events, larger if a row of so many pixels might not fit."""
    need = num_events + _MOST_EVENTS * columns
    if need <= len(events):
        return events
    grown = np.empty(2 * need, events.dtype)
    # In a loop: to assign a part of an array, numba compiles its error message, which takes 20 MB.
    for i in range(num_events):
        grown[i] = events[i]
    return grown


@njit(nogil=True, error_model="numpy", forceinline=True)
def _fire(
    pixels: Pixels, row: int, column: int, polarity: int, time_us: int, events: NDArray[Any],
    num_events: int,
) -> int:  # fmt: skip
    """Add an event, unless its pixel still rests; returns the new number."""
    if abs(time_us - pixels.last_us[row, column]) < pixels.refractory_us:
        return num_events
    pixels.last_us[row, column] = time_us
    event = events[num_events]
    event.t, event.x, event.y, event.p = time_us, column, row, polarity
    return num_events + 1


@njit(nogil=True, error_model="numpy", forceinline=True)
def _follow(
    pixels: Pixels, row: int, column: int, new: float, from_us: float, to_us: float, lag_us: float,
    events: NDArray[Any], num_events: int,
) -> int:  # fmt: skip
    """Move a pixel's level to ``new`` and add the crossings of thresholds on its way.

    The way is straight, or with a ``lag_us`` above 0 the exponential towards the pixel's target.
    """
    old = float(pixels.level[row, column])
    pixels.level[row, column] = new
    if new == old:
        return num_events
    polarity = 1 if new > old else 0
    step = float(pixels.thresholds[polarity, row, column]) * (1 if polarity else -1)
    crossing = float(pixels.reference[row, column]) + step
    end = float(pixels.target[row, column])
    most = num_events + _MOST_EVENTS // 2
    while (new - crossing) * step >= 0 and num_events < most:
        pixels.reference[row, column] = crossing
        if lag_us > 0:
            time_us = from_us + lag_us * math.log(max((old - end) / (crossing - end), 1.0))
        else:
            time_us = from_us + min(max((crossing - old) / (new - old), 0.0), 1.0) * (
                to_us - from_us
            )
        num_events = _fire(
            pixels, row, column, polarity, int(min(time_us, to_us)), events, num_events
        )
        crossing += step
    return num_events


@njit(nogil=True, error_model="numpy", forceinline=True)
def _settle(
    pixels: Pixels, row: int, column: int, slice_us: float, now_us: float, events: NDArray[Any],
    num_events: int,
) -> int:  # fmt: skip
    """Let a pixel move towards its target under constant light until ``now_us``."""
    seen_us = slice_us + pixels.seen_us[row, column]
    pixels.seen_us[row, column] = now_us - slice_us
    target, level = float(pixels.target[row, column]), float(pixels.level[row, column])
    if now_us <= seen_us or target == level:
        return num_events
    lag_us = rest = 0.0
    if not abs(level - target) < _SETTLED:  # nearer ones go in a straight line
        lag_us = min(pixels.lag_us / math.exp(target), _MAX_LAG_US)
        ways = (now_us - seen_us) / lag_us
        rest = (level - target) * math.exp(-ways) if ways < 12 else 0.0
        if abs(rest) < _SETTLED:
            rest = 0.0
    return _follow(pixels, row, column, target + rest, seen_us, now_us, lag_us, events, num_events)


@njit(nogil=True, error_model="numpy", forceinline=True)
def _change(
    pixels: Pixels, row: int, column: int, slice_us: float, start_us: float, end_us: float,
    events: NDArray[Any], num_events: int,
) -> int:  # fmt: skip
    """Let a pixel follow its intensity, as ``compare`` describes."""
    pixels.last_image[row, column] = pixels.image[row, column]
    light = pixels.image[row, column] + pixels.dark_level
    from_us = max(start_us, slice_us + pixels.seen_us[row, column])
    num_events = _settle(pixels, row, column, slice_us, from_us, events, num_events)
    old, new = float(pixels.target[row, column]), math.log(light)
    pixels.target[row, column] = new
    pixels.seen_us[row, column] = end_us - slice_us
    if end_us <= from_us:
        return num_events
    lag_us = min(pixels.lag_us / light, _MAX_LAG_US)
    ways = (end_us - from_us) / lag_us
    behind = (new - old) / ways
    rest = 0.0
    if ways < 12:
        rest = (pixels.level[row, column] - old + behind) * math.exp(-ways)
    return _follow(
        pixels, row, column, new - behind + rest, from_us, end_us, 0.0, events, num_events
    )


@njit(nogil=True, error_model="numpy", forceinline=True)
def _are_equal(
    first: NDArray[np.float32], second: NDArray[np.float32], row: int, start: int, end: int
) -> bool:
    """Whether a row of two arrays is equal in a whole block of columns."""
    if end - start < _BLOCK:
        return False
    differ = False
    for i in range(_BLOCK):
        column = np.uint64(start + i)  # not negative, which would count from the end
        differ |= first[row, column] != second[row, column]
    return not differ


@njit(cache=True, nogil=True, error_model="numpy")
def compare(
    pixels: Pixels,
    window: tuple[int, int, int, int],
    slice_us: float,
    start_us: float,
    end_us: float,
    events: NDArray[Any],
    num_events: int,
) -> tuple[NDArray[Any], int]:
    """Events of the pixels inside ``window`` whose intensity has changed.

    The logarithm of the intensity goes from its old to its new value in a straight line. With the
    slope ``r`` of that line and the lag ``tau``, the output of the filter is

        y(t) = x(0) + r * (t - tau) + (y(0) - x(0) + r * tau) * exp(-t / tau).

    Args:
        pixels: changed in place.
        window: u0 v0 u1 v1.
        slice_us: start of the current slice.
        start_us: when the intensity began to change.
        end_us: now.
        events: to which new ones are appended, not in their order.
        num_events: number of those before.

    Returns:
        The array, grown if it was too short, and the new number.
    """
    image, last_image = pixels.image, pixels.last_image
    for row in range(window[1], window[3]):
        events = with_room(events, num_events, window[2] - window[0])
        first, last = pixels.changed[row]
        for start in range(window[0], window[2], _BLOCK):
            end = min(start + _BLOCK, window[2])
            if _are_equal(image, last_image, row, start, end):
                continue
            for column in range(start, end):
                if image[row, column] == last_image[row, column]:
                    continue
                first, last = min(first, column), max(last, column)
                num_events = _change(
                    pixels, row, column, slice_us, start_us, end_us, events, num_events
                )
        pixels.changed[row, 0], pixels.changed[row, 1] = first, last
    return events, num_events


@njit(cache=True, nogil=True, error_model="numpy")
def settle_all(
    pixels: Pixels, slice_us: float, end_us: float, events: NDArray[Any], num_events: int
) -> tuple[NDArray[Any], int]:
    """End a slice: all pixels move towards their targets until ``end_us``."""
    height, width = pixels.image.shape
    for row in range(height):
        first, last = pixels.changed[row]
        if last < first:
            continue
        pixels.changed[row, 0], pixels.changed[row, 1] = width, -1
        events = with_room(events, num_events, width)
        for start in range(first, last + 1, _BLOCK):
            end = min(start + _BLOCK, last + 1)
            if _are_equal(pixels.level, pixels.target, row, start, end):
                continue
            for column in range(start, end):
                if pixels.level[row, column] != pixels.target[row, column]:
                    num_events = _settle(pixels, row, column, slice_us, end_us, events, num_events)
        pixels.seen_us[row, first : last + 1] = 0.0
    return events, num_events


@njit(cache=True, nogil=True, error_model="numpy")
def adopt(pixels: Pixels, window: tuple[int, int, int, int]) -> None:
    """Take the image inside ``window`` as it is, without events."""
    for row in range(window[1], window[3]):
        for column in range(window[0], window[2]):
            if pixels.image[row, column] == pixels.last_image[row, column]:
                continue
            pixels.last_image[row, column] = pixels.image[row, column]
            new = math.log(pixels.image[row, column] + pixels.dark_level)
            pixels.reference[row, column] += new - pixels.level[row, column]
            pixels.level[row, column] = pixels.target[row, column] = new


@njit(cache=True, nogil=True, error_model="numpy")
def rain(
    pixels: Pixels,
    drops: NDArray[np.float64],
    light: float,
    start_us: float,
    end_us: float,
    events: NDArray[Any],
    num_events: int,
) -> tuple[NDArray[Any], int]:
    """Events of drops that fall past the camera: each brightens a pixel for a moment.

    Args:
        pixels: changed in place.
        drops: ``[D, 5]``: column at row 0, time at row 0 in microseconds, rows per microsecond,
            columns per row, and the share of a pixel that the drop covers.
        light: intensity of a drop.
        start_us: start of the slice.
        end_us: its end.
        events: to which new ones are appended.
        num_events: number of those before.
    """
    height, width = pixels.image.shape
    for i in range(len(drops)):
        u0, time_us, speed, slope, cover = drops[i]
        first = max(int(math.ceil((start_us - time_us) * speed)), 0)
        last = min(int(math.ceil((end_us - time_us) * speed)), height)
        events = with_room(events, num_events, max(last - first, 0))
        for row in range(first, last):
            column = int(u0 + slope * row)
            if not 0 <= column < width:
                continue
            now_us, dwell_us = time_us + row / speed, 1 / speed
            seen = pixels.image[row, column] + pixels.dark_level
            rise = math.log(1 + max(cover * (light - pixels.image[row, column]), 0.0) / seen)
            rise *= 1 - math.exp(-dwell_us * seen / pixels.lag_us)
            level, reference = pixels.level[row, column], pixels.reference[row, column]
            up, down = pixels.thresholds[1, row, column], pixels.thresholds[0, row, column]
            while level + rise - reference >= up:
                reference += up
                num_events = _fire(pixels, row, column, 1, int(now_us), events, num_events)
            gone_us = int(min(now_us + dwell_us + pixels.refractory_us, end_us - 1))
            while reference - level >= down:
                reference -= down
                num_events = _fire(pixels, row, column, 0, gone_us, events, num_events)
            pixels.reference[row, column] = reference
    return events, num_events
