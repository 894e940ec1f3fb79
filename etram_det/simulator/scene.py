"""A place in front of a camera: what stands there, its traffic, its light and its weather."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator import furniture
from etram_det.simulator.background import Ground, draw_background, draw_grains
from etram_det.simulator.body import Body
from etram_det.simulator.effects import EFFECTS
from etram_det.simulator.painting_order import far_to_near
from etram_det.simulator.projection import place_all
from etram_det.simulator.rehearsal import FAR_M, draw_take
from etram_det.simulator.rehearsal import Conditions as Conditions
from etram_det.simulator.rendering import Light, paint
from etram_det.simulator.road_users import BODIES, CAR, TRUCK
from etram_det.simulator.routes import ROAD, SIGNAL, WALK
from etram_det.simulator.stage import ACTOR, PLACED, SHAPE, VIEW, Stage, Sun
from etram_det.simulator.user import User
from etram_det.simulator.viewpoint import Pose

_AMBIENT_DAY, _AMBIENT_NIGHT = 1.0, 0.12


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
        self.effects = {name: conditions.effects.get(name, 0.0) for name in EFFECTS}
        take = draw_take(rng, conditions)
        self.camera, self.spot = take.camera, take.place
        self.crowd, self.traffic = take.crowd, take.crowd.traffic
        sun_angle, sun_length = rng.uniform(0, 2 * math.pi), 1 / math.tan(rng.uniform(0.6, 1.1))
        self.sun = Sun(sun_length * math.cos(sun_angle), sun_length * math.sin(sun_angle))
        self.things: dict[int, list[_Thing]] = {}
        self.still: list[_Thing] = []
        self._members: list[_Thing] | None = None
        self.light = self._draw_light((*take.origin, -take.angle))
        self.time_us = 0
        self.stage, self.order = self._arrange()

    def _draw_light(self, to_place: Pose) -> Light:
        """The empty scene with all that stands still in it."""
        rng, night = self.rng, self.conditions.night
        size = self.conditions.height, self.conditions.width
        grains = draw_grains(rng)
        ambient = (_AMBIENT_NIGHT if night else _AMBIENT_DAY) * rng.uniform(0.8, 1.2)
        ground = Ground(self.spot.strips)
        albedo, nearest = draw_background(
            self.camera, size, ground, to_place, self.spot.walls, grains
        )
        if night:
            albedo[albedo > 0.8] *= 0.25  # the sky is darker than what lamps light
        sunlight = min(0.6 * self.effects["shadows"], 0.9)
        glare = 1 + 1.5 * self.effects["glare"]
        background = (ambient * albedo).astype(np.float32)
        light = Light(
            background,
            nearest,
            nearest.max(axis=1),
            grains,
            float(ambient),
            night,
            sunlight,
            glare,
            is_built=False,
        )
        things = self._furnish()
        stage, order = self._stage(things)
        image = background.copy()
        place_all(self.camera, self.sun, stage, order, 0.0, 0.0)
        paint(image, (0, 0, size[1], size[0]), order, stage, light)
        return light._replace(background=image, row_nearest=nearest.max(axis=1), is_built=True)

    def _furnish(self) -> list[_Thing]:
        """Draw what stands still, and remember leaves and flickering lamps, which do not."""
        rng, things = self.rng, []
        for pose in self.spot.parking:
            if math.hypot(*pose[:2]) < FAR_M:
                class_id = TRUCK if rng.random() < 0.06 else CAR
                things += self._parts(BODIES[class_id](rng), pose)
        for pose in self.spot.shelters:
            things += self._parts(furniture.shelter(), pose)
        for pose in self._signal_poles():
            things += self._parts(furniture.traffic_light(), pose)
        free = [pose for pose in self.spot.furniture if self._is_ahead(pose)]
        free = [free[i] for i in rng.permutation(len(free))]
        middles = [route.points.mean(axis=0) for route in self.spot.routes]
        focus_m = math.hypot(*np.mean(middles, axis=0))
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
                    right = 2.6 if route.kind == ROAD else 1.4
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
        self.crowd.advance((end_us - self.time_us) * 1e-6)
        self.time_us = end_us
        self.stage, self.order = self._arrange()
        return self.stage, self.order


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
