"""A place in front of a camera: what stands there, its traffic, its light and its weather."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator import furniture
from etram_det.simulator.background import Ground, draw_background, draw_grains
from etram_det.simulator.body import Body
from etram_det.simulator.crowd import Crowd, visible_part
from etram_det.simulator.painting_order import far_to_near
from etram_det.simulator.places import build_place
from etram_det.simulator.projection import ACTOR, PLACED, SHAPE, VIEW, Camera, Stage, Sun, place
from etram_det.simulator.rendering import Light, paint
from etram_det.simulator.road_users import BODIES, CAR, TRUCK
from etram_det.simulator.routes import SIGNAL, WALK, Array, Route, turned
from etram_det.simulator.streets import Place, Wall
from etram_det.simulator.traffic import Signals, Traffic, User

_AMBIENT_DAY, _AMBIENT_NIGHT = 1.0, 0.12
_FAR_M = 85.0
_STEP_S = 0.1  # between two decisions of the traffic
_WARM_UP_S = 12.0

Pose = tuple[float, float, float]


@dataclass(frozen=True)
class Conditions:
    """What is given of a recording.

    Attributes:
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        seconds: length of the recording.
        night: whether it is night and lamps are on.
        users: average number of road users in view.
        place: one of ``places.PLACES``.
        rails: whether there are rails in the middle of the road.
        effects: strength of each effect, as of ``EffectSettings``.
        name: of the recording, for messages.
    """

    height: int
    width: int
    seconds: float
    night: bool = False
    users: float = 10.0
    place: str = "street"
    rails: bool = False
    effects: dict[str, float] = field(default_factory=dict)
    name: str = "the recording"


@dataclass(eq=False)
class _Thing:
    """Part of a road user, or of what moves without a way of its own."""

    shapes: NDArray[np.void]
    num_shadows: int
    actor: NDArray[np.void]  # [1] as ACTOR
    joint: float = 0.0
    user: User | None = None


class Scene:
    """A place and its traffic, ready to record.

    Args:
        rng: draws everything.
        conditions: what is given.

    Attributes:
        camera: its position and optics.
        light: the empty scene.
        sun: direction of shadows.
        traffic: the road users.
        effects: strength of each effect.
    """

    def __init__(self, rng: np.random.Generator, conditions: Conditions) -> None:
        self.rng, self.conditions = rng, conditions
        self.effects = {name: conditions.effects.get(name, 0.0) for name in _EFFECTS}
        spot = build_place(rng, conditions.place, conditions.rails)
        self.camera, origin, angle = _draw_view(rng, spot, (conditions.height, conditions.width))
        self._move_place(spot, origin, angle)
        routes = self.spot.routes
        signals = None
        if spot.signals:
            # One group's lights change early in the recording.
            green = float(rng.uniform(5, 9)), float(rng.uniform(4, 7))
            changes_s = rng.uniform(-1.5, 0.3 * min(conditions.seconds, 10))
            signals = Signals.changing_at(green, int(rng.integers(2)), float(changes_s))
        self.traffic = Traffic(rng, self.spot.crossings, signals, -_WARM_UP_S)
        size = conditions.height, conditions.width
        parts = [visible_part(self.camera, size, route, _FAR_M) for route in routes]
        self.crowd = Crowd(self.traffic, routes, parts, conditions)
        sun_angle, sun_length = rng.uniform(0, 2 * math.pi), 1 / math.tan(rng.uniform(0.6, 1.1))
        self.sun = Sun(sun_length * math.cos(sun_angle), sun_length * math.sin(sun_angle))
        self.things: dict[int, list[_Thing]] = {}
        self.still: list[_Thing] = []
        self._members: list[_Thing] | None = None
        self.light = self._draw_light(origin, angle)
        self.time_us = 0
        self._planned_s = 0.0
        while self.traffic.time_s < -1e-9:
            self.crowd.fill_up(_STEP_S)
            self.traffic.decide()
            self.traffic.move(_STEP_S)
        self.crowd.recast()
        self.stage, self.order = self._arrange()

    def _move_place(self, spot: Place, origin: tuple[float, float], angle: float) -> None:
        """Express the place in the camera's axes."""
        routes = [route.moved(*origin, angle, route.gates) for route in spot.routes]

        def moved(poses: Iterable[Pose]) -> list[Pose]:
            return [(*_shifted(x, y, origin, angle), h + angle) for x, y, h in poses]

        focus = np.array(spot.focus)
        walls = [
            Wall(
                _shifted(*w.start, origin, angle),
                _shifted(*w.end, origin, angle),
                w.height,
                w.albedo,
            )
            for w in spot.walls
            if _on_far_side(w, focus, np.array(origin))
        ]
        self.spot = Place(
            spot.focus, spot.kerb_m, routes, spot.crossings, spot.strips, walls,
            moved(spot.parking), moved(spot.furniture), moved(spot.shelters), spot.signals,
        )  # fmt: skip

    def _draw_light(self, origin: tuple[float, float], angle: float) -> Light:
        """The empty scene with all that stands still in it."""
        rng, night = self.rng, self.conditions.night
        size = self.conditions.height, self.conditions.width
        grains = draw_grains(rng)
        ambient = (_AMBIENT_NIGHT if night else _AMBIENT_DAY) * rng.uniform(0.8, 1.2)
        ground = Ground(self.spot.strips)
        albedo, nearest = draw_background(
            self.camera, size, ground, (*origin, -angle), self.spot.walls, grains
        )
        if night:
            albedo[albedo > 0.8] *= 0.25  # the sky is darker than what lamps light
        sunlight = min(0.6 * self.effects["shadows"], 0.9)
        glare = 1 + 1.5 * self.effects["glare"]
        background = (ambient * albedo).astype(np.float32)
        light = Light(
            background, nearest, nearest.max(axis=1), grains, float(ambient), night, sunlight, glare
        )
        things = self._furnish()
        stage, order = self._stage(things)
        image = background.copy()
        for i in order:
            place(self.camera, self.sun, stage, i, 0.0, 0.0)
        paint(image, (0, 0, size[1], size[0]), order, stage, light, True)
        return light._replace(background=image, row_nearest=nearest.max(axis=1))

    def _furnish(self) -> list[_Thing]:
        """Draw what stands still, and remember leaves and flickering lamps, which do not."""
        rng, things = self.rng, []
        for pose in self.spot.parking:
            if math.hypot(*pose[:2]) < _FAR_M:
                class_id = TRUCK if rng.random() < 0.06 else CAR
                things += self._parts(BODIES[class_id](rng), pose)
        for pose in self.spot.shelters:
            things += self._parts(furniture.shelter(), pose)
        for pose in self._signal_poles():
            things += self._parts(furniture.traffic_light(), pose)
        free = [pose for pose in self.spot.furniture if self._is_ahead(pose)]
        free = [free[i] for i in rng.permutation(len(free))]
        focus_m = math.hypot(*_centre(self.spot.routes))
        near = [pose for pose in free if 3.5 < pose[1] < 0.9 * focus_m]
        far = [pose for pose in free if pose[1] >= 0.9 * focus_m and pose[1] < 70]
        for _ in range(3):
            if far and self.conditions.night:
                height = float(rng.uniform(4.5, 6.5))
                things += self._parts(furniture.lamp(height), pose := far.pop())
                depth = 0.45 * self.effects["flicker"]
                lit = self._parts(furniture.lamp_light(height), pose, flicker=min(depth, 1.0))
                (self.still if depth else things).extend(lit)
        for _ in range(round(3 * self.effects["occluders"])):
            for choice in (near, far):
                if choice:
                    things += self._parts(self._draw_occluder(), choice.pop())
        for number in range(round(3 * self.effects["leaves"])):
            choice = near if near and (number % 2 or not far) else far
            if choice:
                self._plant(choice.pop(), things)
        return things

    def _draw_occluder(self) -> Body:
        kind = self.rng.integers(3)
        if kind == 0:
            return furniture.pole(float(self.rng.uniform(4, 8)), float(self.rng.uniform(0.12, 0.3)))
        if kind == 1:
            return furniture.sign(self.rng)
        return furniture.trunk(float(self.rng.uniform(3, 5)), float(self.rng.uniform(0.25, 0.5)))

    def _plant(self, pose: Pose, things: list[_Thing]) -> None:
        """A tree, whose leaves move."""
        height, radius = float(self.rng.uniform(2.2, 3.6)), float(self.rng.uniform(0.9, 1.6))
        things += self._parts(furniture.trunk(height, 0.25), pose)
        leaves = self._parts(furniture.crown(self.rng, height + 0.6 * radius, radius), pose)
        leaves[0].actor["phase0"] = self.rng.uniform(1.2, 2.4)  # hertz, until the first step
        self.still += leaves

    def _signal_poles(self) -> list[Pose]:
        poles: dict[tuple[int, int], Pose] = {}
        for route in self.spot.routes:
            for gate in route.gates:
                if gate.kind == SIGNAL and route.kind != WALK:
                    x, y, heading = route.at(gate.at_m)
                    right = 2.6 if route.kind == 2 else 1.4
                    pose = (x + right * math.sin(heading), y - right * math.cos(heading), heading)
                    poles[round(heading), round(heading + math.pi / 4)] = (
                        *pose[:2],
                        heading + math.pi,
                    )
        return list(poles.values())

    def _is_ahead(self, pose: Pose) -> bool:
        width, focal_px = self.conditions.width, self.camera.focal_px
        return pose[1] > 3 and abs(pose[0]) / pose[1] < 0.55 * width / focal_px

    def _parts(
        self, body: Body, pose: Pose, user: User | None = None, flicker: float = 0.0
    ) -> list[_Thing]:
        things = []
        for part in body.parts:
            shapes, num_shadows = part.table(self.conditions.night)
            actor = np.zeros(1, ACTOR)
            actor["class_id"] = -1 if user is None else user.class_id
            actor["track"] = -1 if user is None else user.track
            actor["rear"], actor["front"] = part.rear, part.front
            actor["half_width"], actor["height"] = body.half_width, body.height
            actor["limb_reach"], actor["flicker"] = part.limb_reach, flicker
            for name, value in zip(("x", "y", "heading"), pose, strict=True):
                actor[f"{name}0"] = actor[f"{name}1"] = value
            things.append(_Thing(shapes, num_shadows, actor, part.joint, user))
        return things

    def _stage(self, things: list[_Thing]) -> tuple[Stage, NDArray[np.int64]]:
        """The arrays of things, and their order from far to near."""
        if things != self._members:
            self._members = things
            ends = np.cumsum([0, *(len(thing.shapes) for thing in things)])
            shapes = np.empty(ends[-1], SHAPE)
            for thing, first, end in zip(things, ends, ends[1:], strict=False):
                shapes[first:end] = thing.shapes
                thing.actor["first_shape"], thing.actor["end_shape"] = first, end
                thing.actor["first_body"] = first + thing.num_shadows
            placed, views = np.zeros(len(shapes), PLACED), np.zeros(len(things), VIEW)
            touched, shine = np.zeros((len(things), 4), np.int64), np.ones(len(things))
            actors = np.empty(len(things), ACTOR)
            self.stage = Stage(actors, shapes, placed, touched, shine, views)
        for i, thing in enumerate(things):
            self.stage.actors[i] = thing.actor[0]
        self.stage.views["num_events"] = 0
        return self.stage, far_to_near(self.stage.actors)

    def _arrange(self) -> tuple[Stage, NDArray[np.int64]]:
        """Set the second moment of all things to now, and make the arrays of those in reach."""
        users = {user.track: user for user in self.traffic.users}
        self.things = {track: t for track, t in self.things.items() if track in users}
        time_s = self.traffic.time_s
        things = []
        for track, user in users.items():
            is_new = track not in self.things
            if is_new:
                self.things[track] = self._parts(user.body, (0.0, 0.0, 0.0), user)
            for thing in self.things[track]:
                _advance_user(thing, user, is_new)
                if self._in_reach(thing.actor[0]):
                    things.append(thing)
        for thing in self.still:
            self._sway(thing, time_s)
        return self._stage([*things, *self.still])

    def _sway(self, thing: _Thing, time_s: float) -> None:
        """Let leaves swing with the wind's gusts; ``driven`` keeps their frequency."""
        actor = thing.actor
        if actor["driven0"] == 0:
            actor["driven0"] = actor["driven1"] = max(float(actor["phase0"][0]), 0.5)
        gust = 0.7 + 0.3 * math.sin(2.1 * time_s + float(actor["x0"][0]))
        for name, value in (
            ("phase", 2 * math.pi * float(actor["driven0"][0]) * time_s),
            ("vigour", gust * min(self.effects["leaves"], 3.0)),
        ):
            actor[f"{name}0"] = actor[f"{name}1"] if self.time_us else value
            actor[f"{name}1"] = value

    def _in_reach(self, actor: np.void) -> bool:
        """Whether an actor may be in the frame."""
        x, y = 0.5 * (actor["x0"] + actor["x1"]), 0.5 * (actor["y0"] + actor["y1"])
        reach = max(actor["front"], -actor["rear"]) + (12.0 if self.conditions.night else 4.0)
        edge = 0.5 * self.conditions.width / self.camera.focal_px
        return bool(y > -reach and abs(x) < edge * max(y, 0) + reach * math.hypot(1, edge))

    def advance(self, end_us: int) -> tuple[Stage, NDArray[np.int64]]:
        """Let time pass until ``end_us``; returns the arrays of actors and their order."""
        seconds = (end_us - self.time_us) * 1e-6
        while seconds > 1e-9:
            step_s = min(seconds, 0.05)
            if self._planned_s <= 1e-9:
                self.crowd.fill_up(_STEP_S)
                self.traffic.decide()
                self._planned_s = _STEP_S
            self.traffic.move(step_s)
            self._planned_s -= step_s
            seconds -= step_s
        self.time_us = end_us
        self.stage, self.order = self._arrange()
        return self.stage, self.order


_EFFECTS = ("shadows", "glare", "flicker", "rain", "leaves", "shaking", "occluders")


def _advance_user(thing: _Thing, user: User, is_new: bool) -> None:
    """Make the last moment of a thing its first, and now its last."""
    actor = thing.actor
    stride = user.body.stride_m
    values = dict(zip(("x", "y", "heading"), user.pose(thing.joint), strict=True))
    values["driven"] = user.driven
    values["phase"] = user.phase + (2 * math.pi * user.driven / stride if stride else 0.0)
    values["vigour"] = min(user.speed / 0.8, 1.0) if user.walks else 1.0
    for name, value in values.items():
        old = float(actor[f"{name}1"][0])
        if name == "heading" and not is_new:
            value = old + (value - old + math.pi) % (2 * math.pi) - math.pi
        actor[f"{name}0"] = value if is_new else old
        actor[f"{name}1"] = value


def _shifted(x: float, y: float, origin: tuple[float, float], angle: float) -> tuple[float, float]:
    moved = turned(np.array([x - origin[0], y - origin[1]]), angle)
    return float(moved[0]), float(moved[1])


def _centre(routes: list[Route]) -> Array:
    return np.mean([route.points.mean(axis=0) for route in routes], axis=0)


def _on_far_side(wall: Wall, focus: Array, camera: Array) -> bool:
    """Whether a wall does not stand between the camera and the road."""
    start, end = np.array(wall.start), np.array(wall.end)
    along = end - start
    sides = [along[0] * (p - start)[1] - along[1] * (p - start)[0] for p in (focus, camera)]
    return bool(sides[0] * sides[1] > 0)


def _draw_view(
    rng: np.random.Generator, spot: Place, size: tuple[int, int]
) -> tuple[Camera, tuple[float, float], float]:
    """A camera beside the road, and its position and rotation in the place."""
    height, width = size
    traffic = [route for route in spot.routes if route.kind != WALK]
    best: tuple[float, float, float, Array, Array] | None = None
    for _ in range(60):
        half_view = math.radians(rng.uniform(30, 75) / 2)
        away = float(np.clip(rng.uniform(13, 32) / (2 * math.tan(half_view)), 8.5, 42))
        angle = rng.uniform(0.15, 0.6) if rng.random() < 0.5 else rng.uniform(0.9, 1.57)
        angle = rng.choice([-1, 1]) * angle + rng.choice([0, math.pi])
        aim = np.array(spot.focus) + rng.normal(0, 1.5, 2)
        position = aim + away * np.array([math.cos(angle), math.sin(angle)])
        apart = min(route.nearest(*position)[1] for route in traffic)
        if best is None or apart > best[0]:
            best = (apart, half_view, away, aim, position)
        if apart > 2.6:
            best = (apart, half_view, away, aim, position)
            break
    assert best is not None
    _, half_view, away, aim, position = best
    focal_px = 0.5 * max(width, 1.2 * height) / math.tan(half_view)
    height_m = rng.uniform(4.0, 9.0)
    below = (rng.uniform(-0.02, 0.14)) * height / focal_px  # the aim is below the middle
    pitch = math.atan2(height_m, away) - below
    camera = Camera(
        focal_px, width / 2, height / 2, float(height_m), math.sin(pitch), math.cos(pitch)
    )
    turn = math.pi / 2 - math.atan2(*(aim - position)[::-1])
    return camera, (float(position[0]), float(position[1])), turn
