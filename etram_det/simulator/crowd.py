"""Who comes when: the mix of road users of a place, and how many are in view."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from etram_det.errors import UserError
from etram_det.simulator.projection import Camera, project
from etram_det.simulator.road_users import (
    BICYCLE,
    BODIES,
    BUS,
    CAR,
    MOTORBIKE,
    PEDESTRIAN,
    TRAM,
    TRUCK,
    WHEELCHAIR,
)
from etram_det.simulator.routes import CYCLE, HALT, RAIL, ROAD, WALK, Route
from etram_det.simulator.traffic import Traffic

if TYPE_CHECKING:
    from etram_det.simulator.scene import Conditions
    from etram_det.simulator.traffic import User

# Share of each kind of way in the road users in view.
_SHARES = {WALK: 0.46, ROAD: 0.5, CYCLE: 0.04}
_CLASSES = {
    WALK: ((PEDESTRIAN, 0.95), (WHEELCHAIR, 0.05)),
    ROAD: ((CAR, 0.86), (MOTORBIKE, 0.05), (TRUCK, 0.05), (BUS, 0.04)),
    CYCLE: ((BICYCLE, 1.0),),
    RAIL: ((TRAM, 1.0),),
}
# Kind of way, and lowest and highest speed in metres per second of each class.
_WAY = {PEDESTRIAN: WALK, WHEELCHAIR: WALK, BICYCLE: CYCLE, TRAM: RAIL}
_SPEED = {
    PEDESTRIAN: (0.9, 1.7), CAR: (6.0, 11.0), BICYCLE: (3.0, 5.5), BUS: (5.5, 9.0),
    MOTORBIKE: (6.0, 12.0), TRUCK: (5.5, 9.0), TRAM: (5.0, 8.0), WHEELCHAIR: (0.8, 1.4),
}  # fmt: skip
# These come at least once in each so many seconds, whatever the mix.
_RARE = (BUS, TRUCK, MOTORBIKE, BUS, MOTORBIKE, TRAM, TRAM, BICYCLE, WHEELCHAIR)
_RARE_EVERY_S = 12.0
_AHEAD_S = 12.0  # so long before they are in view they may come
_PAIRS = 0.25  # share of pedestrians who walk with another
_ROOM = 0.5  # least share of the road users asked for that a place must have room for
_FREE_M = (18.0, 8.0)  # of a route before and after its visible part

Part = tuple[float, float]


class Due(NamedTuple):
    """A road user who comes at a time, from a position on a route."""

    time_s: float
    class_id: int
    route: Route
    start: float


def visible_part(camera: Camera, size: tuple[int, int], route: Route, far_m: float) -> Part | None:
    """First and last position of a route in the camera's view; None if less than 4 m is."""
    seen = []
    for s, (x, y) in enumerate(route.points):
        u, v, depth = project(camera, x, y, 0.0)
        if 2.0 < depth < far_m and 0 <= u < size[1] and 0 <= v < 1.1 * size[0]:
            seen.append(s)
    return (float(seen[0]), float(seen[-1])) if len(seen) > 4 else None


class Crowd:
    """Fills the routes of a place with road users and keeps their number.

    Args:
        traffic: to which they are added.
        routes: of the place.
        parts: visible part of each route, None for those that are out of view.
        conditions: of the recording.

    Raises:
        UserError: the place has no room for so many.
    """

    def __init__(
        self,
        traffic: Traffic,
        routes: list[Route],
        parts: list[Part | None],
        conditions: Conditions,
    ) -> None:
        self.traffic, self.rng = traffic, traffic.rng
        self.seconds = conditions.seconds
        self.parts: dict[int, list[tuple[Route, Part]]] = {kind: [] for kind in _CLASSES}
        for route, part in zip(routes, parts, strict=True):
            if part is not None:
                self.parts[route.kind].append((route, part))
        self.wanted = {
            kind: round(share * conditions.users * self._reach(kind))
            for kind, share in _SHARES.items()
            if self.parts[kind]
        }
        self.due: list[Due] = []
        self.extra: set[int] = set()  # tracks that are not part of the usual mix
        self._scheduled_s = 0.0
        self.rare = conditions.users > 0
        self._let_due_come()
        self._populate(conditions)

    def _reach(self, kind: int) -> float:
        """Road users on all of the routes for each that is in view."""
        total = visible = 0.0
        for route, part in self.parts[kind]:
            start, end = self._ends(route, part)
            total += route.weight * (end - start)
            visible += route.weight * (part[1] - part[0])
        return total / visible

    @staticmethod
    def _ends(route: Route, part: Part) -> Part:
        """Where road users of a route come and where they are no longer needed."""
        return max(part[0] - _FREE_M[0], 1.0), min(part[1] + _FREE_M[1], route.length - 1)

    def _choose(self, kind: int, class_id: int) -> tuple[Route, Part]:
        choices = self.parts[kind]
        weights = np.array([route.weight for route, _ in choices])
        if class_id in (BUS, TRUCK):  # long ones mostly go straight on
            weights *= [0.4 if route.turning else 1.0 for route, _ in choices]
        return choices[int(self.rng.choice(len(choices), p=weights / weights.sum()))]

    def _class(self, kind: int) -> int:
        classes, shares = zip(*_CLASSES[kind], strict=True)
        return int(self.rng.choice(classes, p=np.array(shares) / sum(shares)))

    def _cruise(self, class_id: int) -> float:
        return float(self.rng.uniform(*_SPEED[class_id]))

    def _populate(self, conditions: Conditions) -> None:
        """Put road users anywhere on the routes."""
        total = 0
        for kind, wanted in self.wanted.items():
            placed = tries = 0
            while placed < wanted and tries < 40 + 10 * wanted:
                class_id = self._class(kind)
                route, part = self._choose(kind, class_id)
                placed += self._add(
                    class_id, route, float(self.rng.uniform(*self._ends(route, part)))
                )
                tries += 1
            total += placed
        wanted = sum(self.wanted.values())
        if total < _ROOM * wanted:
            raise UserError(
                f"traffic: must be at most about {int(conditions.users * total / wanted)} for the "
                f"{conditions.place} of {conditions.name}, got {conditions.users:g}: lower it"
            )

    def _add(self, class_id: int, route: Route, s: float) -> int:
        """Add a road user, or a pair; returns their number."""
        user = self.traffic.add(class_id, route, s, self._cruise(class_id))
        if user is None:
            return 0
        if class_id == PEDESTRIAN and self.rng.random() < _PAIRS:
            self.traffic.add_companion(user)
            return 2
        return 1

    def fill_up(self, seconds: float) -> None:
        """Let road users come for those who have left, and rare ones when they are due."""
        self._drop_those_out_of_view()
        self._let_due_come()
        present = {kind: 0 for kind in self.wanted}
        for user in self.traffic.users:
            if user.route.kind in present and user.track not in self.extra:
                present[user.route.kind] += 1
        for kind, wanted in self.wanted.items():
            if present[kind] < wanted and self.rng.random() < seconds / 0.8:
                class_id = self._class(kind)
                route, part = self._choose(kind, class_id)
                self._add(class_id, route, self._ends(route, part)[0])

    def _let_due_come(self) -> None:
        now_s = self.traffic.time_s
        self._schedule(now_s)
        waiting = []
        for due in self.due:
            first = self.traffic.num_tracks
            if now_s < due.time_s or not self._add(due.class_id, due.route, due.start):
                waiting.append(due)
            self.extra.update(range(first, self.traffic.num_tracks))
        self.due = waiting

    def recast(self) -> None:
        """Give some cars in view the bodies of rare classes that are not, where there is room."""
        users = [user for user in self.traffic.users if user.route.kind == ROAD]
        ranges = {id(route): part for route, part in self.parts[ROAD]}

        def is_near(user: User) -> bool:
            start, end = ranges.get(id(user.route), (math.inf, 0.0))
            return start - 6 < user.s < end - 6

        for class_id in (TRUCK, MOTORBIKE, BUS) if self.rare else ():
            if any(user.class_id == class_id and is_near(user) for user in users):
                continue
            body = BODIES[class_id](self.rng)
            cars = [
                user for user in users if user.class_id == CAR and is_near(user)
                and self.traffic.room_m(user) > 0.5 * (body.length - user.body.length) + 1.5
            ]  # fmt: skip
            if cars:
                user = cars[int(self.rng.integers(len(cars)))]
                user.class_id, user.body = class_id, body
                user.cruise = self._cruise(class_id)
                self.traffic.take_up_habits(user)

    def _drop_those_out_of_view(self) -> None:
        ends = {
            id(route): self._ends(route, part)[1] for kind in self.parts.values()
            for route, part in kind
        }  # fmt: skip
        users = self.traffic.users
        self.traffic.users = [u for u in users if u.rear < ends[id(u.route)]]

    def _schedule(self, now_s: float) -> None:
        """Plan the rare classes of the next period of the recording, ahead of its start."""
        if not self.rare or self._scheduled_s >= self.seconds:
            return
        if now_s < self._scheduled_s - _AHEAD_S:
            return
        period = min(_RARE_EVERY_S, self.seconds - self._scheduled_s)
        for class_id in _RARE:
            if not self.parts[kind := _WAY.get(class_id, ROAD)]:
                continue  # there is no way for it here
            route, part = self._choose(kind, class_id)
            seen_s = self._scheduled_s + float(self.rng.uniform(0.15, 0.6)) * period
            self._plan(class_id, route, part, seen_s)
        self._scheduled_s += _RARE_EVERY_S

    def _plan(self, class_id: int, route: Route, part: Part, seen_s: float) -> None:
        """Let a road user come in time to be in the middle of its route's visible part."""
        speed = float(np.mean(_SPEED[class_id]))
        goal = part[0] + float(self.rng.uniform(0.3, 0.6)) * (part[1] - part[0])
        stops = [g.at_m for g in route.gates if g.kind == HALT and part[0] < g.at_m < part[1]]
        if stops and class_id in (BUS, TRAM):
            goal = stops[0]
        earliest_s = self._scheduled_s - _AHEAD_S
        start = max(1.0, goal - speed * (seen_s - earliest_s))
        self.due.append(Due(seen_s - (goal - start) / speed, class_id, route, start))
