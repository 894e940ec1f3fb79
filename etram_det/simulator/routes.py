"""Ways that road users take, and what they stop for: lines in the plane with a speed limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Who uses a route.
WALK, CYCLE, ROAD, RAIL = range(4)
# What a gate is.
SIGNAL, CROSSING, HALT = range(3)

# Width of the stretch that a road user of each kind takes, for conflicts between routes.
_APART_M = 2.3
_ACROSS_RAD = math.radians(40)
_COMFORT_MS2 = 2.0  # acceleration across and along the way that people accept
_LIMIT_MS = 30.0


@dataclass(frozen=True)
class Gate:
    """A place on a route where road users may have to stop.

    Attributes:
        at_m: position of the stop line along the route.
        kind: SIGNAL, CROSSING or HALT.
        number: of the signal group or crossing.
        end_m: where a crossing ends along the route.
    """

    at_m: float
    kind: int
    number: int
    end_m: float = 0.0


@dataclass(frozen=True)
class Crossing:
    """Where people cross a carriageway.

    Attributes:
        x: its centre.
        y: its centre.
        heading: direction in which people walk.
        half_length: half of the way from kerb to kerb.
        half_width: half of its width.
        signal: group of the traffic lights that people walk with; None if traffic gives way.
    """

    x: float
    y: float
    heading: float
    half_length: float
    half_width: float = 1.8
    signal: int | None = None


@dataclass(frozen=True)
class Route:
    """A way from one end of a place to another, in steps of one metre.

    Attributes:
        kind: WALK, CYCLE, ROAD or RAIL.
        points: ``[P, 2]``.
        turning: whether its users give way to those who go straight on.
        weight: relative number of users.
        gates: in their order along the route.
    """

    kind: int
    points: Array
    turning: bool = False
    weight: float = 1.0
    gates: tuple[Gate, ...] = ()
    headings: Array = field(init=False, repr=False)
    limits: Array = field(init=False, repr=False)
    _poses: list[list[float]] = field(init=False, repr=False)  # x, y, heading: faster than arrays

    def __post_init__(self) -> None:
        step = np.diff(self.points, axis=0)
        headings = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        headings = np.append(headings, headings[-1])
        object.__setattr__(self, "headings", headings)
        object.__setattr__(self, "_poses", np.column_stack([self.points, headings]).tolist())
        object.__setattr__(self, "limits", _limits(self.headings))

    @property
    def length(self) -> float:
        """Metres."""
        return len(self.points) - 1.0

    def at(self, s: float) -> tuple[float, float, float]:
        """Position and heading at ``s`` metres; the ends go on straight."""
        i = min(max(int(s), 0), len(self._poses) - 2)
        share = s - i
        inside = min(max(share, 0.0), 1.0)
        (x0, y0, heading0), (x1, y1, heading1) = self._poses[i], self._poses[i + 1]
        turn = heading0 + inside * (heading1 - heading0)
        return x0 + share * (x1 - x0), y0 + share * (y1 - y0), turn

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Position along the route that is nearest to a point, and the distance to it."""
        away = np.hypot(self.points[:, 0] - x, self.points[:, 1] - y)
        i = int(np.argmin(away))
        return float(i), float(away[i])

    def moved(self, x: float, y: float, angle: float, gates: tuple[Gate, ...]) -> Route:
        """The route after a shift to a new origin and a rotation, with these gates."""
        points = turned(self.points - (x, y), angle)
        return Route(self.kind, points, self.turning, self.weight, gates)


def turned(points: Array, angle: float) -> Array:
    """Points ``[..., 2]`` rotated about the origin."""
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


def _limits(headings: Array) -> Array:
    """Speed limits by the curvature, reached by comfortable braking."""
    bend = np.abs(np.gradient(headings))
    bend = np.convolve(bend, np.ones(5) / 5, "same")
    limits = np.minimum(np.sqrt(_COMFORT_MS2 / np.maximum(bend, 1e-4)), _LIMIT_MS)
    for i in range(len(limits) - 2, -1, -1):
        limits[i] = min(limits[i], math.sqrt(limits[i + 1] ** 2 + 2 * _COMFORT_MS2))
    return limits


def along(corners: list[tuple[float, float]], radius: float) -> Array:
    """Points ``[P, 2]`` a metre apart along a polyline with rounded corners."""
    points = [np.array(corners[0], float)]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        p, q, r = (np.array(each, float) for each in (before, corner, after))
        reach = min(radius, 0.5 * float(np.hypot(*(q - p))), 0.5 * float(np.hypot(*(r - q))))
        start = q + (p - q) * reach / np.hypot(*(p - q))
        end = q + (r - q) * reach / np.hypot(*(r - q))
        t = np.linspace(0, 1, 12)[:, None]
        points.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * q + t**2 * end)
    points.append(np.array(corners[-1], float))
    return resampled(np.array(points))


def resampled(points: Array) -> Array:
    """The same line in steps of one metre."""
    way = np.append(0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    keep = np.append(True, np.diff(way) > 1e-9)
    s = np.arange(int(way[-1]) + 1.0)
    return np.stack([np.interp(s, way[keep], points[keep, i]) for i in (0, 1)], 1)


def beside(points: Array, offset: float) -> Array:
    """The line at a distance to the left of another."""
    step = np.gradient(points, axis=0)
    step /= np.hypot(step[:, 0], step[:, 1])[:, None]
    return points + offset * np.stack([-step[:, 1], step[:, 0]], 1)


def crossing_gates(route: Route, crossings: list[Crossing]) -> list[Gate]:
    """Where a route meets crossings: at the kerb for people who cross, before it for traffic."""
    gates = []
    for number, crossing in enumerate(crossings):
        local = turned(route.points - (crossing.x, crossing.y), -crossing.heading)
        half_width = crossing.half_width + (0.3 if route.kind == WALK else 0.0)
        inside = np.abs(local[:, 0]) < crossing.half_length
        inside &= np.abs(local[:, 1]) < half_width
        if not inside.any():
            continue
        first, last = np.flatnonzero(inside)[[0, -1]]
        walks = abs(local[last, 0] - local[first, 0]) > crossing.half_length
        if (route.kind == WALK) != walks:
            continue
        before = 0.8 if walks else 2.0
        gates.append(Gate(float(first) - before, CROSSING, number, float(last) + 1))
    return gates


@dataclass(frozen=True)
class Meeting:
    """How one route meets another.

    Attributes:
        shared: position along the first route for each metre of the second, nan where they are not
            the same way; a list, which is faster than an array.
        conflict: where the second crosses the first: first and last metre on the first, and on the
            second; None if it does not.
    """

    shared: list[float]
    conflict: tuple[float, float, float, float] | None


def meeting(first: Route, second: Route) -> Meeting:
    """Compare two routes."""
    from_x, from_y = first.points.T.astype(np.float32)
    to_x, to_y = second.points.T.astype(np.float32)[..., None]
    square = (to_x - from_x) ** 2
    square += (to_y - from_y) ** 2
    nearest = np.argmin(square, axis=1)
    apart = np.sqrt(square[np.arange(len(square)), nearest])
    turn = second.headings - first.headings[nearest]
    aligned = np.cos(turn) > math.cos(_ACROSS_RAD)
    shared = np.where((apart < 1.3) & aligned, nearest.astype(float), np.nan).tolist()
    across = np.flatnonzero((apart < _APART_M) & ~aligned)
    if not len(across):
        return Meeting(shared, None)
    met = nearest[across]
    ends = float(met.min()), float(met.max()), float(across[0]), float(across[-1])
    return Meeting(shared, ends)
