import logging

import numpy as np
import pytest

from etram_det.data.labels import ETRAM3_CLASSES, ETRAM_CLASSES, LabelSettings
from etram_det.data.layouts import boxes_without_recordings, find_recordings, layout_of
from etram_det.data.raw import RawRecording
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw

EVENTS = random_events(100)
LABELS = boxes_at([100_000, 200_000], class_id=2)


def find(root, split, labels=None, **options):
    return find_recordings(root, split, FrameSettings(), labels or LabelSettings(), **options)


@pytest.fixture
def download(tmp_path):
    """ETraM as it is handed out: 3-class boxes beside the recordings."""
    for folder, name in [
        ("Train_h5_1", "train_day_0002"),
        ("train_H5_2", "train_night_0001"),
        ("val_h5_1", "val_day_0001"),
    ]:
        write_raw(tmp_path / "Static" / "HDF5" / folder, name, EVENTS, LABELS)
    return tmp_path


def add_eight_classes(folder):
    for split, name in [("train", "train_day_0002"), ("train", "Train_night_0001")]:
        annotations = folder / f"eight_class_annotations_{split}"
        annotations.mkdir(parents=True, exist_ok=True)
        np.save(annotations / f"{name}_bbox.npy", boxes_at([100_000], class_id=7))


def test_sorted_folders_are_found_by_name(tmp_path):
    for name in ("b", "a"):
        write_raw(tmp_path / "Train", name, EVENTS, LABELS)
    (tmp_path / "Train" / "notes.txt").write_text("not a recording")
    assert [recording.name for recording in find(tmp_path, "train")] == ["a", "b"]


@pytest.mark.parametrize("root", ["", "Static", "Static/HDF5"])
@pytest.mark.parametrize("place", ["Eight_class_annotations", "Static/eight_class_Annotation"])
def test_eight_class_boxes_are_preferred_in_a_download(download, root, place):
    add_eight_classes(download / place)
    recordings = find(download / root, "train")
    assert [recording.name for recording in recordings] == ["train_day_0002", "train_night_0001"]
    assert [r.label_boxes["class_id"].tolist() for r in recordings] == [[7], [7]]
    three = find(download / root, "train", LabelSettings(class_names=ETRAM3_CLASSES))
    assert [r.label_boxes["class_id"].tolist() for r in three] == [[2, 2], [2, 2]]
    with pytest.raises(UserError, match="val_day_0001_td.h5: its boxes must be in val_day"):
        find(download / root, "val")


def test_own_names_of_three_classes_take_the_three_class_boxes(download):
    add_eight_classes(download / "Eight_class_annotations")
    own_names = LabelSettings(class_names=("ped", "veh", "mm"))
    assert [r.label_boxes["class_id"].tolist() for r in find(download, "train", own_names)] == [
        [2, 2],
        [2, 2],
    ]
    assert find(download, "val", own_names)[0].label_boxes["class_id"].tolist() == [2, 2]
    boxes = boxes_without_recordings(download, "train", own_names.class_names)
    assert boxes == []
    (download / "Static" / "HDF5" / "Train_h5_1" / "train_day_0002_td.h5").unlink()
    [box_file] = boxes_without_recordings(download, "train", own_names.class_names)
    assert box_file.parent.name == "Train_h5_1"
    [box_file] = boxes_without_recordings(download, "train", ETRAM_CLASSES)
    assert box_file.parent.name == "eight_class_annotations_train"


def test_sorted_three_class_boxes_asked_as_eight_are_suspected(tmp_path, caplog):
    write_raw(tmp_path / "train", "a", EVENTS, LABELS)
    find(tmp_path, "train", LabelSettings(class_names="etram3"))
    find(tmp_path, "train", require_labels=False)
    assert not caplog.messages
    find(tmp_path, "train")
    [message] = caplog.messages
    assert message.startswith(
        "train: no box has a class id above 2, though 8 classes are asked for: if these are eTraM's"
        " 3-class boxes (pedestrian, vehicle, micro-mobility), set class_names to etram3"
    )
    write_raw(tmp_path / "train", "b", EVENTS, boxes_at([100_000], class_id=3))
    find(tmp_path, "train")
    assert len(caplog.messages) == 1


def test_three_class_boxes_alone_are_explained(download):
    with pytest.raises(
        UserError, match=r"data.class_names: .* eTraM's 3-class ones .*, got 8: set etram3"
    ):
        find(download, "train")
    assert not any(r.labelled.any() for r in find(download, "train", require_labels=False))
    boxes = download / "Static" / "HDF5" / "Train_h5_1" / "train_day_0002_bbox.npy"
    np.save(boxes, boxes_at([100_000], class_id=3))  # someone put the 8-class boxes in place
    assert find(download, "train")[0].label_boxes["class_id"].tolist() == [3]


def test_a_folder_without_recordings_is_refused_with_the_layouts(tmp_path):
    with pytest.raises(
        UserError, match=r"data.root: no folder .*nowhere; expected one with <split"
    ):
        find(tmp_path / "nowhere", "train")
    with pytest.raises(UserError, match=r"no val recordings under .*: expected <split>/<name>_td"):
        find(tmp_path, "val")
    write_raw(tmp_path / "train", "a", EVENTS, LABELS)
    with pytest.raises(UserError, match=r"no val recordings .*; found only train: expected"):
        find(tmp_path, "val")


def test_recordings_without_usable_labels_are_left_out_and_named(tmp_path, caplog):
    write_raw(tmp_path / "train", "early", EVENTS, boxes_at([33_333]))
    with pytest.raises(UserError, match="early_bbox.npy: no label at 100 ms or later"):
        find(tmp_path, "train")
    write_raw(tmp_path / "train", "good", EVENTS, LABELS)
    with caplog.at_level(logging.WARNING):
        assert [recording.name for recording in find(tmp_path, "train")] == ["good"]
    message = caplog.messages[0]
    assert message.startswith("1 of 2 train recordings are left out, as they have no usable label")
    assert "early_bbox.npy" in message
    write_raw(tmp_path / "train", "unlabelled", EVENTS)
    with pytest.raises(UserError, match="unlabelled_bbox.npy, got no such file"):
        find(tmp_path, "train")


@pytest.mark.parametrize(
    ("folder", "layout"),
    [
        ("train", "raw eTraM"),
        ("Train", "raw eTraM"),
        ("Static/HDF5/train_h5_1", "raw eTraM, as downloaded"),
        ("trainfilelist00/train", "raw eTraM, as downloaded"),
        ("train/zurich_city_04_a/events/left", "DSEC"),
    ],
)
def test_the_layout_has_a_name(folder, layout, tmp_path):
    path = write_raw(tmp_path / folder, "a", EVENTS)
    recording = RawRecording(path, None, "train", FrameSettings(), LabelSettings(), False)
    assert layout_of(recording, "train") == layout
