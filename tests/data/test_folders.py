"""Downloads as they unpack: where recordings and boxes are found, and under which names."""

import logging
import shutil

import h5py
import numpy as np
import pytest

from etram_det.cli.commands import run
from etram_det.data.folders import SPLITS
from etram_det.data.labels import DSEC_CLASSES, ETRAM3_CLASSES, LabelSettings
from etram_det.data.layouts import (
    boxes_without_recordings,
    find_recordings,
    names_under,
    open_recording,
    splits_of,
)
from etram_det.data.preprocessing import preprocess
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.camera_files import dat, evt2
from support.raw_files import boxes_at, random_events, write_raw

SIZE = (48, 64)
FRAMES = FrameSettings(input_size=SIZE, sensor_size=SIZE)
EVENTS = random_events(300)
LABELS = boxes_at([100_000, 200_000], class_id=2)
THREE = LabelSettings(class_names=ETRAM3_CLASSES)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path_factory.mktemp("cache")))


def find(root, split="train", labels=THREE, **options):
    return find_recordings(root, split, FRAMES, labels, **options)


def names(root, split="train", labels=THREE, **options):
    return [recording.name for recording in find(root, split, labels, **options)]


def write_camera_file(folder, name, encode=dat, boxes=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_td.{'dat' if encode is dat else 'raw'}"
    path.write_bytes(encode(EVENTS))
    if boxes is not None:
        np.save(folder / f"{name}_bbox.npy", boxes)
    return path


def test_all_numbered_filelists_are_read_however_they_are_nested(tmp_path):
    places = ("trainfilelist00/train", "trainfilelist10", "Train/trainfilelist02", "train")
    for i, place in enumerate(places):
        write_camera_file(tmp_path / place, f"moorea_2019-02-19_00{i}_td_1_2")
    write_camera_file(tmp_path / "valfilelist00" / "val", "moorea_2019-02-20_000_td_1_2")
    write_camera_file(tmp_path / "testfilelist01", "moorea_2019-02-21_000_td_1_2")
    write_camera_file(tmp_path / "retrain", "other")
    write_camera_file(tmp_path / "train" / "notes", "other")
    assert names(tmp_path) == [f"moorea_2019-02-19_00{i}_td_1_2" for i in range(4)]
    assert names(tmp_path, "val") == ["moorea_2019-02-20_000_td_1_2"]
    assert names(tmp_path, "test") == ["moorea_2019-02-21_000_td_1_2"]
    assert [len(each.label_boxes) for each in find(tmp_path)] == [2] * 4
    eight = names(tmp_path, labels=LabelSettings())  # not taken for eTraM's 3-class boxes
    assert len(eight) == 4


@pytest.mark.parametrize("above", ["", "gen1", "data/gen1"])
def test_the_root_may_lie_above_the_folder_of_the_splits(tmp_path, above):
    inside = tmp_path / above / "detection_dataset_duration_60s_ratio_1.0"
    for split in SPLITS:
        write_camera_file(inside / split, f"17-04-06_{split}_cut_15_1_2")
    shallow = names(inside)
    assert shallow == ["17-04-06_train_cut_15_1_2"]
    if above.count("/") < 1:
        assert names(tmp_path) == shallow
        assert splits_of(tmp_path) == list(SPLITS)
        (tmp_path / "latest").symlink_to(inside)  # the same folder under another name
        assert names(tmp_path) == shallow
    else:
        assert splits_of(tmp_path) == []
    write_camera_file(tmp_path / "gen4" / "trainfilelist00", "moorea")
    if above.count("/") < 1:
        with pytest.raises(
            UserError, match=r"must be one folder of recordings, got .* with .*gen4"
        ):
            names(tmp_path)


def test_files_in_the_root_are_not_left_for_splits_below(tmp_path):
    write_raw(tmp_path, "mine", EVENTS)
    write_raw(tmp_path / "older" / "train", "theirs", EVENTS, LABELS)
    assert names(tmp_path, "test", require_labels=False) == ["mine"]
    with pytest.raises(UserError, match="no train recordings under"):
        names(tmp_path)


def write_rvt_original(folder, name, divider):
    path = write_raw(folder, name, EVENTS, LABELS)
    with h5py.File(path, "a") as file:
        file["events/divider"] = divider
    return path.rename(folder / f"{name}_td.dat.h5")


def test_rvts_originals_are_read_and_divided_events_refused(tmp_path):
    name = "moorea_2019-02-19_000_td_183500000_243500000"
    path = write_rvt_original(tmp_path / "train", name, 1)
    (recording,) = find(tmp_path)
    assert (recording.name, len(recording.label_boxes)) == (name, 2)
    assert open_recording(path, FRAMES).name == name
    assert name in names_under(tmp_path)
    write_raw(tmp_path / "plain" / "train", name, EVENTS, LABELS)
    (plain,) = find(tmp_path / "plain")
    np.testing.assert_array_equal(recording.frames(0, 4), plain.frames(0, 4))
    write_rvt_original(tmp_path / "val", name, 32)
    with pytest.raises(UserError, match=r"_td.dat.h5: events/divider must be 1, got 32: write the"):
        find(tmp_path, "val")


def write_etram_raw(root):
    for folder, name in [("train_1", "train_day_0001"), ("Train2", "train_night_0002")]:
        write_camera_file(root / "Static" / "RAW" / folder, name, evt2)
    write_camera_file(root / "Static" / "RAW" / "val_1", "val_day_0001", evt2)


@pytest.mark.parametrize("root", ["", "Static", "Static/RAW"])
@pytest.mark.parametrize("place", ["Static/Eight_class_annotations", "class annotations"])
def test_etrams_raw_download_is_read_like_its_hdf5_one(tmp_path, root, place):
    write_etram_raw(tmp_path)
    assert names(tmp_path / root) == ["train_day_0001", "train_night_0002"]
    with pytest.raises(UserError, match=r"data.class_names: .* as in the boxes under .*RAW, got 8"):
        names(tmp_path / root, labels=LabelSettings())
    annotations = tmp_path / place / "eight_class_annotations_train"
    annotations.mkdir(parents=True)
    for name in ("train_day_0001", "train_night_0002"):
        np.save(annotations / f"{name}_bbox.npy", boxes_at([100_000], class_id=7))
    eight = find(tmp_path / root, labels=LabelSettings())
    assert [each.label_boxes["class_id"].tolist() for each in eight] == [[7], [7]]


def test_of_both_downloads_the_hdf5_files_are_used(tmp_path):
    write_etram_raw(tmp_path)
    path = write_raw(tmp_path / "Static" / "HDF5" / "train_h5_1", "train_day_0001", EVENTS, LABELS)
    assert [each.source for each in find(tmp_path)] == [
        path,
        tmp_path / "Static" / "RAW" / "Train2" / "train_night_0002_td.raw",
    ]


def test_two_recordings_of_one_name_are_refused(tmp_path):
    first = write_raw(tmp_path / "train_1", "a", EVENTS, LABELS)
    second = tmp_path / "train_2" / first.name
    second.parent.mkdir()
    second.symlink_to(first)
    assert names(tmp_path) == ["a"]
    second.unlink()
    shutil.copy(first, second)
    with pytest.raises(
        UserError, match=r"one train recording named a, got .*train_1/a_td.h5 and .*train_2/a_td.h5"
    ):
        names(tmp_path)


def test_events_and_frames_of_a_split_are_all_used(tmp_path):
    for name in "abc":
        write_raw(tmp_path / "raw" / "train", name, EVENTS, LABELS)
    for layout in ("sparse", "rvt"):
        preprocess(tmp_path / "raw", tmp_path / layout, FRAMES, THREE, workers=1, layout=layout)
    train = tmp_path / "train"
    write_raw(train, "a", EVENTS, LABELS)
    shutil.copytree(tmp_path / "sparse" / "train" / "b", train / "b")
    shutil.copytree(tmp_path / "rvt" / "train" / "c", train / "c")
    assert names(tmp_path) == ["a", "b", "c"]
    # Of a recording that is there twice, events count before frames, and ours before RVT's.
    shutil.copytree(tmp_path / "sparse" / "train" / "a", train / "a")
    shutil.copytree(tmp_path / "rvt" / "train" / "b", tmp_path / "train_2" / "b")
    assert [each.layout for each in find(tmp_path)] == ["raw eTraM", "sparse cache", "RVT's"]
    shutil.copytree(train / "c", tmp_path / "train_2" / "C")
    with pytest.raises(UserError, match=r"one train recording named C, got .*/c and .*/C: rename"):
        names(tmp_path)


def test_links_and_names_of_any_letters_are_followed(tmp_path):
    disk = tmp_path / "große Platte"
    path = write_raw(disk / "events", "train Straße 北 1", EVENTS)
    boxes = disk / "boxes" / "annotations"
    boxes.mkdir(parents=True)
    np.save(boxes / "train Straße 北 1_bbox.npy", boxes_at([100_000], class_id=7))
    static = tmp_path / "my eTraM" / "Static"
    (static / "HDF5" / "train_h5_1").mkdir(parents=True)
    (static / "HDF5" / "train_h5_1" / path.name).symlink_to(path)
    (static / "Eight_class_annotations").mkdir()
    (static / "Eight_class_annotations" / "train").symlink_to(boxes)
    (tmp_path / "link").symlink_to(static)
    (recording,) = find(tmp_path / "link", labels=LabelSettings())
    assert recording.name == "train Straße 北 1"
    assert recording.label_boxes["class_id"].tolist() == [7]
    path.unlink()
    with pytest.raises(UserError, match="Straße 北 1_td.h5"):
        find(tmp_path / "link", labels=LabelSettings())


OFFSET = 36_607_300_656
DSEC = LabelSettings(class_names="dsec", interval_ms=50)


def write_dsec(root, split, sequence, class_id=2, first_us=100_000):
    """A sequence of 2 s as it is downloaded, labels at 20 Hz."""
    events = root / split / sequence / "events" / "left" / "events.h5"
    events.parent.mkdir(parents=True)
    columns = random_events(4000, 2.0, SIZE)
    with h5py.File(events, "w") as file:
        for name, values in columns.items():
            file[f"events/{name}"] = values.astype("u4") if name == "t" else values
        file["t_offset"] = OFFSET
        file["ms_to_idx"] = np.searchsorted(columns["t"], np.arange(0, 2_000_000, 1000))
    times = np.arange(first_us, 1_990_000, 50_000) + OFFSET
    tracks = np.zeros(
        len(times),
        [("t", "<u8"), ("x", "<f8"), ("y", "<f8"), ("h", "<f8"), ("w", "<f8"), ("class_id", "u1"),
         ("class_confidence", "<f8"), ("track_id", "<u8")],
    )  # fmt: skip
    tracks["t"], tracks["x"], tracks["y"], tracks["w"], tracks["h"] = times, 10, 12, 20, 16
    tracks["class_id"] = class_id
    boxes = root / split / sequence / "object_detections" / "left" / "tracks.npy"
    boxes.parent.mkdir(parents=True)
    np.save(boxes, tracks)
    return events, boxes


def test_dsec_is_read_as_it_is_downloaded(tmp_path):
    events, boxes = write_dsec(tmp_path, "train", "zurich_city_04_a", class_id=7)
    write_dsec(tmp_path, "test", "thun_01_a")
    (tmp_path / "train" / "zurich_city_05_a" / "images").mkdir(parents=True)
    (recording,) = find(tmp_path, labels=DSEC)
    assert recording.name == "zurich_city_04_a"
    assert open_recording(events, FRAMES).name == "zurich_city_04_a"
    assert recording.frame_end_us[[0, -1]].tolist() == [OFFSET + 100_000, OFFSET + 1_950_000]
    assert recording.labelled.all()
    assert len(recording) == 38
    assert DSEC_CLASSES[recording.label_boxes["class_id"][0]] == "train"
    assert recording.frames(0, 38).sum(dtype=int) > 3000
    assert names(tmp_path, "test", DSEC) == ["thun_01_a"]
    assert splits_of(tmp_path) == ["train", "test"]
    assert {"zurich_city_04_a", "thun_01_a"} <= names_under(tmp_path)
    boxes.unlink()
    with pytest.raises(UserError, match=r"events.h5: its boxes must be in .*left/tracks.npy, got"):
        find(tmp_path, labels=DSEC)


def test_dsec_det_validates_on_its_own_sequences_unless_there_is_a_folder(tmp_path):
    for sequence in ("zurich_city_15_a", "zurich_city_16_a", "zurich_city_21_a", "thun_00_a"):
        write_dsec(tmp_path, "train", sequence)
    write_raw(tmp_path / "train", "zurich_city_17_a", EVENTS, LABELS)  # not of DSEC's layout
    assert names(tmp_path, "train", DSEC) == ["thun_00_a", "zurich_city_15_a", "zurich_city_17_a"]
    assert names(tmp_path, "val", DSEC) == ["zurich_city_16_a", "zurich_city_21_a"]
    for sequence in tmp_path.glob("train/*_a"):
        shutil.rmtree(sequence / "events")
    (tmp_path / "train" / "zurich_city_17_a_td.h5").unlink()
    (tmp_path / "train" / "zurich_city_17_a_bbox.npy").unlink()
    lone = [boxes_without_recordings(tmp_path, split, DSEC_CLASSES) for split in ("train", "val")]
    assert [[each.parents[2].name for each in paths] for paths in lone] == [
        ["thun_00_a", "zurich_city_15_a"],
        ["zurich_city_16_a", "zurich_city_21_a"],
    ]
    write_dsec(tmp_path, "val", "zurich_city_00_a")
    assert names(tmp_path, "val", DSEC) == ["zurich_city_00_a"]
    write_dsec(tmp_path / "few", "train", "zurich_city_16_a")
    assert names(tmp_path / "few", "train", DSEC) == ["zurich_city_16_a"]
    assert splits_of(tmp_path / "few") == ["train"]


@pytest.mark.parametrize("fields", [True, False])
def test_an_empty_box_file_leaves_its_recording_out_or_makes_it_background(
    tmp_path_factory, caplog, fields
):
    tmp_path = tmp_path_factory.mktemp("recordings") / "here"
    empty = LABELS[:0] if fields else np.array([])
    for split in ("train", "val"):
        write_raw(tmp_path / split, f"{split} busy", EVENTS, LABELS)
        write_raw(tmp_path / split, f"{split} empty", EVENTS, empty)
    write_raw(tmp_path / "train", "train filtered", EVENTS, boxes_at([100_000], w=3))
    kept = LabelSettings(ETRAM3_CLASSES, filters=("min_side_5",), keep_unlabelled=True)
    left_out = LabelSettings(ETRAM3_CLASSES, filters=("min_side_5",))
    with caplog.at_level(logging.WARNING):
        assert names(tmp_path, labels=left_out) == ["train busy"]
        assert names(tmp_path, "val", kept) == ["val busy"]
    first, second = (each for each in caplog.messages if "left out" in each)
    assert first.startswith("2 of 3 train recordings are left out, as they have no usable label: ")
    assert "train empty_bbox.npy: must hold boxes, got none: take the recording out of" in first
    assert "or set data.keep_unlabelled to train on it as background" in first
    assert second.startswith("1 of 2 val recordings are left out")
    busy, background = find(tmp_path, labels=kept)
    assert (busy.name, background.name) == ("train busy", "train empty")
    assert len(background) == 20  # over its whole second
    assert np.flatnonzero(background.labelled).tolist() == list(range(1, 20, 2))
    boxes, classes = background.boxes(3)
    assert (boxes.shape, classes.shape) == ((0, 4), (0,))
    assert background.boxes(4) is None
    assert busy.boxes(0) is None
    assert len(busy.background_frame) == 0
    for layout in ("sparse", "rvt"):
        frames = FrameSettings(input_size=SIZE, sensor_size=SIZE, downsample="nearest")
        preprocess(tmp_path, tmp_path.parent / layout, frames, kept, layout, workers=1)
        found = find_recordings(tmp_path.parent / layout, "train", frames, kept)
        assert found[1].background_frame.tolist() == background.background_frame.tolist()
        assert [len(each.label_boxes) for each in found] == [2, 0]
        fewer = find_recordings(tmp_path.parent / layout, "train", frames, left_out)
        assert [each.name for each in fewer] == ["train busy"]
    (tmp_path / "train" / "train empty_bbox.npy").unlink()
    with pytest.raises(UserError, match="train empty_bbox.npy, got no such file"):
        find(tmp_path, labels=kept)


def test_background_alone_is_nothing_to_train_on(tmp_path):
    write_raw(tmp_path / "train", "a", EVENTS, LABELS[:0])
    with pytest.raises(UserError, match=r"no train recording under .* has a box: add recordings"):
        names(tmp_path, labels=LabelSettings(keep_unlabelled=True))
    with pytest.raises(UserError, match="a_bbox.npy: must hold boxes, got none"):
        names(tmp_path)


TINY = """
    --data.num_workers 0 --data.train_lanes 2 --data.num_steps 2 --data.input_size [48,64]
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --trainer.accelerator cpu
    --trainer.max_steps 2 --trainer.val_check_interval 2 --trainer.num_sanity_val_steps 0
""".split()


@pytest.mark.gate
def test_nothing_is_written_beside_recordings_and_no_cache_is_needed(tmp_path, monkeypatch):
    root, run_name = tmp_path / "große Platte", "läufe 1"
    for split in SPLITS:
        write_raw(root / "Daten" / split, f"{split} Straße 1", EVENTS, LABELS)
        for each in (root / "Daten" / split, *(root / "Daten" / split).iterdir()):
            each.chmod(each.stat().st_mode & ~0o222)
    before = {path: path.stat() for path in (root, *root.rglob("*"))}
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "file").write_text("no folder can be made in a file")
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.chdir(tmp_path)
    name = ["--trainer.logger.init_args.name", run_name]
    assert run(["fit", "--data.root", "link", *TINY, *name]) == 0
    last = f"runs/{run_name}/version_0/checkpoints/last.ckpt"
    size = ["--frames.input_size", "[48,64]"]
    assert run(["preprocess", "--root", "link", "--output", "aus gabe", *size]) == 0
    assert run(["fit", "--data.root", "aus gabe", *TINY]) == 0
    assert run(["stats", "--root", "link", "--output", "zähl ung", *size]) == 0
    for source in ("link/Daten/test", "link/Daten/test/test Straße 1_td.h5"):
        output = ["--output", f"gefunden {source.count('/')}"]
        assert run(["detect", source, "--ckpt_path", last, *output]) == 0
        assert (tmp_path / output[1] / "test Straße 1_bbox.npy").is_file()
    assert (tmp_path / "aus gabe" / "train" / "train Straße 1" / "sparse_frames.h5").is_file()
    after = {path: path.stat() for path in (root, *root.rglob("*"))}
    assert {path: each.st_mtime_ns for path, each in after.items()} == {
        path: each.st_mtime_ns for path, each in before.items()
    }
