"""Sets of simulated recordings: files, layout, contents, amounts, the command."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.errors import UserError
from etram_det.simulator import kernels
from etram_det.simulator.dataset import (
    AMOUNTS,
    MANIFEST,
    SimulationSettings,
    plan_set,
    simulate,
    simulated_root,
)
from etram_det.simulator.effects import EffectSettings
from etram_det.simulator.pixels import SensorSettings
from etram_det.simulator.places import PLACES
from etram_det.simulator.version import SIMULATOR_VERSION
from etram_det.tools.simulate import simulate_command
from support import paths

REFERENCE = paths.REFERENCE / "raw_etram"
TINY = SimulationSettings(height=90, width=160, train=2, val=1, test=1, seconds=0.3)
STREET = SimulationSettings(height=180, width=320, train=8, val=0, test=0, seconds=4.0)
QUIET = SensorSettings(background_hz=0, dark_noise_hz=0, hot_pixels=0)
CALM = replace(STREET, train=3, seconds=2.0, effects=EffectSettings(share=0), sensor=QUIET)


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


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traffic without rain, leaves and the like, and without noise."""
    root = tmp_path_factory.mktemp("calm") / "set"
    simulate(root, CALM)
    return root


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_first_set_takes_300_mb_though_its_kernels_are_compiled(tmp_path: Path) -> None:
    # Two at a time, with far more events than HDF5 used to keep.
    large = SimulationSettings(height=360, width=640, train=2, val=0, test=0, seconds=6.0)
    code = (
        "import resource, sys\n"
        "from etram_det.simulator import event_camera, painting_order, projection\n"
        "from etram_det.simulator.dataset import SimulationSettings, simulate\n"
        f"simulate(sys.argv[1], SimulationSettings.of({asdict(large)!r}), workers=2)\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "modules = event_camera, painting_order, projection\n"
        "kernels = [x for m in modules for x in vars(m).values() if hasattr(x, 'stats')]\n"
        "print(sum(sum(x.stats.cache_misses.values()) for x in kernels))\n"
        "print(sum(sum(x.stats.cache_hits.values()) for x in kernels))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    ended = subprocess.run(command, check=True, capture_output=True, env=env)
    kilobytes, child_kilobytes, misses, hits = map(int, ended.stdout.split())
    assert kilobytes < 300_000
    assert 200_000 < child_kilobytes < 300_000  # each of the processes that compile
    assert misses == 0
    assert hits > 8


@pytest.mark.parametrize("program", [shutil.which("false"), "/nowhere/python"])
def test_kernels_are_compiled_where_they_are_used_if_no_process_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(kernels, "_mark", lambda: tmp_path / "new" / "mark")
    monkeypatch.setattr(sys, "executable", program)
    simulate(tmp_path / "set", replace(TINY, seconds=0.1))
    assert not (tmp_path / "new").exists()


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
    assert manifest["simulator_version"] == SIMULATOR_VERSION
    assert sorted(manifest["recordings"]) == sorted(
        [*(name.removesuffix("_td.h5") for name in names), "val_day_0001", "test_day_0001"]
    )


@pytest.mark.gate
def test_layout_is_that_of_etram(street: Path) -> None:
    with h5py.File(street / "train" / "train_day_0001_td.h5") as file:
        assert dict(file.attrs) == {"simulator_version": SIMULATOR_VERSION}
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
        assert (file["events/height"][()], file["events/width"][()]) == (180, 320)
    reference = np.load(next(REFERENCE.glob("train/*_bbox.npy")))
    boxes = np.load(street / "train" / "train_day_0001_bbox.npy")
    assert boxes.dtype == reference.dtype == BOX_DTYPE
    assert np.all(np.diff(boxes["t"]) >= 0)
    assert np.all(boxes["t"] % 33_333 == 0)
    assert boxes["t"].max() == 120 * 33_333
    assert np.all(boxes["class_confidence"] == 1)


def test_events_are_sorted_and_on_the_sensor(street: Path) -> None:
    for events, _ in read_set(street).values():
        assert np.all(np.diff(events["t"]) >= 0)
        assert events["t"][0] >= 0
        assert 3.95e6 < events["t"][-1] <= 4e6
        assert events["x"].max() <= 319
        assert events["y"].max() <= 179
        assert set(np.unique(events["p"])) == {0, 1}
        assert 0.01e6 < len(events["t"]) / 4 < 1e6


def test_boxes_lie_in_the_frame(street: Path) -> None:
    for _, boxes in read_set(street).values():
        assert boxes["x"].min() >= 0
        assert boxes["y"].min() >= 0
        assert boxes["w"].min() >= 1
        assert boxes["h"].min() >= 1
        assert np.maximum(boxes["w"], boxes["h"]).min() >= 5
        assert (boxes["x"] + boxes["w"]).max() <= 320
        assert (boxes["y"] + boxes["h"]).max() <= 180


def test_the_manifest_counts_what_the_files_hold(street: Path) -> None:
    held = json.loads((street / MANIFEST).read_text())["recordings"]
    for name, (events, boxes) in read_set(street).items():
        counts = held[name]
        assert counts["events"] == len(events["t"])
        assert counts["positive_events"] == events["p"].sum()
        assert counts["boxes"] == len(boxes)
        assert counts["tracks"] == len(np.unique(boxes["track_id"]))
        assert 0 < counts["noise_events"] < counts["events"] + counts["lost_events"]


def test_traffic_has_all_classes_stops_and_turns(street: Path) -> None:
    boxes = [boxes for _, boxes in read_set(street).values()]
    tracks = Counter(
        class_id
        for of_recording in boxes
        for class_id in np.unique(of_recording[["class_id", "track_id"]])["class_id"].tolist()
    )
    assert set(tracks) == set(range(8))
    assert max(tracks, key=lambda class_id: tracks[class_id]) in (0, 1)  # a pedestrian, or a car
    areas = np.concatenate([b["w"] * b["h"] for b in boxes])  # of 180 rows: as half of 360
    assert np.mean(areas < 32**2) > 1 / 3
    assert np.mean(areas > 96**2) > 0.02
    total: Counter[str] = Counter()
    for counts in json.loads((street / MANIFEST).read_text())["recordings"].values():
        total.update(counts)
    assert total["standing_boxes"] > 0.03 * total["boxes"]  # the recordings are short
    assert total["turning_tracks"] > 0.1 * total["tracks"]
    assert 0.4 < total["positive_events"] / total["events"] < 0.6
    assert total["noise_events"] < 0.5 * total["events"]


def test_boxes_hold_far_more_events_than_the_background(calm: Path) -> None:
    """And their events come near to each of their sides."""
    inside = outside = pixels_inside = 0
    slack = []
    for events, boxes in read_set(calm).values():
        for end in range(10 * 33_333, 60 * 33_333, 33_333):
            recent = slice(*np.searchsorted(events["t"], [end - 16_000, end]))
            counts = np.zeros((180, 320))
            np.add.at(counts, (events["y"][recent], events["x"][recent]), 1)
            covered = np.zeros((180, 320), bool)
            for box in boxes[boxes["t"] == end]:
                x0, y0, w, h = (int(box[name]) for name in "xywh")
                x1, y1 = x0 + w, y0 + h
                covered[y0:y1, x0:x1] = True
                columns = np.flatnonzero(counts[y0:y1, x0:x1].any(0))
                if counts[y0:y1, x0:x1].sum() > 2 * (x1 - x0 + y1 - y0):
                    slack.append((columns[0] + x1 - x0 - 1 - columns[-1]) / (x1 - x0))
            inside += counts[covered].sum()
            outside += counts[~covered].sum()
            pixels_inside += covered.sum()
    share = pixels_inside / (3 * 50 * 180 * 320)
    # Those outside are of road users that are hidden or cut by more than labels allow.
    assert inside / share > 8 * outside / (1 - share)
    assert np.median(slack) < 0.12


def test_a_track_keeps_its_class_and_moves_smoothly(calm: Path) -> None:
    num_tracks = 0
    for _, boxes in read_set(calm).values():
        for track in np.unique(boxes["track_id"]):
            of_track = boxes[boxes["track_id"] == track]
            assert len(np.unique(of_track["class_id"])) == 1
            assert len(np.unique(of_track["t"])) == len(of_track)
            inside = of_track[
                (of_track["x"] > 1) & (of_track["x"] + of_track["w"] < 319)
                & (of_track["y"] + of_track["h"] < 179)
            ]  # fmt: skip
            ground = np.stack([inside["x"] + inside["w"] / 2, inside["y"] + inside["h"]], 1)
            steady = np.diff(inside["t"]) == 33_333
            step = np.diff(ground, axis=0)[steady]
            if len(step) > 10:
                num_tracks += 1
                # Limbs swing and others pass in front, so single steps may differ.
                jerk = np.abs(step - np.median(step, axis=0)).max(axis=1)
                assert np.quantile(jerk, 0.8) < 6.0
    assert num_tracks > 10


@pytest.mark.parametrize("night", [0.0, 1 / 3, 0.5])
def test_days_and_nights_have_all_places_and_their_share_of_effects(night: float) -> None:
    plans = plan_set(SimulationSettings(train=96, val=0, test=0, night=night))
    for is_night in {plan.conditions.night for plan in plans}:
        those = [plan.conditions for plan in plans if plan.conditions.night == is_night]
        assert {each.place for each in those} == set(PLACES)
    having = Counter(
        name for plan in plans for name, strength in plan.conditions.effects.items() if strength
    )
    for name in ("rain", "leaves", "shaking", "occluders", "shadows"):
        assert having[name] == pytest.approx(24, abs=5), name
    for name in ("glare", "flicker"):
        assert having[name] == pytest.approx(24 if night else 0, abs=5), name
    assert not any(p.conditions.effects["shadows"] for p in plans if p.conditions.night)
    assert not any(p.conditions.effects["glare"] for p in plans if not p.conditions.night)


def test_strengths_are_passed_on_and_no_share_means_none() -> None:
    effects = EffectSettings(share=1, rain=2.5, leaves=0)
    for plan in plan_set(replace(TINY, effects=effects)):
        assert plan.conditions.effects["rain"] == 2.5
        assert plan.conditions.effects["leaves"] == 0
    for plan in plan_set(replace(TINY, effects=EffectSettings(share=0))):
        assert not any(plan.conditions.effects.values())


def test_the_usual_amount_is_quick_and_standard_is_half_an_hour() -> None:
    usual = SimulationSettings()
    assert {name: getattr(usual, name) for name in AMOUNTS["quick"]} == AMOUNTS["quick"]
    standard = AMOUNTS["standard"]
    recordings = standard["train"] + standard["val"] + standard["test"]
    assert 28 <= recordings * standard["seconds"] / 60 <= 32
    assert AMOUNTS["quick"]["val"] >= 12


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of POSIX")
def test_a_full_disk_is_an_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """In a process of its own, whose files may not grow beyond some kB."""
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=_simulate_without_room,
                                                          args=(tmp_path,))  # fmt: skip
    process.start()
    process.join()
    assert process.exitcode == 27
    assert list(tmp_path.iterdir()) == []


def _simulate_without_room(folder: Path) -> None:
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        simulate(folder / "set", replace(TINY, seconds=1.0), workers=1)
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (SimulationSettings, {"height": 10}, "height: must be from 32 to 65535, got 10: raise it"),
        (SimulationSettings, {"seconds": 0}, "seconds: must be from 0.1 to 3600, got 0: raise it"),
        (SimulationSettings, {"night": 1.5}, "night: must be from 0 to 1, got 1.5: lower it"),
        (SimulationSettings, {"val": -1}, "val: must be from 0 to 9999, got -1: raise it"),
        (
            SimulationSettings,
            {"traffic": math.nan},
            "traffic: must be from 0 to 100, got nan: set a finite number",
        ),
        (
            SensorSettings,
            {"contrast_threshold": 0.0},
            "sensor.contrast_threshold: must be at least 0.01, got 0.0: raise it",
        ),
        (
            SensorSettings,
            {"readout_hz": math.inf},
            "sensor.readout_hz: must be at least 1000, got inf: set a finite number",
        ),
        (
            SensorSettings,
            {"threshold_mismatch": 2},
            "sensor.threshold_mismatch: must be from 0 to 1, got 2: lower it",
        ),
        (EffectSettings, {"rain": -1}, "effects.rain: must be from 0 to 10, got -1: raise it"),
        (EffectSettings, {"share": 2}, "effects.share: must be from 0 to 1, got 2: lower it"),
    ],
)
def test_impossible_settings_are_refused(
    make: Callable[..., object], values: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        make(**values)
    assert str(refused.value) == message


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^workers: must be at least 1, got 0: raise it$"):
        simulate(tmp_path / "set", TINY, workers=0)
    assert list(tmp_path.iterdir()) == []


def test_more_traffic_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    message = r"^traffic: must be at most about \d+ for the \w+ of \w+_0\d+, got 100: lower it$"
    with pytest.raises(UserError, match=message):
        simulate(tmp_path / "set", replace(TINY, traffic=100), workers=1)
    assert list(tmp_path.iterdir()) == []


def test_command_writes_a_set_and_refuses_a_full_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "set"
    output.mkdir()
    simulate_command(output, TINY, preview=True)
    text = capsys.readouterr().out
    assert "wheelchair" in text
    assert "4 recordings of 0.3 s" in text
    assert "turn by over 30 degrees" in text
    assert "k events/s" in text
    assert (output / "train_day_0001_preview.mp4").stat().st_size > 1000
    with pytest.raises(UserError, match="must be a new or empty folder, got .*set with some"):
        simulate_command(output, TINY)
    assert len(read_set(output)) == 4


@pytest.mark.parametrize("traffic", [0.1, 0.5])
def test_little_traffic_is_traffic(tmp_path: Path, traffic: float) -> None:
    simulate(tmp_path / "set", replace(TINY, traffic=traffic))
    assert len(read_set(tmp_path / "set")) == 4


def test_a_set_without_recordings_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^train, val, test: must be one recording at least, got 0"):
        simulate(tmp_path / "set", replace(TINY, train=0, val=0, test=0))
    (tmp_path / "set").write_text("")
    with pytest.raises(UserError, match=r"^output: must be .* got .*/set, a file: use another or"):
        simulate(tmp_path / "set", TINY)
