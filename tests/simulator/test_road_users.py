"""Bodies: their size, from all sides, and the order in which they hide each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etram_det.simulator.painting_order import far_to_near
from etram_det.simulator.projection import place
from etram_det.simulator.rendering import Light, look
from etram_det.simulator.road_users import BODIES
from etram_det.simulator.stage import ACTOR, PLACED, VIEW, Camera, Stage, Sun

CAMERA = Camera(400.0, 320.0, 180.0, 5.0, math.sin(0.2), math.cos(0.2))
SIZE = (360, 640)
# Length, width and height in metres by class id.
SIZE_M = {
    0: (0.4, 0.6, 1.7), 1: (4.3, 1.8, 1.6), 2: (1.8, 0.6, 1.75), 3: (11.5, 2.5, 3.1),
    4: (2.1, 0.8, 1.7), 5: (9.0, 2.5, 3.5), 6: (16.5, 2.4, 4.2), 7: (1.1, 0.65, 1.4),
}  # fmt: skip


def stage_of(poses: list[tuple[int, float, float, float]]) -> Stage:
    """Actors for the parts of bodies, each with class, x, y and heading."""
    actors, shapes = [], []
    for track, (class_id, x, y, heading) in enumerate(poses):
        for part in BODIES[class_id](np.random.default_rng(1)).parts:
            table, num_shadows = part.table(night=False)
            actor = np.zeros(1, ACTOR)
            actor["track"], actor["class_id"] = track, class_id
            actor["first_shape"] = sum(map(len, shapes))
            actor["first_body"] = actor["first_shape"] + num_shadows
            actor["end_shape"] = actor["first_shape"] + len(table)
            actor["rear"], actor["front"], actor["half_width"] = part.rear, part.front, 1.0
            for when in "01":
                actor[f"x{when}"] = x + part.joint * math.cos(heading)
                actor[f"y{when}"] = y + part.joint * math.sin(heading)
                actor[f"heading{when}"] = heading
            actors.append(actor)
            shapes.append(table)
    table = np.concatenate(shapes)
    stage = Stage(
        np.concatenate(actors), table, np.zeros(len(table), PLACED),
        np.zeros((len(actors), 4), np.int64), np.ones(len(actors)), np.zeros(len(actors), VIEW),
    )  # fmt: skip
    for i in range(len(actors)):
        place(CAMERA, Sun(0.0, 1.0), stage, i, 0.0, 0.0)
    return stage


def light() -> Light:
    empty = np.zeros(SIZE, np.float32)
    return Light(empty, empty, empty.max(1), np.zeros((64, 64), np.float32), 1.0, False, 0.0, 1.0)


def seen_size_m(class_id: int, heading: float, away_m: float) -> tuple[float, float]:
    """Width and height of what is seen of a body, at the scale of its centre."""
    stage = stage_of([(class_id, 0.0, away_m, heading)])
    look(far_to_near(stage.actors), stage, light(), np.empty((2, *SIZE), np.int32))
    seen = stage.views["seen"][stage.views["num_visible"] > 0]
    depth = away_m * CAMERA.cos_pitch - (0.8 - CAMERA.height_m) * CAMERA.sin_pitch
    low, high = seen[:, :2].min(axis=0), seen[:, 2:].max(axis=0)
    return tuple((high - low) * depth / CAMERA.focal_px)


@pytest.mark.parametrize("class_id", range(8))
def test_bodies_have_their_size_from_the_side_and_from_ahead(class_id: int) -> None:
    length_m, width_m, height_m = SIZE_M[class_id]
    for heading in (0.0, math.pi):
        width, height = seen_size_m(class_id, heading, 40.0)
        assert width == pytest.approx(length_m, rel=0.3, abs=0.15)
        assert height == pytest.approx(height_m, rel=0.15, abs=0.25)
    for heading in (-math.pi / 2, math.pi / 2):
        width, height = seen_size_m(class_id, heading, 40.0)
        assert width == pytest.approx(width_m, rel=0.3, abs=0.2)
        # A camera above it also sees some of the roof.
        assert 0.85 * height_m < height < height_m + 0.15 * length_m + 0.2
    slanting, _ = seen_size_m(class_id, -math.pi / 4, 40.0)
    assert slanting < 1.1 * math.sqrt(0.5) * (length_m + width_m) + 0.3
    assert slanting > 0.8 * math.sqrt(0.5) * length_m


def test_planes_are_seen_in_perspective() -> None:
    """The near end of a bus that comes nearer is larger than its far end."""
    near = seen_size_m(3, -math.pi / 2, 12.0)[0]
    far = seen_size_m(3, -math.pi / 2, 60.0)[0]
    assert near > 1.3 * far


@pytest.mark.parametrize(
    ("poses", "order"),
    [
        ([(1, 0, 20, 0), (1, 0, 30, 0)], [1, 0]),
        # A pedestrian beside the rear of a long bus, nearer and farther than its centre.
        ([(3, 0, 20, math.pi / 2), (0, 2.5, 25, 0)], [1, 0]),
        ([(3, 0, 20, math.pi / 2), (0, 0, 13, 0)], [0, 1]),
        # Before and behind the long side of a bus, both nearer than its centre.
        ([(3, 20, 15, 0), (0, 15, 17, 0), (0, 15, 13, 0)], [1, 0, 2]),
    ],
)
def test_what_hides_comes_after_what_it_hides(
    poses: list[tuple[int, float, float, float]], order: list[int]
) -> None:
    assert far_to_near(stage_of(poses).actors).tolist() == order
