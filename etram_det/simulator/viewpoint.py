"""Where the camera is, and the place as it lies before it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from etram_det.simulator.projection import project
from etram_det.simulator.routes import WALK, Array, Route, turned
from etram_det.simulator.stage import Camera
from etram_det.simulator.streets import Place, Wall

Pose = tuple[float, float, float]
Part = tuple[float, float]

_VIEWS = 60  # that are drawn until one is far enough from all traffic
_CLEAR_M = 2.6
_WIDTHS_M = (15.0, 26.0)  # of the view at the point that the camera aims at
_AWAY_M = (7.5, 38.0)  # of that point


def draw_view(
    rng: np.random.Generator, place: Place, size: tuple[int, int]
) -> tuple[Camera, tuple[float, float], float]:
    """A camera beside the road, and its position and rotation in the place."""
    height, width = size
    traffic = [route for route in place.routes if route.kind != WALK]
    best: tuple[float, float, float, Array, Array] | None = None
    for _ in range(_VIEWS):
        half_view = math.radians(rng.uniform(30, 75) / 2)
        away = float(np.clip(rng.uniform(*_WIDTHS_M) / (2 * math.tan(half_view)), *_AWAY_M))
        angle = rng.uniform(0.15, 0.6) if rng.random() < 0.5 else rng.uniform(0.9, 1.57)
        angle = rng.choice([-1, 1]) * angle + rng.choice([0, math.pi])
        aim = np.array(place.focus) + rng.normal(0, 1.5, 2)
        position = aim + away * np.array([math.cos(angle), math.sin(angle)])
        apart = min(route.nearest(*position)[1] for route in traffic)
        if best is None or apart > best[0] or apart > _CLEAR_M:
            best = (apart, half_view, away, aim, position)
        if apart > _CLEAR_M:
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


def seen_from(place: Place, origin: tuple[float, float], angle: float) -> Place:
    """A place in the axes of a camera at ``origin``, without the walls right before it."""

    def moved(poses: Iterable[Pose]) -> list[Pose]:
        return [(*_shifted(x, y, origin, angle), h + angle) for x, y, h in poses]

    focus = np.array(place.focus)
    walls = [
        Wall(
            _shifted(*wall.start, origin, angle),
            _shifted(*wall.end, origin, angle),
            wall.height,
            wall.albedo,
        )
        for wall in place.walls
        if _on_far_side(wall, focus, np.array(origin))
    ]
    routes = [route.moved(*origin, angle, route.gates) for route in place.routes]
    return Place(
        place.focus, place.kerb_m, routes, place.crossings, place.strips, walls,
        moved(place.parking), moved(place.furniture), moved(place.shelters), place.signals,
    )  # fmt: skip


def visible_part(camera: Camera, size: tuple[int, int], route: Route, far_m: float) -> Part | None:
    """First and last position of a route in the camera's view; None if less than 4 m is."""
    seen = []
    for s, (x, y) in enumerate(route.points):
        u, v, depth = project(camera, x, y, 0.0)
        if 2.0 < depth < far_m and 0 <= u < size[1] and 0 <= v < 1.1 * size[0]:
            seen.append(s)
    return (float(seen[0]), float(seen[-1])) if len(seen) > 4 else None


def _shifted(x: float, y: float, origin: tuple[float, float], angle: float) -> tuple[float, float]:
    moved = turned(np.array([x - origin[0], y - origin[1]]), angle)
    return float(moved[0]), float(moved[1])


def _on_far_side(wall: Wall, focus: Array, camera: Array) -> bool:
    """Whether a wall does not stand between the camera and the road."""
    start, end = np.array(wall.start), np.array(wall.end)
    along = end - start
    sides = [along[0] * (p - start)[1] - along[1] * (p - start)[0] for p in (focus, camera)]
    return bool(sides[0] * sides[1] > 0)
