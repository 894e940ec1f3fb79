"""What stands along streets: poles, signs, traffic lights, shelters, trees, lamps."""

from __future__ import annotations

import math

import numpy as np

from etram_det.simulator.body import BLACK, METAL, Body, across, ball, bar, box, rigid
from etram_det.simulator.stage import FRONT, GLOW, REAR, SIDE, Shape

_BARK = 0.11


def pole(height: float = 6.0, width: float = 0.16, albedo: float = 0.3) -> Body:
    """A plain pole."""
    return rigid([bar(0, 0.05, 0, height, width, albedo)], 0.3, 0.1, height)


def sign(rng: np.random.Generator) -> Body:
    """A traffic sign on a thin pole."""
    height, size = rng.uniform(2.4, 3.0), rng.uniform(0.3, 0.45)
    shapes = [bar(0, 0.05, 0, height, 0.07, METAL)]
    for plane, albedo in ((FRONT, 0.6), (REAR, 0.3), (SIDE, 0.4)):
        width = size if plane != SIDE else 0.04
        shapes.append(Shape(plane, 0.0, 0, height, width, size, albedo, corner=min(width, size)))
    return rigid(shapes, 0.3, 0.2, height + size)


def traffic_light() -> Body:
    """A dark box with three lamps on a pole."""
    lights = [ball(0.12, z, 0.1, albedo) for z, albedo in ((3.0, 0.3), (2.7, 0.15), (2.4, 0.12))]
    shapes = [bar(0, 0.05, 0, 2.3, 0.14, 0.25), *box(-0.15, 0.15, 2.25, 3.2, 0.18, BLACK), *lights]
    return rigid(shapes, 0.4, 0.2, 3.2)


def shelter() -> Body:
    """A shelter at a stop, open to the street."""
    posts = [bar(x, 0.05, x, 2.4, 0.1, 0.3, y) for x in (-1.9, 1.9) for y in (-0.6, 0.6)]
    shapes = [
        *posts,
        Shape(SIDE, 0.6, 0, 1.3, 1.9, 0.9, 0.3, corner=0.02),
        *box(-2.1, 2.1, 2.4, 2.55, 0.9, 0.4),
    ]
    return rigid(shapes, 4.2, 0.9, 2.6)


def trunk(height: float, width: float) -> Body:
    """The trunk of a tree and two of its branches."""
    shapes = [
        bar(0, 0.1, 0, height, width, _BARK),
        bar(0, 0.7 * height, 0.3 * height, 1.1 * height, 0.5 * width, _BARK),
        bar(0, 0.6 * height, -0.25 * height, 1.05 * height, 0.5 * width, _BARK),
    ]
    return rigid(shapes, 0.6, 0.3, height)


def crown(rng: np.random.Generator, height: float, radius: float) -> Body:
    """Leaves in bunches around a point in the air, each of which swings by itself.

    Args:
        rng: draws the bunches.
        height: of the centre above the ground.
        radius: of the crown.
    """
    shapes = []
    for _ in range(int(150 * radius**2)):
        x, y, z = rng.normal(0, 0.45, 3) * radius
        size = rng.uniform(0.05, 0.12) * radius**0.5
        shapes.append(
            ball(
                x, height + 0.8 * z, size, rng.uniform(0.06, 0.36), y,
                pivot_x=x - rng.uniform(-0.3, 0.3), pivot_z=height + 0.8 * z - 0.6,
                swing=rng.uniform(0.08, 0.3), swing_phase=rng.uniform(0, 2 * math.pi),
            )
        )  # fmt: skip
    shapes.sort(key=lambda shape: shape.albedo)  # bright ones outside
    return rigid(shapes, 2 * radius, radius, height + radius, 1.0)


def lamp(height: float) -> Body:
    """A street lamp without its light."""
    return rigid([bar(0, 0.05, 0, height, 0.14, 0.25), across(0, height, 0.5, 0.1, 0.25)],
                 0.4, 0.5, height)  # fmt: skip


def lamp_light(height: float) -> Body:
    """The light of a street lamp and the glow around it."""
    shapes = [
        ball(0, height - 0.1, 0.22, 0.6, light=1.6),
        ball(0, height - 0.1, 0.6, 0.0, effect=GLOW, light=0.5),
    ]
    return rigid(shapes, 0.4, 0.4, height)
