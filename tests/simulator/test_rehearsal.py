"""What a set shows, whatever its seed: classes, sizes, and who stands and turns; without pixels."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from etram_det.simulator.dataset import Plan, SimulationSettings, plan_set
from etram_det.simulator.event_camera import EventCamera
from etram_det.simulator.labels import LABEL_INTERVAL_US, Behaviour, boxes_now
from etram_det.simulator.projection import pixels_moved, place
from etram_det.simulator.rehearsal import Conditions, draw_take
from etram_det.simulator.rendering import look
from etram_det.simulator.road_users import BICYCLE, BUS, CAR, PEDESTRIAN, TRAM, WHEELCHAIR
from etram_det.simulator.scene import Scene


class Onlooker:
    """Sees what an event camera sees, but has no pixels: what moves by a pixel counts as events."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.now_us, self.image = scene, 0, scene.light.background
        self.owner = np.empty((2, *self.image.shape), np.int32)
        self.caused: dict[int, float] = defaultdict(float)

    def advance(self, end_us: int) -> None:
        self.stage, self.order = self.scene.advance(end_us)
        self.now_us, scene = end_us, self.scene
        for i in self.order:
            place(scene.camera, scene.sun, self.stage, i, 1.0, float(end_us))
        look(self.order, self.stage, scene.light, self.owner)
        for actor, view in zip(self.stage.actors, self.stage.views, strict=True):
            edges = 1.5 * math.sqrt(view["num_visible"])
            self.caused[int(actor["track"])] += edges * pixels_moved(scene.camera, actor)

    def look(self) -> NDArray[Any]:
        views = self.stage.views.copy()
        views["num_events"] = [int(self.caused[t]) for t in self.stage.actors["track"].tolist()]
        return views


def labels_of(plan: Plan, interval_us: int) -> tuple[NDArray[Any], dict[str, int]]:
    """The boxes of a recording, and what its road users do."""
    onlooker = Onlooker(Scene(np.random.default_rng(plan.seed), plan.conditions))
    camera, behaviour, boxes = cast(EventCamera, onlooker), Behaviour(), []
    for time_us in range(interval_us, round(plan.conditions.seconds * 1e6) + 1, interval_us):
        onlooker.advance(time_us)
        boxes.append(boxes_now(camera))
        behaviour.add(camera, boxes[-1])
    return np.concatenate(boxes), behaviour.counts()


def tracks_of(boxes: list[NDArray[Any]]) -> Counter[int]:
    """Number of tracks of each class."""
    tracks: Counter[int] = Counter()
    for each in boxes:
        tracks.update(np.unique(each[["class_id", "track_id"]])["class_id"].tolist())
    return tracks


def areas_of(boxes: list[NDArray[Any]]) -> NDArray[np.float64]:
    """In pixels of frames of half the sensor's size."""
    every = np.concatenate(boxes)
    return every["w"].astype(np.float64) * every["h"] / 4


@pytest.mark.slow
def test_the_validation_recordings_show_each_class_ten_times() -> None:
    plans = plan_set(SimulationSettings(height=360, width=640, train=0, test=0, seed=1))
    boxes = [labels_of(plan, 6 * LABEL_INTERVAL_US)[0] for plan in plans]
    tracks = tracks_of(boxes)
    assert min(tracks[class_id] for class_id in range(8)) >= 10, tracks
    assert {class_id for class_id, _ in tracks.most_common(2)} == {PEDESTRIAN, CAR}
    areas = areas_of(boxes)
    assert np.mean(areas < 32**2) > 1 / 3
    assert np.mean(areas > 96**2) > 0.05
    assert np.mean(areas < 10**2) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_quick_set_shows_what_is_asked_of_it(seed: int) -> None:
    total: Counter[str] = Counter()
    boxes: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for plan in plan_set(SimulationSettings(height=360, width=640, seed=seed)):
        of_plan, counts = labels_of(plan, LABEL_INTERVAL_US)
        boxes[plan.split].append(of_plan)
        total.update(counts)
    assert set(tracks_of(boxes["train"])) == set(tracks_of(boxes["test"])) == set(range(8))
    tracks = tracks_of(boxes["val"])
    assert min(tracks[class_id] for class_id in range(8)) >= 10, tracks
    assert tracks[WHEELCHAIR] < 0.4 * tracks[PEDESTRIAN]
    every = [each for of_split in boxes.values() for each in of_split]
    areas = areas_of(every)
    assert np.mean(areas < 32**2) > 1 / 3
    assert np.mean(areas > 96**2) > 0.05
    assert np.mean(areas < 10**2) < 0.2
    largest = max(int(each["w"].max()) for each in every)
    assert min(int(np.maximum(each["w"], each["h"]).min()) for each in every) < 10 < 320 < largest
    assert total["standing_boxes"] >= 0.15 * total["boxes"]
    assert total["turning_tracks"] >= 0.2 * total["tracks"]


def test_guests_are_shared_out_and_come_as_often_in_any_split() -> None:
    for recordings, least in ((12, 14), (16, 14), (60, 45)):
        plans = plan_set(SimulationSettings(train=recordings, val=0, test=0))
        guests = Counter(guest for plan in plans for guest in plan.conditions.guests)
        for class_id in set(range(8)) - {PEDESTRIAN, CAR, TRAM}:
            assert least - 1 <= guests[class_id] <= least + 1, (recordings, class_id)


def test_who_is_asked_for_is_put_into_view() -> None:
    asked = (BUS, BICYCLE, WHEELCHAIR, WHEELCHAIR)
    conditions = Conditions(360, 640, 6.0, False, 10.0, "junction", False, guests=asked)
    for seed in range(3):
        plan = Plan("val", "val_day_0001", conditions, (seed, 0, 0))
        seen = tracks_of([labels_of(plan, 6 * LABEL_INTERVAL_US)[0]])
        assert not Counter(asked) - seen, seed


def test_a_copied_crowd_does_the_same_and_leaves_the_first_alone() -> None:
    take = draw_take(np.random.default_rng(3), Conditions(360, 640, 3.0, place="junction"))

    def positions(crowd: Any) -> list[tuple[int, float]]:  # noqa: ANN401
        return [(user.track, user.s) for user in crowd.traffic.users]

    before = positions(take.crowd)
    copy = take.crowd.copy()
    copy.advance(3.0)
    assert positions(take.crowd) == before
    take.crowd.advance(3.0)
    assert positions(take.crowd) == positions(copy) != before
