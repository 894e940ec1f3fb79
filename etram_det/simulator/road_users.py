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
    Part,
    across,
    ball,
    bar,
    box,
    car_wheels,
    disc,
    glass_albedo,
    lamps,
    limb,
    pane,
    rigid,
    shadows,
    thin_wheel,
    tyres,
    windows,
)
from etram_det.simulator.stage import FRONT, GLOW, REAR, SIDE, TOP, Shape

PEDESTRIAN, CAR, BICYCLE, BUS, MOTORBIKE, TRUCK, TRAM, WHEELCHAIR = range(8)


def _cloth(rng: np.random.Generator) -> float:
    """Albedo of clothes: dark or bright, but not as grey as the road."""
    return float(rng.uniform(0.06, 0.1) if rng.random() < 0.5 else rng.uniform(0.4, 0.65))


def _paintwork(rng: np.random.Generator, bright: float = 0.6) -> float:
    """Albedo of a vehicle's paint, bright with the given probability."""
    return float(rng.uniform(0.38, 0.6) if rng.random() < bright else rng.uniform(0.07, 0.11))


def _trunk(
    hip: tuple[float, float], shoulder: tuple[float, float], half_width: float, shirt: float,
    seed: float,
) -> list[Shape]:  # fmt: skip
    """The two sides of a chest, which is wider from ahead than from the side."""
    cloth: dict[str, Any] = {"grain": 0.3, "grain_seed": seed}
    return [bar(*hip, *shoulder, 0.24, shirt, y, **cloth) for y in (-half_width, half_width)]


def pedestrian(rng: np.random.Generator) -> Body:
    """Upright and narrow, with legs and arms that swing against each other."""
    tall = rng.uniform(1.55, 1.9)
    hip, shoulder, head = 0.5 * tall, 0.82 * tall, 0.065 * tall
    shirt, trousers, arm = _cloth(rng), _cloth(rng), rng.uniform(0.35, 0.5)
    stride, half = rng.uniform(0.38, 0.5), 0.085 * rng.uniform(0.9, 1.3)
    shapes = [
        limb(0, shoulder - 0.05, 0.04, hip - 0.02, 0.09, 0.8 * shirt, -2.4 * half, swing=arm),
        limb(0, hip, 0, 0.06, 0.14, 0.75 * trousers, -half, swing=stride, swing_phase=math.pi),
        limb(0, hip, 0, 0.06, 0.15, trousers, half, swing=stride),
        *_trunk((0, hip + 0.06), (0, shoulder - 0.1), half, shirt, rng.uniform(0, 20)),
        ball(0.02, tall - head, head, rng.choice([SKIN, 0.1])),
        limb(0, shoulder - 0.05, 0.04, hip, 0.09, 0.8 * shirt, 2.4 * half, swing=arm,
             swing_phase=math.pi),
    ]  # fmt: skip
    return rigid(shapes, 0.5, 0.25, tall, rng.uniform(1.2, 1.5))


def _rider(
    hip: tuple[float, float], shoulder: tuple[float, float], hands: tuple[float, float],
    shirt: float, head: float, head_albedo: float,
) -> list[Shape]:  # fmt: skip
    """Trunk, arms and head of a rider or seated person."""
    return [
        *_trunk(hip, shoulder, 0.1, shirt, 1.0),
        *[bar(shoulder[0] + 0.02, shoulder[1] - 0.03, *hands, 0.09, 0.8 * shirt, y)
          for y in (-0.24, 0.24)],
        ball(shoulder[0] + 0.08, shoulder[1] + 0.12 + head, head, head_albedo),
    ]  # fmt: skip


def bicycle(rng: np.random.Generator) -> Body:
    """Two thin wheels far apart, an open frame, and an upright rider who pedals."""
    frame, shirt, trousers = _cloth(rng), _cloth(rng), _cloth(rng)
    hip, hands, pedals = (-0.2, 0.98), (0.42, 1.05), (-0.02, 0.3)
    shapes = [
        limb(*hip, *pedals, 0.13, 0.75 * trousers, -0.1, swing=0.3, swing_phase=math.pi),
        *thin_wheel(-0.54, 0.35, 0.05, 0.05, RUBBER),
        *thin_wheel(0.54, 0.35, 0.05, 0.05, RUBBER),
        bar(-0.54, 0.35, -0.05, 0.32, 0.04, frame),
        bar(-0.05, 0.32, 0.4, 0.85, 0.05, frame),
        bar(-0.05, 0.32, -0.2, 0.92, 0.05, frame),
        bar(-0.18, 0.82, 0.4, 0.88, 0.05, frame),
        bar(0.54, 0.35, 0.38, 1.05, 0.05, frame),
        across(0.4, 1.06, 0.27, 0.05, frame),
        limb(*hip, *pedals, 0.14, trousers, 0.1, swing=0.3),
        *_rider(hip, (0.12, 1.45), hands, shirt, 0.12, rng.choice([SKIN, 0.8])),
        ball(0.5, 0.85, 0.06, 0.7, light=0.9),
        ball(0.5, 0.85, 0.25, 0.0, effect=GLOW, light=0.2),
        ball(-0.6, 0.75, 0.05, 0.3, light=0.4),
    ]
    return rigid(shapes, 1.8, 0.28, 1.8, rng.uniform(4.0, 5.0))


def motorbike(rng: np.random.Generator) -> Body:
    """Two fat wheels, a massive body between them, a rider who leans forward in a helmet."""
    paint, suit, helmet = _paintwork(rng), _cloth(rng), _cloth(rng)
    wheels = [
        shape
        for x in (-0.72, 0.72)
        for shape in (
            bar(x, 0.08, x, 0.56, 0.16, RUBBER),
            disc(x, 0.32, 0.32, RUBBER),
            disc(x, 0.32, 0.16, METAL),
        )
    ]
    shapes = [
        *wheels,
        bar(0.72, 0.32, 0.48, 0.95, 0.1, METAL),
        bar(-0.3, 0.5, 0.3, 0.52, 0.42, 0.3, grain=0.6),
        bar(-0.5, 0.32, 0.2, 0.28, 0.1, 0.7, 0.16),
        bar(-0.5, 0.32, 0.2, 0.28, 0.1, 0.7, -0.16),
        bar(-0.1, 0.8, 0.45, 0.86, 0.34, paint),
        bar(-0.85, 0.86, -0.1, 0.76, 0.2, paint),
        bar(0.45, 0.72, 0.62, 1.12, 0.28, paint),
        across(0.48, 1.04, 0.34, 0.06, METAL),
        *_rider((-0.3, 0.88), (0.05, 1.3), (0.45, 1.02), suit, 0.16, helmet),
        *[bar(-0.28, 0.86, 0.15, 0.66, 0.18, suit, y) for y in (-0.2, 0.2)],
        *[bar(0.15, 0.66, -0.08, 0.3, 0.15, suit, y) for y in (-0.22, 0.22)],
        ball(0.7, 0.95, 0.1, 0.8, light=2.0),
        Shape(FRONT, 0.75, 0, 0.95, 0.5, 0.5, effect=GLOW, light=0.5),
        Shape(TOP, 0.02, 4.0, 0.0, 3.2, 0.9, effect=GLOW, light=0.03),
        ball(-0.92, 0.85, 0.07, 0.3, light=0.5),
    ]
    return rigid(shapes, 2.15, 0.35, 1.75)


def wheelchair(rng: np.random.Generator) -> Body:
    """A seated person between two large wheels, castors in front, arms that push."""
    shirt, trousers, frame = _cloth(rng), _cloth(rng), rng.choice([0.06, 0.7])
    shapes = [
        *thin_wheel(-0.18, 0.31, 0.05, 0.05, RUBBER, -0.3),
        *[bar(-0.32, 0.5, -0.42, 0.98, 0.06, frame, y) for y in (-0.2, 0.2)],
        bar(-0.32, 0.55, -0.38, 0.85, 0.3, frame),
        across(-0.46, 0.97, 0.22, 0.05, frame),
        *_trunk((-0.22, 0.58), (-0.2, 1.05), 0.1, shirt, 2.0),
        ball(-0.15, 1.27, 0.12, rng.choice([SKIN, 0.1])),
        *[bar(-0.2, 0.56, 0.3, 0.58, 0.17, trousers, y) for y in (-0.1, 0.1)],
        *[bar(0.3, 0.56, 0.4, 0.16, 0.13, trousers, y) for y in (-0.1, 0.1)],
        across(0.45, 0.12, 0.18, 0.07, frame),
        *[ball(0.36, 0.09, 0.09, RUBBER, y) for y in (-0.2, 0.2)],
        *thin_wheel(-0.18, 0.31, 0.05, 0.05, RUBBER, 0.3),
        *[limb(-0.18, 1.02, -0.02, 0.62, 0.09, 0.8 * shirt, y, swing=0.5) for y in (-0.25, 0.25)],
    ]
    return rigid(shapes, 1.15, 0.32, 1.4, rng.uniform(1.4, 2.0))


def car(rng: np.random.Generator) -> Body:
    """A low body with a narrower cabin: saloon, hatchback or van."""
    kind = rng.integers(3)
    length = (rng.uniform(4.4, 4.9), rng.uniform(3.7, 4.2), rng.uniform(4.5, 5.0))[kind]
    height = (rng.uniform(1.4, 1.5), rng.uniform(1.45, 1.6), rng.uniform(1.75, 1.95))[kind]
    front, rear, slope = ((0.24, -0.38, 0.38), (0.26, -0.49, 0.3), (0.36, -0.495, 0.18))[kind]
    paint, half, end, belt = _paintwork(rng), 0.9, length / 2, 0.6 * height
    x0, x1, low = rear * length, front * length, belt - 0.03
    glass, lean = glass_albedo(paint), 0.22
    cabin, pane_z, pane_half = x1 - x0, 0.5 * (low + height), 0.38 * (height - low)
    inset = 0.25 * slope * cabin  # of the sloping panes at half their height
    tilt, inwards = 0.5 * slope * cabin / (height - low), lean * half / (height - low) * 0.96
    sloping: dict[str, Any] = {"taper": 0.8 * lean, "tilt": tilt}
    shapes = [
        *tyres(end, -end, half, 0.32),
        *box(-end, end, 0.22, belt, half, paint, lean=0.04),
        Shape(SIDE, half, 0, 0.27, end - 0.1, 0.06, BLACK),
        Shape(FRONT, end, 0, 0.5, 0.55, 0.1, BLACK, corner=0.05),
        Shape(FRONT, end, 0, 0.34, 0.26, 0.06, 0.6),
        Shape(REAR, -end, 0, 0.52, 0.26, 0.06, 0.6),
        Shape(REAR, -end, 0, 0.3, 0.8, 0.08, BLACK),
        *car_wheels((-0.31 * length, 0.31 * length), 0.32, half),
        *lamps(end, -end, half, 0.64),
        *box(x0, x1, low, height, 0.96 * half, paint, taper=slope, lean=lean),
        pane(FRONT, x1 - inset, 0, pane_z, 0.7, pane_half, glass, **sloping),
        pane(REAR, x0 + inset, 0, pane_z, 0.66, pane_half, glass, **sloping),
        pane(SIDE, 0.96 * half * (1 - 0.5 * lean), 0.5 * (x0 + x1), pane_z, 0.44 * cabin,
             pane_half, glass, taper=slope, tilt=0.5 * inwards),
        Shape(SIDE, 0.96 * half * (1 - 0.5 * lean), 0.5 * (x0 + x1), pane_z, 0.05, pane_half,
              paint, tilt=0.5 * inwards),
    ]  # fmt: skip
    return rigid(shapes, length, half, height)


def bus(rng: np.random.Generator) -> Body:
    """A long upright box with a row of windows, doors and two axles."""
    length, height, half = rng.uniform(10.5, 12.5), rng.uniform(2.9, 3.2), 1.25
    paint, end = _paintwork(rng, 0.7), length / 2
    stripe, glass = (0.12 if paint > 0.3 else 0.5), glass_albedo(paint)
    panes = int(rng.integers(6, 9))
    shapes = [
        *tyres(end, -end, half, 0.4),
        *box(-end, end, 0.32, height, half, paint, corner=0.08),
        Shape(SIDE, half, 0, 0.85, end - 0.1, 0.14, stripe),
        Shape(TOP, height, -0.15 * length, 0, 1.4, 0.8, 0.8 * paint, corner=0.1),
        *windows(-end + 0.3, end - 0.3, 1.35, height - 0.55, half, panes, glass),
        pane(SIDE, half, end - 1.1, 1.3, 0.55, 1.0, glass, light=0.7 * LIT),
        pane(SIDE, half, 0, 1.3, 0.55, 1.0, glass, light=0.7 * LIT),
        *car_wheels((-0.27 * length, 0.3 * length), 0.48, half),
        pane(FRONT, end, 0, 1.75, 1.1, 0.65, glass, light=0.3 * LIT),
        pane(FRONT, end, 0, height - 0.25, 0.8, 0.14, 0.65, light=0.5),
        Shape(FRONT, end, 0, 0.5, 1.0, 0.12, BLACK, corner=0.05),
        pane(REAR, -end, 0, 2.1, 0.9, 0.35, glass),
        Shape(REAR, -end, 0, 1.1, 0.8, 0.3, 0.7 * stripe, corner=0.05),
        *lamps(end, -end, half, 0.75),
    ]
    return rigid(shapes, length, half, height)


def truck(rng: np.random.Generator) -> Body:
    """A cab, a gap, and a taller plain cargo box on a dark chassis with three axles."""
    length, height, half = rng.uniform(8.0, 10.0), rng.uniform(3.3, 3.8), 1.25
    cab, cargo, end = _paintwork(rng, 0.5), _paintwork(rng, 0.75), length / 2
    nose, gap = end - 2.0, end - 2.35
    mark, glass = (0.12 if cargo > 0.3 else 0.5), glass_albedo(cab)
    lit = lamps(end, -end, half, 0.8)
    load = [
        *shadows(length, half, height),
        *tyres(end, -end, half, 0.45),
        *box(-end, end - 0.3, 0.5, 1.0, half - 0.2, BLACK),
        *box(-end, gap, 1.0, height, half, cargo),
        Shape(SIDE, half, 0.5 * (gap - end), 0.62 * height, 0.22 * length, 0.3, mark, corner=0.25),
        Shape(REAR, -end, 0, 0.5 * (1 + height), 0.02, 0.5 * (height - 1), BLACK),
        Shape(REAR, -end, 0, 0.6, 1.1, 0.12, 0.3),
        *car_wheels((-0.38 * length, -0.26 * length), 0.5, half),
        *[shape for shape in lit if shape.plane == REAR],
    ]
    cabin = [
        *box(nose, end, 0.45, 2.75, half - 0.05, cab, (REAR, FRONT), taper=0.06),
        pane(SIDE, half - 0.04, end - 0.85, 2.1, 0.55, 0.38, glass),
        pane(FRONT, end - 0.03, 0, 2.05, 1.0, 0.42, glass, tilt=0.03),
        Shape(FRONT, end, 0, 1.15, 0.9, 0.25, BLACK, corner=0.05),
        *car_wheels((end - 1.1,), 0.5, half),
        *[shape for shape in lit if shape.plane != REAR],
    ]
    parts = Part(tuple(load), -end, gap), Part(tuple(cabin), nose, end)
    return Body(parts, float(length), half, float(height))


def tram(rng: np.random.Generator) -> Body:
    """Three jointed cars on rails, low skirts, many large windows, a pantograph on the roof."""
    length, height, half = rng.uniform(15.0, 18.0), 3.3, 1.2
    paint, third = _paintwork(rng, 0.7), length / 3
    stripe, glass, roof = (0.12 if paint > 0.3 else 0.5), glass_albedo(paint), height
    end = third / 2 - 0.2
    parts = []
    for number in (-1, 0, 1):
        shapes = [
            *shadows(third, half, height),
            *(box(end, end + 0.4, 0.3, height - 0.15, half - 0.1, BLACK, ()) if number < 1 else ()),
            *box(-end, end, 0.2, height, half, paint, corner=0.08),
            Shape(SIDE, half, 0, 0.75, end, 0.2, stripe),
            *windows(-end + 0.25, end - 0.25, 1.3, 2.75, half, 3, glass),
        ]
        if number == 1:
            shapes += [
                pane(FRONT, end, 0, 1.95, 1.0, 0.75, glass, light=0.3 * LIT),
                pane(FRONT, end, 0, height - 0.22, 0.6, 0.13, 0.65, light=0.5),
                *[s for s in lamps(end, -end, half, 0.65) if s.plane in (FRONT, TOP)],
            ]
        if number == -1:
            shapes += [
                pane(REAR, -end, 0, 1.95, 1.0, 0.75, glass),
                *[s for s in lamps(end, -end, half, 0.65) if s.plane == REAR],
            ]
        if number == 0:
            shapes += [
                bar(0, roof, 0.7, roof + 0.5, 0.08, BLACK),
                bar(0.7, roof + 0.5, 0, roof + 1.0, 0.08, BLACK),
                across(0, roof + 1.0, 0.6, 0.08, BLACK),
            ]
        parts.append(Part(tuple(shapes), -end, end, number * third))
    return Body(tuple(parts), float(length), half, height)


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
