"""Parts of places: painted ground, houses, and a main road with all that belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from etram_det.simulator.routes import (
    CYCLE,
    RAIL,
    ROAD,
    WALK,
    Array,
    Crossing,
    Route,
    along,
    beside,
    resampled,
)

LANE_M, RAILS_M, FOOTWAY_M = 3.3, 1.9, 3.6
_CYCLES_M, _PARKING_M = 1.9, 2.2


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


class Street:
    """A main road along a centre line: from the middle rails, lanes, cycles, parking, footways."""

    def __init__(
        self, rng: np.random.Generator, centre: Array, rails: bool, parking: bool, lanes: int = 1
    ) -> None:
        self.rng, self.centre, self.rails = rng, centre, rails
        edge = 2 * RAILS_M if rails else 0.0
        self.lanes = [edge + (i + 0.5) * LANE_M for i in range(lanes)]
        edge += lanes * LANE_M
        self.asphalt_m = edge
        self.cycles = edge + 0.5 * _CYCLES_M
        edge += _CYCLES_M
        self.parked = edge + 0.5 * _PARKING_M if parking else None
        self.kerb = edge + (_PARKING_M if parking else 0.0)
        self.footway = self.kerb + 0.5 * FOOTWAY_M
        self.wall = self.kerb + FOOTWAY_M + rng.uniform(0.5, 4)

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
                self.ground(side * kerb, side * (kerb + FOOTWAY_M), 0.34, 0, length)
            )
        place.strips.append(self.ground(-kerb, kerb, 0.21 * tone, 0, length))
        for start, end in markings:
            self._mark(place, start, end, tone)
        for ahead in (False, True):
            place.routes.append(self.route(CYCLE, self.cycles, ahead))
            if self.rails:
                place.routes.append(self.route(RAIL, RAILS_M, ahead))
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
                add(self.ground(0, side * 2 * RAILS_M, 0.26 * tone, start, end))
        if not self.rails:
            for s in np.arange(start, end - 3, 7):
                add(self.ground(-0.07, 0.07, 0.55, s, s + 3))
            return
        for side in (-1, 1):
            for gauge in (-0.72, 0.72):
                rail = side * RAILS_M + gauge
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
            place.routes += [Route(WALK, way, weight=0.35) for way in (line, line[::-1].copy())]

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
