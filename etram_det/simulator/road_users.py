"""The bodies of the eight classes of road users of eTraM.

Sizes are real ones, in metres. Classes differ by their silhouette and by what moves within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from etram_det.simulator.body import (
    BLACK,
    LIT,
    METAL,
    RUBBER,
    SKIN,
    Body,
    bar,
    box,
    car_wheels,
    disc,
    glass_albedo,
    lamps,
    limb,
    pane,
    shadow,
    spoked_wheel,
    windows,
)
from etram_det.simulator.projection import FRONT, GLOW, REAR, SIDE, TOP, Shape

PEDESTRIAN, CAR, BICYCLE, BUS, MOTORBIKE, TRUCK, TRAM, WHEELCHAIR = range(8)


def _cloth(rng: np.random.Generator) -> float:
    """Albedo of clothes: dark or bright, but not as grey as the road."""
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
    chest: dict[str, Any] = {"corner": 0.12, "grain": 0.3, "grain_seed": rng.uniform(0, 20)}
    shapes = [
        shadow(0.6, 0.2, 0.3),
        limb(0, shoulder - 0.06, 0.05, hip - 0.02, 0.1, 0.8 * shirt, swing=arm),
        limb(0, hip, 0, 0.06, 0.15, 0.7 * trousers, swing=stride, swing_phase=math.pi),
        limb(0, hip, 0, 0.06, 0.16, trousers, swing=stride),
        Shape(SIDE, 0, 0, 0.5 * (hip + shoulder) - 0.03, 0.16, 0.19 * tall, shirt, **chest),
        disc(0.03, tall - head, head, rng.choice([SKIN, 0.1])),
        limb(0, shoulder - 0.06, 0.05, hip, 0.1, 0.8 * shirt, swing=arm, swing_phase=math.pi),
    ]
    return Body(tuple(shapes), 0.9, rng.uniform(0.85, 1.1))


def _rider(
    hip: tuple[float, float], shoulder: tuple[float, float], hands: tuple[float, float],
    shirt: float, head: float, head_albedo: float,
) -> list[Shape]:  # fmt: skip
    """Trunk, arm and head of a rider or seated person."""
    return [
        bar(*hip, *shoulder, 0.3, shirt, grain=0.3),
        bar(shoulder[0] + 0.02, shoulder[1] - 0.03, *hands, 0.1, 0.8 * shirt),
        disc(shoulder[0] + 0.08, shoulder[1] + 0.12 + head, head, head_albedo),
    ]


def bicycle(rng: np.random.Generator) -> Body:
    """Two thin wheels far apart, an open frame, and an upright rider who pedals."""
    frame, shirt, trousers = _cloth(rng), _cloth(rng), _cloth(rng)
    hip, hands, pedals = (-0.2, 0.98), (0.42, 1.05), (-0.02, 0.3)
    shapes = [
        shadow(1.7, 0.15, 0.3),
        limb(*hip, *pedals, 0.13, 0.7 * trousers, swing=0.3, swing_phase=math.pi),
        *spoked_wheel(-0.54, 0.35, 0.05, RUBBER),
        *spoked_wheel(0.54, 0.35, 0.05, RUBBER),
        bar(-0.54, 0.35, -0.05, 0.32, 0.04, frame),
        bar(-0.05, 0.32, 0.4, 0.85, 0.05, frame),
        bar(-0.05, 0.32, -0.2, 0.92, 0.05, frame),
        bar(-0.18, 0.82, 0.4, 0.88, 0.05, frame),
        bar(0.54, 0.35, 0.38, 1.05, 0.05, frame),
        limb(*hip, *pedals, 0.14, trousers, swing=0.3),
        *_rider(hip, (0.12, 1.45), hands, shirt, 0.12, rng.choice([SKIN, 0.8])),
        disc(0.5, 0.85, 0.05, 0.7, light=0.9),
        disc(0.5, 0.85, 0.25, 0.0, effect=GLOW, light=0.2),
        disc(-0.6, 0.75, 0.04, 0.4, light=0.4),
    ]
    return Body(tuple(shapes), 1.8, rng.uniform(0.9, 1.3))


def motorbike(rng: np.random.Generator) -> Body:
    """Two fat wheels, a massive body between them, a rider who leans forward in a helmet."""
    paint, suit, helmet = _paintwork(rng), _cloth(rng), _cloth(rng)
    shapes = [
        shadow(2.1, 0.3, 0.45),
        disc(-0.72, 0.32, 0.32, RUBBER),
        disc(0.72, 0.32, 0.32, RUBBER),
        disc(-0.72, 0.32, 0.16, METAL),
        disc(0.72, 0.32, 0.16, METAL),
        bar(0.72, 0.32, 0.48, 0.95, 0.1, METAL),
        Shape(SIDE, 0, 0.0, 0.5, 0.42, 0.24, 0.3, corner=0.12, grain=0.6),
        bar(-0.5, 0.32, 0.2, 0.28, 0.1, 0.7),
        Shape(SIDE, 0, 0.18, 0.83, 0.36, 0.16, paint, corner=0.14, angle=0.12),
        bar(-0.85, 0.86, -0.1, 0.76, 0.18, paint),
        bar(0.45, 0.72, 0.62, 1.12, 0.2, paint),
        *_rider((-0.3, 0.88), (0.05, 1.3), (0.45, 1.02), suit, 0.16, helmet),
        bar(-0.28, 0.86, 0.15, 0.66, 0.2, suit),
        bar(0.15, 0.66, -0.08, 0.3, 0.16, suit),
        disc(0.68, 0.95, 0.09, 0.8, light=2.0),
        disc(0.72, 0.95, 0.45, 0.0, effect=GLOW, light=0.4),
        Shape(TOP, 0.02, 4.0, 0.0, 3.2, 0.9, effect=GLOW, light=0.03),
        disc(-0.92, 0.85, 0.06, 0.4, light=0.5),
    ]
    return Body(tuple(shapes), 2.15)


def wheelchair(rng: np.random.Generator) -> Body:
    """A seated person over one large wheel, a castor in front, arms that push."""
    shirt, trousers, frame = _cloth(rng), _cloth(rng), rng.choice([0.06, 0.7])
    shapes = [
        shadow(1.0, 0.3, 0.4),
        bar(-0.32, 0.5, -0.42, 0.98, 0.07, frame),
        bar(-0.42, 0.96, -0.55, 0.98, 0.05, frame),
        bar(-0.22, 0.58, -0.2, 1.05, 0.32, shirt, grain=0.3),
        disc(-0.15, 1.27, 0.12, rng.choice([SKIN, 0.1])),
        bar(-0.2, 0.56, 0.3, 0.58, 0.18, trousers),
        bar(0.3, 0.56, 0.4, 0.16, 0.15, trousers),
        bar(0.38, 0.12, 0.56, 0.12, 0.08, frame),
        disc(0.4, 0.09, 0.09, RUBBER),
        *spoked_wheel(-0.18, 0.33, 0.06, RUBBER),
        limb(-0.18, 1.02, -0.02, 0.6, 0.1, 0.8 * shirt, swing=0.5),
    ]
    return Body(tuple(shapes), 1.15, rng.uniform(0.6, 0.9))


def car(rng: np.random.Generator) -> Body:
    """A low body with a narrower cabin: saloon, hatchback or van."""
    kind = rng.integers(3)
    length = (rng.uniform(4.4, 4.9), rng.uniform(3.7, 4.2), rng.uniform(4.5, 5.0))[kind]
    height = (rng.uniform(1.4, 1.5), rng.uniform(1.45, 1.6), rng.uniform(1.75, 1.95))[kind]
    front, rear, slope = ((0.22, -0.36, 0.34), (0.24, -0.47, 0.26), (0.32, -0.49, 0.16))[kind]
    paint, half, end, belt = _paintwork(rng), 0.9, length / 2, 0.58 * height
    x0, x1 = rear * length, front * length
    pane_z, glass = 0.5 * (belt + height), glass_albedo(paint)
    cabin, pane_half = x1 - x0, 0.38 * (height - belt)
    shapes = [
        shadow(length, half),
        *box(-end, end, 0.25, belt, half, paint, corner=0.16, grain_seed=rng.uniform(0, 20)),
        Shape(SIDE, half, 0, 0.3, end - 0.1, 0.06, BLACK),
        *car_wheels((-0.31 * length, 0.31 * length), 0.32, half),
        *lamps(end, -end, half, 0.62),
        *box(x0, x1, belt - 0.06, height, 0.75, paint, taper=slope, corner=0.12),
        pane(FRONT, x1 - 0.25 * slope * cabin, 0, pane_z, 0.6, pane_half, glass, taper=slope),
        pane(REAR, x0 + 0.25 * slope * cabin, 0, pane_z, 0.6, pane_half, glass, taper=slope),
        pane(SIDE, 0.76, 0.5 * (x0 + x1), pane_z, 0.43 * cabin, pane_half, glass, taper=slope),
        Shape(SIDE, 0.77, 0.5 * (x0 + x1), pane_z, 0.06, pane_half, paint),
    ]
    return Body(tuple(shapes), float(length))


def bus(rng: np.random.Generator) -> Body:
    """A long upright box with a row of windows, doors and two axles."""
    length, height, half = rng.uniform(10.5, 12.5), rng.uniform(2.9, 3.2), 1.25
    paint, end = _paintwork(rng, 0.7), length / 2
    stripe, glass = (0.12 if paint > 0.3 else 0.5), glass_albedo(paint)
    panes = int(rng.integers(6, 9))
    shapes = [
        shadow(length, half),
        *box(-end, end, 0.32, height, half, paint, corner=0.22, grain_seed=rng.uniform(0, 20)),
        Shape(SIDE, half, 0, 0.85, end - 0.1, 0.14, stripe),
        *windows(-end + 0.3, end - 0.3, 1.35, height - 0.55, half, panes, glass),
        pane(SIDE, half, end - 1.1, 1.3, 0.55, 1.0, glass, light=0.7 * LIT),
        pane(SIDE, half, 0, 1.3, 0.55, 1.0, glass, light=0.7 * LIT),
        *car_wheels((-0.27 * length, 0.3 * length), 0.48, half),
        pane(FRONT, end, 0, 1.75, 1.1, 0.65, glass, light=0.3 * LIT),
        pane(FRONT, end, 0, height - 0.25, 0.8, 0.14, 0.65, light=0.5),
        pane(REAR, -end, 0, 2.1, 0.9, 0.35, glass),
        *lamps(end, -end, half, 0.7),
    ]
    return Body(tuple(shapes), float(length))


def truck(rng: np.random.Generator) -> Body:
    """A cab, a gap, and a taller plain cargo box on a dark chassis with three axles."""
    length, height, half = rng.uniform(8.0, 10.0), rng.uniform(3.3, 3.8), 1.25
    cab, cargo, end = _paintwork(rng, 0.5), _paintwork(rng, 0.75), length / 2
    nose, gap, seed = end - 2.0, end - 2.35, rng.uniform(0, 20)
    mark, glass = (0.12 if cargo > 0.3 else 0.5), glass_albedo(cab)
    shapes = [
        shadow(length, half),
        *box(-end, end - 0.3, 0.55, 1.0, half - 0.2, BLACK, grain=0.0),
        *box(-end, gap, 1.0, height, half, cargo, corner=0.05, grain_seed=seed),
        Shape(SIDE, half, 0.5 * (gap - end), 0.62 * height, 0.22 * length, 0.3, mark, corner=0.25),
        *box(nose, end, 0.45, 2.75, half - 0.05, cab, (FRONT,), corner=0.2, grain_seed=seed),
        pane(SIDE, half - 0.04, end - 0.85, 2.1, 0.55, 0.38, glass),
        pane(FRONT, end, 0, 2.05, 1.0, 0.42, glass),
        *car_wheels((-0.38 * length, -0.26 * length, end - 1.1), 0.5, half),
        *lamps(end, -end, half, 0.8),
    ]
    return Body(tuple(shapes), float(length))


def tram(rng: np.random.Generator) -> Body:
    """Three jointed cars on rails, low skirts, many large windows, a pantograph on the roof."""
    length, height, half = rng.uniform(15.0, 18.0), 3.4, 1.2
    paint, end, seed = _paintwork(rng, 0.7), length / 2, rng.uniform(0, 20)
    stripe, glass, roof = (0.12 if paint > 0.3 else 0.5), glass_albedo(paint), height
    front, rear = end - 0.25, -end + 0.25
    shapes = [shadow(length, half)]
    for part, ends in enumerate(((REAR,), (), (FRONT,))):
        x0, x1 = -end + part * length / 3 + 0.25, -end + (part + 1) * length / 3 - 0.25
        shapes += [
            *box(x0, x1, 0.2, height, half, paint, ends, grain_seed=seed),
            Shape(SIDE, half, 0.5 * (x0 + x1), 0.75, 0.5 * (x1 - x0), 0.2, stripe),
            *windows(x0 + 0.25, x1 - 0.25, 1.3, 2.75, half, 3, glass),
        ]
        if part < 2:
            shapes += box(x1, x1 + 0.5, 0.3, height - 0.15, half - 0.1, BLACK, (), corner=0.0)
    shapes += [
        pane(FRONT, front, 0, 1.95, 1.0, 0.75, glass, light=0.3 * LIT),
        pane(FRONT, front, 0, height - 0.22, 0.6, 0.13, 0.65, light=0.5),
        pane(REAR, rear, 0, 1.95, 1.0, 0.75, glass),
        *lamps(front, rear, half, 0.65),
        bar(0, roof, 0.7, roof + 0.55, 0.08, BLACK),
        bar(0.7, roof + 0.55, 0, roof + 1.1, 0.08, BLACK),
        bar(-0.5, roof + 1.1, 0.5, roof + 1.1, 0.08, BLACK),
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
