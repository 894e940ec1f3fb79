"""Detections on disk: one content in three formats, and what is broken off."""

import csv
import json
import signal

import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.cli.commands import run
from etram_det.data.representation import FrameSettings
from etram_det.inference.writer import DetectionWriter, box_rows
from etram_det.training.module import DetectionModule
from etram_det.types import Detections
from support.paths import ROOT
from support.random_checkpoint import write_random_checkpoint
from support.raw_files import random_events, write_raw

NAMES = ("pedestrian", "car")


def detections(boxes, classes, scores):
    scores = np.array(scores, np.float32)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, scores, scores, np.array(classes, np.int64))


def write(folder, num_windows=3, with_tracks=False):
    writer = DetectionWriter(folder, "night_1", NAMES, (720, 1280))
    for i in range(num_windows):
        found = detections([[10.0 + i, 20.0, 30.0, 50.0], [0.0, 0.0, 4.0, 8.0]], [1, 0], [0.9, 0.5])
        rows = box_rows(50_000 * (i + 1), found, (2.0, 3.0))
        if with_tracks:
            rows["track_id"] = [7, 0]
        writer.add(50_000 * (i + 1), rows, with_tracks)
    writer.add(50_000 * (num_windows + 1), box_rows(0, detections([], [], []), (2.0, 3.0)))
    return writer


def contents(folder):
    boxes = np.load(folder / "night_1_bbox.npy")
    coco = json.loads((folder / "night_1_coco.json").read_text())
    with (folder / "night_1_detections.csv").open(newline="") as file:
        return boxes, coco, list(csv.DictReader(file))


def test_boxes_are_scaled_to_the_sensor():
    found = detections([[10.0, 20.0, 30.0, 50.0]], [1], [0.9])
    (row,) = box_rows(123, found, (2.0, 3.0))
    assert row.dtype == BOX_DTYPE
    assert [row[name] for name in ("t", "x", "y", "w", "h", "class_id")] == [123, 20, 60, 40, 90, 1]
    assert row["class_confidence"] == pytest.approx(0.81)
    assert row["track_id"] == 0


def test_all_formats_hold_the_same(tmp_path):
    write(tmp_path, with_tracks=True).finish()
    boxes, coco, table = contents(tmp_path)
    assert boxes.dtype == BOX_DTYPE
    assert boxes["t"].tolist() == [50_000, 50_000, 100_000, 100_000, 150_000, 150_000]
    assert boxes["track_id"].tolist() == [7, 0] * 3

    assert coco["categories"] == [{"id": 0, "name": "pedestrian"}, {"id": 1, "name": "car"}]
    assert [image["t"] for image in coco["images"]] == [50_000, 100_000, 150_000, 200_000]
    assert coco["images"][0] == {
        "id": 1,
        "file_name": "night_1_50000",
        "width": 1280,
        "height": 720,
        "t": 50_000,
    }
    times = {image["id"]: image["t"] for image in coco["images"]}
    assert len(coco["annotations"]) == len(table) == len(boxes)
    for box, annotation, row in zip(boxes, coco["annotations"], table, strict=True):
        x, y, w, h = (float(box[name]) for name in "xywh")
        assert annotation["bbox"] == [x, y, w, h] == [float(row[name]) for name in "xywh"]
        assert annotation["area"] == w * h
        assert times[annotation["image_id"]] == box["t"] == int(row["t"])
        assert annotation["category_id"] == box["class_id"] == int(row["class_id"])
        assert row["class_name"] == NAMES[box["class_id"]]
        assert (
            annotation["score"] == float(row["score"]) == round(float(box["class_confidence"]), 4)
        )
        assert annotation["track_id"] == box["track_id"] == int(row["track_id"] or 0)
    assert [annotation["id"] for annotation in coco["annotations"]] == [1, 2, 3, 4, 5, 6]


def test_without_tracking_there_are_no_tracks(tmp_path):
    write(tmp_path).finish()
    boxes, coco, table = contents(tmp_path)
    assert not boxes["track_id"].any()
    assert "track_id" not in coco["annotations"][0]
    assert table[0]["track_id"] == ""


def test_coco_tools_read_it(tmp_path):
    coco_api = pytest.importorskip("faster_coco_eval").COCO
    write(tmp_path).finish()
    coco = coco_api(str(tmp_path / "night_1_coco.json"))
    assert (
        len(
            coco.loadRes(
                json.loads((tmp_path / "night_1_coco.json").read_text())["annotations"]
            ).getAnnIds(catIds=[1])
        )
        == 3
    )


def test_files_are_there_when_they_are_finished(tmp_path):
    writer = write(tmp_path)
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "night_1_bbox.npy",
        "night_1_coco.json",
        "night_1_detections.csv",
    ]


def test_nothing_found_is_a_result_too(tmp_path):
    write(tmp_path, num_windows=0).finish()
    boxes, coco, table = contents(tmp_path)
    assert len(boxes) == len(table) == len(coco["annotations"]) == 0
    assert len(coco["images"]) == 1


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|directory"):
        DetectionWriter(tmp_path / "file", "night_1", NAMES, (720, 1280))
    (tmp_path / "night_1_coco.json").mkdir()
    (tmp_path / ".night_1_coco.json.partial").mkdir()
    with pytest.raises(OSError, match="directory"):
        DetectionWriter(tmp_path, "night_1", NAMES, (720, 1280))
    assert not (tmp_path / "night_1_bbox.npy").exists()
    assert not (tmp_path / ".night_1_bbox.npy.partial").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_prediction_that_is_broken_off_keeps_what_is_complete(
    tmp_path, monkeypatch, capfd, error
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    write_random_checkpoint(tmp_path / "random.ckpt", FrameSettings(input_size=(48, 64)))
    write_raw(tmp_path / "data", "night_1", random_events(6000, seconds=0.52))
    predict_step = DetectionModule.predict_step

    def broken_off(self, batch, batch_idx):
        if batch_idx == 2:
            raise error
        return predict_step(self, batch, batch_idx)

    monkeypatch.setattr(DetectionModule, "predict_step", broken_off)
    config = ROOT / "configs" / "size_aware.yaml"
    command = ["predict", "--config", str(config), "--ckpt_path", "random.ckpt"]
    command += ["--data.root", "data", "--data.input_size", "[48, 64]", "--data.num_workers", "0"]
    command += ["--data.num_steps", "4", "--trainer.accelerator", "cpu"]
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        code = run(command)
    except SystemExit as end:  # Lightning's own, after Ctrl-C
        code = end.code
    finally:
        signal.signal(signal.SIGINT, interrupt)  # which it turns off then
    assert code == 1
    assert "Traceback" not in capfd.readouterr().err
    boxes, coco, table = contents(tmp_path / "runs/evaluations/predict/predictions")
    assert len(boxes) == len(table) == len(coco["annotations"]) > 0
    assert len(coco["images"]) == 8
