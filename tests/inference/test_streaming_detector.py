"""One detector as a stream of events, by the command `detect`, and by Lightning's `predict`."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from etram_det.cli.commands import run
from etram_det.data.layouts import open_recording
from etram_det.errors import UserError
from etram_det.inference.placement import Placement
from etram_det.inference.streaming_detector import StreamingDetector, read_detector
from etram_det.simulator.dataset import SimulationSettings, simulate
from support.paths import ROOT
from support.random_checkpoint import FRAMES, write_random_checkpoint

SIMULATION = SimulationSettings(height=90, width=160, train=0, val=0, test=1, seconds=0.5)
SIZE_AWARE = str(ROOT / "configs" / "size_aware.yaml")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Simulated traffic without its labels, so that windows follow each other."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate(folder / "set", SIMULATION)
    (path,) = (folder / "set" / "test").glob("*_td.h5")
    (folder / "alone").mkdir()
    return Path(shutil.copy(path, folder / "alone"))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return write_random_checkpoint(tmp_path / "random.ckpt")


def events_of(path):
    with h5py.File(path) as file:
        columns = {name: file[f"events/{name}"][:] for name in "xypt"}
    events = np.zeros(len(columns["t"]), [("x", "u2"), ("y", "u2"), ("p", "i1"), ("t", "i8")])
    for name, values in columns.items():
        events[name] = values
    return events


def windows_of(events, window_us=50_000, start_us=None):
    """Windows that follow each other, both ends of each inside as in a recording."""
    start_us = events["t"][0] if start_us is None else start_us
    for end in range(start_us + window_us, events["t"][-1] + window_us + 1, window_us):
        first = np.searchsorted(events["t"], end - window_us)
        yield end, events[first : np.searchsorted(events["t"], end, side="right")]


def as_table(boxes):
    """Rows of a box file as numbers, those of a window by class and place."""
    names = ("t", "class_id", "x", "y", "w", "h", "class_confidence")
    table = np.stack([boxes[name].astype(np.float64) for name in names], axis=1)
    return table[np.lexsort(table.T[[4, 3, 2, 6, 1, 0]].round(3))]


def test_window_by_window_equals_detect_and_predict(recording, checkpoint, capsys):
    few = 0.38
    command = ["detect", str(recording), "--ckpt_path", str(checkpoint), "--video", "false"]
    assert run([*command, "--score", str(few), "--device", "cpu"]) == 0
    name = recording.stem.removesuffix("_td")
    in_one_pass = as_table(np.load(f"detections/{name}_bbox.npy"))

    predict = ["predict", "--config", SIZE_AWARE, "--ckpt_path", str(checkpoint)]
    predict += ["--data.root", str(recording.parent), "--data.input_size", "[45, 80]"]
    predict += ["--data.num_workers", "0", "--data.num_steps", "3", "--trainer.accelerator", "cpu"]
    assert run([*predict, "--model.score_threshold", str(few)]) == 0
    folder = Path("runs/evaluations/predict/predictions")
    assert {path.name for path in folder.iterdir()} == {
        f"{name}_bbox.npy",
        f"{name}_coco.json",
        f"{name}_detections.csv",
    }
    by_lightning = as_table(np.load(folder / f"{name}_bbox.npy"))

    detector = StreamingDetector(checkpoint, score_threshold=few, device="cpu")
    rows = []
    for end, events in windows_of(events_of(recording), start_us=0):
        found = detector(events, end)
        numbers = np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]])
        for class_id, box, score in zip(found.classes, numbers, found.scores, strict=True):
            rows.append([end, int(class_id), *box.tolist(), float(score)])
    streamed = np.array(rows)
    streamed = streamed[np.lexsort(streamed.T[[4, 3, 2, 6, 1, 0]].round(3))]

    assert len(np.unique(streamed[:, 0])) == 10
    assert len(streamed) > 100
    assert len(np.unique(streamed[:, 1])) > 1
    np.testing.assert_allclose(in_one_pass, streamed, rtol=0, atol=1e-4)
    np.testing.assert_allclose(by_lightning, streamed, rtol=0, atol=1e-4)


def test_state_is_inside_and_reset_forgets_it(recording, checkpoint):
    detector = StreamingDetector(checkpoint, score_threshold=0.1, device="cpu")
    windows = [events for _, events in windows_of(events_of(recording))][:3]
    first = [detector(events).boxes for events in windows]
    later = windows[2].copy()
    later["t"] += 50_000
    assert not np.array_equal(first[2], detector(later).boxes)
    detector.reset()
    again = [detector(events).boxes for events in windows]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_events_come_as_fields_columns_or_a_mapping(recording, checkpoint):
    _, events = next(windows_of(events_of(recording)))
    detector = StreamingDetector(checkpoint, score_threshold=0.1, device="cpu")
    mapping = {name: events[name] for name in "typx"}
    scores = []
    for form in (events, mapping, [events[name] for name in "xypt"]):
        detector.reset()
        scores.append(detector(form).scores)
    assert len(scores[0]) > 3
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
    for wrong in (events[["x", "y"]], [events["x"]] * 3, np.zeros(5)):
        with pytest.raises(UserError, match="x, y, p and t"):
            detector(wrong)
    assert len(detector(events[:0]).boxes.shape) == 2  # a window without events will do


def test_timestamps_that_go_back_are_repaired_as_in_recordings(recording, checkpoint):
    _, events = next(windows_of(events_of(recording)))
    backwards = events.copy()
    backwards["t"][100] = 0
    repaired = events.copy()
    repaired["t"][100] = events["t"][99]
    detector = StreamingDetector(checkpoint, score_threshold=0.1, device="cpu")
    found = []
    for each in (backwards, repaired):
        detector.reset()
        found.append(detector(each).boxes)
    assert np.array_equal(found[0], found[1])


def test_windows_are_timed_by_their_ends(recording, checkpoint):
    frames = replace(FRAMES, timing="window")
    detector = StreamingDetector(
        checkpoint, frame_settings=frames, score_threshold=0.1, device="cpu"
    )
    windows = list(windows_of(events_of(recording)))[:3]
    given = [detector(events, end).boxes for end, events in windows]
    detector.reset()
    counted = [detector(events).boxes for _, events in windows]
    assert all(np.array_equal(a, b) for a, b in zip(given, counted, strict=True))
    end, events = windows[0]
    last = events[events["t"] >= end - 30_000]
    found = []
    for late_us in (0, 20_000):
        detector.reset()
        found.append(detector(last, end + late_us).boxes)
    assert not np.array_equal(*found)


def test_windows_older_than_the_last_are_refused(recording, checkpoint):
    detector = StreamingDetector(checkpoint, score_threshold=0.1, device="cpu")
    windows = list(windows_of(events_of(recording)))[:4]
    ends = [end for end, _ in windows]
    first = [detector(events, end).boxes for end, events in windows[:3]]
    for end, events in (windows[2], windows[0]):
        with pytest.raises(
            UserError,
            match=rf"end_us: must be later than {ends[2]}, where the last window ends, got {end}: "
            r"use reset\(\) before a new recording, and windows in their order",
        ):
            detector(events, end)
        with pytest.raises(
            UserError, match=rf"events: must not be earlier than {windows[2][1]['t'][-1]}, .*reset"
        ):
            detector(events)
    # What was refused did not count.
    fourth = detector(windows[3][1], ends[3]).boxes
    detector.reset()
    again = [detector(events).boxes for _, events in windows]
    assert all(np.array_equal(a, b) for a, b in zip([*first, fourth], again, strict=True))


def test_events_outside_their_window_are_refused(checkpoint):
    detector = StreamingDetector(checkpoint, sensor_size=(90, 160), device="cpu")

    def window(*t_us):
        return {name: np.array([1] * len(t_us)) for name in "xyp"} | {"t": np.array(t_us)}

    detector(window(100_000, 150_000), 150_000)  # both ends are inside
    outside = "events: must lie in the window from {} to {} us, got them from {} to {}: use the"
    cases = [
        (window(160_000, 200_001), 200_000, (150_000, 200_000, 160_000, 200_001)),
        (window(149_999, 180_000), 200_000, (150_000, 200_000, 149_999, 180_000)),
        # The second event takes the time of the first: so repaired, none lies inside.
        (window(900_000, 160_000), 200_000, (150_000, 200_000, 900_000, 900_000)),
        (window(160_000, 260_000), None, (160_000, 210_000, 160_000, 260_000)),
    ]
    for events, end_us, numbers in cases:
        with pytest.raises(UserError, match=outside.format(*numbers)):
            detector(events, end_us)
    detector(window(160_000, 155_000), 200_000)  # repaired, it lies inside


def test_gaps_between_windows_will_do(checkpoint):
    frames = replace(FRAMES, timing="window")
    settings = {"sensor_size": (90, 160), "frame_settings": frames, "device": "cpu"}
    detector = StreamingDetector(checkpoint, **settings, score_threshold=0.1)
    rng = np.random.default_rng(0)

    def window(start_us):
        columns = {name: rng.integers(0, 90, 500) for name in "xy"} | {"p": rng.integers(0, 2, 500)}
        return columns | {"t": start_us + np.arange(500) * 99}

    early, late = window(70_000), window(3_000_000)
    given = [detector(early, 120_000).boxes, detector(late, 3_050_000).boxes]
    detector.reset()
    counted = [detector(each).boxes for each in (early, late)]
    assert len(given[1]) > 0
    assert all(np.array_equal(a, b) for a, b in zip(given, counted, strict=True))
    # Windows cut at full multiples, of which the first one starts with a later event.
    detector.reset()
    cut = window(100_000)
    detector({name: column[10:] for name, column in cut.items()})
    detector(window(150_000))
    detector(window(200_000))


@pytest.mark.parametrize(
    ("sensor", "resize", "content", "scale"),
    [
        ((720, 1280), "stretch", (360, 640), (2.0, 2.0)),
        ((480, 640), "stretch", (360, 640), (1.0, 480 / 360)),
        ((480, 640), "letterbox", (360, 480), (640 / 480, 480 / 360)),
        ((320, 320), "stretch", (360, 640), (0.5, 320 / 360)),
        ((320, 320), "letterbox", (360, 360), (320 / 360, 320 / 360)),
    ],
)
def test_any_sensor_fits_into_the_frame(sensor, resize, content, scale):
    placement = Placement.fitting(sensor, (360, 640), resize)
    assert placement.content_size == content
    assert placement.scale == scale
    counted = np.arange(np.prod(placement.counted_size)).reshape(1, 1, *placement.counted_size)
    placed = placement.place(counted)
    assert placed.shape == (1, 1, 360, 640)
    height, width = content
    assert not placed[..., height:, :].any()
    assert not placed[..., width:].any()
    # The pixel of the frame shows the pixel of the sensor that it lies on.
    for y, x in ((0, 0), (height // 3, width // 2), (height - 1, width - 1)):
        row = y * placement.counted_size[0] // height
        column = x * placement.counted_size[1] // width
        assert placed[0, 0, y, x] == counted[0, 0, row, column]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_are_in_pixels_of_the_sensor(recording, checkpoint, resize):
    _, events = next(windows_of(events_of(recording)))
    detector = StreamingDetector(checkpoint, sensor_size=(120, 160), resize=resize, device="cpu")
    frame = np.zeros((20, 45, 80), np.uint8)
    opened = open_recording(recording, replace(FRAMES, input_size=detector.placement.counted_size))
    assert detector.placement.content_size == {"stretch": (45, 80), "letterbox": (45, 60)}[resize]
    detector.detect_frame(frame)
    detector.reset()
    # Of the same events, once cut by hand: what the frame shows is scaled to the sensor.
    on_sensor = detector(events)
    detector.reset()
    frame = detector.placement.place(detector._frame(events, None))
    in_frame = detector.detect_frame(frame, detector.placement.content_size)
    width, height = detector.placement.scale
    assert opened.input_size == detector.placement.counted_size
    scaled = in_frame.boxes * np.array([width, height, width, height], np.float32)
    np.testing.assert_allclose(on_sensor.boxes, scaled, rtol=1e-6)
    assert (on_sensor.boxes[:, 2:] <= np.array([160, 120]) * (1 + 1e-6)).all()


def test_frames_follow_the_checkpoint(checkpoint):
    trained = read_detector(checkpoint)
    assert trained.frame_settings == FRAMES
    assert trained.knows_frames
    assert trained.class_names[7] == "wheelchair"
    other = read_detector(write_random_checkpoint(checkpoint, frames=None))
    assert not other.knows_frames
    assert (other.frame_settings.input_size, other.frame_settings.bins) == (None, 10)


def test_a_trained_checkpoint_holds_its_frame_settings(checkpoint):
    raw = ROOT / "tests" / "reference" / "raw_etram"
    settings = ["--data.root", str(raw), "--data.input_size", "[90, 160]", "--data.num_workers"]
    settings += ["0", "--data.downsample", "nearest", "--data.window_ms", "25"]
    settings += ["--model.embed_dim", "8", "--model.dim_head", "4", "--trainer.max_steps", "1"]
    settings += ["--trainer.limit_val_batches", "0", "--trainer.accelerator", "cpu"]
    settings += ["--data.train_lanes", "2"]
    assert run(["fit", "--config", SIZE_AWARE, *settings]) == 0
    trained = read_detector("runs/size_aware/version_0/checkpoints/last.ckpt")
    assert trained.knows_frames
    assert trained.frame_settings.input_size == (90, 160)
    assert (trained.frame_settings.downsample, trained.frame_settings.window_ms) == ("nearest", 25)


def test_what_does_not_fit_is_named_in_a_line(tmp_path, checkpoint):
    with pytest.raises(UserError, match="no file"):
        StreamingDetector(tmp_path / "none.ckpt")
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="must be a checkpoint of this project"):
        StreamingDetector(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"score: must be in \[0, 1\], got 3"):
        StreamingDetector(checkpoint, score_threshold=3)
    with pytest.raises(
        UserError, match="device: must be auto, cpu or a device .* got moon .*set auto or cpu"
    ):
        StreamingDetector(checkpoint, device="moon")
    detector = StreamingDetector(checkpoint, device="cpu")
    with pytest.raises(UserError, match=r"must be of shape \[20, H, W\].* got \[10, 45, 80\]"):
        detector.detect_frame(np.zeros((10, 45, 80), np.uint8))


def test_lower_precision_finds_about_the_same(recording, checkpoint):
    _, events = next(windows_of(events_of(recording)))
    scores = [
        StreamingDetector(checkpoint, score_threshold=0, precision=precision, device="cpu")(
            events
        ).scores[:20]
        for precision in ("float32", "bfloat16")
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=0.05)
    assert not np.array_equal(scores[0], scores[1])


@pytest.mark.gate
def test_it_gives_numpy_arrays_and_needs_no_lightning(checkpoint):
    code = """
import sys
import numpy as np
from etram_det import StreamingDetector
t = np.arange(9)
found = StreamingDetector("random.ckpt", device="cpu")({"x": t, "y": t, "p": t % 2, "t": t})
arrays = (found.boxes, found.objectness, found.class_confidence, found.classes, found.scores)
assert len(found) and all(type(array) is np.ndarray for array in arrays)
assert [str(array.dtype) for array in arrays] == ["float32"] * 3 + ["int64", "float32"]
sys.exit("pytorch_lightning" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, cwd=checkpoint.parent)
    assert done.returncode == 0


def test_another_size_of_frames_starts_a_new_stream(checkpoint):
    detector = StreamingDetector(checkpoint, score_threshold=0.1, device="cpu")
    frames = np.random.default_rng(0).integers(0, 9, (2, 20, 45, 80), np.uint8)
    first = detector.detect_frame(frames[0])
    detector.detect_frame(frames[1])
    detector.detect_frame(frames[0, :, :32, :64])
    again = detector.detect_frame(frames[0])
    assert len(first) > 3
    assert np.array_equal(first.boxes, again.boxes)


def test_the_examples_of_the_manual_run(recording, checkpoint, capsys):
    checkpoint.rename("best.ckpt")
    text = (ROOT / "docs" / "detect.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    names = {"windows": [events for _, events in windows_of(events_of(recording))]}
    code = code.replace("recording.raw", str(recording)).replace("(720, 1280)", "(90, 160)")
    exec(code, names)
    assert len(capsys.readouterr().out.splitlines()) > 10
    assert names["i"] == 9


def test_detectors_of_one_checkpoint_do_not_share_their_device(checkpoint):
    trained = read_detector(checkpoint)
    before = {name: value.clone() for name, value in trained.detector.state_dict().items()}
    first = StreamingDetector(trained, device="cpu")
    StreamingDetector(trained, device="meta", precision="bfloat16")
    for name, value in trained.detector.state_dict().items():
        assert value.equal(before[name]), name
    assert {p.device.type for p in first._engine.detector.parameters()} == {"cpu"}


@pytest.mark.parametrize("command", ["detect", "bench", "fit"])
def test_all_commands_do_the_same_arithmetic(recording, checkpoint, command, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    arguments = {
        "detect": [str(recording), "--ckpt_path", str(checkpoint), "--video", "false"],
        "bench": ["metric", "--frames", "20", "--repeats", "1"],
        "fit": ["--trainer.max_steps", "0"],
    }
    run([command, *arguments[command]])
    assert asked == ["high"]
