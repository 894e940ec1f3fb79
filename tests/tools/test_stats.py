"""What is said of a folder of recordings, in numbers that can be counted by hand."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from etram_det.cli.commands import run
from etram_det.data.labels import LabelSettings
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from etram_det.drawing.plots import BLUE, GREY, ORANGE
from etram_det.tools.stats import summary
from etram_det.tools.stats.statistics import RecordingFacts, statistics_of
from support.raw_files import boxes_at, random_events, write_raw

FRAMES = ["--frames.input_size", "[24, 32]"]
TIMES = np.arange(1, 11) * 100_000


@pytest.fixture(autouse=True)
def _wide(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "user_cache"))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def root(tmp_path):
    """Three recordings of a second; sensor 64x48, input 32x24, so areas shrink to a quarter."""
    sides = np.array([8.0, 16.0] * 5)  # areas in the input: 16 and 64 px²
    boxes = boxes_at(TIMES, class_id=2, x=4, y=4, w=sides, h=sides)
    late = boxes_at([950_000], class_id=2)  # between label times
    folder = tmp_path / "raw"
    write_raw(folder / "train", "train_day_1", random_events(1000), np.append(boxes, late))
    night = boxes_at(TIMES[:4], class_id=0, x=10, y=10, w=40, h=30)  # 300 px²
    write_raw(folder / "train", "train_night_1", random_events(3000), night)
    write_raw(folder / "val", "val_day_1", random_events(500), boxes_at(TIMES))
    return folder


def stats(root, output, *arguments):
    command = ["stats", "--root", str(root), "--output", str(output), *FRAMES, *arguments]
    assert run(command) == 0
    return json.loads((output / "stats.json").read_text())


def test_statistics(root, tmp_path, capsys):
    thresholds = ["--small_threshold", "40", "--medium_threshold", "200"]
    found = stats(root, tmp_path / "out", *thresholds)
    train = found["splits"]["train"]
    assert (train["recordings"], train["recordings_day"], train["recordings_night"]) == (2, 1, 1)
    assert (train["frames"], train["labelled_frames"], train["boxes"]) == (28, 14, 14)
    assert train["seconds"] == pytest.approx(1.4)
    assert train["labelled_frames_per_second"] == pytest.approx(10)
    assert train["boxes_per_labelled_frame"] == 1
    assert train["dropped"] == {"boxes: outside the frame": 0, "boxes: between label times": 1}
    assert train["classes"]["bicycle"] == {
        "boxes": 10,
        "small": 5,
        "medium": 5,
        "large": 0,
        "day": 10,
        "night": 0,
        "median_area": 40,
    }
    assert train["classes"]["pedestrian"]["night"] == 4
    assert train["classes"]["pedestrian"]["large"] == 4
    assert train["classes"]["car"]["median_area"] is None
    assert train["width"]["0.5"] == 8
    assert train["area"]["0.95"] == 300
    rates = train["events_per_second"]
    assert 1000 <= rates["0.01"] < rates["0.99"] == pytest.approx(3000, rel=0.01)
    assert found["splits"]["val"]["recordings"] == 1
    shown = capsys.readouterr().out
    assert "bicycle" in shown
    assert "stats.json, stats.csv, sizes.png, classes.png, rates.png" in shown
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines()]
    assert ["boxes dropped", "0", "0"] in rows
    assert ["boxes between label times, not used", "1", "0"] in rows


def test_advice_cuts_the_boxes_into_thirds(root, tmp_path, capsys):
    advice = stats(root, tmp_path / "out")["advice"]
    # Areas in train: 5 of 16, 5 of 64 and 4 of 300 px²; the cuts are interpolated, 5.7² and 8².
    assert advice["split"] == "train"
    assert (advice["small_threshold"], advice["medium_threshold"]) == (36, 64)
    assert advice["share_small"] == pytest.approx(5 / 14)
    assert advice["share_below_1024"] == 1
    assert "small_threshold: 36 (6² px)" in " ".join(capsys.readouterr().out.split())


def test_the_files_say_the_same(root, tmp_path):
    found = stats(root, tmp_path / "out")
    with (tmp_path / "out" / "stats.csv").open() as file:
        rows = dict(csv.reader(file))
    assert rows["splits.train.classes.bicycle.small"] == "10"
    assert float(rows["splits.train.area.0.5"]) == found["splits"]["train"]["area"]["0.5"]
    assert float(rows["advice.medium_threshold"]) == found["advice"]["medium_threshold"]
    for name in ("sizes.png", "classes.png", "rates.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_plots_have_titles_and_the_colours_of_day_and_night():
    facts = [
        RecordingFacts(name, 1.0, rate, 1, 1, np.array([0]), np.array([[8.0, 8.0]]), {})
        for name, rate in (("day_1", 1e6), ("day_2", 3e6), ("night_1", 2e6), ("dusk", 4e6))
    ]
    [rates] = summary._rates_plot({"train": facts}).axes
    assert rates.get_title(loc="left") == "Event rates of the recordings"
    legend = rates.get_legend_handles_labels()
    drawn = {label: line.get_color() for line, label in zip(*legend, strict=True)}
    assert drawn == {"day (2)": ORANGE, "night (1)": BLUE, "unknown (1)": GREY}
    assert rates.lines[0].get_xydata().tolist() == [[1, 0], [1, 0.5], [3, 1]]
    statistics = statistics_of({"train": facts}, ["car"], 32**2, 96**2, "a frame")
    by_size, by_day = summary._classes_plot(statistics).axes
    assert by_size.get_title(loc="left") == "Boxes by class and size"
    bars, names = by_day.get_legend_handles_labels()
    widths = [(n, b[0].get_width(), b[0].get_facecolor()) for n, b in zip(names, bars, strict=True)]
    assert widths == [
        ("day", 2, to_rgba(ORANGE)),
        ("night", 1, to_rgba(BLUE)),
        ("unknown", 1, to_rgba(GREY)),
    ]


def test_boxes_alone_will_do(root, tmp_path):
    complete = stats(root, tmp_path / "out")
    for path in root.glob("*/*_td.h5"):
        path.unlink()
    alone = stats(root, tmp_path / "alone", "--frames.sensor_size", "[48, 64]")
    for split in ("train", "val"):
        assert alone["splits"][split].pop("events_per_second") is None
        del complete["splits"][split]["events_per_second"]
    assert alone == complete


def test_etrams_annotations_alone_will_do(tmp_path):
    for split, class_id in (("train", 7), ("test", 0)):
        folder = tmp_path / "Eight_class_annotations" / f"eight_class_annotations_{split}"
        folder.mkdir(parents=True)
        np.save(folder / f"{split}_day_0001_bbox.npy", boxes_at(TIMES, class_id))
    found = stats(tmp_path, tmp_path / "out")
    assert list(found["splits"]) == ["train", "test"]
    assert found["splits"]["train"]["classes"]["wheelchair"]["boxes"] == 10


def test_the_cache_has_the_same_statistics(root, tmp_path):
    frames = FrameSettings(input_size=(24, 32))
    preprocess(root, tmp_path / "cache", frames, LabelSettings(), workers=1)
    raw, cached = stats(root, tmp_path / "a"), stats(tmp_path / "cache", tmp_path / "b")
    for found in (raw, cached):
        # Of all events in the file there, of those in windows here.
        assert found["splits"]["train"].pop("events_per_second")["0.99"] > 2000
        del found["splits"]["val"]["events_per_second"]
    raw["splits"]["train"]["dropped"].pop("events: outside the sensor", None)
    assert raw == cached


def test_what_cannot_be_is_refused(root, tmp_path, capsys):
    assert run(["stats", "--root", str(tmp_path / "missing")]) == 2
    assert "error: root: no folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["stats", "--root", str(tmp_path / "empty")]) == 2
    assert "error: root: no train recordings" in capsys.readouterr().err
    assert run(["stats", "--root", str(root), "--small_threshold", "9216"]) == 2
    assert "small_threshold: must lie between 0 and medium" in capsys.readouterr().err


def test_each_split_is_described_by_what_it_has(root, tmp_path, caplog):
    for name in ("train_day_1", "train_night_1"):
        (root / "train" / f"{name}_td.h5").unlink()
    np.save(root / "val" / "val_night_9_bbox.npy", boxes_at(TIMES))
    frames = ["--frames.sensor_size", "[48, 64]"]
    found = stats(root, tmp_path / "out", *frames)
    assert found["splits"]["train"]["boxes"] == 14
    assert found["splits"]["train"]["events_per_second"] is None
    assert found["splits"]["val"]["recordings"] == 1
    assert found["advice"]["split"] == "train"
    assert "train: none of 2 box files has a recording: described by the boxes alone" in caplog.text
    assert (
        "val: 1 box files have no recording and are left out, the first of them "
        f"{root / 'val' / 'val_night_9_bbox.npy'}"
    ) in caplog.text


def test_day_and_night_are_words_of_the_name_or_unknown(tmp_path, capsys):
    for name in ("train_Night_1", "fortnight", "a"):
        write_raw(tmp_path / "train", name, random_events(100), boxes_at(TIMES))
    write_raw(tmp_path / "val", "b", random_events(100), boxes_at(TIMES))
    splits = stats(tmp_path, tmp_path / "out")["splits"]
    assert (splits["train"]["recordings_day"], splits["train"]["recordings_night"]) == (0, 1)
    assert splits["train"]["classes"]["pedestrian"]["day"] == 0
    assert splits["train"]["classes"]["pedestrian"]["night"] == 10
    assert splits["val"]["recordings_day"] is splits["val"]["recordings_night"] is None
    assert splits["val"]["classes"]["pedestrian"]["night"] is None
    shown = capsys.readouterr().out
    assert [line.split("│")[2:4] for line in shown.splitlines() if "by day" in line] == [
        ["     0 ", "    - "]
    ]


def test_messages_name_the_tools_own_keys_and_names_of_data_sets_will_do(root, tmp_path, capsys):
    command = ["stats", "--root", str(root)]
    assert run(command) == 2
    path = root / "train" / "train_day_1_td.h5"
    assert (
        f"frames.input_size: must not exceed the sensor's (48, 64) of {path}, got (360, 640): "
        "lower it, to [24, 32] for half of the sensor's"
    ) in capsys.readouterr().err
    assert run([*command, "--labels.interval_ms", "70"]) == 2
    error = capsys.readouterr().err
    assert "labels.interval_ms: must be a multiple of frames.window_ms (50)" in error
    classes = stats(root, tmp_path / "out", "--labels.class_names", "etram3")["splits"]["train"]
    assert list(classes["classes"]) == ["pedestrian", "vehicle", "micro-mobility"]


def test_many_boxes_take_seconds(tmp_path):
    boxes = np.repeat(boxes_at(np.arange(1, 9001) * 33_333), 5)  # 5 minutes at 30 Hz
    folder = tmp_path / "train"
    folder.mkdir()
    for i in range(5):
        np.save(folder / f"train_day_{i}_bbox.npy", boxes)
    found = stats(Path(tmp_path), tmp_path / "out")
    assert found["splits"]["train"]["boxes"] == 5 * 5 * 2999  # the first label is at 133 ms
