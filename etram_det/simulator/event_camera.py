"""From moving road users to events: redraw what moves, then compare each changed pixel.

Each road user is redrawn at its own rate, so that a step moves it by about one pixel at most; what
stands still costs nothing. Where the camera shakes, all of the image is redrawn at another rate.

For developers: numba renews its cache of the kernels here only when the text of this file changes.
After a change to a kernel in ``coverage.py``, ``projection.py``, ``rendering.py`` or ``pixels.py``,
delete the cached ones in ``__pycache__``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.noise import Noise, ReadOut, in_order, joined
from etram_det.simulator.pixels import EVENT as EVENT
from etram_det.simulator.pixels import (
    Pixels,
    SensorSettings,
    adopt,
    compare,
    draw_pixels,
    rain,
    settle_all,
)
from etram_det.simulator.projection import FLICKER_HZ, pixels_moved, place, place_all
from etram_det.simulator.rendering import Light, look, paint
from etram_det.simulator.scene import Scene
from etram_det.simulator.stage import Camera, Stage, Sun
from etram_det.simulator.weather import Rain, Shake, draw_shake

_MAX_STEP_PX = 1.5
_LARGE_PX = 38.0  # bodies larger than this take longer steps, up to 2.5 times as long
_FLICKER_STEPS = 8  # of a period of the mains
MARGIN_PX = 8  # by which the background is larger than the frame on each side, for shaking


class _Behind(NamedTuple):
    """The background with a margin, from which a shaking camera sees a moving part."""

    image: NDArray[np.float32]
    nearest: NDArray[np.float32]


@njit(cache=True, nogil=True, error_model="numpy")
def _shaken(shake: Shake, time_us: float) -> tuple[float, float]:
    """Shift of the image in pixels, to the right and down."""
    time_s = time_us * 1e-6
    gust = max(math.sin(2 * math.pi * time_s / shake.gust_s + shake.phase), 0.0) ** 2
    turn = 2 * math.pi * time_s
    right = math.sin(turn * shake.across_hz) + 0.4 * math.sin(turn * 2.3 * shake.across_hz + 1)
    down = math.sin(turn * shake.along_hz + 2)
    return shake.across_px * gust * right, shake.along_px * gust * down


@njit(cache=True, nogil=True, error_model="numpy")
def _shift(behind: _Behind, light: Light, right: float, down: float) -> None:
    """Take the part of the background that a shifted camera sees."""
    height, width = light.background.shape
    column, row = math.floor(MARGIN_PX - right), math.floor(MARGIN_PX - down)
    a, b = MARGIN_PX - right - column, MARGIN_PX - down - row
    image = behind.image
    for i in range(height):
        row_nearest = np.float32(0)
        for j in range(width):
            y, x = row + i, column + j
            upper = image[y, x] * (1 - a) + image[y, x + 1] * a
            lower = image[y + 1, x] * (1 - a) + image[y + 1, x + 1] * a
            light.background[i, j] = upper * (1 - b) + lower * b
            nearest = behind.nearest[y + round(b), x + round(a)]
            light.nearest[i, j] = nearest
            row_nearest = max(row_nearest, nearest)
        light.row_nearest[i] = row_nearest


@njit(cache=True, nogil=True, error_model="numpy")
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


@njit(cache=True, nogil=True, error_model="numpy")
def _num_steps(camera: Camera, actor: Any, slice_us: float) -> int:
    """Number of steps of an actor, in each of which it moves by ``_MAX_STEP_PX`` at most."""
    away_m = max(math.hypot(actor.x1, actor.y1), 1.0)
    size_px = camera.focal_px * (actor.front - actor.rear) / away_m
    step_px = _MAX_STEP_PX * min(max(size_px / _LARGE_PX, 1.0), 2.5)
    steps = int(math.ceil(pixels_moved(camera, actor) / step_px))
    if steps == 0 and actor.driven0 != actor.driven1:
        steps = 1
    if actor.flicker > 0:
        steps = max(steps, int(math.ceil(slice_us * 1e-6 * FLICKER_HZ * _FLICKER_STEPS)))
    return steps


@njit(cache=True, nogil=True, error_model="numpy")
def _num_shifts(shake: Shake, start_us: float, end_us: float) -> int:
    """Number of steps in which the image shakes."""
    first, last = _shaken(shake, start_us), _shaken(shake, end_us)
    middle = _shaken(shake, 0.5 * (start_us + end_us))
    way_px = math.hypot(middle[0] - first[0], middle[1] - first[1])
    way_px += math.hypot(last[0] - middle[0], last[1] - middle[1])
    return int(math.ceil(way_px / _MAX_STEP_PX))


@njit(cache=True, nogil=True, error_model="numpy")
def _moved(camera: Camera, right: float, down: float) -> Camera:
    return Camera(
        camera.focal_px, camera.centre_u + right, camera.centre_v + down, camera.height_m,
        camera.sin_pitch, camera.cos_pitch,
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _advance(
    camera: Camera,
    sun: Sun,
    light: Light,
    behind: _Behind,
    shake: Shake,
    stage: Stage,
    order: NDArray[np.int64],
    pixels: Pixels,
    start_us: float,
    end_us: float,
    events: NDArray[Any],
    num_events: int,
) -> tuple[NDArray[Any], int]:
    """Move the actors, ordered from far to near, from their first to their second moment.

    Returns an array whose first entries are the events, unsorted, and the number of events.
    """
    height, width = pixels.image.shape
    whole, number, slice_us = (0, 0, width, height), len(order), end_us - start_us
    shift = _shaken(shake, start_us)
    now_camera = _moved(camera, shift[0], shift[1])
    left = np.zeros(number + 1, np.int64)
    left[number] = _num_shifts(shake, start_us, end_us)
    for j, i in enumerate(order):
        left[j] = _num_steps(camera, stage.actors[i], slice_us)
        place(now_camera, sun, stage, i, 0.0, start_us)
    step_us, next_us, num_steps = np.empty(number + 1), np.empty(number + 1), 0
    for j in range(number + 1):
        step_us[j] = slice_us / max(left[j], 1)
        next_us[j] = start_us + step_us[j] if left[j] > 0 else np.inf
        num_steps += left[j]
    for _ in range(num_steps):
        j = int(np.argmin(next_us))
        now_us = next_us[j]
        left[j] -= 1
        next_us[j] = end_us - (left[j] - 1) * step_us[j] if left[j] else np.inf
        share = (now_us - start_us) / slice_us
        if j == number:
            shift = _shaken(shake, now_us)
            now_camera = _moved(camera, shift[0], shift[1])
            _shift(behind, light, shift[0], shift[1])
            place_all(now_camera, sun, stage, order, share, now_us)
            window = whole
        else:
            i = order[j]
            touched = stage.touched[i]
            before = (touched[0], touched[1], touched[2], touched[3])
            place(now_camera, sun, stage, i, share, now_us)
            window = _join(before, touched, height, width)
        if window[0] >= window[2] or window[1] >= window[3]:
            continue
        paint(pixels.image, window, order, stage, light)
        num_before = num_events
        events, num_events = compare(
            pixels, window, start_us, now_us - step_us[j], now_us, events, num_events
        )
        if j < number:
            stage.views[order[j]].num_events += num_events - num_before
    return events, num_events


class EventCamera:
    """An event camera that records a scene, from time 0 on.

    Args:
        scene: what it sees.
        sensor: properties of its pixels.
        rng: draws the thresholds and the noise.

    Attributes:
        num_noise: events that do not come from the scene so far.
    """

    def __init__(self, scene: Scene, sensor: SensorSettings, rng: np.random.Generator) -> None:
        self.scene, self.sensor = scene, sensor
        self.now_us, self.num_noise = 0, 0
        background = scene.light.background
        height, width = background.shape
        amplitude = scene.effects["shaking"] * height / 360
        self._shake = draw_shake(rng, min(1.5 * amplitude, 0.4 * MARGIN_PX))
        self._behind = _Behind(
            np.pad(background, MARGIN_PX, "edge"), np.pad(scene.light.nearest, MARGIN_PX, "edge")
        )
        self._light = scene.light._replace(
            background=background.copy(),
            nearest=scene.light.nearest.copy(),
            row_nearest=scene.light.row_nearest.copy(),
        )
        self._rain = Rain(scene.camera, (height, width), scene.effects["rain"], rng)
        self._shift_to(0.0)
        self.stage, self.order = scene.stage, scene.order
        image = background.copy()
        self._pixels = draw_pixels(rng, sensor, self._light.background.copy())
        self._repaint(self._pixels.image, (0, 0, width, height))
        adopt(self._pixels, (0, 0, width, height))
        self._noise, self._read_out = Noise(sensor, image.shape, rng), ReadOut(sensor)
        self._owner = np.empty((2, height, width), np.int32)
        self._events = np.empty(1 << 16, EVENT)
        self._caused: dict[int, int] = {}  # events by track

    @property
    def image(self) -> NDArray[np.float32]:
        """Current intensity ``[H, W]``; white in daylight is 1."""
        return self._pixels.image

    @property
    def num_lost(self) -> int:
        """Events that the read-out has lost so far."""
        return self._read_out.num_lost

    def _shift_to(self, time_us: float) -> Camera:
        shift = _shaken(self._shake, time_us)
        _shift(self._behind, self._light, *shift)
        return _moved(self.scene.camera, *shift)

    def _repaint(self, image: NDArray[np.float32], window: tuple[int, int, int, int]) -> None:
        """Place all actors at their last moment, and paint them."""
        camera = _moved(self.scene.camera, *_shaken(self._shake, float(self.now_us)))
        place_all(camera, self.scene.sun, self.stage, self.order, 1.0, float(self.now_us))
        paint(image, window, self.order, self.stage, self._light)

    def advance(self, end_us: int) -> NDArray[Any]:
        """Events from now to ``end_us`` as ``EVENT``, sorted by time."""
        parts = []
        while self.now_us < end_us:
            parts.append(self._slice(min(end_us, self.now_us + 50_000)))
        return joined(parts)

    def _slice(self, end_us: int) -> NDArray[Any]:
        start_us = self.now_us
        self._change_actors(end_us)
        light = self._light
        args = self.scene.camera, self.scene.sun, light, self._behind, self._shake
        self._events, number = _advance(
            *args, self.stage, self.order, self._pixels, float(start_us), float(end_us),
            self._events, 0,
        )  # fmt: skip
        if len(drops := self._rain.drops(start_us, end_us)):
            self._events, number = rain(
                self._pixels, drops, 0.75 * light.ambient, float(start_us), float(end_us),
                self._events, number,
            )  # fmt: skip
        self._events, number = settle_all(
            self._pixels, float(start_us), float(end_us), self._events, number
        )
        before, self._caused = self._caused, {}
        for track in self.scene.things:
            self._caused[track] = before.get(track, 0)
        tracks, numbers = self.stage.actors["track"], self.stage.views["num_events"]
        for track, caused in zip(tracks.tolist(), numbers.tolist(), strict=True):
            if track >= 0:
                self._caused[track] += caused
        noise = self._noise.between(start_us, end_us, self.image)
        self.num_noise += len(noise)
        events = in_order(self._events[:number], noise, start_us)
        self.now_us = end_us
        return self._read_out.read(events, end_us)

    def _change_actors(self, end_us: int) -> None:
        """Go to the next slice: actors that come or go in view do so without events."""
        tracks, touched = self.stage.actors["track"].tolist(), self.stage.touched.tolist()
        ends = dict(zip(tracks, touched, strict=True))
        self.stage, self.order = self.scene.advance(end_us)
        height, width = self.image.shape
        now = self.stage.actors["track"].tolist()
        windows = [bounds for track, bounds in ends.items() if track not in now]
        if not windows and all(track in ends for track in now):
            return
        camera = _moved(self.scene.camera, *_shaken(self._shake, float(self.now_us)))
        place_all(camera, self.scene.sun, self.stage, self.order, 0.0, float(self.now_us))
        windows += [self.stage.touched[i].tolist() for i in self.order if now[i] not in ends]
        for u0, v0, u1, v1 in windows:
            window = max(u0, 0), max(v0, 0), min(u1, width), min(v1, height)
            if window[0] < window[2] and window[1] < window[3]:
                paint(self.image, window, self.order, self.stage, self._light)
                adopt(self._pixels, window)

    def look(self) -> NDArray[Any]:
        """Current view of each actor, as ``stage.VIEW`` ``[A]``, with all events so far.

        Actors that are out of view or not labelled have ``num_own`` 0.
        """
        camera = _moved(self.scene.camera, *_shaken(self._shake, float(self.now_us)))
        place_all(camera, self.scene.sun, self.stage, self.order, 1.0, float(self.now_us))
        look(self.order, self.stage, self._light, self._owner)
        views = self.stage.views.copy()
        views["num_events"] = [
            self._caused.get(track, 0) for track in self.stage.actors["track"].tolist()
        ]
        return views
