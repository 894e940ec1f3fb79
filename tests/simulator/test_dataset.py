from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.errors import UserError
from etram_det.simulator.dataset import (
    MANIFEST,
    SimulationSettings,
    _plan,
    simulate,
    simulated_root,
)
from etram_det.simulator.event_camera import EventCamera, SensorSettings
from etram_det.simulator.road_users import BODIES, CAR
from etram_det.simulator.scene import draw_scene
from etram_det.tools.simulate import simulate_command
from support import paths

REFERENCE = paths.REFERENCE / "raw_etram"
TINY = SimulationSettings(height=90, width=160, train=2, val=1, test=1, seconds=0.3)
STREET = SimulationSettings(height=360, width=640, train=2, val=1, test=0, seconds=2.5)
QUIET = SensorSettings(background_hz=0, hot_pixels=0)


def read_events(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[f"events/{name}"][()] for name in file["events"]}


def read_set(root: Path) -> dict[str, tuple[dict[str, np.ndarray], np.ndarray]]:
    return {
        path.name.removesuffix("_td.h5"): (
            read_events(path),
            np.load(path.with_name(path.name.replace("_td.h5", "_bbox.npy"))),
        )
        for path in sorted(root.glob("*/*_td.h5"))
    }


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("street") / "set"
    simulate(root, STREET)
    return root


def test_same_files_from_same_seed_with_any_number_of_workers(tmp_path: Path) -> None:
    simulate(tmp_path / "one", TINY, workers=1)
    simulate(tmp_path / "three", TINY, workers=3)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 2 * 4 + 1
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "three" / file).read_bytes()


def test_another_seed_gives_other_events(tmp_path: Path) -> None:
    simulate(tmp_path / "a", TINY)
    simulate(tmp_path / "b", replace(TINY, seed=1))
    for (a, _), (b, _) in zip(
        read_set(tmp_path / "a").values(), read_set(tmp_path / "b").values(), strict=True
    ):
        assert len(a["t"]) != len(b["t"]) or not np.array_equal(a["x"], b["x"])


def test_names_number_days_and_nights_together(tmp_path: Path) -> None:
    simulate(tmp_path / "set", replace(TINY, train=4, seconds=0.1))
    names = sorted(p.name for p in (tmp_path / "set" / "train").glob("*_td.h5"))
    assert names == [
        "train_day_0001_td.h5",
        "train_day_0003_td.h5",
        "train_day_0004_td.h5",
        "train_night_0002_td.h5",
    ]
    manifest = json.loads((tmp_path / "set" / MANIFEST).read_text())
    assert manifest["settings"]["train"] == 4
    assert manifest["settings"]["sensor"]["contrast_threshold"] == 0.36


def test_layout_is_that_of_etram(street: Path) -> None:
    with h5py.File(street / "train" / "train_day_0001_td.h5") as file:
        types = {name: file["events"][name].dtype for name in file["events"]}
        assert types == {
            "height": np.int64,
            "width": np.int64,
            "p": np.uint8,
            "t": np.int64,
            "x": np.uint16,
            "y": np.uint16,
        }
        assert file["events/t"].chunks == (32_768,)
        assert "32001" in file["events/t"]._filters  # blosc
        assert (file["events/height"][()], file["events/width"][()]) == (360, 640)
    reference = np.load(next(REFERENCE.glob("train/*_bbox.npy")))
    boxes = np.load(street / "train" / "train_day_0001_bbox.npy")
    assert boxes.dtype == reference.dtype == BOX_DTYPE
    assert np.all(np.diff(boxes["t"]) >= 0)
    assert np.all(boxes["t"] % 33_333 == 0)
    assert boxes["t"].max() == 75 * 33_333
    assert np.all(boxes["class_confidence"] == 1)


def test_events_are_sorted_and_on_the_sensor(street: Path) -> None:
    for events, _ in read_set(street).values():
        assert np.all(np.diff(events["t"]) >= 0)
        assert events["t"][0] >= 0
        assert 2.45e6 < events["t"][-1] <= 2.5e6
        assert events["x"].max() <= 639
        assert events["y"].max() <= 359
        assert set(np.unique(events["p"])) == {0, 1}
        rate = len(events["t"]) / 2.5
        assert 0.05e6 < rate < 1.2e6


def test_boxes_lie_in_the_frame(street: Path) -> None:
    for _, boxes in read_set(street).values():
        assert boxes["x"].min() >= 0
        assert boxes["y"].min() >= 0
        assert boxes["w"].min() > 1
        assert boxes["h"].min() > 1
        assert (boxes["x"] + boxes["w"]).max() <= 640 + 1e-3
        assert (boxes["y"] + boxes["h"]).max() <= 360 + 1e-3


@pytest.mark.parametrize("night", [0.0, 1 / 3, 0.5])
def test_neither_days_nor_nights_hold_back_one_class_for_good(night: float) -> None:
    plans = _plan(SimulationSettings(train=18, val=0, test=0, night=night))
    for is_night in {plan.night for plan in plans}:
        late = [plan.late for plan in plans if plan.night == is_night]
        assert len(set(late)) == 3
        assert max(late.count(class_id) for class_id in late) <= len(late) / 3 + 1


def test_all_classes_come_and_a_third_of_the_boxes_is_small(street: Path) -> None:
    boxes = np.concatenate([b for _, b in read_set(street).values()])
    assert set(boxes["class_id"]) == set(range(8))
    area_at_half_size = boxes["w"] * boxes["h"] / 4
    assert np.mean(area_at_half_size < 32**2) > 0.34
    long_side_at_half_size = np.maximum(boxes["w"], boxes["h"]) / 2
    assert np.mean(long_side_at_half_size < 5) < 0.02
    assert np.median(long_side_at_half_size) > 10


def test_boxes_hold_far_more_events_than_the_background(street: Path) -> None:
    for name, (events, boxes) in read_set(street).items():
        counts = np.zeros((360, 640))
        covered = np.zeros((360, 640), bool)
        end = 45 * 33_333
        recent = slice(*np.searchsorted(events["t"], [end - 33_333, end]))
        np.add.at(counts, (events["y"][recent], events["x"][recent]), 1)
        for box in boxes[boxes["t"] == end]:
            x0, y0 = int(box["x"]), int(box["y"])
            covered[y0 : int(y0 + box["h"]) + 1, x0 : int(x0 + box["w"]) + 1] = True
        assert counts[covered].mean() > 20 * counts[~covered].mean(), name


def test_a_track_keeps_its_class_and_moves_smoothly(street: Path) -> None:
    num_tracks = 0
    for _, boxes in read_set(street).values():
        for track in np.unique(boxes["track_id"]):
            of_track = boxes[boxes["track_id"] == track]
            assert len(np.unique(of_track["class_id"])) == 1
            assert len(np.unique(of_track["t"])) == len(of_track)
            inside = of_track[
                (of_track["x"] > 1) & (of_track["x"] + of_track["w"] < 639)
                & (of_track["y"] + of_track["h"] < 359)
            ]  # fmt: skip
            ground = np.stack([inside["x"] + inside["w"] / 2, inside["y"] + inside["h"]], 1)
            steady = np.diff(inside["t"]) == 33_333
            step = np.diff(ground, axis=0)[steady]
            if len(step) > 10:
                num_tracks += 1
                # Limbs swing and others pass in front, so single steps may differ.
                jerk = np.abs(step - np.median(step, axis=0)).max(axis=1)
                assert np.quantile(jerk, 0.8) < 4.0
    assert num_tracks > 15


def make_camera(night: bool, users: float, sensor: SensorSettings, seed: int = 3) -> EventCamera:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, 180, 320, 1.0, night, users, late=6)
    return EventCamera(scene, sensor, rng)


def test_an_empty_street_gives_nothing_but_noise_at_its_rate() -> None:
    sensor = SensorSettings(background_hz=0.5, hot_pixels=1e-4, hot_pixel_hz=200)
    camera = make_camera(False, 0.0, sensor)
    events = np.concatenate([camera.advance(t) for t in range(100_000, 2_000_001, 100_000)])
    pixel, counts = np.unique(events["y"] * 320 + events["x"], return_counts=True)
    hot = counts > 100
    assert 1 <= hot.sum() <= 20
    background = counts[~hot].sum()
    expected = 180 * 320 * 0.5 * 2
    assert abs(background - expected) < 5 * np.sqrt(expected)
    assert abs(counts[hot].mean() - 400) < 100
    assert abs(np.mean(events["p"]) - 0.5) < 0.03


def test_without_noise_an_empty_street_is_silent() -> None:
    assert len(make_camera(False, 0.0, QUIET).advance(1_000_000)) == 0


def test_a_pixel_rests_after_an_event() -> None:
    events = make_camera(False, 6.0, replace(QUIET, refractory_us=2_000)).advance(300_000)
    order = np.lexsort((events["t"], events["y"], events["x"]))
    events = events[order]
    same = (np.diff(events["x"].astype(int)) == 0) & (np.diff(events["y"].astype(int)) == 0)
    assert same.sum() > 100
    assert np.diff(events["t"])[same].min() >= 2_000


def test_a_higher_threshold_gives_fewer_events() -> None:
    low = make_camera(False, 6.0, replace(QUIET, contrast_threshold=0.2)).advance(300_000)
    high = make_camera(False, 6.0, replace(QUIET, contrast_threshold=0.6)).advance(300_000)
    assert 0 < len(high) < 0.5 * len(low)


def test_night_is_dark_with_bright_lamps() -> None:
    day, night = make_camera(False, 8.0, QUIET), make_camera(True, 8.0, QUIET)
    assert np.median(night.image) < 0.2 * np.median(day.image)
    assert (night.image > 1.5).any()  # lamps outshine white in daylight
    assert not (day.image > 1.5).any()

    def contrast(camera: EventCamera) -> float:
        level = np.log(camera.light.background + camera.sensor.dark_level)
        return float(np.std(level))

    assert contrast(night) < 0.8 * contrast(day)


def test_what_is_near_hides_what_is_far() -> None:
    rng = np.random.default_rng(0)
    scene = draw_scene(rng, 180, 320, 1.0, False, 8.0, late=6)
    camera = EventCamera(scene, QUIET, rng)
    free = camera.look()
    drawn = np.flatnonzero(free["num_own"])
    assert free["num_visible"][drawn[-1]] == free["num_own"][drawn[-1]]  # the nearest
    assert np.all(free["num_visible"][drawn] <= free["num_own"][drawn])
    # Put the first car right behind the first bus, and little of it is left.
    actors = scene.actors.copy()
    near = int(np.flatnonzero(np.isin(actors["class_id"], (3, 5)))[0])
    far = int(np.flatnonzero(actors["class_id"] == CAR)[0])
    actors = actors[[far, near]]
    actors["enter_us"], actors["leave_us"] = 0, 10**6
    actors["x"], actors["y"] = 0.0, (40.0, 36.0)
    pair = EventCamera(replace(scene, actors=actors), QUIET, rng).look()
    assert pair["num_visible"][1] == pair["num_own"][1] > 0
    assert pair["num_visible"][0] < 0.5 * pair["num_own"][0]


@pytest.mark.parametrize("class_id", range(8))
def test_the_silhouette_has_the_size_of_its_class(class_id: int) -> None:
    length_m, height_m = {
        0: (0.3, 1.7), 1: (4.3, 1.6), 2: (1.8, 1.7), 3: (11.5, 3.1),
        4: (2.0, 1.6), 5: (9.0, 3.5), 6: (16.5, 4.5), 7: (1.1, 1.35),
    }[class_id]  # fmt: skip
    body = BODIES[class_id](np.random.default_rng(1))
    solid = body.table(night=False)
    solid = solid[(solid["plane"] == 0) & (solid["effect"] == 0)]
    reach_x = np.abs(np.cos(solid["angle"])) * solid["half_x"]
    reach_x += np.abs(np.sin(solid["angle"])) * solid["half_z"]
    reach_z = np.abs(np.sin(solid["angle"])) * solid["half_x"]
    reach_z += np.abs(np.cos(solid["angle"])) * solid["half_z"]
    length = (solid["x"] + reach_x).max() - (solid["x"] - reach_x).min()
    assert length == pytest.approx(length_m, rel=0.25)
    assert (solid["z"] + reach_z).max() == pytest.approx(height_m, rel=0.15)
    assert (solid["z"] - reach_z).min() == pytest.approx(0.0, abs=0.25)


def test_the_cached_set_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    seen: list[tuple[int, int]] = []
    root, made = simulated_root(TINY, progress=lambda done, total: seen.append((done, total)))
    assert made
    assert seen == [(done, 4) for done in range(5)]
    modified_ns = (root / MANIFEST).stat().st_mtime_ns
    assert simulated_root(TINY) == (root, False)
    assert (root / MANIFEST).stat().st_mtime_ns == modified_ns
    other, made = simulated_root(replace(TINY, seed=5))
    assert made
    assert other != root
    sets = {path for path in (tmp_path / "cache").iterdir() if path.name != "locks"}
    assert sets == {root, other}


def test_a_set_that_another_process_finished_first_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path))
    finished = tmp_path / "elsewhere"
    simulate(finished, TINY)

    def finish_elsewhere(done: int, total: int) -> None:
        if done == total:
            os.replace(finished, tmp_path / f"simulated-90x160-{TINY.key}")

    root, made = simulated_root(TINY, progress=finish_elsewhere)
    assert not made
    assert len(read_set(root)) == 4
    assert [path for path in tmp_path.iterdir() if path.name != "locks"] == [root]


def test_a_set_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "set", TINY, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 10}, "height: must be from 32 to 65535, got 10"),
        ({"seconds": 0.0}, "seconds: must be from 0.1 to 3600, got 0.0"),
        ({"night": 1.5}, "night: must be from 0 to 1, got 1.5"),
        ({"val": -1}, "val: must be from 0 to 9999, got -1"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        replace(TINY, **changes)
    with pytest.raises(UserError, match=r"^sensor.contrast_threshold: must be at least 0.01, got"):
        SensorSettings(contrast_threshold=0.0)


def test_command_writes_a_set_and_refuses_a_full_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set"
    output.mkdir()
    simulate_command(output, TINY)
    text = capsys.readouterr().out
    assert "wheelchair" in text
    assert "4 recordings of 0.3 s" in text
    with pytest.raises(UserError, match="must be a new or empty folder, got .*set with some"):
        simulate_command(output, TINY)
    assert len(read_set(output)) == 4
