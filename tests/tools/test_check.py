"""What check prints of a folder of recordings, its exit codes, and its contact sheet."""

import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from etram_det.cli.commands import run
from etram_det.data.labels import LabelSettings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from etram_det.drawing.frames import BRIGHTER, CLASS_COLOURS, DARKER
from support.camera_files import dat
from support.paths import REFERENCE
from support.raw_files import boxes_at, random_events, write_raw

TIMES = np.arange(1, 11) * 100_000
SMALL = ["--data.input_size", "[24, 32]"]
ZOOM = 20  # of frames that are 32 px wide, in pictures of 640 px
CLASSES = np.arange(10) % 8


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "user_cache"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def root(tmp_path):
    """Four recordings of a second without any fault; sensor 64x48."""
    folder = tmp_path / "raw"
    for i, name in enumerate(("train_day_1", "train_night_2", "val_day_1", "test_day_1")):
        split = name.split("_")[0]
        boxes = boxes_at(TIMES, CLASSES)
        write_raw(folder / split, name, random_events(2000 + 1000 * i, 1.02, seed=i), boxes)
    return folder


def check(root, capsys, *flags):
    """Exit code, what is shown above "What to set:" in one line, and below it."""
    code = run(["check", str(root), *SMALL, *flags])
    lines = " ".join(capsys.readouterr().out.split())
    above, _, below = lines.partition("What to set: ")
    return code, above, below


def cells(text, row, number):
    """The cells of a row of the table."""
    found = re.search(rf"^{re.escape(row)}  +(.*)$", text, re.MULTILINE)
    assert found, row
    values = re.split(r"  +", found[1].strip())
    assert len(values) == number
    return values


def test_all_that_is_found_without_a_fault(root, capsys):
    assert run(["check", "--root", str(root), *SMALL]) == 0
    shown = capsys.readouterr().out
    settings = "as fit reads it: frames of 32x24 px and 50 ms, 8 classes, labels every 100 ms"
    assert settings in " ".join(shown.split())
    assert cells(shown, "layout", 3) == ["raw eTraM"] * 3
    assert cells(shown, "recordings, unusable", 3) == ["2, 0", "1, 0", "1, 0"]
    assert cells(shown, "sensor", 3) == ["64x48"] * 3
    assert cells(shown, "duration", 3) == ["2.0 s", "1.0 s", "1.0 s"]
    assert cells(shown, "events", 3) == ["5,000", "4,000", "5,000"]
    assert cells(shown, "million events a second", 3)[1:] == ["0.00392", "0.0049"]
    assert cells(shown, "first event at", 3)[1] == "0.00 s"
    assert cells(shown, "labels start later by", 3)[1] == "0.10 s"
    assert cells(shown, "labels end earlier by", 3) == ["0.02 s"] * 3
    assert cells(shown, "labelled of all frames", 3) == ["20 of 40", "10 of 20", "10 of 20"]
    assert cells(shown, "boxes", 3) == ["20", "10", "10"]
    assert cells(shown, "labels without events", 3) == ["0", "0", "0"]
    assert cells(shown, "events outside, sampled", 3) == ["0.00%"] * 3
    assert cells(shown, "timestamps repaired", 3) == ["0.00%"] * 3
    assert all(" s each" in cell for cell in cells(shown, "time to index", 3))
    classes = "car 2, bicycle 2, bus 2, motorbike 2, truck 2, tram 2, wheelchair 2"
    assert f"boxes in train: pedestrian 4, {classes.replace('car 2', 'car 4')}" in shown
    assert "12 labelled frames: check/check.png\nNothing is doubtful.\n" in shown
    assert run(["check", str(root), *SMALL]) == 0
    assert cells(capsys.readouterr().out, "time to index", 3) == ["done before"] * 3


def test_settings_are_those_of_fit(root, tmp_path, capsys):
    (tmp_path / "names.txt").write_text("train_night_2\nval_day_1\nval_day_2\ntest_day_1\n")
    (tmp_path / "mine.yaml").write_text(
        f"data: {{root: {root}, subset: names.txt, input_size: [12, 16], interval_ms: 200}}\n"
        "trainer: {accelerator: gpu}\n"  # which is not here
    )
    assert (
        run(["check", "--config", "log_wandb", "--config=mine.yaml", "--data.window_ms=100"]) == 1
    )
    shown = capsys.readouterr().out
    above, _, below = " ".join(shown.split()).partition("What to set:")
    assert "frames of 16x12 px and 100 ms, 8 classes, labels every 200 ms" in above
    assert cells(shown, "recordings, unusable", 3) == ["1, 0"] * 3
    assert cells(shown, "labelled of all frames", 3) == ["5 of 9"] * 3  # at 0.1, 0.3 … 0.9 s
    unknown = f"names that no recording under {root} has: val_day_2: correct them"
    assert f"- data.subset: names.txt has {unknown}" in below


def picture(folder="check"):
    return cv2.imread(f"{folder}/check.png")[..., ::-1]


def test_the_sheet_has_the_boxes_where_they_are(root, tmp_path, capsys):
    assert run(["check", str(root), *SMALL, "--output", "deep/sheet"]) == 0
    shown = picture("deep/sheet")
    # Three columns of 640x480 with 4 px between; four rows.
    assert shown.shape == (4 * 484 - 4, 3 * 644 - 4, 3)
    left, top, right, bottom = (ZOOM * side for side in (5, 6, 15, 14))  # box at half the size
    # Four pictures of each split; those of train are of its two recordings in turns, over time.
    starts = [parts[0] for parts in np.array_split(np.arange(10), 4)]
    for tile in range(12):
        y, x = tile // 3 * 484, tile % 3 * 644
        colour = CLASS_COLOURS[CLASSES[starts[tile % 4]]]
        assert (shown[y + top + 20 : y + bottom, x + left] == colour).all(), tile
        assert (shown[y + bottom, x + left : x + right] == colour).all()
        assert (shown[y + top + 20 : y + bottom, x + right] == colour).all()
        inside = shown[y + top + 20 : y + bottom - 2, x + left + 2 : x + right - 2]
        assert not (inside == colour).all(axis=2).any()
    assert not list((tmp_path / "deep/sheet").glob(".*"))


@pytest.mark.parametrize(("late_us", "is_off"), [(0, False), (1_000_000, True)])
def test_a_clock_that_is_off_shows(late_us, is_off, tmp_path, capsys):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 4_000_000, 40_000))
    times = np.arange(1, 29) * 100_000
    position = 4 + 12 * t / 1e6  # px of the sensor: 12 px in a second
    events = {"t": t, "y": rng.integers(20, 30, len(t)), "p": rng.integers(0, 2, len(t))}
    events["x"] = (position + rng.integers(0, 8, len(t))).astype(np.int64)
    boxes = boxes_at(times + late_us, np.arange(28) % 8, x=4 + 12 * times / 1e6, y=20, w=8, h=10)
    for split in ("train", "val"):
        write_raw(tmp_path / "raw" / split, f"{split}_1", events, boxes)
    check(tmp_path / "raw", capsys)
    shown = picture().astype(np.int64) @ (1, 256, 65536)  # colours as numbers
    busy, frames = (np.array(c) @ (1, 256, 65536) for c in ((DARKER, BRIGHTER), CLASS_COLOURS))
    for tile in range(3):
        row = shown[12 * ZOOM + ZOOM // 2, tile * 644 : tile * 644 + 640]  # y 24 of the sensor
        events, box = (np.flatnonzero(np.isin(row, colours))[0] for colours in (busy, frames))
        distance = 2 / ZOOM * (events - box)  # px of the sensor
        assert distance == pytest.approx(12 if is_off else 0, abs=2.5)


def _cut_events(root):
    events = random_events(2000, 0.55)
    write_raw(root / "train", "train_day_1", events, boxes_at(TIMES, CLASSES))


def _unreadable(root):
    (root / "val" / "val_day_1_td.h5").write_bytes(b"not HDF5")


def _small_sensor(root):
    boxes = boxes_at(TIMES, CLASSES, x=2, y=2, w=8, h=8)
    write_raw(root / "train", "train_day_1", random_events(2000, 1.02), boxes, size=(24, 32))


def _unsorted(root):
    events = random_events(2000, 1.02)
    events["t"][100:200:2] -= 5_000
    write_raw(root / "train", "train_day_1", events, boxes_at(TIMES, CLASSES))


def _three_classes(root):
    for path in root.glob("train/*_bbox.npy"):
        np.save(path, boxes_at(TIMES, CLASSES % 3))


def _no_usable_label(root):
    np.save(root / "train" / "train_day_1_bbox.npy", boxes_at([50_000], 7))


def _boxes_outside(root):
    boxes = boxes_at(np.repeat(TIMES, 2), np.arange(20) % 8, x=np.tile([10, 70], 10))
    np.save(root / "train" / "train_day_1_bbox.npy", boxes)


def _no_boxes(root):
    for path in root.glob("val/*_bbox.npy"):
        path.unlink()


def _no_val(root):
    shutil.rmtree(root / "val")


def _milliseconds(root):
    events = random_events(200_000, 1.02)
    events["t"] //= 1000
    write_raw(root / "test", "test_day_1", events, boxes_at(TIMES, CLASSES))


DOUBTS = {
    _cut_events: "5 labels have no event in their windows, as where a recording has stopped early "
    "or paused, or clocks differ: 5 of 10 of train_day_1: they stay labels: correct the "
    "recordings, or leave them out by data.subset",
    _unreadable: "1 of 4 recordings cannot be used: {root}/val/val_day_1_td.h5: cannot be read as "
    "HDF5",
    _small_sensor: "1 of 4 recordings (train_day_1): its file states a sensor of 32x24 px, but its "
    "events reach 64x48 px",
    _unsorted: "train_day_1: 2% of its events have an earlier timestamp than the event before and "
    "take that one: many are in a wrong frame or in none: repair the recording or leave it out by "
    "data.subset",
    _three_classes: "train: no box has a class id above 2, though 8 classes are asked for: if "
    "these are eTraM's 3-class boxes (pedestrian, vehicle, micro-mobility), set class_names to "
    "etram3 or add Eight_class_annotations",
    _no_usable_label: "1 of 2 train recordings are left out, as they have no usable label: "
    "{root}/train/train_day_1_bbox.npy: no label at 100 ms or later",
    _boxes_outside: "10 of 50 boxes lie outside the frame, most of them in train_day_1: x, y, w "
    "and h must be pixels of the sensor, x from the left: correct them, or set data.sensor_size",
    _no_boxes: "1 of 4 recordings cannot be used: {root}/val/val_day_1_td.h5: its boxes must be in "
    "val_day_1_bbox.npy, got no such file: add it",
    _no_val: "val: no recordings, which fit needs: add val/ to {root}, or set "
    "trainer.limit_val_batches to 0",
    _milliseconds: "1 of 4 recordings cannot be used: {root}/test/test_day_1_td.h5: timestamps "
    "must be in microseconds, got 200,000 events within 0.001019 s",
}


@pytest.mark.parametrize("damage", DOUBTS, ids=lambda function: function.__name__)
def test_each_doubt_is_named_with_its_remedy(damage, root, capsys):
    damage(root)
    code, above, below = check(root, capsys)
    assert code == 1
    expected = "- " + DOUBTS[damage].format(root=root)
    # Paths may be broken at the end of a line.
    assert expected.replace(" ", "") in below.replace(" ", "")
    assert below.count(" - ") == 0  # nothing else
    assert "Nothing is doubtful" not in above


def test_few_labels_without_events_are_no_doubt(root, capsys):
    times = np.arange(1, 121) * 100_000
    for split in ("train", "val"):
        shutil.rmtree(root / split)
        boxes = boxes_at(times, np.arange(120) % 8)
        write_raw(root / split, f"{split}_1", random_events(12_000, 11.94), boxes)
    code, above, _ = check(root, capsys)
    assert code == 0
    assert "2 labels have no event in their windows" in above
    assert "labels without events 1 1 0" in above


def test_what_many_recordings_share_is_one_line(root, capsys):
    for i in range(30):
        (root / "train" / f"train_day_9{i}_td.h5").write_bytes(b"not HDF5")
        np.save(root / "train" / f"train_day_9{i}_bbox.npy", boxes_at(TIMES, CLASSES))
        boxes = boxes_at(TIMES, CLASSES)
        write_raw(root / "val", f"val_day_8{i}", random_events(500, seed=i), boxes, size=None)
    code = run(["check", str(root), *SMALL, "--data.sensor_size", "[48, 64]"])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100
    shown = " ".join(" ".join(lines).split())
    assert "recordings, unusable 2, 30 31, 0 1, 0" in shown
    assert "- 30 of 64 recordings cannot be used: " in shown
    others = "train_day_910_td.h5, train_day_911_td.h5, train_day_912_td.h5 and 26 more"
    assert f"nor can {others}" in shown
    assumed = "its file does not state the sensor's size, 64x48 px is assumed"
    assert f"30 of 34 recordings (val_day_80, val_day_81, val_day_810, …): {assumed}" in shown


def test_mistakes_of_the_user_are_one_line(root, capsys):
    for arguments, message in (
        (["nowhere"], "root: no folder nowhere; expected one with"),
        ([], "root: must be a folder of recordings, got none: use check ROOT"),
        ([str(root), "--data.jiter_ms", "3"], "the nearest setting is data.jitter_ms"),
        ([str(root), "--data.subset", "2"], "data.subset: must be above 0 and at most 1, got 2"),
        ([str(root), "other"], "unrecognized arguments: other"),
        ([str(root), "--config", "nothing"], "--config: must be a file or one of"),
    ):
        assert run(["check", *arguments, *SMALL]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_files_without_splits_are_for_detect(tmp_path, capsys):
    path = write_raw(tmp_path / "mine", "one", random_events(1000))
    for place in (path, tmp_path / "mine"):
        code, above, _ = check(place, capsys)
        assert code == 0
        assert "labelled of all frames 0 of 20" in above
        assert (
            "no train/, val/ or test/: checked for detect and predict only: to train, sort the "
            "recordings with their boxes into such folders"
        ) in above
    assert not (tmp_path / "check").exists()


def test_layouts_are_named(root, tmp_path, capsys):
    loaded = tmp_path / "download" / "Static" / "HDF5"
    for split in ("train", "val"):
        shutil.copytree(root / split, loaded / f"{split}_h5_1")
    boxes, events = boxes_at(TIMES, CLASSES), random_events(2000, 1.02)
    (root / "test" / "camera.dat").write_bytes(dat(events))
    np.save(root / "test" / "camera_bbox.npy", boxes)
    assert "layout raw eTraM raw eTraM camera files, raw eTraM" in check(root, capsys)[1]
    download = check(tmp_path / "download", capsys)[1]
    assert "layout raw eTraM, as downloaded raw eTraM, as downloaded" in download
    ours = ["--data.input_size", "[360, 640]"]
    code, above, _ = check(REFERENCE / "preprocessed_etram", capsys, *ours)
    assert (code, "layout RVT's RVT's" in above) == (0, True)
    assert "data.downsample: sum has no effect on frames that are stored already" in above


def test_the_size_of_the_cache_is_near(tmp_path, capsys):
    for i, split in enumerate(("train", "val")):
        events = random_events(60_000, 6.0, size=(180, 320), seed=i)
        events["t"] = (events["t"] / 6e6) ** (1.5 - i / 2) * 6e6  # a rate that rises
        events["t"] = events["t"].astype(np.int64)
        boxes = boxes_at(np.arange(1, 60) * 100_000, np.arange(59) % 8)
        write_raw(tmp_path / "raw" / split, f"{split}_1", events, boxes, size=(180, 320))
    flags = ["--data.input_size", "[90, 160]"]

    def megabytes(root):
        above = check(root, capsys, *flags)[1]
        return float(re.search(r"preprocess takes (?:about )?([\d.]+) MB", above)[1])

    estimate = megabytes(tmp_path / "raw")
    cache = tmp_path / "cache"
    preprocess(
        tmp_path / "raw", cache, FrameSettings(input_size=(90, 160)), LabelSettings(), workers=1
    )
    size = sum(path.stat().st_size for path in cache.glob("*/*/sparse_frames.h5")) / 1e6
    assert estimate == pytest.approx(size, rel=0.2)
    assert megabytes(cache) == pytest.approx(size, abs=0.06)


@pytest.mark.slow
def test_it_is_a_program(root, tmp_path):
    command = [sys.executable, "-m", "etram_det", "check", str(root), *SMALL]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("12 labelled frames: check/check.png\nNothing is doubtful.\n")


def test_without_validation_no_split_for_it_is_needed(root, capsys):
    _no_val(root)
    code, above, _ = check(root, capsys, "--trainer.limit_val_batches", "0")
    assert code == 0
    assert "of train test" in above
