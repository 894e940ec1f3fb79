"""The bodies of the eight kinds of road user of eTraM, as flat shapes to be drawn.

A body stands with its middle over the origin and heads along ``x``; ``z`` is height, all in metres.
Albedo is 0.07 (black) to 0.65 (white); asphalt has about 0.2, so bodies are drawn darker or
brighter than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.rendering import FRONT, GLOW, REAR, SHADOW, SHAPE, SIDE, SOLID, TOP

PEDESTRIAN, CAR, BICYCLE, BUS, MOTORBIKE, TRUCK, TRAM, WHEELCHAIR = range(8)

_BLACK, _RUBBER, _METAL, _SKIN = 0.07, 0.07, 0.45, 0.4
# Light from inside a bus or tram at night.
_LIT = 0.12


@dataclass(frozen=True)
class Shape:
    """One flat shape of a body; the fields are those of ``rendering.SHAPE``."""

    plane: int
    offset: float
    x: float
    z: float
    half_x: float
    half_z: float
    albedo: float = 0.0
    effect: int = SOLID
    corner: float = 0.0
    taper: float = 0.0
    ring: float = 0.0
    angle: float = 0.0
    pivot_x: float = 0.0
    pivot_z: float = 0.0
    swing: float = 0.0
    swing_phase: float = 0.0
    roll: float = 0.0
    grain: float = 0.0
    grain_seed: float = 0.0
    light: float = 0.0


@dataclass(frozen=True)
class Body:
    """A road user standing still.

    Attributes:
        shapes: in the order of painting.
        length: metres from front to rear.
        cadence_hz: how often limbs swing to and fro in a second.
    """

    shapes: tuple[Shape, ...]
    length: float
    cadence_hz: float = 0.0

    def table(self, night: bool) -> NDArray[Any]:
        """The shapes as ``rendering.SHAPE``: by day without glow, at night without shadow."""
        shapes = [s for s in self.shapes if s.effect != (SHADOW if night else GLOW)]
        table = np.zeros(len(shapes), SHAPE)
        for row, shape in zip(table, shapes, strict=True):
            for field in fields(Shape):
                row[field.name] = getattr(shape, field.name)
        return table

    @property
    def limb_speed(self) -> float:
        """Metres a second of the fastest limb, relative to the body."""
        reach = max(
            s.swing * (math.hypot(s.x - s.pivot_x, s.z - s.pivot_z) + max(s.half_x, s.half_z))
            for s in self.shapes
        )
        return 2 * math.pi * self.cadence_hz * reach


def _bar(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, **more: Any
) -> Shape:
    """A bar with round ends between two points of the side view."""
    half = 0.5 * math.hypot(x1 - x0, z1 - z0) + 0.5 * width
    x, z, angle = 0.5 * (x0 + x1), 0.5 * (z0 + z1), math.atan2(z1 - z0, x1 - x0)
    more = {"corner": 0.5 * width, "angle": angle, **more}
    return Shape(SIDE, 0.0, x, z, half, 0.5 * width, albedo, **more)


def _limb(
    x0: float, z0: float, x1: float, z1: float, width: float, albedo: float, **more: float
) -> Shape:
    """A bar that swings about its first point."""
    return _bar(x0, z0, x1, z1, width, albedo, pivot_x=x0, pivot_z=z0, **more)


def _disc(x: float, z: float, radius: float, albedo: float, **more: Any) -> Shape:
    """A disc, or a ring with ``ring``, in the side view."""
    more = {"plane": SIDE, "offset": 0.0, **more}
    return Shape(x=x, z=z, half_x=radius, half_z=radius, albedo=albedo, corner=radius, **more)


def _spoked_wheel(x: float, radius: float, rim: float, albedo: float) -> list[Shape]:
    """A wheel of a bicycle or wheelchair: a tyre, and spokes that turn as it rolls."""
    turning = {"pivot_x": x, "pivot_z": radius, "roll": 1 / radius}
    spokes = [
        Shape(SIDE, 0.0, x, radius, radius - rim, 0.015, _METAL, angle=i * math.pi / 3, **turning)
        for i in range(3)
    ]
    return [*spokes, _disc(x, radius, radius, albedo, ring=rim)]


def _car_wheels(xs: Sequence[float], radius: float, offset: float) -> list[Shape]:
    """Wheels of a motor vehicle: dark tyre, bright rim, a dark bar that turns as it rolls."""
    wheels = []
    for x in xs:
        turning = {"pivot_x": x, "pivot_z": radius, "roll": 1 / radius}
        wheels += [
            _disc(x, radius, radius, _RUBBER, offset=offset),
            _disc(x, radius, 0.58 * radius, _METAL, offset=offset),
            Shape(SIDE, offset, x, radius, 0.5 * radius, 0.1 * radius, _BLACK, **turning),
        ]
    return wheels


def _box(
    x0: float, x1: float, z0: float, z1: float, half_width: float, albedo: float,
    ends: tuple[int, ...] = (REAR, FRONT), **more: Any,
) -> list[Shape]:  # fmt: skip
    """A box of a body, lit from above: ends, sides and roof; ``more`` goes to all of them."""
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


def _glass(paint: float) -> float:
    """Albedo of the windows of a vehicle: dark in bright paint, shining in dark paint."""
    return 0.18 if paint > 0.3 else 0.27


def _windows(
    x0: float, x1: float, z0: float, z1: float, offset: float, number: int, albedo: float
) -> list[Shape]:
    """A row of panes along the sides, with pillars between them, lit at night."""
    pitch, z, half_z = (x1 - x0) / number, 0.5 * (z0 + z1), 0.5 * (z1 - z0)
    pane = {"corner": 0.08, "light": _LIT}
    return [
        Shape(SIDE, offset, x0 + (i + 0.5) * pitch, z, 0.42 * pitch, half_z, albedo, **pane)
        for i in range(number)
    ]


def _pane(
    plane: int, offset: float, x: float, z: float, half_x: float, half_z: float, albedo: float,
    **more: float,
) -> Shape:  # fmt: skip
    """A single window."""
    return Shape(plane, offset, x, z, half_x, half_z, albedo, **{"corner": 0.08, **more})


def _lamps(front: float, rear: float, half_width: float, z: float) -> list[Shape]:
    """Two headlamps and two tail lamps with their glow, and the beam on the road."""
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


def _shadow(length: float, half_width: float, strength: float = 0.5) -> Shape:
    """The soft shadow below a body by day."""
    half_x = 0.5 * length + 0.15
    return Shape(TOP, 0.0, 0.0, 0.0, half_x, half_width + 0.15, effect=SHADOW, light=strength)


def _cloth(rng: np.random.Generator) -> float:
    """Albedo of clothes: dark or bright, seldom as grey as the road."""
    return float(rng.uniform(0.06, 0.1) if rng.random() < 0.5 else rng.uniform(0.4, 0.65))


def _paintwork(rng: np.random.Generator, bright: float = 0.6) -> float:
    """Albedo of a vehicle's paint, bright with the given probability."""
    return float(rng.uniform(0.38, 0.6) if rng.random() < bright else rng.uniform(0.07, 0.11))


def pedestrian(rng: np.random.Generator) -> Body:
    """Upright and narrow, with legs and arms that swing against each other."""
    tall = rng.uniform(1.55, 1.9)
    hip, shoulder, head = 0.5 * tall, 0.82 * tall, 0.065 * tall
    shirt, trousers, arm = _cloth(rng), _cloth(rng), rng.uniform(0.35, 0.5)
    stride = rng.uniform(0.38, 0.5)
    chest = {"corner": 0.12, "grain": 0.3, "grain_seed": rng.uniform(0, 20), "taper": -0.15}
    shapes = [
        _shadow(0.6, 0.2, 0.3),
        _limb(0, shoulder - 0.06, 0.05, hip - 0.02, 0.1, 0.8 * shirt, swing=arm),
        _limb(0, hip, 0, 0.06, 0.15, 0.7 * trousers, swing=stride, swing_phase=math.pi),
        _limb(0, hip, 0, 0.06, 0.16, trousers, swing=stride),
        Shape(SIDE, 0, 0, 0.5 * (hip + shoulder) - 0.03, 0.16, 0.19 * tall, shirt, **chest),
        _disc(0.03, tall - head, head, rng.choice([_SKIN, 0.1])),
        _limb(0, shoulder - 0.06, 0.05, hip, 0.1, 0.8 * shirt, swing=arm, swing_phase=math.pi),
    ]
    return Body(tuple(shapes), 0.9, rng.uniform(0.85, 1.1))


def _rider(
    hip: tuple[float, float], shoulder: tuple[float, float], hands: tuple[float, float],
    shirt: float, head: float, head_albedo: float,
) -> list[Shape]:  # fmt: skip
    """Trunk, arm and head of somebody who rides or sits."""
    return [
        _bar(*hip, *shoulder, 0.3, shirt, grain=0.3),
        _bar(shoulder[0] + 0.02, shoulder[1] - 0.03, *hands, 0.1, 0.8 * shirt),
        _disc(shoulder[0] + 0.08, shoulder[1] + 0.12 + head, head, head_albedo),
    ]


def bicycle(rng: np.random.Generator) -> Body:
    """Two thin wheels far apart, an open frame, and an upright rider who pedals."""
    frame, shirt, trousers = _cloth(rng), _cloth(rng), _cloth(rng)
    hip, hands, pedals = (-0.2, 0.98), (0.42, 1.05), (-0.02, 0.3)
    shapes = [
        _shadow(1.7, 0.15, 0.3),
        _limb(*hip, *pedals, 0.13, 0.7 * trousers, swing=0.3, swing_phase=math.pi),
        *_spoked_wheel(-0.54, 0.35, 0.05, _RUBBER),
        *_spoked_wheel(0.54, 0.35, 0.05, _RUBBER),
        _bar(-0.54, 0.35, -0.05, 0.32, 0.04, frame),
        _bar(-0.05, 0.32, 0.4, 0.85, 0.05, frame),
        _bar(-0.05, 0.32, -0.2, 0.92, 0.05, frame),
        _bar(-0.18, 0.82, 0.4, 0.88, 0.05, frame),
        _bar(0.54, 0.35, 0.38, 1.05, 0.05, frame),
        _limb(*hip, *pedals, 0.14, trousers, swing=0.3),
        *_rider(hip, (0.12, 1.45), hands, shirt, 0.12, rng.choice([_SKIN, 0.8])),
        _disc(0.5, 0.85, 0.05, 0.7, light=0.9),
        _disc(0.5, 0.85, 0.25, 0.0, effect=GLOW, light=0.2),
        _disc(-0.6, 0.75, 0.04, 0.4, light=0.4),
    ]
    return Body(tuple(shapes), 1.8, rng.uniform(0.9, 1.3))


def motorbike(rng: np.random.Generator) -> Body:
    """Two fat wheels, a massive body between them, a rider who leans forward in a helmet."""
    paint, suit, helmet = _paintwork(rng), _cloth(rng), _cloth(rng)
    shapes = [
        _shadow(2.1, 0.3, 0.45),
        _disc(-0.72, 0.32, 0.32, _RUBBER),
        _disc(0.72, 0.32, 0.32, _RUBBER),
        _disc(-0.72, 0.32, 0.16, _METAL),
        _disc(0.72, 0.32, 0.16, _METAL),
        _bar(0.72, 0.32, 0.48, 0.95, 0.1, _METAL),
        Shape(SIDE, 0, 0.0, 0.5, 0.42, 0.24, 0.3, corner=0.12, grain=0.6),
        _bar(-0.5, 0.32, 0.2, 0.28, 0.1, 0.7),
        Shape(SIDE, 0, 0.18, 0.83, 0.36, 0.16, paint, corner=0.14, angle=0.12),
        _bar(-0.85, 0.86, -0.1, 0.76, 0.18, paint),
        _bar(0.45, 0.72, 0.62, 1.12, 0.2, paint),
        *_rider((-0.3, 0.88), (0.05, 1.3), (0.45, 1.02), suit, 0.16, helmet),
        _bar(-0.28, 0.86, 0.15, 0.66, 0.2, suit),
        _bar(0.15, 0.66, -0.08, 0.3, 0.16, suit),
        _disc(0.68, 0.95, 0.09, 0.8, light=2.0),
        _disc(0.72, 0.95, 0.45, 0.0, effect=GLOW, light=0.4),
        Shape(TOP, 0.02, 4.0, 0.0, 3.2, 0.9, effect=GLOW, light=0.03),
        _disc(-0.92, 0.85, 0.06, 0.4, light=0.5),
    ]
    return Body(tuple(shapes), 2.15)


def wheelchair(rng: np.random.Generator) -> Body:
    """A seated figure over one large wheel, a castor in front, arms that push."""
    shirt, trousers, frame = _cloth(rng), _cloth(rng), rng.choice([0.06, 0.7])
    shapes = [
        _shadow(1.0, 0.3, 0.4),
        _bar(-0.32, 0.5, -0.42, 0.98, 0.07, frame),
        _bar(-0.42, 0.96, -0.55, 0.98, 0.05, frame),
        _bar(-0.22, 0.58, -0.2, 1.05, 0.32, shirt, grain=0.3),
        _disc(-0.15, 1.27, 0.12, rng.choice([_SKIN, 0.1])),
        _bar(-0.2, 0.56, 0.3, 0.58, 0.18, trousers),
        _bar(0.3, 0.56, 0.4, 0.16, 0.15, trousers),
        _bar(0.38, 0.12, 0.56, 0.12, 0.08, frame),
        _disc(0.4, 0.09, 0.09, _RUBBER),
        *_spoked_wheel(-0.18, 0.33, 0.06, _RUBBER),
        _limb(-0.18, 1.02, -0.02, 0.6, 0.1, 0.8 * shirt, swing=0.5),
    ]
    return Body(tuple(shapes), 1.15, rng.uniform(0.6, 0.9))


def car(rng: np.random.Generator) -> Body:
    """A low body with a narrower cabin: saloon, hatchback or van."""
    kind = rng.integers(3)
    length = (rng.uniform(4.4, 4.9), rng.uniform(3.7, 4.2), rng.uniform(4.5, 5.0))[kind]
    height = (rng.uniform(1.4, 1.5), rng.uniform(1.45, 1.6), rng.uniform(1.75, 1.95))[kind]
    front, rear, slope = ((0.22, -0.36, 0.34), (0.24, -0.47, 0.26), (0.32, -0.49, 0.16))[kind]
    paint, half, end, belt = _paintwork(rng), 0.9, length / 2, 0.58 * height
    x0, x1, pane_z, glass = rear * length, front * length, 0.5 * (belt + height), _glass(paint)
    cabin, pane_half = x1 - x0, 0.38 * (height - belt)
    shapes = [
        _shadow(length, half),
        *_box(-end, end, 0.25, belt, half, paint, corner=0.16, grain_seed=rng.uniform(0, 20)),
        Shape(SIDE, half, 0, 0.3, end - 0.1, 0.06, _BLACK),
        *_car_wheels((-0.31 * length, 0.31 * length), 0.32, half),
        *_lamps(end, -end, half, 0.62),
        *_box(x0, x1, belt - 0.06, height, 0.75, paint, taper=slope, corner=0.12),
        _pane(FRONT, x1 - 0.25 * slope * cabin, 0, pane_z, 0.6, pane_half, glass, taper=slope),
        _pane(REAR, x0 + 0.25 * slope * cabin, 0, pane_z, 0.6, pane_half, glass, taper=slope),
        _pane(SIDE, 0.76, 0.5 * (x0 + x1), pane_z, 0.43 * cabin, pane_half, glass, taper=slope),
        Shape(SIDE, 0.77, 0.5 * (x0 + x1), pane_z, 0.06, pane_half, paint),
    ]
    return Body(tuple(shapes), float(length))


def bus(rng: np.random.Generator) -> Body:
    """A long upright box with a row of windows, doors and two axles."""
    length, height, half = rng.uniform(10.5, 12.5), rng.uniform(2.9, 3.2), 1.25
    paint, end = _paintwork(rng, 0.7), length / 2
    stripe, glass, panes = (0.12 if paint > 0.3 else 0.5), _glass(paint), int(rng.integers(6, 9))
    shapes = [
        _shadow(length, half),
        *_box(-end, end, 0.32, height, half, paint, corner=0.22, grain_seed=rng.uniform(0, 20)),
        Shape(SIDE, half, 0, 0.85, end - 0.1, 0.14, stripe),
        *_windows(-end + 0.3, end - 0.3, 1.35, height - 0.55, half, panes, glass),
        _pane(SIDE, half, end - 1.1, 1.3, 0.55, 1.0, glass, light=0.7 * _LIT),
        _pane(SIDE, half, 0, 1.3, 0.55, 1.0, glass, light=0.7 * _LIT),
        *_car_wheels((-0.27 * length, 0.3 * length), 0.48, half),
        _pane(FRONT, end, 0, 1.75, 1.1, 0.65, glass, light=0.3 * _LIT),
        _pane(FRONT, end, 0, height - 0.25, 0.8, 0.14, 0.65, light=0.5),
        _pane(REAR, -end, 0, 2.1, 0.9, 0.35, glass),
        *_lamps(end, -end, half, 0.7),
    ]
    return Body(tuple(shapes), float(length))


def truck(rng: np.random.Generator) -> Body:
    """A cab, a gap, and a taller plain cargo box on a dark chassis with three axles."""
    length, height, half = rng.uniform(8.0, 10.0), rng.uniform(3.3, 3.8), 1.25
    cab, cargo, end = _paintwork(rng, 0.5), _paintwork(rng, 0.75), length / 2
    nose, gap, seed = end - 2.0, end - 2.35, rng.uniform(0, 20)
    mark, glass = (0.12 if cargo > 0.3 else 0.5), _glass(cab)
    shapes = [
        _shadow(length, half),
        *_box(-end, end - 0.3, 0.55, 1.0, half - 0.2, _BLACK, grain=0.0),
        *_box(-end, gap, 1.0, height, half, cargo, corner=0.05, grain_seed=seed),
        Shape(SIDE, half, 0.5 * (gap - end), 0.62 * height, 0.22 * length, 0.3, mark, corner=0.25),
        *_box(nose, end, 0.45, 2.75, half - 0.05, cab, (FRONT,), corner=0.2, grain_seed=seed),
        _pane(SIDE, half - 0.04, end - 0.85, 2.1, 0.55, 0.38, glass),
        _pane(FRONT, end, 0, 2.05, 1.0, 0.42, glass),
        *_car_wheels((-0.38 * length, -0.26 * length, end - 1.1), 0.5, half),
        *_lamps(end, -end, half, 0.8),
    ]
    return Body(tuple(shapes), float(length))


def tram(rng: np.random.Generator) -> Body:
    """Three jointed cars on rails, low skirts, many large windows, a pantograph on the roof."""
    length, height, half = rng.uniform(15.0, 18.0), 3.4, 1.2
    paint, end, seed = _paintwork(rng, 0.7), length / 2, rng.uniform(0, 20)
    stripe, glass, roof = (0.12 if paint > 0.3 else 0.5), _glass(paint), height
    front, rear = end - 0.25, -end + 0.25
    shapes = [_shadow(length, half)]
    for part, ends in enumerate(((REAR,), (), (FRONT,))):
        x0, x1 = -end + part * length / 3 + 0.25, -end + (part + 1) * length / 3 - 0.25
        shapes += [
            *_box(x0, x1, 0.2, height, half, paint, ends, grain_seed=seed),
            Shape(SIDE, half, 0.5 * (x0 + x1), 0.75, 0.5 * (x1 - x0), 0.2, stripe),
            *_windows(x0 + 0.25, x1 - 0.25, 1.3, 2.75, half, 4, glass),
        ]
        if part < 2:
            shapes += _box(x1, x1 + 0.5, 0.3, height - 0.15, half - 0.1, _BLACK, (), corner=0.0)
    shapes += [
        _pane(FRONT, front, 0, 1.95, 1.0, 0.75, glass, light=0.3 * _LIT),
        _pane(FRONT, front, 0, height - 0.22, 0.6, 0.13, 0.65, light=0.5),
        _pane(REAR, rear, 0, 1.95, 1.0, 0.75, glass),
        *_lamps(front, rear, half, 0.65),
        _bar(0, roof, 0.7, roof + 0.55, 0.08, _BLACK),
        _bar(0.7, roof + 0.55, 0, roof + 1.1, 0.08, _BLACK),
        _bar(-0.5, roof + 1.1, 0.5, roof + 1.1, 0.08, _BLACK),
    ]
    return Body(tuple(shapes), float(length))


# By class id.
BODIES: tuple[Callable[[np.random.Generator], Body], ...] = (
    pedestrian,
    car,
    bicycle,
    bus,
    motorbike,
    truck,
    tram,
    wheelchair,
)
