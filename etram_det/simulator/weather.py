"""Rain that falls past the camera, and wind that shakes its pole."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator.stage import Camera

_RAINFALL_MM_H = 3.0  # of strength 1: moderate rain
_NEAR_M, _FAR_M = 0.5, 3.5  # drops farther than this cover too little of a pixel
_LEAST_MM = 1.0
_LEAST_COVER = 0.08  # of a pixel; less is below the threshold of any pixel


class Shake(NamedTuple):
    """Swinging of the camera's pole, as shifts of its image."""

    across_px: float  # amplitude to the sides
    along_px: float  # amplitude up and down
    across_hz: float
    along_hz: float
    gust_s: float  # period of gusts
    phase: float  # of the gusts


def draw_shake(rng: np.random.Generator, amplitude_px: float) -> Shake:
    """A pole that swings by an amplitude in gusts."""
    return Shake(
        amplitude_px,
        0.4 * amplitude_px,
        float(rng.uniform(1.5, 4.0)),
        float(rng.uniform(3.0, 6.0)),
        float(rng.uniform(4.0, 8.0)),
        float(rng.uniform(0, 2 * math.pi)),
    )


class Rain:
    """Drops near the camera.

    Their number by diameter is that of Marshall and Palmer ("The distribution of raindrops with
    size", Journal of Meteorology 5, 1948): ``8000 * exp(-4.1 * R**-0.21 * D)`` per cubic metre and
    millimetre, at ``R`` millimetres of rain in an hour; their speed in metres per second that of
    Atlas, Srivastava and Sekhon ("Doppler radar characteristics of precipitation at vertical
    incidence", Reviews of Geophysics 11, 1973): ``9.65 - 10.3 * exp(-0.6 * D)``.

    Args:
        camera: past which they fall.
        size: height and width of the image in pixels.
        strength: rainfall; 0 for none.
        rng: draws the drops.
    """

    def __init__(
        self, camera: Camera, size: tuple[int, int], strength: float, rng: np.random.Generator
    ) -> None:
        self.camera, self.size, self.rng = camera, size, rng
        self.slope = float(rng.normal(0, 0.12))  # of the wind
        self.falling = np.zeros((0, 5))
        self.per_mm = 4.1 * (_RAINFALL_MM_H * max(strength, 1e-6)) ** -0.21
        density = 8000 / self.per_mm * math.exp(-self.per_mm * _LEAST_MM)  # per cubic metre
        across = (size[1] + abs(self.slope) * size[0]) / camera.focal_px  # per metre of distance
        area = 0.5 * (_FAR_M**2 - _NEAR_M**2) * across
        speed = 9.65 - 10.3 * math.exp(-0.6 * (_LEAST_MM + 1 / self.per_mm))
        self.rate_hz = density * area * speed if strength else 0.0

    def drops(self, start_us: int, end_us: int) -> NDArray[np.float64]:
        """Drops that are in view some time between two times, as ``pixels.rain`` takes them."""
        height, width = self.size
        number = self.rng.poisson(self.rate_hz * (end_us - start_us) * 1e-6)
        if number:
            millimetres = _LEAST_MM + self.rng.exponential(1 / self.per_mm, number)
            away = np.sqrt(self.rng.uniform(_NEAR_M**2, _FAR_M**2, number))
            focal_px = self.camera.focal_px
            speed = (9.65 - 10.3 * np.exp(-0.6 * millimetres)) * focal_px / away * 1e-6
            cover = np.minimum(math.pi / 4 * (millimetres * 1e-3 * focal_px / away) ** 2, 1.0)
            reach = abs(self.slope) * height
            new = np.stack(
                [
                    self.rng.uniform(-reach, width + reach, number),
                    self.rng.uniform(start_us, end_us, number),
                    speed,
                    np.full(number, self.slope),
                    cover,
                ],
                axis=1,
            )
            self.falling = np.concatenate([self.falling, new[cover > _LEAST_COVER]])
        current = self.falling
        self.falling = current[current[:, 1] + height / current[:, 2] > end_us]
        return current
