"""From moving road users to events: redraw what moves, then compare each changed pixel.

Each road user is redrawn at its own rate, so that a step moves it by about one pixel at most. The
logarithm of a pixel's intensity is interpolated linearly between two steps, which gives threshold
crossings microsecond timestamps (as in ESIM, Rebecq et al., CoRL 2018).

For developers: numba renews its cache of the kernels here only when this file changes. After a
change to a kernel in ``projection.py`` or ``rendering.py``, touch this file too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.errors import UserError
from etram_det.simulator.projection import (
    PLACED,
    VIEW,
    Camera,
    Stage,
    distance_driven,
    place,
    project,
)
from etram_det.simulator.rendering import Light, look, paint
from etram_det.simulator.scene import Scene

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

_MAX_STEP_PX = 1.0


@dataclass(frozen=True)
class SensorSettings:
    """Properties of the pixels of the simulated event camera.

    Attributes:
        contrast_threshold: change of the natural logarithm of intensity that triggers an event.
        threshold_spread: standard deviation of the threshold from pixel to pixel.
        refractory_us: time after an event during which its pixel stays silent, in microseconds.
        dark_level: intensity that dark current adds to each pixel; white in daylight is 1. A higher
            level lowers the contrast at night.
        background_hz: noise events of each pixel per second.
        hot_pixels: share of hot pixels, in [0, 1].
        hot_pixel_hz: mean number of events of a hot pixel per second.
    """

    contrast_threshold: float = 0.36
    threshold_spread: float = 0.03
    refractory_us: int = 500
    dark_level: float = 0.015
    background_hz: float = 0.1
    hot_pixels: float = 1e-5
    hot_pixel_hz: float = 100.0

    def __post_init__(self) -> None:
        for name, low in (
            ("contrast_threshold", 0.01),
            ("threshold_spread", 0),
            ("refractory_us", 0),
            ("dark_level", 1e-4),
            ("background_hz", 0),
            ("hot_pixels", 0),
            ("hot_pixel_hz", 0),
        ):
            value = getattr(self, name)
            if not low <= value < math.inf:
                raise UserError(f"sensor.{name}: must be at least {low}, got {value}")
        if self.hot_pixels > 1:
            raise UserError(f"sensor.hot_pixels: must be from 0 to 1, got {self.hot_pixels}")


class _Pixels(NamedTuple):
    """State of the pixels, ``[H, W]`` each."""

    image: NDArray[np.float32]  # current intensity
    last_image: NDArray[np.float32]  # intensity at the last comparison
    level: NDArray[np.float32]  # logarithm of that intensity
    reference: NDArray[np.float32]  # level of the last threshold crossing
    thresholds: NDArray[np.float32]  # [2, H, W], for negative and positive events
    last_us: NDArray[np.int64]  # time of the last event


@njit(cache=True, nogil=True)
def _compare(
    pixels: _Pixels,
    dark_level: float,
    refractory_us: int,
    window: tuple[int, int, int, int],
    start_us: float,
    end_us: float,
    events: NDArray[Any],
    num_events: int,
) -> tuple[NDArray[Any], int]:
    """Events of the pixels inside ``window`` whose intensity has changed since ``start_us``.

    Appends to ``events`` from ``num_events`` on. Returns the array, grown if it was too short, and
    the new number.
    """
    image, level, reference, last_us = pixels.image, pixels.level, pixels.reference, pixels.last_us
    for row in range(window[1], window[3]):
        for column in range(window[0], window[2]):
            if image[row, column] == pixels.last_image[row, column]:
                continue
            pixels.last_image[row, column] = image[row, column]
            new, old = math.log(image[row, column] + dark_level), level[row, column]
            level[row, column] = new
            if new == old:
                continue
            polarity = 1 if new > old else 0
            step = pixels.thresholds[polarity, row, column] * (1 if polarity else -1)
            crossing = reference[row, column] + step
            while (new - crossing) * step >= 0:
                reference[row, column] = crossing
                share = min(max((crossing - old) / (new - old), 0.0), 1.0)
                time_us = int(start_us + share * (end_us - start_us))
                crossing += step
                if time_us - last_us[row, column] < refractory_us:
                    continue
                last_us[row, column] = time_us
                if num_events == len(events):
                    grown = np.empty(2 * num_events, events.dtype)
                    grown[:num_events] = events
                    events = grown
                event = events[num_events]
                event.t, event.x, event.y, event.p = time_us, column, row, polarity
                num_events += 1
    return events, num_events


@njit(cache=True, nogil=True)
def _num_steps(camera: Camera, actor: Any, start_us: float, end_us: float) -> int:
    """Number of steps, in each of which an actor moves by ``_MAX_STEP_PX`` at most."""
    start, end = distance_driven(actor, start_us * 1e-6), distance_driven(actor, end_us * 1e-6)
    u0, v0, depth = project(
        camera, actor.x + start * actor.heading_x, actor.y + start * actor.heading_y, 0.0
    )
    u1, v1, _ = project(
        camera, actor.x + end * actor.heading_x, actor.y + end * actor.heading_y, 0.0
    )
    limb_px = actor.limb_speed * (end_us - start_us) * 1e-6 * camera.focal_px / max(depth, 1.0)
    moved_px = math.hypot(u1 - u0, v1 - v0) + limb_px
    return max(int(math.ceil(moved_px / _MAX_STEP_PX)), 1)


@njit(cache=True, nogil=True)
def _join(
    first: tuple[int, int, int, int], second: NDArray[np.int64], height: int, width: int
) -> tuple[int, int, int, int]:
    """Bounds of two rectangles (u0 v0 u1 v1, either may be empty), clipped to the frame."""
    u0, v0, u1, v1 = second[0], second[1], second[2], second[3]
    if first[0] < first[2] and u0 < u1:
        u0, v0 = min(first[0], u0), min(first[1], v0)
        u1, v1 = max(first[2], u1), max(first[3], v1)
    elif first[0] < first[2]:
        u0, v0, u1, v1 = first
    return max(u0, 0), max(v0, 0), min(u1, width), min(v1, height)


@njit(cache=True, nogil=True)
def _advance(
    camera: Camera,
    light: Light,
    stage: Stage,
    active: NDArray[np.int64],
    pixels: _Pixels,
    dark_level: float,
    refractory_us: int,
    start_us: float,
    end_us: float,
    events: NDArray[Any],
) -> tuple[NDArray[Any], int]:
    """Move the ``active`` actors (far to near) from ``start_us`` to ``end_us``.

    Returns an array whose first entries are the events, unsorted, and the number of events.
    """
    height, width = pixels.image.shape
    step_us = np.empty(len(active))
    next_us = np.empty(len(active))
    left = np.empty(len(active), np.int64)
    for j, i in enumerate(active):
        left[j] = _num_steps(camera, stage.actors[i], start_us, end_us)
        step_us[j] = (end_us - start_us) / left[j]
        next_us[j] = start_us + step_us[j]
    num_events = 0
    for _ in range(left.sum()):
        j = int(np.argmin(next_us))
        i, now_us = active[j], next_us[j]
        left[j] -= 1
        next_us[j] = end_us - (left[j] - 1) * step_us[j] if left[j] else np.inf
        touched = stage.touched[i]
        before = (touched[0], touched[1], touched[2], touched[3])
        place(camera, stage, i, now_us)
        window = _join(before, touched, height, width)
        if window[0] >= window[2] or window[1] >= window[3]:
            continue
        paint(pixels.image, window, active, stage, light)
        num_before = num_events
        events, num_events = _compare(
            pixels, dark_level, refractory_us, window, now_us - step_us[j], now_us, events,
            num_events,
        )  # fmt: skip
        stage.views[i].num_events += num_events - num_before
    return events, num_events


class EventCamera:
    """An event camera that records a scene, from time 0 on.

    Args:
        scene: what it sees.
        sensor: properties of its pixels.
        rng: draws the thresholds and the noise.
    """

    def __init__(self, scene: Scene, sensor: SensorSettings, rng: np.random.Generator) -> None:
        self.camera, self.light, self.sensor, self.rng = scene.camera, scene.light, sensor, rng
        self.now_us = 0
        height, width = self.light.background.shape
        placed = np.zeros(len(scene.shapes), PLACED)
        num_actors = len(scene.actors)
        touched, views = np.zeros((num_actors, 4), np.int64), np.zeros(num_actors, VIEW)
        self.stage = Stage(scene.actors, scene.shapes, placed, touched, views)
        spread = rng.normal(0, sensor.threshold_spread, (2, height, width))
        lowest = 0.3 * sensor.contrast_threshold
        thresholds = np.maximum(sensor.contrast_threshold + spread, lowest).astype(np.float32)
        image = self.light.background.copy()
        active = self._active(0, 0)
        for i in active:
            place(self.camera, self.stage, i, 0.0)
        paint(image, (0, 0, width, height), active, self.stage, self.light)
        level = np.log(image + np.float32(sensor.dark_level))
        # At the start, a pixel is anywhere between two thresholds.
        apart = rng.uniform(-0.5, 0.5, (height, width)) * sensor.contrast_threshold
        reference = level + apart.astype(np.float32)
        last_us = np.full((height, width), -sensor.refractory_us, np.int64)
        self._pixels = _Pixels(image, image.copy(), level, reference, thresholds, last_us)
        num_hot = rng.binomial(height * width, sensor.hot_pixels)
        self._hot_pixels = rng.integers(height * width, size=num_hot)
        self._owner = np.empty((2, height, width), np.int32)
        self._events = np.empty(1 << 16, EVENT)

    @property
    def image(self) -> NDArray[np.float32]:
        """Current intensity ``[H, W]``; white in daylight is 1."""
        return self._pixels.image

    def _active(self, start_us: int, end_us: int) -> NDArray[np.int64]:
        """Indices of the actors that may be in view between two times, from far to near."""
        actors = self.stage.actors
        return np.flatnonzero((actors["enter_us"] <= end_us) & (actors["leave_us"] >= start_us))

    def advance(self, end_us: int) -> NDArray[Any]:
        """Events from now to ``end_us`` as ``EVENT``, sorted by time."""
        start_us, self.now_us = self.now_us, end_us
        self._events, num_events = _advance(
            self.camera, self.light, self.stage, self._active(start_us, end_us), self._pixels,
            self.sensor.dark_level, self.sensor.refractory_us, float(start_us), float(end_us),
            self._events,
        )  # fmt: skip
        events = np.concatenate([self._events[:num_events], self._noise(start_us, end_us)])
        return events[np.argsort(events["t"], kind="stable")]

    def _noise(self, start_us: int, end_us: int) -> NDArray[Any]:
        """Background activity and hot pixels."""
        height, width = self.image.shape
        seconds = (end_us - start_us) * 1e-6
        num_background = self.rng.poisson(height * width * self.sensor.background_hz * seconds)
        num_hot = self.rng.poisson(self.sensor.hot_pixel_hz * seconds, size=len(self._hot_pixels))
        anywhere = self.rng.integers(height * width, size=num_background)
        pixel = np.concatenate([anywhere, np.repeat(self._hot_pixels, num_hot)])
        noise = np.empty(len(pixel), EVENT)
        noise["y"], noise["x"] = np.divmod(pixel, width)
        noise["p"] = self.rng.integers(2, size=len(pixel))
        noise["t"] = self.rng.integers(start_us, end_us, size=len(pixel))
        return noise

    def look(self) -> NDArray[Any]:
        """Current view of each actor, as ``projection.VIEW`` ``[A]``.

        Actors that are out of view have ``num_own`` 0.
        """
        self.stage.views["num_own"] = 0
        look(self._active(self.now_us, self.now_us), self.stage, self._owner)
        return self.stage.views.copy()
