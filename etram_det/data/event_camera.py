"""From moving road users to events: what changes is drawn again, and each pixel compares.

Each road user is redrawn at a rate of its own: a step moves it by about a pixel at most, so that
the logarithm of a pixel's intensity may be taken as a straight line between two steps, on which the
threshold crossings get microsecond stamps (as in ESIM, Rebecq et al., CoRL 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.data.rendering import (
    PLACED,
    VIEW,
    Camera,
    Light,
    distance_driven,
    look,
    paint,
    place,
    project,
)

EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

_MAX_STEP_PX = 1.0


@dataclass(frozen=True)
class SensorSettings:
    """How the pixels of the simulated event camera behave.

    Attributes:
        contrast_threshold: change of the natural logarithm of intensity that makes an event.
        threshold_spread: standard deviation of the threshold from pixel to pixel.
        refractory_us: time after an event during which its pixel stays silent, in microseconds.
        dark_level: intensity that dark current adds to each pixel; white in daylight has 1. The
            higher it is, the lower the contrast at night.
        background_hz: events a second that each pixel gives without any cause.
        hot_pixels: share of pixels that fire all the time.
        hot_pixel_hz: events a second of a hot pixel, on average.
    """

    contrast_threshold: float = 0.36
    threshold_spread: float = 0.03
    refractory_us: int = 500
    dark_level: float = 0.015
    background_hz: float = 0.1
    hot_pixels: float = 1e-5
    hot_pixel_hz: float = 100.0


@njit(cache=True, nogil=True)
def _compare(
    image: NDArray[np.float32],
    last_image: NDArray[np.float32],
    window: tuple[int, int, int, int],
    start_us: float,
    end_us: float,
    level: NDArray[np.float32],
    reference: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    last_us: NDArray[np.int64],
    dark_level: float,
    refractory_us: int,
    events: NDArray[Any],
    num_events: int,
) -> tuple[NDArray[Any], int]:
    """Events of the pixels inside ``window`` whose light has changed since ``start_us``.

    ``events`` is filled from ``num_events`` on; returned grown if it was too short, with the new
    number.
    """
    for row in range(window[1], window[3]):
        for column in range(window[0], window[2]):
            if image[row, column] == last_image[row, column]:
                continue
            last_image[row, column] = image[row, column]
            new, old = math.log(image[row, column] + dark_level), level[row, column]
            level[row, column] = new
            if new == old:
                continue
            polarity = 1 if new > old else 0
            step = thresholds[polarity, row, column] * (1 if polarity else -1)
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
    """Steps in which an actor moves by ``_MAX_STEP_PX`` at most."""
    start, end = distance_driven(actor, start_us * 1e-6), distance_driven(actor, end_us * 1e-6)
    u0, v0, depth = project(
        camera, actor.x + start * actor.heading_x, actor.y + start * actor.heading_y, 0.0
    )
    u1, v1, _ = project(
        camera, actor.x + end * actor.heading_x, actor.y + end * actor.heading_y, 0.0
    )
    limb_px = actor.limb_speed * (end_us - start_us) * 1e-6 * camera.focal_px / max(depth, 1.0)
    return max(math.ceil((math.hypot(u1 - u0, v1 - v0) + limb_px) / _MAX_STEP_PX), 1)


@njit(cache=True, nogil=True)
def _advance(
    camera: Camera,
    light: Light,
    actors: NDArray[Any],
    shapes: NDArray[Any],
    placed: NDArray[Any],
    touched: NDArray[np.int64],
    views: NDArray[Any],
    active: NDArray[np.int64],
    start_us: float,
    end_us: float,
    image: NDArray[np.float32],
    last_image: NDArray[np.float32],
    level: NDArray[np.float32],
    reference: NDArray[np.float32],
    thresholds: NDArray[np.float32],
    last_us: NDArray[np.int64],
    dark_level: float,
    refractory_us: int,
    events: NDArray[Any],
) -> tuple[NDArray[Any], int]:
    """Let the ``active`` actors (far to near) move from ``start_us`` to ``end_us``.

    Returns the events in no order, in an array that is longer than their number, and their number.
    """
    height, width = image.shape
    step_us = np.empty(len(active))
    steps_done = np.zeros(len(active), np.int64)
    steps = np.empty(len(active), np.int64)
    for j, i in enumerate(active):
        steps[j] = _num_steps(camera, actors[i], start_us, end_us)
        step_us[j] = (end_us - start_us) / steps[j]
    num_events = 0
    for _ in range(steps.sum()):
        j = np.argmin(
            np.where(steps_done < steps, start_us + (steps_done + 1) * step_us, 2 * end_us)
        )
        i = active[j]
        now_us = start_us + (steps_done[j] + 1) * step_us[j]
        steps_done[j] += 1
        left, top, right, bottom = touched[i, 0], touched[i, 1], touched[i, 2], touched[i, 3]
        place(camera, actors, i, shapes, now_us, placed, views, touched)
        if left < right and touched[i, 0] < touched[i, 2]:
            left, top = min(left, touched[i, 0]), min(top, touched[i, 1])
            right, bottom = max(right, touched[i, 2]), max(bottom, touched[i, 3])
        elif left == right:
            left, top, right, bottom = touched[i, 0], touched[i, 1], touched[i, 2], touched[i, 3]
        window = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        if window[0] >= window[2] or window[1] >= window[3]:
            continue
        paint(image, window, active, actors, shapes, placed, touched, light)
        before = num_events
        events, num_events = _compare(
            image, last_image, window, now_us - step_us[j], now_us, level, reference, thresholds, last_us,
            dark_level, refractory_us, events, num_events,
        )  # fmt: skip
        views[i].num_events += num_events - before
    return events, num_events


class EventCamera:
    """An event camera before a scene, from time 0 on.

    Args:
        camera: where it stands.
        light: the empty scene.
        actors: as ``ACTOR``, ordered from far to near.
        shapes: of all actors, as ``SHAPE``.
        sensor: how its pixels behave.
        rng: draws the thresholds and the noise.
    """

    def __init__(
        self,
        camera: Camera,
        light: Light,
        actors: NDArray[Any],
        shapes: NDArray[Any],
        sensor: SensorSettings,
        rng: np.random.Generator,
    ) -> None:
        self.camera, self.light, self.actors, self.shapes = camera, light, actors, shapes
        self.sensor, self.rng = sensor, rng
        self.now_us = 0
        height, width = light.background.shape
        spread = rng.normal(0, sensor.threshold_spread, (2, height, width))
        lowest = 0.3 * sensor.contrast_threshold
        self._thresholds = np.maximum(sensor.contrast_threshold + spread, lowest).astype("f4")
        num_hot = rng.binomial(height * width, sensor.hot_pixels)
        self._hot_pixels = rng.integers(height * width, size=num_hot)
        self._placed = np.zeros(len(shapes), PLACED)
        self._touched = np.zeros((len(actors), 4), np.int64)
        self._views = np.zeros(len(actors), VIEW)
        self._owner = np.empty((2, height, width), np.int32)
        self._events = np.empty(1 << 16, EVENT)
        self._image = light.background.copy()
        active = self._active(0, 0)
        for i in active:
            place(camera, actors, i, shapes, 0.0, self._placed, self._views, self._touched)
        paint(
            self._image, (0, 0, width, height), active, actors, shapes, self._placed,
            self._touched, light,
        )  # fmt: skip
        self._last_image = self._image.copy()
        self._level = np.log(self._image + sensor.dark_level)
        # Where between two events a pixel stands at the start is anyone's guess.
        self._reference = self._level + (
            rng.uniform(-0.5, 0.5, (height, width)) * sensor.contrast_threshold
        ).astype("f4")
        self._last_us = np.full((height, width), -sensor.refractory_us, np.int64)

    def _active(self, start_us: int, end_us: int) -> NDArray[np.int64]:
        return np.flatnonzero(
            (self.actors["enter_us"] <= end_us) & (self.actors["leave_us"] >= start_us)
        )

    def advance(self, end_us: int) -> NDArray[Any]:
        """Events from now to ``end_us`` as ``EVENT``, sorted by time."""
        start_us, self.now_us = self.now_us, end_us
        self._events, num_events = _advance(
            self.camera, self.light, self.actors, self.shapes, self._placed, self._touched,
            self._views, self._active(start_us, end_us), float(start_us), float(end_us),
            self._image, self._last_image, self._level, self._reference, self._thresholds, self._last_us,
            self.sensor.dark_level, self.sensor.refractory_us, self._events,
        )  # fmt: skip
        events = np.concatenate([self._events[:num_events], self._noise(start_us, end_us)])
        return events[np.argsort(events["t"], kind="stable")]

    def _noise(self, start_us: int, end_us: int) -> NDArray[Any]:
        """Background activity and hot pixels."""
        height, width = self._image.shape
        seconds = (end_us - start_us) * 1e-6
        num_background = self.rng.poisson(height * width * self.sensor.background_hz * seconds)
        num_hot = self.rng.poisson(
            self.sensor.hot_pixel_hz * seconds, size=len(self._hot_pixels)
        )
        pixel = np.concatenate(
            [
                self.rng.integers(height * width, size=num_background),
                np.repeat(self._hot_pixels, num_hot),
            ]
        )
        noise = np.empty(len(pixel), EVENT)
        noise["y"], noise["x"] = np.divmod(pixel, width)
        noise["p"] = self.rng.integers(2, size=len(pixel))
        noise["t"] = self.rng.integers(start_us, end_us, size=len(pixel))
        return noise

    def look(self) -> NDArray[Any]:
        """What is to be seen of each actor now, as ``VIEW`` ``[num_actors]``.

        Actors that are out of view have no pixel of their own.
        """
        active = self._active(self.now_us, self.now_us)
        self._views["num_own"] = 0
        look(active, self.actors, self.shapes, self._placed, self._owner, self._views)
        return self._views.copy()
