"""The places that the camera sees: junction, street, bend, crossing and tram stop.

A place lies around its own origin; its main road goes along ``x``, with traffic on the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from etram_det.simulator.routes import (
    CYCLE,
    HALT,
    RAIL,
    ROAD,
    SIGNAL,
    WALK,
    Array,
    Crossing,
    Gate,
    Route,
    along,
    crossing_gates,
)
from etram_det.simulator.streets import (
    FOOTWAY_M,
    LANE_M,
    RAILS_M,
    Place,
    Street,
    Strip,
    Wall,
    add_stripes,
)

_REACH_M = 110.0  # from the origin to the ends of the roads
_STOP_M = 5.0  # from a junction's carriageway to its stop lines
PLACES = ("junction", "street", "bend", "crossing", "tram_stop")


def _straight() -> Array:
    x = np.arange(-_REACH_M, _REACH_M + 1)
    return np.stack([x, np.zeros_like(x)], 1)


def _junction(rng: np.random.Generator, rails: bool) -> Place:
    """A main road, a side road, and traffic lights for both."""
    place, c, out = Place(signals=True), LANE_M, _REACH_M
    street = Street(rng, _straight(), rails, False)
    kerb, lane, half = street.kerb, street.lanes[0], 0.5 * LANE_M
    walk, stop, near = 0.5 * FOOTWAY_M, c + _STOP_M, c + 1.5
    place.strips.append(_rectangle(-c - FOOTWAY_M, c + FOOTWAY_M, -out, out, 0.34))
    street.fill(place, [(0, out - stop), (out + stop, 2 * out)])
    place.strips.append(_rectangle(-c, c, -out, out, 0.21))
    for low, high in ((-out, -kerb - _STOP_M), (kerb + _STOP_M, out)):
        place.strips += [
            _rectangle(-0.07, 0.07, y, y + 3, 0.55) for y in np.arange(low, high - 3, 7)
        ]
    place.walls = [wall for wall in place.walls if _clear_of_side_road(wall, c + FOOTWAY_M + 0.5)]
    for side in (-1, 1):
        for sign in (-1, 1):
            x = side * (c + FOOTWAY_M + 1)
            y0, y1 = sign * street.wall, sign * (street.wall + rng.uniform(12, 30))
            place.walls.append(Wall((x, y0), (x, y1), rng.uniform(6, 14), rng.uniform(0.15, 0.55)))
        place.crossings += [
            Crossing(side * (c + walk), 0.0, math.pi / 2, kerb, signal=1),
            Crossing(0.0, side * (kerb + walk), 0.0, c, signal=0),
        ]
        add_stripes(place, side * (c + walk), 0.0, math.pi / 2, kerb)
        add_stripes(place, 0.0, side * (kerb + walk), 0.0, c)
        line, to = side * stop, side * street.asphalt_m
        place.strips.append(_rectangle(line, line + side * 0.4, 0.0, to, 0.6))
        line = side * (kerb + _STOP_M)
        place.strips.append(_rectangle(0.0, -side * c, line, line + side * 0.4, 0.6))
    beyond = kerb + 1.5
    # From the west and from the south; their opposites are these, turned by half a turn.
    ways = [
        ([(-out, -lane), (out, -lane)], 0.3),
        ([(-out, -lane), (-near, -lane), (-half, -lane), (-half, -beyond), (-half, -out)], 1.0),
        ([(-out, -lane), (-near, -lane), (half, -lane), (half, beyond), (half, out)], 1.0),
        ([(half, -out), (half, out)], 0.3),
        ([(half, -out), (half, -beyond), (half, -lane), (near, -lane), (out, -lane)], 1.0),
        ([(half, -out), (half, -beyond), (half, lane), (-near, lane), (-out, lane)], 1.0),
    ]
    for corners, weight in ways:
        points = along(corners, 9.0)
        for sign in (1, -1):
            place.routes.append(Route(ROAD, sign * points, len(corners) > 2, weight))
    edge, cycles = c - 0.9, street.cycles
    corner = [(-out, -cycles), (-near, -cycles), (-edge, -cycles), (-edge, -beyond), (-edge, -out)]
    for sign in (1, -1):
        place.routes.append(Route(CYCLE, sign * along(corner, 5.0), turning=True))
    _walks_around(rng, place, c + walk, kerb + walk)
    lines = [(-stop, -lane, 0), (half, -kerb - _STOP_M, 1), (-stop, -street.cycles, 0)]
    _stop_at_lights(place, [*lines, (-stop, -RAILS_M, 0)])
    return place


def _stop_at_lights(place: Place, lines: list[tuple[float, float, int]]) -> None:
    """Give routes their stop lines: x, y and group of lights, and their opposites."""
    for i, route in enumerate(place.routes):
        if route.kind == WALK:
            continue
        gates = []
        for x, y, group in lines:
            for sign in (1, -1):
                s, away = route.nearest(sign * x, sign * y)
                turn = route.headings[int(s)] - (0 if sign > 0 else math.pi) - group * math.pi / 2
                if away < 1.2 and math.cos(turn) > 0.8:
                    gates.append(Gate(s, SIGNAL, group))
        place.routes[i] = replace(route, gates=tuple(gates))


def _walks_around(rng: np.random.Generator, place: Place, x: float, y: float) -> None:
    """People at a junction: straight on; and between doors, around corners and over crossings."""
    for i in (-1, 1):
        place.routes += [
            Route(WALK, along([(-i * _REACH_M, i * y), (i * _REACH_M, i * y)], 1.0), weight=0.3),
            Route(WALK, along([(i * x, -i * _REACH_M), (i * x, i * _REACH_M)], 1.0), weight=0.3),
        ]

        def beside_main(i: int, j: int) -> list[tuple[float, float]]:
            away = i * (x + rng.uniform(6, 13))
            return [(away, j * (y + 2.2)), (away, j * y)]

        def beside_side(i: int, j: int) -> list[tuple[float, float]]:
            away = j * (y + rng.uniform(6, 13))
            return [(i * (x + 2.2), away), (i * x, away)]

        for j in (-1, 1):
            corner, far = (i * x, j * y), (-i * x, j * y)
            ways = [
                [*beside_main(i, j), corner, *beside_side(i, j)[::-1]],
                [*beside_main(i, j), corner, *beside_side(i, -j)[::-1]],
                [*beside_side(i, j), corner, *beside_main(-i, j)[::-1]],
                [*beside_main(i, j), far, *beside_side(-i, -j)[::-1]],
            ]
            place.routes += [Route(WALK, along(way, 1.2)) for way in ways]


def _rectangle(x0: float, x1: float, y0: float, y1: float, albedo: float) -> Strip:
    return Strip(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), albedo)


def _clear_of_side_road(wall: Wall, edge: float) -> bool:
    x0, x1 = sorted((wall.start[0], wall.end[0]))
    return x1 < -edge or x0 > edge


def _street(rng: np.random.Generator, rails: bool) -> Place:
    """A straight street with parked vehicles, a bus stop and a crossing."""
    place = Place()
    street = Street(rng, _straight(), rails, True)
    street.fill(place, [(0, 2 * _REACH_M)])
    street.lanes_both_ways(place)
    street.footways(place)
    middle = _REACH_M + rng.uniform(-6, 6)
    street.zebra(place, middle, refuge=False)
    _park(rng, street, place, middle)
    shift = middle - _REACH_M
    place.focus = (shift, 0.0)
    _halt(place, (shift - 14, -street.lanes[-1]), (shift + 14, street.lanes[-1]))
    return place


def _park(rng: np.random.Generator, street: Street, place: Place, free: float) -> None:
    """Vehicles along the kerb, except around a position."""
    assert street.parked is not None
    for ahead in (False, True):
        line = street.line(street.parked, ahead)
        for s in np.arange(8.0, len(line) - 8, 6.2):
            at = s if ahead else len(line) - 1 - s
            if abs(at - free) > 9 and rng.random() < 0.55:
                x, y = line[int(s)]
                turn = line[int(s) + 1] - line[int(s)]
                place.parking.append((float(x), float(y), math.atan2(turn[1], turn[0])))


def _bend(rng: np.random.Generator, rails: bool) -> Place:
    """A street that turns, and a crossing behind the turn."""
    radius, angle = rng.uniform(17, 25), math.radians(rng.uniform(60, 105))
    turn = np.linspace(0, angle, 80)
    side = rng.choice([-1, 1])
    arc = np.stack([radius * np.sin(turn), side * radius * (1 - np.cos(turn))], 1)
    direction = np.array([math.cos(angle), side * math.sin(angle)])
    start = np.array([[-70.0, 0.0]])
    centre = along([tuple(p) for p in (*start, *arc, arc[-1] + 70 * direction)], 0.1)
    place = Place(focus=(float(arc[40, 0]), float(arc[40, 1])))
    street = Street(rng, centre, rails, False)
    street.fill(place, [(0, len(centre))])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, 70 + (radius * angle + 8 if rng.random() < 0.5 else -8), refuge=False)
    return place


def _crossing(rng: np.random.Generator, rails: bool) -> Place:
    """A street with a crossing and a refuge in its middle."""
    place = Place()
    street = Street(rng, _straight(), rails, False)
    street.fill(place, [(0, 2 * _REACH_M)])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, _REACH_M, refuge=not rails, weight=1.2)
    return place


def _tram_stop(rng: np.random.Generator, rails: bool) -> Place:
    """A street with rails in its middle, where trams and buses halt, and a crossing beside it."""
    del rails  # there always are
    place = Place()
    street = Street(rng, _straight(), True, False)
    street.fill(place, [(0, 2 * _REACH_M)])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, _REACH_M + 8, refuge=False)
    # Either side before the crossing, which nobody is to block.
    _halt(place, (4.0, -RAILS_M), (12.0, RAILS_M))
    _halt(place, (3.0, -street.lanes[0]), (13.0, street.lanes[0]))
    return place


def _halt(place: Place, *points: tuple[float, float]) -> None:
    """Let routes that pass the points halt there."""
    for i, route in enumerate(place.routes):
        if route.kind not in (ROAD, RAIL):
            continue
        for x, y in points:
            s, away = route.nearest(x, y)
            if away < 1.0:
                gates = (*route.gates, Gate(s, HALT, 0))
                place.routes[i] = route = replace(route, gates=gates)
                if route.kind == ROAD:
                    side = math.copysign(place.kerb_m + 2.6, y)
                    place.shelters.append(
                        (x - math.copysign(3, -y), side, 0.0 if y < 0 else math.pi)
                    )


_BUILDERS: dict[str, Callable[[np.random.Generator, bool], Place]] = {
    "junction": _junction,
    "street": _street,
    "bend": _bend,
    "crossing": _crossing,
    "tram_stop": _tram_stop,
}


def build_place(rng: np.random.Generator, name: str, rails: bool) -> Place:
    """Draw a place.

    Args:
        rng: draws its measures.
        name: one of ``PLACES``.
        rails: whether there are rails; there always are at a tram stop.
    """
    place = _BUILDERS[name](rng, rails)
    for i, route in enumerate(place.routes):
        gates = [*route.gates, *crossing_gates(route, place.crossings)]
        gates.sort(key=lambda gate: gate.at_m)
        place.routes[i] = replace(route, gates=tuple(gates))
    return place
