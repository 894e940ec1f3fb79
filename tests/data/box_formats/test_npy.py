import numpy as np
import pytest

from etram_det.boxes import BOX_DTYPE
from etram_det.data.box_formats.coco import NO_BOX
from etram_det.data.box_formats.naming import NO_TIME, UNKNOWN_CLASS, ClassSettings, TimeSettings
from etram_det.data.box_formats.npy import npy_table, write_npy
from etram_det.data.box_formats.reading import open_box_files, read_boxes
from etram_det.data.box_formats.table import TableBuilder
from etram_det.errors import UserError
from support.raw_files import boxes_at


def table_of(array, path, **classes):
    return npy_table(array, path, ClassSettings(**classes), TimeSettings())


def test_boxes_keep_order_precision_and_tracks(tmp_path):
    boxes = boxes_at([200, 100, 200], class_id=3)
    boxes["x"], boxes["track_id"], boxes["class_confidence"] = [0.1, 0.2, 0.3], [5, 6, 7], 0.7
    table, left_out = table_of(boxes, tmp_path / "a_bbox.npy")
    assert not left_out.counts
    assert table.recording.tolist() == ["a", "a"]
    assert table.time_us.tolist() == [100, 200]
    assert table.frame.tolist() == [0, 1, 1]
    assert table.boxes[:, 0].tolist() == [float(np.float32(x)) for x in (0.2, 0.1, 0.3)]
    assert table.tracks.tolist() == [6, 5, 7]
    assert set(table.scores.tolist()) == {float(np.float32(0.7))}


def test_old_names_and_other_types(tmp_path):
    fields = [("ts", "<f8"), ("x", "<f8"), ("y", "<f8"), ("w", "<f8"), ("h", "<f8")]
    fields += [("class_id", "u1"), ("confidence", "<f8")]
    boxes = np.array([(100.0, 0.1, 0.2, 0.3, 0.4, 2, 0.25)], dtype=fields)
    table, _ = table_of(boxes, tmp_path / "a_bbox.npy")
    assert table.boxes.tolist() == [[0.1, 0.2, 0.3, 0.4]]
    assert (table.classes[0], table.scores[0], table.time_us[0]) == (2, 0.25, 100)


def test_what_does_not_fit_is_counted(tmp_path):
    boxes = boxes_at([1, 2, 3, 4])
    boxes["class_id"] = [0, 9, 11, 1]
    boxes["x"][3] = np.nan
    table, left_out = table_of(boxes, tmp_path / "a_bbox.npy", class_map={"11": "bus"})
    assert table.classes.tolist() == [0, 3]
    assert left_out.counts == {UNKNOWN_CLASS: 1, NO_BOX: 1}
    assert left_out.examples == {
        UNKNOWN_CLASS: ["a_bbox.npy: id 9"],
        NO_BOX: ["a_bbox.npy: box 4"],
    }
    times = boxes.astype([(n, "<f8" if n == "t" else BOX_DTYPE[n]) for n in BOX_DTYPE.names])
    times["t"][0] = np.nan
    assert table_of(times, tmp_path / "a_bbox.npy")[1].counts[NO_TIME] == 1


def test_an_empty_box_file_is_a_recording_without_boxes(tmp_path):
    np.save(tmp_path / "a_bbox.npy", np.empty(0, BOX_DTYPE))
    files = open_box_files([tmp_path], "files")
    read = read_boxes(files, ClassSettings(), TimeSettings(), scored=True)
    assert len(read.table) == 0
    assert list(read.recordings) == ["a"]


def test_a_recording_is_no_path(tmp_path):
    builder = TableBuilder()
    builder.add(builder.frame("../a", 5), [1, 2, 3, 4], 0)
    with pytest.raises(UserError, match=r"must have names that files can have, got '../a'"):
        write_npy(tmp_path / "labels", builder.table(), ["../a"])
    assert not list(tmp_path.rglob("*.npy"))


def test_folders_hold_one_format_and_recordings_one_file(tmp_path, caplog):
    caplog.set_level("INFO")
    np.save(tmp_path / "a_bbox.npy", boxes_at([1]))
    (tmp_path / "a_detections.csv").write_text("t,class,x,y,w,h\n5,bus,1,2,3,4\n")
    assert [file.path.name for file in open_box_files([tmp_path], "files")] == ["a_bbox.npy"]
    line = f"{tmp_path}: reading its 1 *_bbox.npy, not its 1 *.csv: name files to read those"
    assert caplog.messages == [line]
    both = open_box_files(sorted(tmp_path.iterdir()), "files")
    message = "a_detections.csv: must hold other recordings than .*a_bbox.npy, got a in both: name"
    with pytest.raises(UserError, match=message):
        read_boxes(both, ClassSettings(), TimeSettings(), scored=False)


def test_hidden_files_are_passed_over(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in ("._a_bbox.npy", "._a.json"):
        (tmp_path / name).touch()
    (tmp_path / "a.csv").write_text("t,class,x,y,w,h\n5,bus,1,2,3,4\n")
    assert [file.path.name for file in open_box_files([tmp_path], "files")] == ["a.csv"]
    assert not caplog.messages


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    cases = ("a.txt", "a.txt"), ("b.npy", "no such file"), ("b", "no such file"), (".", "none")
    for path, got in cases:
        with pytest.raises(UserError, match=rf"files: must be files of boxes .* got .*{got}"):
            open_box_files([tmp_path / path], "files")
