"""Parts of the bodies of road users: rods, wheels, boxes, windows, lamps.

A body is centred over the origin and heads along ``x``; ``y`` is to its left and ``z`` is height,
all in metres. Albedo is 0.07 (black) to 0.65 (white); asphalt has about 0.2, so bodies are darker
or brighter than that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator.stage import (
    AXLE,
    CAST,
    FRONT,
    GLOW,
    REAR,
    ROD,
    SHADOW,
    SHAPE,
    SIDE,
    TOP,
    Shape,
)

BLACK, RUBBER, METAL, SKIN = 0.07, 0.07, 0.45, 0.4
# Light from inside a bus or tram at night.
LIT = 0.12


@dataclass(frozen=True)
class Part:
    """A rigid part of a body.

    Attributes:
        shapes: in the order of painting.
        rear: metres from the origin to its rear end, negative.
        front: metres from the origin to its front end.
        joint: metres from the centre of the body to the part's own origin, which follows the way by
            itself; 0 in a body that is rigid as a whole.
    """

    shapes: tuple[Shape, ...]
    rear: float
    front: float
    joint: float = 0.0

    def table(self, night: bool) -> tuple[NDArray[Any], int]:
        """The shapes as ``stage.SHAPE``, shadows first, and the number of shadows.

        There are no lamps by day and no shadows at night.
        """
        shadows = [shape for shape in self.shapes if shape.effect in (SHADOW, CAST) and not night]
        body = [
            shape
            for shape in self.shapes
            if shape.effect not in (SHADOW, CAST) and (night or shape.effect != GLOW)
        ]
        return np.array([*shadows, *body], SHAPE), len(shadows)

    @property
    def limb_reach(self) -> float:
        """Metres that the fastest limb moves per radian of its phase."""
        return max(
            s.swing * (math.hypot(s.x - s.pivot_x, s.z - s.pivot_z) + max(s.half_x, s.half_z))
            for s in self.shapes
        )


@dataclass(frozen=True)
class Body:
    """A road user standing still.

    Attributes:
        parts: from rear to front.
        length: metres from front to rear.
        half_width: metres.
        height: metres.
        stride_m: metres covered in a cycle of its limbs; 0 if it has none.
    """

    parts: tuple[Part, ...]
    length: float
    half_width: float
    height: float
    stride_m: float = 0.0


def rigid(
    shapes: Iterable[Shape], length: float, half_width: float, height: float, stride_m: float = 0.0
) -> Body:
    """A body of a single part, with its shadows."""
    shapes = (*shadows(length, half_width, height), *shapes)
    part = Part(shapes, -0.5 * length, 0.5 * length)
    return Body((part,), float(length), half_width, float(height), stride_m)


def shadows(length: float, half_width: float, height: float, strength: float = 0.5) -> list[Shape]:
    """The soft shadow under a body by day, and what it casts in sunshine, seen from two sides."""
    half_x, half_z = 0.5 * length, 0.5 * height
    under: dict[str, Any] = {"effect": SHADOW, "light": strength}
    cast: dict[str, Any] = {"effect": CAST, "corner": min(0.15, 0.3 * half_width)}
    return [
        Shape(TOP, 0.0, 0.0, 0.0, half_x + 0.15, half_width + 0.15, **under),
        Shape(SIDE, 0.0, 0.0, half_z, 0.95 * half_x, half_z, **cast),
        Shape(FRONT, 0.0, 0.0, half_z, 0.95 * half_width, half_z, **cast),
    ]


def bar(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, y: float = 0.0,
    **more: Any,
) -> Shape:  # fmt: skip
    """A rod between two points of the side view."""
    half = 0.5 * math.hypot(x1 - x0, z1 - z0) + 0.5 * width
    x, z, angle = 0.5 * (x0 + x1), 0.5 * (z0 + z1), math.atan2(z1 - z0, x1 - x0)
    return Shape(ROD, y, x, z, half, 0.5 * width, albedo, **{"angle": angle, **more})


def limb(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, y: float, **more: float
) -> Shape:
    """A rod that swings about its first point."""
    return bar(x0, z0, x1, z1, width, albedo, y, pivot_x=x0, pivot_z=z0, **more)


def across(x: float, z: float, half_width: float, width: float, albedo: float) -> Shape:
    """A rod from left to right, such as a handlebar."""
    return Shape(AXLE, 0.0, x, z, half_width + 0.5 * width, 0.5 * width, albedo)


def ball(x: float, z: float, radius: float, albedo: float, y: float = 0.0, **more: Any) -> Shape:
    """A ball, or the glow around a lamp."""
    return Shape(ROD, y, x, z, radius, radius, albedo, **more)


def disc(x: float, z: float, radius: float, albedo: float, **more: Any) -> Shape:
    """A disc, or a ring with ``ring``, in the side view."""
    more = {"plane": SIDE, "offset": 0.0, **more}
    return Shape(x=x, z=z, half_x=radius, half_z=radius, albedo=albedo, corner=radius, **more)


def thin_wheel(
    x: float, radius: float, rim: float, width: float, albedo: float, y: float = 0.0
) -> list[Shape]:
    """A wheel of a bicycle or wheelchair: a tyre, also from ahead, and spokes that turn."""
    turning: dict[str, Any] = {"pivot_x": x, "pivot_z": radius, "roll": 1 / radius}
    spokes = [
        Shape(SIDE, y, x, radius, radius - rim, 0.015, METAL, angle=i * math.pi / 3, **turning)
        for i in range(3)
    ]
    tyre = bar(x, 0.5 * width, x, 2 * radius - 0.5 * width, width, albedo, y)
    return [tyre, *spokes, disc(x, radius, radius, albedo, ring=rim, offset=abs(y))]


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


def tyres(front: float, rear: float, half_width: float, height: float) -> list[Shape]:
    """What is seen of the wheels from ahead and behind: dark feet under the body."""
    return [
        Shape(plane, offset, side * (half_width - 0.15), 0.5 * height, 0.12, 0.5 * height, RUBBER)
        for plane, offset in ((FRONT, front - 0.5), (REAR, rear + 0.5))
        for side in (-1, 1)
    ]


def box(
    x0: float, x1: float, z0: float, z1: float, half_width: float, albedo: float,
    ends: tuple[int, ...] = (REAR, FRONT), taper: float = 0.0, lean: float = 0.0, **more: Any,
) -> list[Shape]:  # fmt: skip
    """A box of a body, lit from above: ends, sides and roof; ``more`` applies to all of them.

    Args:
        x0: rear end at the bottom.
        x1: front end at the bottom.
        z0: bottom.
        z1: roof.
        half_width: half of the width at the bottom.
        albedo: of the sides.
        ends: those that are drawn.
        taper: share of the length that is lost from bottom to roof.
        lean: share of the width that is lost from bottom to roof.
        **more: other fields of the shapes.
    """
    more = {"corner": 0.04, **more}
    x, z, half_x, half_z = 0.5 * (x0 + x1), 0.5 * (z0 + z1), 0.5 * (x1 - x0), 0.5 * (z1 - z0)
    slope, inwards = 0.5 * taper * half_x / half_z, 0.5 * lean * half_width / half_z
    offset = {REAR: x0 + 0.5 * taper * half_x, FRONT: x1 - 0.5 * taper * half_x}
    end: dict[str, Any] = {**more, "taper": lean, "tilt": slope}
    shade = {REAR: 0.6, FRONT: 0.8}
    return [
        *[Shape(e, offset[e], 0, z, half_width, half_z, shade[e] * albedo, **end) for e in ends],
        Shape(
            SIDE, half_width * (1 - 0.5 * lean), x, z, half_x, half_z, albedo,
            **{**more, "taper": taper, "tilt": inwards},
        ),
        Shape(TOP, z1, x, 0, half_x * (1 - taper), half_width * (1 - lean), 1.25 * albedo, **more),
    ]  # fmt: skip


def glass_albedo(paint: float) -> float:
    """Albedo of a vehicle's windows: darker than bright paint, brighter than dark paint."""
    return 0.16 if paint > 0.3 else 0.27


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
    return Shape(plane, offset, x, z, half_x, half_z, albedo, **{"corner": 0.06, **more})


def lamps(front: float, rear: float, half_width: float, z: float) -> list[Shape]:
    """Two headlamps and two tail lamps, their glow, and the beam on the road."""
    shapes = [Shape(TOP, 0.02, front + 4.5, 0.0, 4.5, 1.6, effect=GLOW, light=0.035)]
    for y in (-half_width + 0.25, half_width - 0.25):
        shapes += [
            Shape(FRONT, front, y, z, 0.15, 0.1, 0.85, light=2.0, corner=0.08),
            Shape(FRONT, front, y, z, 0.5, 0.5, effect=GLOW, light=0.5),
            Shape(REAR, rear, y, z + 0.1, 0.13, 0.11, 0.12, light=0.5, corner=0.06),
            Shape(REAR, rear, y, z + 0.1, 0.35, 0.35, effect=GLOW, light=0.12),
        ]
    return [
        *shapes,
        Shape(SIDE, half_width, front - 0.12, z, 0.12, 0.09, 0.85, light=1.2, corner=0.06),
        Shape(SIDE, half_width, front, z, 0.5, 0.4, effect=GLOW, light=0.3),
        Shape(SIDE, half_width, rear + 0.1, z + 0.1, 0.1, 0.1, 0.15, light=0.4, corner=0.06),
        Shape(SIDE, half_width, rear, z + 0.1, 0.3, 0.3, effect=GLOW, light=0.08),
    ]
