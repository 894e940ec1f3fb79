"""`detect`: from recordings and a checkpoint to videos, boxes and a summary."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import eventcv
import numpy as np
import pytest
import torch
from torchvision import ops

from etram_det.boxes import corners
from etram_det.cli.commands import run
from etram_det.data.labels import ETRAM_CLASSES, LabelSettings
from etram_det.data.layouts import recording_paths
from etram_det.data.preprocessing import preprocess
from etram_det.data.raw import RawRecording
from etram_det.data.recording import Note
from etram_det.data.representation import FrameSettings
from etram_det.drawing import video
from etram_det.drawing.ffmpeg import NoEncoder
from etram_det.errors import UserError
from etram_det.inference.streaming_detector import StreamingDetector
from etram_det.inference.tracking import Tracker
from etram_det.inference.writer import DetectionWriter
from etram_det.simulator.dataset import SimulationSettings, simulate
from support.camera_files import ENCODERS
from support.paths import ROOT
from support.random_checkpoint import know_simulation_only, write_random_checkpoint
from support.raw_files import boxes_at, random_events, write_raw

CAMERA_FILES = Path(os.environ.get("ETRAM_DET_RECORDINGS", ""))
PREPROCESSED = ROOT / "tests/reference/preprocessed_etram/test/test_day_0001"
FRAMES = FrameSettings(input_size=(48, 64))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    write_random_checkpoint(tmp_path / "random.ckpt", FRAMES)


def detect(*arguments, score=0.3):
    few = ["--score", str(score), "--device", "cpu"]
    return run(["detect", *map(str, arguments), "--ckpt_path", "random.ckpt", *few])


def recording(folder, name="night_1", seconds=0.52, seed=0):
    return write_raw(Path(folder), name, random_events(6000, seconds, seed=seed))


def video_of(path):
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened()
    wanted = cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH
    size = tuple(int(reader.get(each)) for each in wanted)
    decoded = 0
    while reader.read()[0]:
        decoded += 1
    assert decoded == size[0]
    return *size, reader.get(cv2.CAP_PROP_FPS)


def outcomes(folder="detections", name="night_1"):
    """Rows of all three formats, and the times of the windows."""
    boxes = np.load(Path(folder) / f"{name}_bbox.npy")
    coco = json.loads((Path(folder) / f"{name}_coco.json").read_text())
    with (Path(folder) / f"{name}_detections.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(boxes) == len(coco["annotations"]) == len(table)
    return boxes, [image["t"] for image in coco["images"]]


def test_a_recording_becomes_a_video_and_boxes(capsys):
    assert detect(recording("data")) == 0
    assert {path.name for path in Path("detections").iterdir()} == {
        "night_1.mp4",
        "night_1_bbox.npy",
        "night_1_coco.json",
        "night_1_detections.csv",
    }
    boxes, times = outcomes()
    assert video_of("detections/night_1.mp4") == (11, 360, 480, 20.0)
    assert times == [50_000 * (i + 1) for i in range(11)]
    assert set(boxes["t"].tolist()) <= set(times)
    assert len(boxes) > 20
    assert boxes["class_confidence"].min() >= 0.3
    shown = capsys.readouterr().out
    assert "windows/s" in shown
    assert "median ms" in shown
    assert str(len(boxes)) in shown
    assert shown.endswith("\nresults are in detections\n")


def test_the_first_window_is_left_out_of_rate_and_latencies(monkeypatch, capsys):
    detect_frame, waits_s = StreamingDetector.detect_frame, iter([2.0])

    def slow_at_first(self, *frame):
        time.sleep(next(waits_s, 0))
        return detect_frame(self, *frame)

    monkeypatch.setattr(StreamingDetector, "detect_frame", slow_at_first)
    assert detect(recording("data"), "--video", "false") == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "night_1" in line]
    windows, rate, median_ms, slow_ms = map(float, cells[0][2:6])
    assert windows == 11
    assert rate > 6  # with the first one it would be under 5.5
    assert slow_ms < 2000
    assert rate < 1000 / median_ms


def test_one_window_alone_has_no_rate(capsys):
    assert detect(recording("data", seconds=0.04), "--video", "false") == 0
    cells = [line.split("│") for line in capsys.readouterr().out.splitlines() if "night_1" in line]
    assert [cell.strip() for cell in cells[0][2:6]] == ["1", "-", "-", "-"]


@pytest.mark.parametrize(
    ("flags", "rate", "windows"),
    [
        (["--slow-motion", "4"], 5.0, 11),
        (["--window-ms", "25"], 40.0, 21),
        (["--slow-motion", "0.5", "--window-ms", "100"], 20.0, 6),
    ],
)
def test_time_in_the_video(flags, rate, windows):
    assert detect(recording("data"), *flags, "--output", "out") == 0
    assert video_of("out/night_1.mp4") == (windows, 360, 480, rate)
    assert len(outcomes("out")[1]) == windows


REAL = (
    "ckpt_path: trained on simulated traffic only, and night_1 is a real recording: expect misses "
    "and false alarms: train on real ones (fit --data.root FOLDER --model.init_from FILE.ckpt)"
)


def test_a_real_recording_is_new_to_a_checkpoint_of_simulated_traffic(capfd):
    path = recording("data")
    few = ["--video", "false"]
    assert detect(path, *few) == 0
    assert "real recording" not in capfd.readouterr().err
    know_simulation_only("random.ckpt")
    simulate(
        Path("set"), SimulationSettings(height=48, width=64, train=0, val=0, test=1, seconds=0.3)
    )
    assert detect(*sorted(Path("set").glob("test/*_td.h5")), *few) == 0
    assert "real recording" not in capfd.readouterr().err
    # Nor are its frames, prepared.
    prepared = ["preprocess", "--root", "set", "--output", "frames", "--frames.input_size"]
    assert run([*prepared, "[48,64]"]) == 0
    assert detect("frames/test", *few) == 0
    assert "real recording" not in capfd.readouterr().err
    assert detect(path, recording("data", "night_2"), *few) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if "real recording" in line]
    assert lines == [REAL]


def test_the_packages_own_checkpoint_is_used_unless_one_is_given(monkeypatch, capfd, caplog):
    path = str(recording("data"))
    package = Path("package")
    (package / "pretrained").mkdir(parents=True)
    monkeypatch.setattr("etram_det.__file__", str(package / "__init__.py"))
    assert run(["detect", path]) == 2
    assert only_line(capfd) == (
        "etram_det: error: ckpt_path: must be a checkpoint, got none, and this installation lacks "
        "pretrained/simulated_traffic.ckpt, which is used then: set it to the path of one"
    )
    know_simulation_only("random.ckpt")
    own = package / "pretrained/simulated_traffic.ckpt"
    Path("random.ckpt").rename(own)
    assert run(["detect", path, "--device", "cpu", "--video", "false"]) == 0
    used = f"ckpt_path: not set: using the package's own, trained on simulated traffic: {own}"
    assert caplog.messages.count(used) == 1
    assert capfd.readouterr().err.splitlines().count(REAL) == 1
    assert len(outcomes()[0]) > 0


def labelled(folder, name="night_1", seconds=0.52, start_us=0):
    """A recording with a box every 33 ms, in the left half."""
    boxes = boxes_at(np.arange(33_000, int(seconds * 1e6), 33_000) + start_us, x=4, y=8, w=16, h=30)
    return write_raw(Path(folder), name, random_events(6000, seconds), boxes)


def drawn(*flags, ckpt="random.ckpt", path="data/night_1_td.h5"):
    """Labels and detections that were painted in each window."""
    painted = []
    picture = video.DetectionPainter.picture

    def noted(self, frame, time_us, rows, labels=None):
        painted.append((time_us, rows, labels))
        return picture(self, frame, time_us, rows, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video.DetectionPainter, "picture", noted)
        assert detect(path, *flags) == 0
    return painted


@pytest.mark.parametrize(
    "flags",
    [
        ["--labels"],
        pytest.param(["--labels", "data/night_1_bbox.npy"], marks=pytest.mark.gate),
        pytest.param(["--labels=data"], marks=pytest.mark.gate),
    ],
)
def test_labels_are_drawn_in_their_windows(flags):
    times = np.load(labelled("data").with_name("night_1_bbox.npy"))["t"]
    windows = drawn(*flags)
    assert len(windows) == 11
    for end_us, _, labels in windows:
        latest = times[(times > end_us - 50_000) & (times <= end_us)].max(initial=-1)
        assert labels["t"].tolist() == ([latest] if latest >= 0 else [])
        assert set(labels["x"].tolist()) <= {4}
    assert sum(len(labels) for *_, labels in windows) == 10
    assert all(labels is None for *_, labels in drawn("--labels", "false"))


def test_stored_frames_have_their_own_labels():
    windows = drawn("--labels", path=PREPROCESSED)
    assert len(np.concatenate([labels for *_, labels in windows])) > 10
    assert {each for end, _, labels in windows for each in (labels["t"] - end).tolist()} == {0}


def test_labels_that_are_missing_or_of_another_time_are_reported(capfd):
    path = recording("data")
    assert detect(path, "--labels") == 2
    message = "labels: must be a box file, or a folder with night_1_bbox.npy, got no file "
    assert f"{message}data/night_1_bbox.npy: set --labels" in only_line(capfd)
    assert detect(path, "--labels", "none.npy") == 2
    assert f"{message}none.npy: set --labels" in only_line(capfd)
    Path("l.csv").write_text("recording,t,class,x,y,w,h\n")
    assert detect(path, "--labels", "l.csv") == 2
    assert "got l.csv: make one of it by convert-labels l.csv --output" in only_line(capfd)
    labelled("data", start_us=10_000_000)
    assert detect(path, "--labels") == 0
    assert (
        "night_1: labels: from 10.033 to 10.495 s, where the recording has none of its windows, "
        "from 0.050 to 0.550 s: use its own labels, or another --clock"
    ) in capfd.readouterr().err.replace(f"{0.05:.3f}", "0.050")


def test_events_stand_beside_detections_on_request():
    assert detect(recording("data"), "--side-by-side") == 0
    assert video_of("detections/night_1.mp4") == (11, 360, 960, 20.0)


def test_objects_have_one_box_in_videos_whatever_their_classes():
    path = recording("data")
    windows = drawn("--nms", "0.3")
    boxes, _ = outcomes()
    by_class = drawn("--nms", "0.3", "--class-agnostic-nms", "false")
    assert path.is_file()
    for (end_us, rows, _), (_, every_class, _) in zip(windows, by_class, strict=True):
        np.testing.assert_array_equal(every_class, boxes[boxes["t"] == end_us])
        assert 0 < len(rows) < len(every_class)
        assert most_overlap(rows) <= 0.3 < most_overlap(every_class)
    for end_us, rows, _ in drawn("--nms", "0.3", "--class-agnostic-nms"):
        boxes, _ = outcomes()
        np.testing.assert_array_equal(rows, boxes[boxes["t"] == end_us])
        assert most_overlap(rows) <= 0.3


def most_overlap(rows):
    """The greatest IoU of two boxes of a window."""
    boxes = torch.from_numpy(corners(rows).astype(np.float64))
    return float(ops.box_iou(boxes, boxes).fill_diagonal_(0).max()) - 1e-4


@pytest.mark.parametrize("name", [*ENCODERS, "dv.aedat4"])
def test_files_of_cameras(name):
    events = random_events(6000, 0.12)
    if name in ENCODERS:
        Path(name).write_bytes(ENCODERS[name](events))
    else:
        rows = np.stack([events[column].astype(np.int64) for column in "xytp"], axis=1)
        eventcv.from_numpy(rows, sensor_size=(64, 48), time_unit="us").save(name)
    raw = write_raw(Path("data"), "same", events)
    assert detect(name, raw, "--clock", "camera") == 0
    boxes, times = outcomes(name=Path(name).stem)
    expected, _ = outcomes(name="same")
    assert len(times) == video_of(Path("detections") / f"{Path(name).stem}.mp4")[0] == 3
    np.testing.assert_array_equal(boxes, expected)


def test_names_in_brackets_are_shown_as_they_are(capsys):
    assert detect(recording(".", "a[bold]b"), "--video", "false") == 0
    shown = capsys.readouterr()
    assert shown.out.count("a[bold]b") == 2  # in both tables
    assert "a[bold]b" in shown.err  # beside the bar


def test_the_clock_of_raw_files_is_the_recordings_unless_the_cameras_is_asked_for(capfd):
    camera = random_events(6000, 0.12)
    camera["t"] += 1570 << 12
    Path("a.raw").write_bytes(ENCODERS["evt3.raw"](camera))
    first = int(camera["t"][0])
    for flags, start, line in [
        ([], 0, "times count from the recording's start: 6.430720 s of the camera's"),
        (["--clock", "camera"], first, "times are those of the camera's clock, which is at 6"),
    ]:
        assert detect("a.raw", "--video", "false", *flags) == 0
        assert outcomes(name="a")[1] == [start + 50_000 * (i + 1) for i in range(3)]
        assert capfd.readouterr().err.count(f"a: {line}") == 1


def test_events_off_the_sensor_are_reported(capfd):
    """The training's sensor is not this recording's."""
    write_random_checkpoint(
        Path("random.ckpt"), FrameSettings(input_size=(48, 64), sensor_size=(480, 640))
    )
    events = random_events(4000, size=(480, 640))
    outside = (events["x"] >= 128) | (events["y"] >= 128)
    in_two = np.isin(events["t"], 50_000 * np.arange(1, 20))
    dropped = int(np.count_nonzero(outside) + np.count_nonzero(outside & in_two))
    header = b"% format EVT3;height=128;width=128\n% end\n"
    Path("roi.raw").write_bytes(ENCODERS["evt3.raw"](events, header))
    assert detect("roi.raw", "--video", "false") == 0
    shown = capfd.readouterr()
    share = dropped / (4000 + np.count_nonzero(in_two))
    assert (
        f"roi: {dropped:,} events outside the sensor were dropped, {share:.1%} of those read: use "
        "--sensor-size if it has more than height 128, width 128"
    ) in shown.out.splitlines()
    # Of a file that states no size, the training's is not assumed.
    Path("plain.raw").write_bytes(ENCODERS["evt2.raw"](events, b"% evt 2.0\n"))
    for flags, size in {(): (720, 1280), ("--sensor-size", "480", "640"): (480, 640)}.items():
        assert detect("plain.raw", "--video", "false", *flags) == 0
        images = json.loads(Path("detections/plain_coco.json").read_text())["images"]
        assert (images[0]["height"], images[0]["width"]) == size
        assert "dropped" not in capfd.readouterr().out


def test_notes_are_printed_once_in_the_commands_own_keys(monkeypatch, capfd):
    opened = RawRecording.__init__

    def with_notes(self, *arguments, **more):
        opened(self, *arguments, **more)
        self.notes += [Note("7 px are assumed: set data.sensor_size"), Note("is cut", True)]

    monkeypatch.setattr(RawRecording, "__init__", with_notes)
    assert detect(recording("data"), recording("data", "night_2"), "--video", "false") == 0
    shown = capfd.readouterr().err
    for name in ("night_1", "night_2"):
        for note in ("7 px are assumed: set sensor_size", "is cut"):
            assert shown.splitlines().count(f"{name}: {note}") == 1
    bar = shown.rindex("11/11")
    assert shown.index("night_1: is cut") < bar


def test_repaired_timestamps_are_reported(capfd):
    events = random_events(6000, 0.2)
    events["t"][100] = 0
    write_raw(Path("data"), "few", events)
    events["t"][1000:] -= 20_000
    write_raw(Path("data"), "many", events)
    num_repaired = np.count_nonzero(np.maximum.accumulate(events["t"]) != events["t"])
    assert detect("data", "--video", "false") == 0
    lines = capfd.readouterr().out.splitlines()
    assert "few: events with a repaired timestamp: 1" in lines
    assert (
        f"many: {num_repaired / 6000:.0%} of its events have an earlier timestamp than the event "
        "before and take that one: many are in a wrong frame or in none: repair the recording"
    ) in lines


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(48, 64), (96, 96), (30, 90)])
def test_any_resolution(resize, size):
    path = write_raw(Path("data"), "night_1", random_events(6000, 0.1, size), size=size)
    assert detect(path, "--resize", resize) == 0
    boxes, _ = outcomes()
    assert len(boxes) > 3
    assert boxes["x"].min() < size[1] / 3
    assert boxes["x"].max() > size[1] / 2
    assert boxes["y"].max() > size[0] / 2
    _, height, width, _ = video_of("detections/night_1.mp4")
    assert width / height == pytest.approx(size[1] / size[0], abs=0.01)


def test_folders_and_preprocessed_recordings(capfd):
    recording("data", "a"), recording("data", "b")
    (Path("data") / "notes.txt").write_text("")
    assert detect("data", PREPROCESSED, "--video", "false") == 0
    assert {path.name for path in Path("detections").glob("*.npy")} == {
        "a_bbox.npy",
        "b_bbox.npy",
        "test_day_0001_bbox.npy",
    }
    assert not list(Path("detections").glob("*.mp4"))
    boxes, times = outcomes(name="test_day_0001")
    stored = np.load(next(PREPROCESSED.glob("event_representations_v2/*/timestamps_us.npy")))
    assert times == stored.tolist()
    assert boxes["x"].max() > 640  # of the sensor, twice the stored frames'


def test_what_a_path_stands_for(tmp_path):
    path = recording("data")
    assert recording_paths(path) == [path]
    assert recording_paths(Path("data")) == [path]
    assert recording_paths(PREPROCESSED) == [PREPROCESSED]
    assert recording_paths(PREPROCESSED.parent) == [PREPROCESSED]
    for name in ("a_td.h5", "a.raw", "b.raw", "b.dat", "c.aedat4"):
        (tmp_path / name).touch()
    for name in ("a", "c", "d", "a.2"):
        shutil.copytree(PREPROCESSED, tmp_path / name)
    used = [
        "a.2",
        "a_td.h5",
        "b.dat",
        "b.raw",
        "c.aedat4",
        "d",
    ]
    assert [each.name for each in recording_paths(tmp_path)] == used
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "none"):
        with pytest.raises(UserError, match=wrong):
            recording_paths(tmp_path / wrong)


def test_objects_keep_their_numbers(monkeypatch):
    pytest.importorskip("edgefirst.tracker")
    assert detect(recording("data"), "--track", "true") == 0
    boxes, _ = outcomes()
    assert boxes["track_id"].max() > 1
    annotations = json.loads(Path("detections/night_1_coco.json").read_text())["annotations"]
    assert [each["track_id"] for each in annotations] == boxes["track_id"].tolist()


def rows_of(boxes, score=0.8):
    rows = np.zeros(
        len(boxes),
        [(name, "f4") for name in ("x", "y", "w", "h")]
        + [("class_id", "u4"), ("class_confidence", "f4")],
    )
    for row, (x, y, w, h, class_id) in zip(rows, boxes, strict=True):
        row["x"], row["y"], row["w"], row["h"], row["class_id"] = x, y, w, h, class_id
    rows["class_confidence"] = score
    return rows


def test_tracks_follow_movement_and_end():
    pytest.importorskip("edgefirst.tracker")
    tracker = Tracker(0.3)
    numbers = []
    for i in range(20):
        left, right = (10 + 6 * i, 50, 40, 20, 1), (400 - 8 * i, 90, 30, 40, i % 2)
        boxes = [left, right] if i % 2 else [right, left]
        found = tracker.update(50_000 * i, rows_of(boxes)).tolist()
        numbers.append(found if i % 2 else found[::-1])
    assert len({tuple(pair) for pair in numbers}) == 1
    assert sorted(numbers[0]) == [1, 2]
    # What is found at the same place after more than half a second is another object.
    for i in range(20, 40):
        assert len(tracker.update(50_000 * i, rows_of([]))) == 0
    late = tracker.update(50_000 * 40, rows_of([(400 - 8 * 19, 90, 30, 40, 0)]))
    assert late.tolist() == [3]


def test_a_track_starts_with_a_clear_detection():
    pytest.importorskip("edgefirst.tracker")
    tracker = Tracker(0.3)
    box = [(50, 90, 30, 40, 0)]
    scores = [0.35, 0.45, 0.35]
    numbers = [
        tracker.update(50_000 * i, rows_of(box, score)).tolist() for i, score in enumerate(scores)
    ]
    assert numbers == [[0], [1], [1]]


def test_a_tracker_that_is_missing_is_reported(monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "edgefirst.tracker", None)
    assert detect(recording("data"), "--track", "true") == 2
    assert "pip install edgefirst-tracker, of the extra [track]" in only_line(capfd)
    assert not Path("detections").exists()


def only_line(capfd):
    """What a failed command says, which must be one line."""
    lines = [line for line in capfd.readouterr().err.splitlines() if "etram_det: error" in line]
    assert len(lines) == 1
    return lines[0]


def test_one_damaged_file_does_not_lose_the_others(capfd):
    recording("data", "a"), recording("data", "c")
    (Path("data") / "b_td.h5").write_bytes(Path("data/a_td.h5").read_bytes()[:3000])
    assert detect("data", "none.raw", "data/a_td.h5", "--video", "false") == 1
    message = only_line(capfd)
    assert "b_td.h5" in message
    assert "none.raw" in message
    assert "another recording is named a" in message
    assert outcomes(name="a")[1]
    assert outcomes(name="c")[1]


def test_damage_in_the_middle_keeps_what_comes_before(monkeypatch, capfd):
    path = recording("data")
    frames = "etram_det.data.raw.RawRecording.frames"
    whole = __import__("etram_det.data.raw", fromlist=["x"]).RawRecording.frames

    def cut(self, start, stop):
        if start == 4:
            raise UserError(f"{self.path}: cannot be read as HDF5")
        return whole(self, start, stop)

    monkeypatch.setattr(frames, cut)
    assert detect(path) == 1
    assert f"{path}: cannot be read as HDF5; 4 of 11 windows are kept" in only_line(capfd)
    assert video_of("detections/night_1.mp4")[0] == 4
    assert len(outcomes()[1]) == 4


def test_what_cannot_be_read_is_reported_in_one_line(capfd):
    Path("cut.h5").write_bytes(recording("data").read_bytes()[:3000])
    Path("empty.raw").write_bytes(b"")
    Path("no_events.raw").write_bytes(b"% evt 2.0\n% geometry 64x48\n")
    Path("photo.jpg").write_bytes(b"x")
    write_raw(Path("."), "nothing", {name: np.zeros(0, "i8") for name in "xypt"})
    Path("folder").mkdir()
    for name, reason in {
        "cut.h5": "was cut short, and not all columns are left",
        "empty.raw": "must be a RAW file of EVT 2.0 or EVT 3.0",
        "no_events.raw": "no_events.raw",
        "photo.jpg": "a file of events",
        "nothing_td.h5": "must hold events, got none",
        "missing.raw": "got no such file",
        "folder": "must hold recordings, got none",
    }.items():
        assert detect(name) == 2
        message = only_line(capfd)
        assert name in message
        assert reason in message
    assert not Path("detections").exists()


def test_recordings_are_opened_before_the_network(capfd, caplog):
    """A wrong path shows before a checkpoint is read, damage before a runtime starts."""
    assert run(["detect", "missing.raw", "gone", "--ckpt_path", "none.ckpt"]) == 1
    assert only_line(capfd) == (
        "etram_det: error: 2 of 2 recordings could not be read to the end: missing.raw: must be a "
        "recording or a folder of recordings, got no such file: check the path; gone: must be a "
        "recording or a folder of recordings, got no such file: check the path"
    )
    Path("empty.raw").write_bytes(b"")
    for command in (["detect", "empty.raw"], ["live", "--replay", "empty.raw"]):
        assert run([*command, "--ckpt_path", "random.ckpt", "--device", "moon"]) == 2
        assert "empty.raw: must be a RAW file of EVT 2.0 or EVT 3.0" in only_line(capfd)
    assert not [each for each in caplog.messages if each.startswith("runtime: ")]
    # The network is made once one of them can be read; what is wrong with it ends the run.
    assert (
        run(
            [
                "detect",
                "empty.raw",
                str(recording("data")),
                "--ckpt_path",
                "random.ckpt",
                "--device",
                "moon",
            ]
        )
        == 2
    )
    assert "device: must be auto, cpu or a device" in only_line(capfd)


def test_labels_beside_a_recording_are_not_replaced_by_detections(capfd):
    labelled("data")
    before = Path("data/night_1_bbox.npy").read_bytes()
    for path in ("data", "data/night_1_td.h5"):
        assert detect(path, "--video", "false", "--output", "data") == 2
        assert only_line(capfd).endswith(
            "output: must be another folder than that of data/night_1_td.h5, whose "
            "night_1_bbox.npy would be replaced by detections, got data: choose another one"
        )
    assert Path("data/night_1_bbox.npy").read_bytes() == before


def test_stored_frames_of_any_labels_are_used_as_they_are(capfd):
    """Of other classes, intervals and filters; a note says what of the size does not hold."""
    labelled("root/val")
    frames = replace(FRAMES, input_size=(24, 32))
    labels = LabelSettings(class_names=("a", "b"), interval_ms=200, filters=("min_side_5",))
    preprocess(Path("root"), Path("cached"), frames, labels, workers=1)
    [folder] = (path.parent for path in Path("cached").rglob("sparse_frames.h5"))
    assert detect(folder, "--video", "false") == 0
    assert (
        "input_size: its frames are used as stored, at 24x32, not at 48x64: detect in its events "
        "for that" in " ".join(capfd.readouterr().err.split())
    )


def test_frames_of_another_size_than_in_training_are_warned_of(caplog):
    path = recording("data")
    assert detect(path, "--video", "false", "--input-size", "48", "64", "--window-ms", "50") == 0
    assert "trained with" not in caplog.text  # as it was trained
    assert detect(path, "--video", "false", "--input-size", "24", "32", "--window-ms", "100") == 0
    for name, given, own in (("input_size", (24, 32), (48, 64)), ("window_ms", 100, 50)):
        line = f"{name}: {given} as given, the checkpoint was trained with {own}: expect misses"
        assert line in caplog.text


def test_mistakes_in_settings_are_reported_in_one_line(capfd):
    path = str(recording("data"))
    assert run(["detect", path, "--ckpt_path", "none.ckpt"]) == 2
    assert "no file none.ckpt" in only_line(capfd)
    assert run(["detect", path, "--ckpt_path", path]) == 2
    assert "must be a checkpoint that PyTorch wrote, got something else" in only_line(capfd)
    for flags, message in {
        ("--score", "2"): "score: must be in [0, 1]",
        ("--nms", "-1"): "nms: must be in [0, 1]",
        ("--slow-motion", "0"): "slow_motion: must be above 0",
        ("--slow-motion", "1e9"): "give videos of 0.01 to 1000 frames a second, got 1e+09",
        ("--window-ms", "0"): "window_ms: must be at least 1",
        ("--device", "moon"): "device: must be auto, cpu or a device that PyTorch finds, got moon",
    }.items():
        few = ["--ckpt_path", "random.ckpt"]
        assert run(["detect", path, *few, *flags]) == 2
        assert message in only_line(capfd)
    assert run(["detect", "none.raw", "--score", "2"]) == 2  # before a recording is looked for
    assert only_line(capfd).startswith("etram_det: error: score: must be in [0, 1], got 2")


def no_ffmpeg():
    raise NoEncoder("there is none")


def test_a_place_or_codec_that_is_missing_is_reported(monkeypatch, capfd):
    path = recording("data")
    Path("file").write_text("")
    for flags in ([], ["--video", "false"]):
        assert detect(path, "--output", "file/out", *flags) in (1, 2)
        message = only_line(capfd)
        assert "file/out" in message
        assert "cannot be written" in message
    monkeypatch.setattr(video, "CODECS", ("WXYZ",))
    monkeypatch.setattr(video, "encoding_ffmpeg", no_ffmpeg)
    assert detect(path) == 2
    assert "no codec" in only_line(capfd)
    assert not list(Path("detections").iterdir())


def test_a_full_disk_is_reported_and_keeps_the_video(monkeypatch, capfd):
    add = DetectionWriter.add

    def full(self, time_us, rows, with_tracks=False):
        full.windows += 1
        if full.windows == 6:
            raise OSError(28, "No space left on device")
        add(self, time_us, rows, with_tracks)

    full.windows = 0
    monkeypatch.setattr(DetectionWriter, "add", full)
    assert detect(recording("data")) == 1
    assert "No space left on device" in only_line(capfd)
    assert len(outcomes()[1]) == video_of("detections/night_1.mp4")[0] == 5


def test_boxes_that_cannot_be_begun_leave_no_video_behind(monkeypatch, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("etram_det.inference.writer._npy_header", full)
    assert detect(recording("data")) == 1
    assert "No space left on device" in only_line(capfd)
    assert list(Path("detections").iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small file system")
@pytest.mark.parametrize("kilobytes", [60, 400, 1000])
def test_a_disk_that_is_really_full_keeps_whole_files(kilobytes, capfd):
    path = recording("data", seconds=4)
    small = Path("small")
    small.mkdir()
    size = ["-t", "tmpfs", "-o", f"size={kilobytes}k"]
    if subprocess.run(["mount", *size, "tmpfs", "small"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        assert detect(path, "--output", "small", score=0.1) == 1
        message = only_line(capfd)
        assert "small" in message
        assert "make room" in message
        left = {each.name for each in small.iterdir()}
        # What takes more room to complete may be missing; what is there can be read.
        assert "night_1_bbox.npy" in left
        assert left <= {f"night_1_{name}" for name in ("bbox.npy", "coco.json", "detections.csv")}
        boxes = np.load(small / "night_1_bbox.npy")
        if kilobytes > 60:  # one window at least
            assert len(boxes) > 0
            assert len(outcomes("small")[1]) < 79
            assert set(boxes["t"]) <= set(outcomes("small")[1])
    finally:
        subprocess.run(["umount", "small"], check=True)


def test_ctrl_c_keeps_what_is_complete(monkeypatch, capfd):
    detect_frame = StreamingDetector.detect_frame

    def interrupted(self, *frame):
        interrupted.windows += 1
        if interrupted.windows == 8:
            raise KeyboardInterrupt
        return detect_frame(self, *frame)

    interrupted.windows = 0
    monkeypatch.setattr(StreamingDetector, "detect_frame", interrupted)
    assert detect(recording("data"), recording("data", "night_2")) == 1
    message = only_line(capfd)
    assert "interrupted in data/night_1_td.h5 after 7 of 11 windows" in message
    assert len(outcomes()[1]) == video_of("detections/night_1.mp4")[0] == 7
    assert {path.name[:7] for path in Path("detections").iterdir()} == {"night_1"}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_real_ctrl_c_ends_with_one_line():
    path = write_raw(Path("data"), "long", random_events(200_000, seconds=120))
    command = [sys.executable, "-m", "etram_det", "detect", path, "--ckpt_path", "random.ckpt"]
    program = subprocess.Popen([*command, "--device", "cpu"], stderr=subprocess.PIPE, text=True)
    unfinished = Path("detections/.long_bbox.npy.partial")
    for _ in range(9000):  # until boxes of the first windows are behind its header
        if unfinished.exists() and unfinished.stat().st_size > 1000:
            break
        time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    _, printed = program.communicate(timeout=600)
    assert program.returncode == 1
    assert "Traceback" not in printed
    assert printed.splitlines()[-1].startswith("etram_det: error: interrupted in data/long_td.h5")
    num_windows = len(outcomes(name="long")[1])
    assert 0 < num_windows < 2400
    assert video_of("detections/long.mp4")[0] == num_windows


@pytest.mark.parametrize(
    ("seconds", "windows"),
    [
        pytest.param(12, 240, marks=pytest.mark.gate),
        pytest.param(600, 12_000, marks=pytest.mark.slow),
    ],
    ids=["12 seconds", "ten minutes"],
)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_recording(monkeypatch, seconds, windows):
    """The second half of a simulated recording takes no more memory than its first."""
    simulate(
        Path("set"),
        SimulationSettings(height=48, width=64, train=0, val=0, test=1, seconds=seconds),
    )
    [path] = Path("set").glob("test/*_td.h5")
    used = []
    detect_frame = StreamingDetector.detect_frame

    def watched(self, *frame):
        used.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
        return detect_frame(self, *frame)

    monkeypatch.setattr(StreamingDetector, "detect_frame", watched)
    assert detect(path, score=0.4) == 0
    assert len(used) == pytest.approx(windows, abs=1)
    [video] = Path("detections").glob("*.mp4")
    assert len(outcomes(name=video.stem)[0]) > len(used)
    assert video_of(video)[0] == len(used)
    early, late = np.max(used[len(used) // 4 : len(used) // 2]), np.max(used[len(used) // 2 :])
    assert late - early < 8e6


@pytest.mark.skipif(
    not (CAMERA_FILES / "evt3_sample.raw").is_file(), reason="ETRAM_DET_RECORDINGS is not set"
)
def test_real_camera_files(capsys):
    files = [CAMERA_FILES / "evt2_sample.raw", CAMERA_FILES / "evt3_sample.raw"]
    assert detect(*files, "--resize", "letterbox", "--clock", "camera") == 0
    # 50 ms and 9 ms of events; a window that both ends belong to is followed by a last one.
    assert video_of("detections/evt2_sample.mp4") == (2, 360, 480, 20.0)
    assert video_of("detections/evt3_sample.mp4") == (1, 360, 640, 20.0)
    boxes, times = outcomes(name="evt3_sample")
    assert times == [11_718_656 + 50_000]
    assert outcomes(name="evt2_sample")[1][0] == 1_317_888 + 50_000
    assert set(boxes["class_id"]) <= set(range(len(ETRAM_CLASSES)))
