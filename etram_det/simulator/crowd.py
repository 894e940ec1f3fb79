"""Who comes when: the mix of road users of a place, and how many are in view."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from etram_det.errors import UserError
from etram_det.simulator.road_users import (
    BICYCLE,
    BUS,
    CAR,
    MOTORBIKE,
    PEDESTRIAN,
    TRAM,
    TRUCK,
    WHEELCHAIR,
)
from etram_det.simulator.routes import CYCLE, HALT, RAIL, ROAD, WALK, Route
from etram_det.simulator.traffic import STEP_S, Traffic
from etram_det.simulator.viewpoint import Part

if TYPE_CHECKING:
    from etram_det.simulator.rehearsal import Conditions

# Share of each kind of way in the road users in view.
_SHARES = {WALK: 0.36, ROAD: 0.58, CYCLE: 0.04}
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
GUESTS = (BUS, TRUCK, MOTORBIKE, TRAM, TRAM, BICYCLE, WHEELCHAIR)
_GUESTS_EVERY_S = 12.0  # in which each guest comes at least once, whatever the mix
WARM_UP_S = 12.0
_MOVE_S = 0.05  # at most, between two positions
_AHEAD_S = 12.0  # so long before they are in view they may come
# At least so far apart are those of a kind in the mean, along all of its routes.
_SPACING_M = {WALK: 25.0, ROAD: 16.0, CYCLE: 20.0}
_TRIES = 24  # to find room for one who is invited
_PAIRS = 0.25  # share of pedestrians who walk with another
_ROOM = 0.35  # least share of the road users asked for that a place must have room for
_FREE_M = (18.0, 8.0)  # of a route before and after its part in view


class Due(NamedTuple):
    """A road user who comes at a time, from a position on a route."""

    time_s: float
    class_id: int
    route: Route
    start: float


class Crowd:
    """Fills the routes of a place with road users and keeps their number.

    Args:
        traffic: to which they are added.
        routes: of the place.
        near: part of each route in view and near, None for those that have none: here they are
            placed.
        far: part of each in view; who has left it is no longer needed.
        conditions: of the recording.

    Raises:
        UserError: the place has no room for so many.
    """

    def __init__(
        self,
        traffic: Traffic,
        routes: list[Route],
        near: list[Part | None],
        far: list[Part | None],
        conditions: Conditions,
    ) -> None:
        self.traffic, self.rng = traffic, traffic.rng
        self.seconds = conditions.seconds
        self.parts: dict[int, list[tuple[Route, Part]]] = {kind: [] for kind in _CLASSES}
        self._last: dict[int, float] = {}
        for route, part, whole in zip(routes, near, far, strict=True):
            if part is not None and whole is not None:
                self.parts[route.kind].append((route, part))
                self._last[id(route)] = whole[1] + _FREE_M[1]
        self._asked = 0.0
        self.wanted = {
            kind: self._number(kind, share * conditions.users)
            for kind, share in _SHARES.items()
            if self.parts[kind]
        }
        self.due: list[Due] = []
        self.extra: set[int] = set()  # tracks that are not part of the usual mix
        self._scheduled_s = 0.0
        guests = conditions.guests if conditions.users else ()
        self.guests = [each for each in guests if self.parts[_WAY.get(each, ROAD)]]
        self._planned_s = 0.0
        self._let_due_come()
        self._populate(conditions)

    def _number(self, kind: int, in_view: float) -> int:
        """Road users on all of the routes for so many in view, unless that would be a jam."""
        total = visible = length = 0.0
        for route, part in self.parts[kind]:
            start, end = self._ends(route, part)
            total += route.weight * (end - start)
            visible += route.weight * (part[1] - part[0])
            length += end - start
        self._asked += in_view * total / visible
        return round(min(in_view * total / visible, max(length / _SPACING_M[kind], 1.0)))

    @staticmethod
    def _ends(route: Route, part: Part) -> Part:
        """Where road users of a route come, and up to where they are placed at the start."""
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
        if total < _ROOM * self._asked and conditions.users >= 1:
            most = int(conditions.users * total / (_ROOM * self._asked))
            raise UserError(
                f"traffic: must be at most about {most} for the {conditions.place} of "
                f"{conditions.name}, got {conditions.users:g}: lower it"
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

    def copy(self) -> Crowd:
        """A crowd and traffic that do the same from now on; what does not change is shared."""
        constant: list[Any] = [user.body for user in self.traffic.users]
        constant += [route for kind in self.parts.values() for route, _ in kind]
        constant += [self.parts, self.traffic.meetings]
        return deepcopy(self, {id(each): each for each in constant})

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        while seconds > 1e-9:
            if self._planned_s <= 1e-9:
                self.fill_up(STEP_S)
                self.traffic.decide()
                self._planned_s = STEP_S
            step_s = min(seconds, self._planned_s, _MOVE_S)
            self.traffic.move(step_s)
            self._planned_s -= step_s
            seconds -= step_s

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

    def invite(self, class_id: int) -> set[int]:
        """Put a road user into view, at worst instead of a car; returns the tracks that are new."""
        first, kind = self.traffic.num_tracks, _WAY.get(class_id, ROAD)
        for _ in range(_TRIES):
            route, part = self._choose(kind, class_id)
            run_in = 4.0 * _SPEED[class_id][0]
            start = self.rng.uniform(part[0] - run_in, part[0] + 0.7 * (part[1] - part[0]))
            if self._add(class_id, route, max(float(start), 1.0)):
                break
        else:
            if kind == ROAD and class_id != CAR:
                self._replace_a_car(class_id)
        new = set(range(first, self.traffic.num_tracks))
        self.extra |= new
        return new

    def _replace_a_car(self, class_id: int) -> None:
        before = self.traffic.users
        for i in self.rng.permutation(len(before)):
            if before[i].class_id == CAR:
                self.traffic.users = [user for user in before if user is not before[i]]
                if self._add(class_id, before[i].route, before[i].s):
                    return
        self.traffic.users = before

    def _drop_those_out_of_view(self) -> None:
        users = self.traffic.users
        self.traffic.users = [u for u in users if u.rear < self._last[id(u.route)]]

    def _schedule(self, now_s: float) -> None:
        """Plan the rare classes of the next period of the recording, ahead of its start."""
        if not self.guests or self._scheduled_s >= self.seconds:
            return
        if now_s < self._scheduled_s - _AHEAD_S:
            return
        period = min(_GUESTS_EVERY_S, self.seconds - self._scheduled_s)
        for class_id in self.guests:
            route, part = self._choose(_WAY.get(class_id, ROAD), class_id)
            seen_s = self._scheduled_s + float(self.rng.uniform(0.15, 0.6)) * period
            self._plan(class_id, route, part, seen_s)
        self._scheduled_s += _GUESTS_EVERY_S

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
