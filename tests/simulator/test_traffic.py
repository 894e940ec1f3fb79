"""Behaviour: following, stopping, queueing, giving way, turning, halting; places and crowds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etram_det.errors import UserError
from etram_det.simulator.places import PLACES, build_place
from etram_det.simulator.road_users import BUS, CAR, PEDESTRIAN
from etram_det.simulator.routes import (
    CROSSING,
    CYCLE,
    HALT,
    RAIL,
    ROAD,
    SIGNAL,
    WALK,
    Crossing,
    Gate,
    Route,
    along,
    meeting,
)
from etram_det.simulator.scene import Conditions, Scene
from etram_det.simulator.traffic import Traffic, idm
from etram_det.simulator.user import Signals, User

LONG = along([(0, 0), (400, 0)], 1.0)


def traffic(crossings: list[Crossing] | None = None, signals: Signals | None = None) -> Traffic:
    return Traffic(np.random.default_rng(0), crossings or [], signals)


def run(place: Traffic, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        place.decide()
        place.move(0.1)


def car(place: Traffic, route: Route, s: float, cruise: float = 10.0) -> User:
    user = place.add(CAR, route, s, cruise)
    assert user is not None
    user.lateral = 0.0
    return user


def test_the_model_keeps_its_headway_in_equilibrium() -> None:
    """At equal speeds v, the gap is (s0 + v T) / sqrt(1 - (v / v0)**4)."""
    for speed in (2.0, 5.0, 8.0):
        gap = (1.8 + 1.1 * speed) / math.sqrt(1 - (speed / 10) ** 4)
        assert idm(speed, 10.0, gap, 0.0) == pytest.approx(0, abs=1e-9)
        assert idm(speed, 10.0, 0.8 * gap, 0.0) < -0.1
        assert idm(speed, 10.0, 1.3 * gap, 0.0) > 0.1
    assert idm(10.0, 10.0, math.inf, 0.0) == pytest.approx(0)
    assert idm(0.0, 10.0, math.inf, 0.0) == pytest.approx(1.6)


def test_vehicles_queue_at_red_and_leave_one_after_the_other() -> None:
    route = Route(ROAD, LONG, gates=(Gate(150.0, SIGNAL, 0),))
    place = traffic(signals=Signals((30.0, 30.0), offset_s=40.0))  # red for 27 s
    cars = [car(place, route, s) for s in (100.0, 80.0, 60.0)]
    run(place, 15)
    assert all(user.stands for user in cars)
    assert cars[0].front == pytest.approx(149.5, abs=1.0)
    for first, second in zip(cars, cars[1:], strict=False):
        assert 1.0 < first.rear - second.front < 3.0
    run(place, 27)
    assert [user.s > 151 for user in cars] == [True, True, True]
    gaps = [a.rear - b.front for a, b in zip(cars, cars[1:], strict=False)]
    assert min(gaps) > 4


def test_lights_go_from_green_over_amber_to_red() -> None:
    lights = Signals.changing_at((6.0, 5.0), 0, 2.0)
    assert lights.green_left_s(0, 1.0) == pytest.approx(1.0)
    assert lights.green_left_s(0, 2.5) == 0
    assert lights.green_left_s(0, 4.5) == lights.green_left_s(1, 4.5) == 0
    assert lights.green_left_s(1, 6.0) == pytest.approx(4.5)
    for time_s in np.arange(0, 60, 0.1):
        assert min(lights.green_left_s(0, time_s), lights.green_left_s(1, time_s)) == 0
    assert Signals.changing_at((6.0, 5.0), 1, 2.0).green_left_s(1, 1.0) == pytest.approx(1.0)


def test_people_wait_for_traffic_and_traffic_gives_way_to_them() -> None:
    crossing = Crossing(200.0, 0.0, math.pi / 2, 4.0)
    road = Route(ROAD, LONG, gates=(Gate(196.2, CROSSING, 0, 203.0),))
    way = along([(200, -20), (200, 20)], 1.0)
    walk = Route(WALK, way, gates=(Gate(15.2, CROSSING, 0, 25.0),))
    place = traffic([crossing])
    driver = car(place, road, 120.0)
    walker = place.add(PEDESTRIAN, walk, 14.0, 1.3)
    assert walker is not None
    walker.lateral, walker.patience_s = 0.0, 1.0
    least = math.inf
    waited = False
    for _ in range(400):
        run(place, 0.1)
        x, y, _ = walker.pose()
        waited |= walker.stands and walker.s < 16
        if abs(y) < 2.0 and walker in place.users:
            least = min(least, math.hypot(x - driver.s, y))
    assert waited
    assert least > 2.0
    assert driver not in place.users or driver.s > 210  # both have got through
    assert walker not in place.users


def test_a_turning_vehicle_lets_those_pass_who_go_straight_on() -> None:
    straight = Route(ROAD, along([(100, 2), (-100, 2)], 1.0))
    left = Route(ROAD, along([(-100, -2), (2, -2), (2, 100)], 9.0), turning=True)
    met = meeting(left, straight)
    assert met.conflict is not None
    assert np.isnan(met.shared).all()
    place = traffic()
    turning, other = car(place, left, 80.0), car(place, straight, 60.0)
    least = math.inf
    for _ in range(300):
        run(place, 0.1)
        if {turning, other} <= set(place.users):
            (x0, y0, _), (x1, y1, _) = turning.pose(), other.pose()
            least = min(least, math.hypot(x0 - x1, y0 - y1))
    assert least > 2.5
    assert turning not in place.users or turning.s > 120


def test_buses_halt_at_stops_and_cars_do_not() -> None:
    route = Route(ROAD, LONG, gates=(Gate(150.0, HALT, 0),))
    place = traffic()
    bus = place.add(BUS, route, 100.0, 9.0)
    assert bus is not None
    bus.patience_s = 4.0
    first = car(place, route, 130.0)
    stood_s = 0.0
    for _ in range(400):
        run(place, 0.1)
        stood_s += 0.1 * bus.stands
        assert not first.stands or first not in place.users
    assert 3.5 < stood_s < 6.0
    assert bus not in place.users or bus.s > 200


def test_a_vehicle_slows_down_for_a_bend_and_heads_along_it() -> None:
    route = Route(ROAD, along([(0, 0), (100, 0), (100, 100)], 9.0))
    place = traffic()
    user = car(place, route, 40.0)
    speeds, headings = [], []
    while user in place.users and user.s < 180:
        run(place, 0.1)
        speeds.append(user.speed)
        headings.append(user.pose()[2])
    assert min(speeds) < 5.0 < max(speeds)
    assert headings[0] == pytest.approx(0, abs=0.01)
    assert headings[-1] == pytest.approx(math.pi / 2, abs=0.01)
    assert np.abs(np.diff(headings)).max() < 0.2


@pytest.mark.parametrize("rails", [False, True])
@pytest.mark.parametrize("name", PLACES)
def test_places_have_smooth_ways_for_all(name: str, rails: bool) -> None:
    for seed in range(4):
        place = build_place(np.random.default_rng(seed), name, rails)
        kinds = {route.kind for route in place.routes}
        assert kinds >= {WALK, CYCLE, ROAD}
        assert (RAIL in kinds) == (rails or name == "tram_stop")
        assert place.crossings
        assert place.signals == (name == "junction")
        for route in place.routes:
            step = np.hypot(*np.diff(route.points, axis=0).T)
            assert step.max() < 1.05
            assert step.min() > 0.6  # around corners
            gates = [gate.at_m for gate in route.gates]
            assert gates == sorted(gates)


@pytest.mark.parametrize("place", PLACES)
def test_vehicles_do_not_drive_through_each_other(place: str) -> None:
    for seed in range(2):
        rng = np.random.default_rng(seed)
        scene = Scene(rng, Conditions(90, 160, 8.0, False, 10.0, place, True))
        hits = checks = 0
        for time_us in range(200_000, 8_000_001, 200_000):
            scene.advance(time_us)
            users = [u for u in scene.traffic.users if not u.walks and u.route.kind == ROAD]
            for i, user in enumerate(users):
                x0, y0, heading = user.pose()
                for other in users[:i]:
                    x1, y1, _ = other.pose()
                    ahead = (x1 - x0) * math.cos(heading) + (y1 - y0) * math.sin(heading)
                    aside = (y1 - y0) * math.cos(heading) - (x1 - x0) * math.sin(heading)
                    reach = 0.5 * user.body.length
                    checks += 1
                    hits += abs(ahead) < 0.8 * reach and abs(aside) < 0.8
        assert checks > 0
        assert hits <= 0.01 * checks


def test_the_number_in_view_follows_the_setting() -> None:
    seen = []
    for users in (4.0, 12.0):
        counts = []
        for seed in range(4):
            rng = np.random.default_rng(seed)
            scene = Scene(rng, Conditions(90, 160, 2.0, False, users, "crossing"))
            scene.advance(1_000_000)
            counts.append(len(scene.traffic.users))
        seen.append(np.mean(counts))
    assert seen[1] - seen[0] > 5  # rare road users come in any case
    rng = np.random.default_rng(0)
    assert not Scene(rng, Conditions(90, 160, 2.0, users=0)).traffic.users
    with pytest.raises(UserError, match="^traffic: must be at most about"):
        Scene(rng, Conditions(90, 160, 2.0, users=100))
