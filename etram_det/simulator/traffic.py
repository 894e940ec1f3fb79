"""Behaviour of road users: they follow, stop, queue, give way, wait, cross and halt.

Vehicles, bicycles and trams follow the intelligent driver model (Treiber, Hennecke and Helbing,
"Congested traffic states in empirical observations and microscopic simulations", Physical Review E
62, 2000): with the speed ``v``, the free speed ``v0``, the gap ``s`` to an obstacle ahead and the
speed ``dv`` at which it comes nearer,

    acceleration = a * (1 - (v / v0)**4 - (s_wanted / s)**2),
    s_wanted = s0 + v * T + v * dv / (2 * sqrt(a * b)).

Red lights, stops, occupied crossings and others who have priority are obstacles that stand still.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from etram_det.simulator.road_users import BICYCLE, BODIES, BUS, TRAM
from etram_det.simulator.routes import (
    CROSSING,
    HALT,
    RAIL,
    SIGNAL,
    Crossing,
    Gate,
    Meeting,
    Route,
    meeting,
)
from etram_det.simulator.user import Signals, User

# a, b, s0 and T of the model, in m/s², m and s.
_ACCELERATION, _BRAKING, _STANDSTILL_M, _HEADWAY_S = 1.6, 2.2, 1.8, 1.1
_HARDEST_MS2 = 7.0
_LOOK_M = 45.0
STEP_S = 0.1  # between two decisions
_GAP_S = 4.0  # that people and turning vehicles need
_POLITE_S = 3.0  # that a driver waits for people who have not begun to cross
_PAUSES_HZ = 0.16  # stops of somebody on foot in a second, to look around


def _is_in_the_way(route: Route, gate: Gate, walker: User) -> bool:
    """Whether somebody on a crossing is where a route crosses it, or will soon be."""
    x, y, _ = route.at(0.5 * (gate.at_m + 2.0 + gate.end_m))
    walker_x, walker_y, heading = walker.pose()
    away_x, away_y = x - walker_x, y - walker_y
    away = math.hypot(away_x, away_y)
    comes = away_x * math.cos(heading) + away_y * math.sin(heading) > 0
    return away < (3.6 if comes else 1.8)


def idm(speed: float, free: float, gap: float, approach: float) -> float:
    """Acceleration of the intelligent driver model in m/s².

    Args:
        speed: of the vehicle in m/s.
        free: speed that it would like, in m/s.
        gap: metres to the obstacle; infinite for none.
        approach: speed at which the gap closes, in m/s.
    """
    wanted = _STANDSTILL_M + max(
        0.0,
        speed * _HEADWAY_S + speed * approach / (2 * math.sqrt(_ACCELERATION * _BRAKING)),
    )
    free_road = 1 - (speed / max(free, 0.1)) ** 4
    return _ACCELERATION * (free_road - (wanted / max(gap, 0.1)) ** 2)


@dataclass
class Traffic:
    """All road users of a place.

    Attributes:
        rng: draws their decisions.
        crossings: of the place.
        signals: of the place, if there are any.
        time_s: of now; the recording starts at 0.
        users: those on their way.
        meetings: of pairs of routes, by their ids.
    """

    rng: np.random.Generator
    crossings: list[Crossing]
    signals: Signals | None
    time_s: float = 0.0
    users: list[User] = field(default_factory=list)
    num_tracks: int = 0
    meetings: dict[tuple[int, int], Meeting] = field(default_factory=dict)

    def add(self, class_id: int, route: Route, s: float, cruise: float) -> User | None:
        """Put a road user on a route, if there is room; people may come in pairs."""
        body = BODIES[class_id](self.rng)
        user = User(self.num_tracks, class_id, body, route, s, cruise)
        self._draw_habits(user)
        if not self._has_room(user):
            return None
        self.num_tracks += 1
        self.users.append(user)
        return user

    def add_companion(self, other: User) -> User:
        """Add somebody who walks beside a user."""
        user = User(
            self.num_tracks, other.class_id, BODIES[other.class_id](self.rng), other.route, other.s,
            other.cruise, other.speed, other.lateral + 0.75, beside=other,
        )  # fmt: skip
        user.phase = float(self.rng.uniform(0, 6))
        self.num_tracks += 1
        self.users.append(user)
        return user

    def _draw_habits(self, user: User) -> None:
        rng = self.rng
        user.speed = min(user.cruise, float(user.route.limits[int(user.s)]))
        user.next_gate = sum(gate.at_m < user.front for gate in user.route.gates)
        user.phase = float(rng.uniform(0, 2 * math.pi))
        user.patience_s = float(rng.uniform(0.5, 3.0))
        if user.walks:
            user.lateral = float(rng.uniform(-1.1, 1.1))
        elif user.class_id == BICYCLE:
            user.wobble = float(rng.uniform(0.08, 0.2))
            user.lateral = float(rng.uniform(-0.2, 0.2))
        elif user.route.kind != RAIL:
            user.lateral = float(rng.uniform(-0.25, 0.25))
        if user.class_id in (BUS, TRAM):
            user.patience_s = float(rng.uniform(2.0, 4.5))

    def remove(self, tracks: set[int]) -> None:
        """Take road users off their ways."""
        self.users = [user for user in self.users if user.track not in tracks]

    def _has_room(self, user: User) -> bool:
        x, y, _ = user.pose()
        for other in self.users:
            if other.walks != user.walks:
                continue
            apart = 0.5 * (other.body.length + user.body.length)
            apart = apart + 5.0 if not user.walks else 0.9
            other_x, other_y, _ = other.pose()
            if math.hypot(other_x - x, other_y - y) < apart:
                met = self._meeting(user.route, other.route)
                if user.walks or not math.isnan(met.shared[int(other.s)]):
                    return False
        return True

    def _meeting(self, first: Route, second: Route) -> Meeting:
        met = self.meetings.get((id(first), id(second)))
        if met is None:
            met = self.meetings[id(first), id(second)] = meeting(first, second)
        return met

    def decide(self) -> None:
        """Choose the accelerations of all."""
        occupied, wanted = self._crossing_people()
        vehicles = [user for user in self.users if not user.walks]
        cells = [min(max(int(each.s), 0), len(each.route.points) - 1) for each in vehicles]
        others = list(zip(vehicles, cells, strict=True))
        for user in self.users:
            if user.walks:
                self._pause(user)
            else:
                user.acceleration = self._drive(user, others, occupied, wanted)

    def move(self, seconds: float) -> None:
        """Let time pass; users at the end of their route leave."""
        self.time_s += seconds
        for user in self.users:
            if user.beside is not None and user.beside in self.users:
                way = user.beside.s - user.s
                user.speed, user.driven, user.s = way / seconds, user.driven + way, user.beside.s
                continue
            speed = self._walk(user, seconds) if user.walks else user.speed
            if not user.walks:
                user.speed = max(speed + user.acceleration * seconds, 0.0)
                if user.speed < 0.08 and user.acceleration < 0.1:
                    user.speed = 0.0
            way = 0.5 * (speed + user.speed) * seconds
            user.s, user.driven = user.s + way, user.driven + way
            gates = user.route.gates
            while user.next_gate < len(gates) and user.front > gates[user.next_gate].at_m + 0.2:
                user.next_gate += 1
                user.waited_s = 0.0
            if user.stands:
                user.waited_s += seconds
        self.users = [user for user in self.users if user.s < user.route.length]

    def _crossing_people(self) -> tuple[dict[int, list[User]], set[int]]:
        """The people on each crossing, and the numbers of those at which people wait to cross."""
        occupied, wanted = defaultdict(list), set()
        for user in self.users:
            if not user.walks:
                continue
            for i, gate in enumerate(user.route.gates):
                if gate.at_m + 0.3 < user.s < gate.end_m:
                    occupied[gate.number].append(user)
                elif i == user.next_gate and user.stands and gate.at_m - user.s < 1.0:
                    if user.waited_s > 0.5 * user.patience_s:
                        wanted.add(gate.number)
        return occupied, wanted

    def _pause(self, user: User) -> None:
        """Let somebody on foot stop now and then, but not on a crossing."""
        on_crossing = any(gate.at_m - 1 < user.s < gate.end_m + 1 for gate in user.route.gates)
        if user.pause_s <= 0 and not on_crossing and self.rng.random() < _PAUSES_HZ * STEP_S:
            user.pause_s = float(self.rng.uniform(1.3, 4.0))

    def _walk(self, user: User, seconds: float) -> float:
        """Speed of somebody on foot or in a wheelchair, who stops at kerbs and where it likes."""
        goal = user.cruise
        if user.pause_s > 0:
            user.pause_s -= seconds
            goal = 0.0
        elif user.next_gate < len(user.route.gates):
            gate = user.route.gates[user.next_gate]
            left = gate.at_m - user.front
            if left < 0.4 and not self._may_cross(user, gate):
                goal = 0.0
        change = 2.5 * seconds
        before = user.speed
        user.speed = min(max(goal, before - change), before + change)
        return before

    def _may_cross(self, user: User, gate: Gate) -> bool:
        crossing = self.crossings[gate.number]
        if crossing.signal is not None and self.signals is not None:
            return self.signals.green_left_s(crossing.signal, self.time_s) > 2.0
        if user.waited_s < 0.3 * user.patience_s and user.track % 3:
            return False  # most look before they cross
        for other in self.users:
            if other.walks:
                continue
            for line in other.route.gates:
                if line.kind != CROSSING or line.number != gate.number:
                    continue
                ahead = line.at_m - other.front
                if ahead < 0 and other.rear < line.end_m + 0.5:
                    return False
                if 0 <= ahead < max(other.speed * _GAP_S, 0.0) and other.speed > 1.2:
                    return False
        return True

    def _drive(
        self,
        user: User,
        others: list[tuple[User, int]],
        occupied: dict[int, list[User]],
        wanted: set[int],
    ) -> float:
        """Acceleration of a vehicle: the least that any obstacle asks for."""
        free = min(
            user.cruise, float(user.route.limits[min(int(user.s), len(user.route.limits) - 1)])
        )
        least = idm(user.speed, free, math.inf, 0.0)
        for gap, speed in self._obstacles(user, others, occupied, wanted):
            least = min(least, idm(user.speed, free, gap, user.speed - speed))
        return max(least, -_HARDEST_MS2)

    def _obstacles(
        self,
        user: User,
        others: list[tuple[User, int]],
        occupied: dict[int, list[User]],
        wanted: set[int],
    ) -> list[tuple[float, float]]:
        """Gap to each obstacle in metres and its speed; ``others`` are vehicles and their metre."""
        route, s, front = user.route, user.s, user.front
        found = [
            (gate.at_m - front + _STANDSTILL_M - 0.4, 0.0)
            for gate in route.gates[user.next_gate :]
            if gate.at_m - front < _LOOK_M and self._must_stop(user, gate, occupied, wanted)
        ]
        for other, cell in others:
            if other is user:
                continue
            met = self._meeting(route, other.route)
            there = met.shared[cell]
            if there == there:  # not nan
                centre = other.s if other.route is route else there + other.s % 1
                gap = centre - 0.5 * other.body.length - front
                if centre > s and gap < _LOOK_M:
                    found.append((gap, other.speed))
            elif met.conflict is not None:
                gap = met.conflict[0] - 1.0 - front
                if 0 < gap < _LOOK_M and self._yields(user, other, met.conflict):
                    found.append((gap + _STANDSTILL_M, 0.0))
        return found

    def _must_stop(
        self, user: User, gate: Gate, occupied: dict[int, list[User]], wanted: set[int]
    ) -> bool:
        left = gate.at_m - user.front
        can_stop = left > user.speed**2 / (2 * 3.5) - 0.5
        if gate.kind == SIGNAL:
            assert self.signals is not None
            return self.signals.green_left_s(gate.number, self.time_s) == 0 and can_stop
        if gate.kind == CROSSING:
            if any(_is_in_the_way(user.route, gate, walker) for walker in occupied[gate.number]):
                return can_stop
            zebra = self.crossings[gate.number].signal is None
            polite = user.waited_s < _POLITE_S and user.route.kind != RAIL
            return zebra and gate.number in wanted and can_stop and polite
        assert gate.kind == HALT
        return user.class_id in (BUS, TRAM) and (left > 2.0 or user.waited_s < user.patience_s)

    def _yields(self, user: User, other: User, conflict: tuple[float, float, float, float]) -> bool:
        """Whether a user keeps clear of the place where another crosses its way."""
        _, _, start, end = conflict
        if other.rear > end + 0.5:
            return False
        if other.front > start - 0.5:
            return True  # it is there
        if not user.route.turning or other.route.turning or other.stands:
            return False
        return start - other.front < max(other.speed, 2.0) * _GAP_S
