"""Parts of the bodies of road users: bars, wheels, boxes, windows, lamps.

A body is centred over the origin and heads along ``x``; ``z`` is height, all in metres. Albedo is
0.07 (black) to 0.65 (white); asphalt has about 0.2, so bodies are darker or brighter than that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator.projection import FRONT, GLOW, REAR, SHADOW, SHAPE, SIDE, TOP, Shape

BLACK, RUBBER, METAL, SKIN = 0.07, 0.07, 0.45, 0.4
# Light from inside a bus or tram at night.
LIT = 0.12


@dataclass(frozen=True)
class Body:
    """A road user standing still.

    Attributes:
        shapes: in the order of painting.
        length: metres from front to rear.
        cadence_hz: frequency of swinging limbs.
    """

    shapes: tuple[Shape, ...]
    length: float
    cadence_hz: float = 0.0

    def table(self, night: bool) -> NDArray[Any]:
        """The shapes as ``projection.SHAPE``: by day without glow, at night without shadow."""
        hidden = SHADOW if night else GLOW
        return np.array([shape for shape in self.shapes if shape.effect != hidden], SHAPE)

    @property
    def limb_speed(self) -> float:
        """Speed of the fastest limb relative to the body, in metres per second."""
        reach = max(
            s.swing * (math.hypot(s.x - s.pivot_x, s.z - s.pivot_z) + max(s.half_x, s.half_z))
            for s in self.shapes
        )
        return 2 * math.pi * self.cadence_hz * reach


def bar(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, **more: Any
) -> Shape:
    """A bar with round ends between two points of the side view."""
    half = 0.5 * math.hypot(x1 - x0, z1 - z0) + 0.5 * width
    x, z, angle = 0.5 * (x0 + x1), 0.5 * (z0 + z1), math.atan2(z1 - z0, x1 - x0)
    more = {"corner": 0.5 * width, "angle": angle, **more}
    return Shape(SIDE, 0.0, x, z, half, 0.5 * width, albedo, **more)


def limb(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, **more: float
) -> Shape:
    """A bar that swings about its first point."""
    return bar(x0, z0, x1, z1, width, albedo, pivot_x=x0, pivot_z=z0, **more)


def disc(x: float, z: float, radius: float, albedo: float, **more: Any) -> Shape:
    """A disc, or a ring with ``ring``, in the side view."""
    more = {"plane": SIDE, "offset": 0.0, **more}
    return Shape(x=x, z=z, half_x=radius, half_z=radius, albedo=albedo, corner=radius, **more)


def spoked_wheel(x: float, radius: float, rim: float, albedo: float) -> list[Shape]:
    """A wheel of a bicycle or wheelchair: a tyre, and spokes that turn as it rolls."""
    turning: dict[str, Any] = {"pivot_x": x, "pivot_z": radius, "roll": 1 / radius}
    spokes = [
        Shape(SIDE, 0.0, x, radius, radius - rim, 0.015, METAL, angle=i * math.pi / 3, **turning)
        for i in range(3)
    ]
    return [*spokes, disc(x, radius, radius, albedo, ring=rim)]


def car_wheels(xs: Sequence[float], radius: float, offset: float) -> list[Shape]:
    """Wheels of a motor vehicle: dark tyre, bright rim, a dark bar that turns as it rolls."""
    wheels = []
    for x in xs:
        turning: dict[str, Any] = {"pivot_x": x, "pivot_z": radius, "roll": 1 / radius}
        wheels += [
            disc(x, radius, radius, RUBBER, offset=offset),
            disc(x, radius, 0.58 * radius, METAL, offset=offset),
            Shape(SIDE, offset, x, radius, 0.5 * radius, 0.1 * radius, BLACK, **turning),
        ]
    return wheels


def box(
    x0: float, x1: float, z0: float, z1: float, half_width: float, albedo: float,
    ends: tuple[int, ...] = (REAR, FRONT), **more: Any,
) -> list[Shape]:  # fmt: skip
    """A box of a body, lit from above: ends, sides and roof; ``more`` applies to all of them."""
    more = {"corner": 0.1, "grain": 0.12, **more}
    x, z, half_x, half_z = 0.5 * (x0 + x1), 0.5 * (z0 + z1), 0.5 * (x1 - x0), 0.5 * (z1 - z0)
    taper = more.get("taper", 0.0)
    offset = {REAR: x0 + 0.5 * taper * half_x, FRONT: x1 - 0.5 * taper * half_x}
    roof = {**more, "taper": 0.0}
    return [
        *[Shape(end, offset[end], 0, z, half_width, half_z, 0.75 * albedo, **more) for end in ends],
        Shape(SIDE, half_width, x, z, half_x, half_z, albedo, **more),
        Shape(TOP, z1, x, 0, half_x * (1 - taper), half_width * (1 - taper), 1.2 * albedo, **roof),
    ]


def glass_albedo(paint: float) -> float:
    """Albedo of a vehicle's windows: darker than bright paint, brighter than dark paint."""
    return 0.18 if paint > 0.3 else 0.27


def windows(
    x0: float, x1: float, z0: float, z1: float, offset: float, number: int, albedo: float
) -> list[Shape]:
    """A row of panes along the sides, with pillars between them, lit at night."""
    pitch, z, half_z = (x1 - x0) / number, 0.5 * (z0 + z1), 0.5 * (z1 - z0)
    return [
        pane(SIDE, offset, x0 + (i + 0.5) * pitch, z, 0.42 * pitch, half_z, albedo, light=LIT)
        for i in range(number)
    ]


def pane(
    plane: int, offset: float, x: float, z: float, half_x: float, half_z: float, albedo: float,
    **more: Any,
) -> Shape:  # fmt: skip
    """A single window."""
    return Shape(plane, offset, x, z, half_x, half_z, albedo, corner=0.08, **more)


def lamps(front: float, rear: float, half_width: float, z: float) -> list[Shape]:
    """Two headlamps and two tail lamps, their glow, and the beam on the road."""
    lamps = [Shape(TOP, 0.02, front + 4.5, 0.0, 4.5, 1.6, effect=GLOW, light=0.035)]
    for side in (-1, 1):
        y = side * (half_width - 0.25)
        lamps += [
            Shape(FRONT, front, y, z, 0.13, 0.1, 0.85, light=2.0, corner=0.08),
            Shape(FRONT, front, y, z, 0.45, 0.45, effect=GLOW, light=0.5),
            Shape(REAR, rear, y, z + 0.1, 0.12, 0.1, 0.35, light=0.5, corner=0.06),
            Shape(REAR, rear, y, z + 0.1, 0.35, 0.35, effect=GLOW, light=0.12),
        ]
    return [
        *lamps,
        Shape(SIDE, half_width, front - 0.12, z, 0.12, 0.1, 0.85, light=1.2, corner=0.06),
        Shape(SIDE, half_width, front, z, 0.5, 0.4, effect=GLOW, light=0.3),
        Shape(SIDE, half_width, rear + 0.1, z + 0.1, 0.1, 0.1, 0.35, light=0.4, corner=0.06),
        Shape(SIDE, half_width, rear, z + 0.1, 0.3, 0.3, effect=GLOW, light=0.08),
    ]


def shadow(length: float, half_width: float, strength: float = 0.5) -> Shape:
    """The soft shadow under a body by day."""
    half_x = 0.5 * length + 0.15
    return Shape(TOP, 0.0, 0.0, 0.0, half_x, half_width + 0.15, effect=SHADOW, light=strength)
