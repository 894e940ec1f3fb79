"""A boulevard in front of a static camera: its lanes and pavements, its traffic, its light.

Lanes are straight and parallel. All traffic of a lane has the same speed, so nothing drives through
anything; people on pavements walk at their own speeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator import road_users
from etram_det.simulator.projection import ACTOR, SHAPE, Camera, distance_driven, project
from etram_det.simulator.rendering import GRAIN_SIZE, Light

Array = NDArray[np.float64]

_PAVEMENT, _CYCLES, _CARRIAGEWAY, _RAILS = range(4)
_USERS = {
    _PAVEMENT: (road_users.PEDESTRIAN, road_users.WHEELCHAIR),
    _CYCLES: (road_users.BICYCLE,),
    _CARRIAGEWAY: (road_users.CAR, road_users.BUS, road_users.MOTORBIKE, road_users.TRUCK),
    _RAILS: (road_users.TRAM,),
}
_WIDTH_M = {_PAVEMENT: 3.6, _CYCLES: 2.0, _CARRIAGEWAY: 3.3, _RAILS: 3.8}
_ALBEDO = {_PAVEMENT: 0.34, _CYCLES: 0.27, _CARRIAGEWAY: 0.22, _RAILS: 0.26}
# Lowest and highest speed in metres per second.
_SPEED = {_PAVEMENT: (0.9, 1.7), _CYCLES: (2.5, 5.0), _CARRIAGEWAY: (4.5, 9.0), _RAILS: (3.5, 6.5)}
# Relative time in view of each class id: eTraM's rare classes are frequent here.
_SHARE = np.array([2.6, 1.6, 1.6, 0.6, 1.5, 0.6, 0.4, 1.8])
_GAP_M = 2.5
_LATE_S = 5.0
# Reach of a vehicle's lamps on the road ahead of it.
_LIGHT_M = 12.0
_AMBIENT_DAY, _AMBIENT_NIGHT = 1.0, 0.12


@dataclass(frozen=True)
class Lane:
    """One strip of the boulevard."""

    kind: int  # pavement, cycle lane, carriageway or rails
    offset_m: float  # distance of its centre from the camera, across the boulevard
    direction: int  # +1 if its traffic goes to the right, -1 to the left, 0 both
    view_m: tuple[float, float]  # first and last position along it in the camera's view


@dataclass(frozen=True)
class Scene:
    """A place and its traffic, ready to record."""

    camera: Camera  # its position and optics
    light: Light  # the empty scene
    actors: NDArray[np.void]  # [A] as ACTOR, from far to near
    shapes: NDArray[np.void]  # [S] of all actors, as SHAPE


def _draw_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """A camera some metres above the ground, with the horizon in the upper part of its image."""
    focal_px = rng.uniform(0.85, 0.95) * max(width, 1.5 * height)
    pitch = math.atan2((0.5 - rng.uniform(-0.04, 0.08)) * height, focal_px)
    height_m = rng.uniform(10.0, 14.0)
    return Camera(focal_px, width / 2, height / 2, height_m, math.sin(pitch), math.cos(pitch))


def _ground_point(lane: Lane, along_m: float, turn: float) -> tuple[float, float]:
    """World ``(x, y)`` of a position along a lane; ``turn`` is the boulevard's angle."""
    x = along_m * math.cos(turn) - lane.offset_m * math.sin(turn)
    return x, along_m * math.sin(turn) + lane.offset_m * math.cos(turn)


def _lay_lanes(
    rng: np.random.Generator, camera: Camera, size: tuple[int, int], turn: float
) -> list[Lane]:
    """Pavements outside, cycle lanes, two carriageways, and rails among them."""
    height, width = size
    order = [_CYCLES, _CARRIAGEWAY, _CARRIAGEWAY, _CARRIAGEWAY, _CARRIAGEWAY, _CYCLES]
    order.insert(rng.choice([1, 3, 3, 5, 5, 5]), _RAILS)
    order = [_PAVEMENT, *order, _PAVEMENT]
    # The nearest pavement is just above the lower edge of the image.
    below = math.atan2(0.44 * height, camera.focal_px) + math.asin(camera.sin_pitch)
    edge_m = camera.height_m / math.tan(below) - 0.5 * _WIDTH_M[_PAVEMENT]
    traffic = rng.choice([-1, 1])
    lanes = []
    for i, kind in enumerate(order):
        offset_m = edge_m + 0.5 * _WIDTH_M[kind]
        edge_m += _WIDTH_M[kind]
        near = i < len(order) / 2 if kind != _RAILS else rng.random() < 0.5
        direction = 0 if kind == _PAVEMENT else int(traffic if near else -traffic)
        lane = Lane(kind, offset_m, direction, (0.0, 0.0))
        seen = []
        for along_m in np.arange(-80.0, 80.0, 0.5):
            u, v, depth = project(camera, *_ground_point(lane, along_m, turn), 0.0)
            if depth > 0 and 0 <= u < width and 0 <= v < height:
                seen.append(along_m)
        lanes.append(Lane(kind, offset_m, direction, (seen[0], seen[-1])))
    return lanes


def _draw_motion(rng: np.random.Generator, kind: int) -> np.record:
    """An actor of which only the speed, which varies a little, is set."""
    actor = np.zeros(1, ACTOR).view(np.recarray)[0]
    actor["speed"] = rng.uniform(*_SPEED[kind])
    actor["sway_hz"] = rng.uniform(0.1, 0.3)
    actor["sway"] = rng.uniform(0, 0.25) * actor["speed"] / (2 * math.pi * actor["sway_hz"])
    actor["sway_phase"] = rng.uniform(0, 2 * math.pi)
    return actor


class _Traffic:
    """Fills lanes with road users, one by one; ``turn`` is the boulevard's angle."""

    def __init__(
        self, rng: np.random.Generator, lanes: list[Lane], turn: float, seconds: float, night: bool
    ) -> None:
        self.rng, self.lanes, self.turn, self.seconds, self.night = rng, lanes, turn, seconds, night
        self.motions = [_draw_motion(rng, lane.kind) for lane in lanes]
        self.taken: list[list[tuple[float, float]]] = [[] for _ in lanes]
        self.actors: list[tuple[tuple[float, float], np.record]] = []
        self.shapes: list[NDArray[np.void]] = []
        self.num_shapes = 0

    def fill(self, users: float, late: int) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Road users from far to near, and their shapes; arguments as in ``draw_scene``."""
        in_view_s = np.zeros(len(_SHARE))
        # Without a random handicap all recordings would start with one class.
        handicap_s = self.rng.uniform(0, 0.5, len(_SHARE))
        handicap_s[late] += _LATE_S * _SHARE[late]
        while in_view_s.sum() < users * self.seconds:
            class_id = int(np.argmin((in_view_s + handicap_s) / _SHARE))
            gained_s = self.add(class_id)
            in_view_s[class_id] += gained_s
            handicap_s[class_id] += 0.0 if gained_s else 0.2  # no room: other classes come first
        from_far = [actor for _, actor in sorted(self.actors, key=lambda pair: pair[0])]
        return np.array(from_far, ACTOR), np.concatenate([np.zeros(0, SHAPE), *self.shapes])

    def add(self, class_id: int) -> float:
        """Add one road user; returns its seconds in view, 0 if there is no room for it."""
        rng = self.rng
        index = rng.choice([i for i, x in enumerate(self.lanes) if class_id in _USERS[x.kind]])
        lane, body = self.lanes[index], road_users.BODIES[class_id](rng)
        walks = lane.kind == _PAVEMENT
        actor = (_draw_motion(rng, lane.kind) if walks else self.motions[index]).copy()
        direction = lane.direction or rng.choice([-1, 1])
        seen_s = rng.uniform(0, self.seconds)
        start_m = rng.uniform(*lane.view_m) - direction * distance_driven.py_func(actor, seen_s)
        if not walks:
            for other_m, other_length in self.taken[index]:
                if abs(other_m - start_m) < 0.5 * (other_length + body.length) + _GAP_M:
                    return 0.0
            self.taken[index].append((start_m, body.length))
        sideways = rng.uniform(-0.3, 0.3) * _WIDTH_M[lane.kind] if walks else rng.uniform(-0.2, 0.2)
        placed = Lane(lane.kind, lane.offset_m + sideways, direction, lane.view_m)
        actor["x"], actor["y"] = _ground_point(placed, start_m, self.turn)
        actor["heading_x"] = direction * math.cos(self.turn)
        actor["heading_y"] = direction * math.sin(self.turn)
        actor["class_id"], actor["cadence_hz"] = class_id, body.cadence_hz
        actor["limb_speed"] = body.limb_speed
        shapes = body.table(self.night)
        actor["first_shape"], actor["end_shape"] = self.num_shapes, self.num_shapes + len(shapes)
        self.num_shapes += len(shapes)
        self.shapes.append(shapes)
        in_view_s = self._watch(actor, start_m, placed, body.length)
        far = (-placed.offset_m, -start_m * math.sin(self.turn))
        self.actors.append((far, actor))
        return in_view_s

    def _watch(self, actor: np.record, start_m: float, lane: Lane, length: float) -> float:
        """Set when an actor enters and leaves; returns its recorded seconds in view."""
        times_s, step_s = np.linspace(0, self.seconds, 2 + int(10 * self.seconds), retstep=True)
        along_m = start_m + lane.direction * distance_driven.py_func(actor, times_s)
        beyond_m = np.maximum(lane.view_m[0] - along_m, along_m - lane.view_m[1])
        near = times_s[beyond_m < 0.5 * length + _LIGHT_M]
        actor["enter_us"], actor["leave_us"] = (near[0] - step_s) * 1e6, (near[-1] + step_s) * 1e6
        return self.seconds * float(np.mean(beyond_m < 0))


def _draw_grains(rng: np.random.Generator) -> NDArray[np.float32]:
    """A seamless texture ``[GRAIN_SIZE, GRAIN_SIZE]`` in [-1, 1]."""
    fine = rng.uniform(-1, 1, (GRAIN_SIZE, GRAIN_SIZE))
    coarse = np.kron(rng.uniform(-1, 1, (GRAIN_SIZE // 4, GRAIN_SIZE // 4)), np.ones((4, 4)))
    return (0.5 * fine + 0.5 * coarse).astype(np.float32)


def _texture(grains: NDArray[np.float32], a: Array, b: Array) -> NDArray[np.float32]:
    """Grain at points of a surface, from the nearest texel."""
    size = len(grains)
    return grains[np.floor(b).astype(int) % size, np.floor(a).astype(int) % size]


def _draw_background(
    rng: np.random.Generator, camera: Camera, lanes: list[Lane], turn: float,
    size: tuple[int, int], grains: NDArray[np.float32],
) -> NDArray[np.float32]:  # fmt: skip
    """Albedo ``[H, W]`` of the empty boulevard, the houses behind it and the sky."""
    height, width = size
    v, u = np.mgrid[0.5:height, 0.5:width]
    right, above = (u - camera.centre_u) / camera.focal_px, (camera.centre_v - v) / camera.focal_px
    ray_y = camera.cos_pitch + above * camera.sin_pitch
    ray_z = above * camera.cos_pitch - camera.sin_pitch
    ray_along = right * math.cos(turn) + ray_y * math.sin(turn)
    ray_across = ray_y * math.cos(turn) - right * math.sin(turn)
    wall_m = lanes[-1].offset_m + 0.5 * _WIDTH_M[_PAVEMENT] + rng.uniform(1, 5)
    with np.errstate(divide="ignore", invalid="ignore"):
        to_ground = np.where(ray_z < 0, camera.height_m / -ray_z, np.inf)
        to_wall = np.where(ray_across > 0, wall_m / ray_across, np.inf)
    to_ground = np.minimum(to_ground, 500.0)
    to_wall = np.minimum(to_wall, 500.0)
    along, across = to_ground * ray_along, to_ground * ray_across
    image = 0.16 + 0.05 * _texture(grains, 3 * along, 3 * across)  # grass
    for lane in lanes:
        inside = np.abs(across - lane.offset_m) < 0.5 * _WIDTH_M[lane.kind]
        speckle = 1 + 0.12 * _texture(grains, 5 * along, 5 * across)
        image = np.where(inside, _ALBEDO[lane.kind] * speckle, image)
        if lane.kind == _RAILS:
            rail = np.abs(np.abs(across - lane.offset_m) - 0.72) < 0.09
            image = np.where(rail, 0.5, image)
        if lane.kind == _CARRIAGEWAY:
            edge = np.abs(across - lane.offset_m - 0.5 * _WIDTH_M[lane.kind]) < 0.08
            image = np.where(edge & (np.mod(along, 6) < 3), 0.6, image)
    wall_along, wall_z = to_wall * ray_along, camera.height_m + to_wall * ray_z
    house = np.floor(wall_along / 9)
    tone = 0.35 + 0.25 * _texture(grains, house, np.zeros_like(house))
    pane = (np.mod(wall_along, 3) > 1.1) & (np.mod(wall_z, 3) > 1.2) & (wall_z > 0.5)
    roof_m = 11 + 5 * _texture(grains, house, np.ones_like(house))
    wall = np.where(pane, 0.1, tone * (1 + 0.08 * _texture(grains, 4 * wall_along, 4 * wall_z)))
    image = np.where(wall_z > 0, np.where(wall_z < roof_m, wall, 0.9), image)
    return image.astype(np.float32)


def draw_scene(
    rng: np.random.Generator,
    height: int,
    width: int,
    seconds: float,
    night: bool,
    users: float,
    late: int,
) -> Scene:
    """Draw a place and the traffic that passes it.

    Args:
        rng: draws everything.
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        seconds: length of the recording.
        night: whether it is night and lamps are on.
        users: average number of road users in view.
        late: id of a class that comes after the others, and not at all in short recordings.
    """
    camera = _draw_camera(rng, height, width)
    # At larger angles the far lanes would leave the image at its middle.
    turn = math.atan(rng.uniform(-0.36, 0.36) * width / camera.focal_px)
    lanes = _lay_lanes(rng, camera, (height, width), turn)
    actors, shapes = _Traffic(rng, lanes, turn, seconds, night).fill(users, late)
    grains = _draw_grains(rng)
    ambient = (_AMBIENT_NIGHT if night else _AMBIENT_DAY) * rng.uniform(0.8, 1.2)
    albedo = _draw_background(rng, camera, lanes, turn, (height, width), grains)
    background = (ambient * albedo).astype(np.float32)
    return Scene(camera, Light(background, grains, float(ambient), night), actors, shapes)
