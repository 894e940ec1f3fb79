"""The places that the camera sees: junction, street, bend, crossing and tram stop.

A place lies around its own origin; its main road goes along ``x``, with traffic on the right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
    beside,
    crossing_gates,
    resampled,
)

_LANE_M, _RAILS_M, _CYCLES_M, _PARKING_M, _FOOTWAY_M = 3.3, 1.9, 1.9, 2.2, 3.6
_REACH_M = 110.0  # from the origin to the ends of the roads
_STOP_M = 5.0  # from a junction's carriageway to its stop lines
PLACES = ("junction", "street", "bend", "crossing", "tram_stop")


@dataclass(frozen=True)
class Strip:
    """A painted part of the ground: a polygon ``[P, 2]`` and its albedo."""

    outline: Array
    albedo: float


@dataclass(frozen=True)
class Wall:
    """The front of a house, between two points of the ground."""

    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    albedo: float


@dataclass
class Place:
    """A place without its traffic.

    Attributes:
        focus: what the camera looks at.
        kerb_m: distance from the middle of the main road to its kerb.
        routes: all ways through the place.
        crossings: where people cross carriageways.
        strips: of the ground, in the order of painting.
        walls: of houses.
        parking: position and heading of parked vehicles.
        furniture: position and heading of places for poles, signs and trees.
        shelters: position and heading of shelters at stops.
        signals: whether there are traffic lights.
    """

    focus: tuple[float, float] = (0.0, 0.0)
    kerb_m: float = 0.0
    routes: list[Route] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    walls: list[Wall] = field(default_factory=list)
    parking: list[tuple[float, float, float]] = field(default_factory=list)
    furniture: list[tuple[float, float, float]] = field(default_factory=list)
    shelters: list[tuple[float, float, float]] = field(default_factory=list)
    signals: bool = False


class _Street:
    """A main road along a centre line: from the middle rails, lanes, cycles, parking, footways."""

    def __init__(
        self, rng: np.random.Generator, centre: Array, rails: bool, parking: bool, lanes: int = 1
    ) -> None:
        self.rng, self.centre, self.rails = rng, centre, rails
        edge = 2 * _RAILS_M if rails else 0.0
        self.lanes = [edge + (i + 0.5) * _LANE_M for i in range(lanes)]
        edge += lanes * _LANE_M
        self.asphalt_m = edge
        self.cycles = edge + 0.5 * _CYCLES_M
        edge += _CYCLES_M
        self.parked = edge + 0.5 * _PARKING_M if parking else None
        self.kerb = edge + (_PARKING_M if parking else 0.0)
        self.footway = self.kerb + 0.5 * _FOOTWAY_M
        self.wall = self.kerb + _FOOTWAY_M + rng.uniform(0.5, 4)

    def line(self, offset: float, ahead: bool) -> Array:
        """The line at a distance to the right of the middle, for either direction of travel."""
        return beside(self.centre, -offset) if ahead else beside(self.centre, offset)[::-1].copy()

    def route(self, kind: int, offset: float, ahead: bool) -> Route:
        """A way along such a line."""
        return Route(kind, resampled(self.line(offset, ahead)))

    def ground(self, low: float, high: float, albedo: float, start: float, end: float) -> Strip:
        """The strip between two offsets to the left, and two positions along the road."""
        part = slice(max(int(start), 0), int(end) + 1)
        near, far = beside(self.centre, low)[part], beside(self.centre, high)[part]
        return Strip(np.concatenate([near, far[::-1]]), albedo)

    def fill(self, place: Place, markings: list[tuple[float, float]]) -> None:
        """Add lanes, footways, ground and walls; markings only between these positions."""
        length, kerb = len(self.centre) - 1.0, self.kerb
        tone = self.rng.uniform(0.85, 1.15)
        for side in (-1, 1):
            place.strips.append(
                self.ground(side * kerb, side * (kerb + _FOOTWAY_M), 0.34, 0, length)
            )
        place.strips.append(self.ground(-kerb, kerb, 0.21 * tone, 0, length))
        for start, end in markings:
            self._mark(place, start, end, tone)
        for ahead in (False, True):
            place.routes.append(self.route(CYCLE, self.cycles, ahead))
            if self.rails:
                place.routes.append(self.route(RAIL, _RAILS_M, ahead))
        self._line_with_houses(place)
        place.kerb_m = kerb
        for side in (False, True):
            line = self.line(kerb + 0.5, side)
            for s in np.arange(self.rng.uniform(2, 10), length, 9.0):
                x, y = line[int(s)]
                turn = line[min(int(s) + 1, len(line) - 1)] - line[int(s)]
                place.furniture.append((float(x), float(y), math.atan2(turn[1], turn[0])))

    def _mark(self, place: Place, start: float, end: float, tone: float) -> None:
        """Edges of lanes, dashes between them, cycle lanes and rails."""
        add = place.strips.append
        for side in (-1, 1):
            outer = self.asphalt_m
            add(self.ground(side * outer, side * (outer + _CYCLES_M), 0.27 * tone, start, end))
            add(self.ground(side * outer, side * (outer + 0.15), 0.55, start, end))
            for first, second in zip(self.lanes, self.lanes[1:], strict=False):
                middle = 0.5 * (first + second) * side
                for s in np.arange(start, end - 3, 7):
                    add(self.ground(middle - 0.07, middle + 0.07, 0.55, s, s + 3))
            if self.rails:
                add(self.ground(0, side * 2 * _RAILS_M, 0.26 * tone, start, end))
        if not self.rails:
            for s in np.arange(start, end - 3, 7):
                add(self.ground(-0.07, 0.07, 0.55, s, s + 3))
            return
        for side in (-1, 1):
            for gauge in (-0.72, 0.72):
                rail = side * _RAILS_M + gauge
                add(self.ground(rail - 0.06, rail + 0.06, 0.45, start, end))

    def _line_with_houses(self, place: Place) -> None:
        """Fronts of houses along both sides, with gaps between some."""
        for side in (-1, 1):
            line = beside(self.centre, side * self.wall)
            s = 0
            while s < len(line) - 2:
                end = min(s + int(self.rng.uniform(9, 20)), len(line) - 1)
                if self.rng.random() < 0.8:
                    (x0, y0), (x1, y1) = line[s], line[end]
                    height, albedo = self.rng.uniform(6, 14), self.rng.uniform(0.15, 0.55)
                    place.walls.append(
                        Wall((float(x0), float(y0)), (float(x1), float(y1)), height, albedo)
                    )
                s = end

    def lanes_both_ways(self, place: Place) -> None:
        """Add carriageway routes straight along the road."""
        place.routes += [
            self.route(ROAD, lane, ahead) for lane in self.lanes for ahead in (False, True)
        ]

    def footways(self, place: Place) -> None:
        """Add people who keep to their side."""
        for ahead in (False, True):
            line = resampled(self.line(self.footway, ahead))
            place.routes += [Route(WALK, way, weight=0.5) for way in (line, line[::-1].copy())]

    def zebra(self, place: Place, at: float, refuge: bool, weight: float = 0.8) -> None:
        """A crossing at a position along the road, and people who turn to cross there."""
        i = int(at)
        x, y = self.centre[i]
        step = self.centre[i + 1] - self.centre[i]
        heading = math.atan2(step[1], step[0]) + math.pi / 2
        left = np.array([math.cos(heading), math.sin(heading)])
        half = 0.5 * self.kerb - 0.75 if refuge else self.kerb
        shifts = (-0.5 * self.kerb - 0.75, 0.5 * self.kerb + 0.75) if refuge else (0.0,)
        if refuge:
            half = 0.5 * (self.kerb - 1.5)
            island = [(-1.2, -1.5), (1.2, -1.5), (1.2, 1.5), (-1.2, 1.5)]
            ahead = np.array([left[1], -left[0]])
            for low, high in ((-5.0, -2.0), (2.0, 5.0)):
                corners = [(a, low if b < 0 else high) for a, b in island]
                outline = np.array([(x, y) + a * left + b * ahead for a, b in corners])
                place.strips.append(Strip(outline, 0.36))
        for shift in shifts:
            cx, cy = (float(v) for v in np.array([x, y]) + shift * left)
            place.crossings.append(Crossing(cx, cy, heading, half))
        add_stripes(place, float(x), float(y), heading, self.kerb)
        lines = (self.line(self.footway, True), self.line(self.footway, False)[::-1])
        doors = (self.line(self.wall - 0.3, True), self.line(self.wall - 0.3, False)[::-1])
        for this, other in ((0, 1), (1, 0)):
            for first in (-1, 1):
                for second in (-1, 1):
                    # From a door along one footway, over the crossing, and on along the other.
                    corners = [
                        *self._to_door(lines[this], doors[this], i, first)[::-1],
                        *self._to_door(lines[other], doors[other], i, second),
                    ]
                    place.routes.append(Route(WALK, along(corners, 1.2), weight=weight))

    def _to_door(
        self, footway: Array, doors: Array, at: int, direction: int
    ) -> list[tuple[float, float]]:
        """Points of a footway from a position on, and of a door up to 15 m away."""
        end = min(max(at + direction * int(self.rng.integers(6, 16)), 0), len(footway) - 1)
        points = [*footway[at : end : direction * 4], footway[end], doors[end]]
        return [(float(x), float(y)) for x, y in points]


def add_stripes(place: Place, x: float, y: float, heading: float, half_length: float) -> None:
    """White stripes of a crossing."""
    ahead, across = _unit(heading), _unit(heading + math.pi / 2)
    for start in np.arange(-half_length + 0.3, half_length - 0.3, 1.0):
        corners = [(start, -1.6), (start + 0.5, -1.6), (start + 0.5, 1.6), (start, 1.6)]
        outline = np.array([(x, y) + a * ahead + b * across for a, b in corners])
        place.strips.append(Strip(outline, 0.6))


def _unit(angle: float) -> Array:
    return np.array([math.cos(angle), math.sin(angle)])


def _straight() -> Array:
    x = np.arange(-_REACH_M, _REACH_M + 1)
    return np.stack([x, np.zeros_like(x)], 1)


def _junction(rng: np.random.Generator, rails: bool) -> Place:
    """A main road, a side road, and traffic lights for both."""
    place, c, out = Place(signals=True), _LANE_M, _REACH_M
    street = _Street(rng, _straight(), rails, False)
    kerb, lane, half = street.kerb, street.lanes[0], 0.5 * _LANE_M
    walk, stop, near = 0.5 * _FOOTWAY_M, c + _STOP_M, c + 1.5
    place.strips.append(_rectangle(-c - _FOOTWAY_M, c + _FOOTWAY_M, -out, out, 0.34))
    street.fill(place, [(0, out - stop), (out + stop, 2 * out)])
    place.strips.append(_rectangle(-c, c, -out, out, 0.21))
    for low, high in ((-out, -kerb - _STOP_M), (kerb + _STOP_M, out)):
        place.strips += [
            _rectangle(-0.07, 0.07, y, y + 3, 0.55) for y in np.arange(low, high - 3, 7)
        ]
    place.walls = [wall for wall in place.walls if _clear_of_side_road(wall, c + _FOOTWAY_M + 0.5)]
    for side in (-1, 1):
        for sign in (-1, 1):
            x = side * (c + _FOOTWAY_M + 1)
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
        ([(-out, -lane), (out, -lane)], 0.4),
        ([(-out, -lane), (-near, -lane), (-half, -lane), (-half, -beyond), (-half, -out)], 1.0),
        ([(-out, -lane), (-near, -lane), (half, -lane), (half, beyond), (half, out)], 1.0),
        ([(half, -out), (half, out)], 0.4),
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
    lines += [(-stop, -_RAILS_M, 0)]
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
    return place


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
    street = _Street(rng, _straight(), rails, True)
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


def _park(rng: np.random.Generator, street: _Street, place: Place, free: float) -> None:
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
    street = _Street(rng, centre, rails, False)
    street.fill(place, [(0, len(centre))])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, 70 + (radius * angle + 8 if rng.random() < 0.5 else -8), refuge=False)
    return place


def _crossing(rng: np.random.Generator, rails: bool) -> Place:
    """A street with a crossing and a refuge in its middle."""
    place = Place()
    street = _Street(rng, _straight(), rails, False)
    street.fill(place, [(0, 2 * _REACH_M)])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, _REACH_M, refuge=not rails, weight=1.2)
    return place


def _tram_stop(rng: np.random.Generator, rails: bool) -> Place:
    """A street with rails in its middle, where trams and buses halt, and a crossing beside it."""
    del rails  # there always are
    place = Place()
    street = _Street(rng, _straight(), True, False)
    street.fill(place, [(0, 2 * _REACH_M)])
    street.lanes_both_ways(place)
    street.footways(place)
    street.zebra(place, _REACH_M + 8, refuge=False)
    _halt(place, (4.0, -_RAILS_M), (-4.0, _RAILS_M))
    _halt(place, (4.0, -street.lanes[0]), (-7.0, street.lanes[0]))
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
