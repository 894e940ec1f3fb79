import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etram_det.boxes import BOX_DTYPE, has_tracks, signed_tracks
from etram_det.data.label_times import frame_ends, label_times
from etram_det.data.labels import (
    ETRAM3_CLASSES,
    ETRAM_CLASSES,
    ONE_MPX_CLASSES,
    LabelSettings,
    boxes_from,
    filter_boxes,
    load_array,
)
from etram_det.errors import UserError
from support.raw_files import boxes_at

SENSOR = (720, 1280)


def box(x, y, w, h):
    return boxes_at([0], x=x, y=y, w=w, h=h)


def test_boxes_are_read_by_name_whatever_the_packing(tmp_path):
    names = ["confidence", "class_id", "h", "w", "y", "x", "ts"]
    dtype = np.dtype({"names": names, "formats": ["<f8", "u1"] + 4 * ["<f8"] + ["<u8"]}, align=True)
    array = np.array([(0.5, 7, 4, 3, 2, 1, 100), (1.0, 2, 8, 7, 6, 5, 50)], dtype)
    boxes = boxes_from(array, tmp_path, ETRAM_CLASSES)
    assert boxes.dtype == BOX_DTYPE
    assert boxes.tolist() == [(100, 1, 2, 3, 4, 7, 0, 0.5), (50, 5, 6, 7, 8, 2, 0, 1.0)]


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "<f8"])
def test_what_is_no_track_id_is_none(dtype):
    array = np.zeros(4, [(n, dtype if n == "track_id" else "<f8") for n in BOX_DTYPE.names])
    array["track_id"] = [-1, 0, 7, 2**40 if dtype == "<i8" else -1]
    boxes = boxes_from(array, "a.npy", ETRAM_CLASSES)
    assert signed_tracks(boxes["track_id"]).tolist() == [-1, 0, 7, -1]
    assert has_tracks(boxes)
    assert not has_tracks(boxes[:2])  # as a file without ids has zeros


def test_a_missing_field_is_named_with_the_file(tmp_path):
    array = np.zeros(
        1, [("t", "<i8"), ("x", "<f4"), ("y", "<f4"), ("w", "<f4"), ("class_id", "u4")]
    )
    message = (
        r"/some/a_bbox.npy: boxes must have the fields t, x, .*; missing h, got t, x, y, w, "
        "class_id: fetch the file again, or add what is missing"
    )
    with pytest.raises(UserError, match=message):
        boxes_from(array, "/some/a_bbox.npy", ETRAM_CLASSES)
    with pytest.raises(UserError, match="missing t, x, y, w, h, class_id, got a plain array"):
        boxes_from(np.zeros((3, 8)), "a_bbox.npy", ETRAM_CLASSES)


@pytest.mark.parametrize("dtype", ["<u4", "<i8", "u1"])
def test_class_ids_without_a_name_are_refused(dtype):
    array = np.zeros(3, [(n, dtype if n == "class_id" else "<f8") for n in BOX_DTYPE.names])
    array["class_id"] = [0, 7, 3]
    message = r"a.npy: class ids must be 0 to 2 \(pedestrian, vehicle, micro.*got \[3, 7\]"
    with pytest.raises(UserError, match=message):
        boxes_from(array, "a.npy", ETRAM3_CLASSES)


@pytest.mark.parametrize("dtype", ["<u4", "<i8", "u1"])
def test_boxes_of_unnamed_classes_are_dropped_and_counted_where_asked_for(dtype):
    """Prophesee's seven classes of 1 Mpx, of which RVT keeps the first three."""
    array = np.zeros(8, [(n, dtype if n == "class_id" else "<f8") for n in BOX_DTYPE.names])
    array["class_id"] = [0, 1, 2, 3, 4, 5, 6, 255]
    array["w"] = array["h"] = [20, 3, 20, 20, 20, 20, 20, 3]
    message = r"or add only_named_classes to data.filters to drop these boxes$"
    with pytest.raises(UserError, match=message):
        boxes_from(array, "a.npy", ONE_MPX_CLASSES, ("min_side_5",))
    filters = ("only_named_classes", "min_side_5")
    boxes = boxes_from(array, "a.npy", ONE_MPX_CLASSES, filters)
    kept, places, dropped = filter_boxes(boxes, SENSOR, "train", filters)
    assert kept["class_id"].tolist() == [0, 2]
    assert places.tolist() == [0, 2]
    assert dropped == {
        "boxes: outside the frame": 0,
        "boxes: only_named_classes": 5,
        "boxes: min_side_5": 1,
    }
    if dtype == "<i8":
        array["class_id"][0] = -1
        boxes = boxes_from(array, "a.npy", ONE_MPX_CLASSES, filters)
        assert filter_boxes(boxes, SENSOR, "val", filters[:1])[1].tolist() == [1, 2]


def test_unreadable_arrays_are_refused_in_one_line(tmp_path):
    np.save(tmp_path / "pickled.npy", np.array([{}], object))
    np.save(tmp_path / "cut.npy", boxes_at([1, 2, 3]))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-1])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("pickled.npy", "cut.npy", "empty.npy", "missing.npy"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as a NumPy file") as caught:
            load_array(tmp_path / name)
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "other.npz", boxes=np.zeros(2))
    with pytest.raises(UserError, match=r"must hold the array 'labels', got .*'boxes'"):
        load_array(tmp_path / "other.npz", "labels")


def test_boxes_are_cropped_to_the_frame_and_counted():
    boxes = np.concatenate(
        [box(-10, 700, 30, 40), box(1270, 10, 50, 20), box(-30, 5, 30, 9), box(5, 5, 0, 4)]
        + [box(5, 5, -3, 4), box(np.nan, 5, 3, 4)]
    )
    kept, places, dropped = filter_boxes(boxes, SENSOR, "train", ())
    assert kept[["x", "y", "w", "h"]].tolist() == [(0, 700, 20, 19), (1270, 10, 9, 20)]
    assert places.tolist() == [0, 1]
    assert dropped == {"boxes: outside the frame": 4}


def test_filters_apply_in_their_order_and_are_counted():
    boxes = np.concatenate(
        [box(5, 5, 4.9, 30), box(5, 5, 5, 5), box(0, 0, 1152.5, 300), box(9, 9, 60, 19)]
        + [box(9, 9, 25, 25), box(9, 9, 36, 48)]
    )
    rvt = ("min_side_5", "max_width")
    kept, places, dropped = filter_boxes(boxes, SENSOR, "train", rvt)
    assert places.tolist() == [1, 3, 4, 5]
    assert dropped == {
        "boxes: outside the frame": 0,
        "boxes: min_side_5": 1,
        "boxes: max_width": 1,
    }
    assert filter_boxes(boxes, SENSOR, "val", rvt)[1].tolist() == [1, 2, 3, 4, 5]
    assert filter_boxes(boxes, SENSOR, "val", ("prophesee",))[1].tolist() == [2, 5]
    assert filter_boxes(boxes, SENSOR, "val", ("prophesee_gen1",))[1].tolist() == [2, 3, 4, 5]


def rvt_rule(rate_hz, seconds=2.0):
    times = (np.arange(1, int(rate_hz * seconds) + 1) * 1e6 / rate_hz).astype(np.int64)
    return label_times(times, 100_000, 2_000)


@pytest.mark.parametrize(
    ("rate_hz", "first", "step", "number"),
    [
        (1, 1_000_000, 1_000_000, 2),
        (4, 250_000, 500_000, 4),
        (10, 100_000, 100_000, 20),
        (24, 125_000, 500_000, 4),
        (25, 120_000, 200_000, 10),
        (30, 100_000, 100_000, 20),
        (60, 100_000, 100_000, 20),
    ],
)
def test_any_label_rate_gives_labels_at_multiples_of_the_interval(rate_hz, first, step, number):
    times = np.array(rvt_rule(rate_hz))
    assert times[0] == first
    assert len(times) == number
    assert np.abs(np.diff(times) - step).max() <= 2_000


def test_label_times_too_early_or_off_the_interval_are_passed_over():
    times = np.array([1, 99_999, 133_332, 134_000, 233_331, 300_000, 435_331, 437_000])
    assert label_times(times, 100_000, 2_000) == [133_332, 233_331, 435_331]
    assert label_times(times, 100_000, 0) == [133_332]
    assert label_times(times[:2], 100_000, 2_000) == []
    # RVT's first label lies at 100 ms or later at Gen1's rate too.
    gen1 = np.array([99_999, 249_999, 499_999, 620_000, 999_999, 1_249_999])
    expected = [249_999, 499_999, 999_999, 1_249_999]
    assert label_times(gen1, 250_000, 2_000) == expected
    assert label_times(gen1, 50_000, 2_000)[0] == 99_999
    assert label_times(times[:0], 100_000, 2_000) == []


def test_frames_lead_up_to_the_first_label_and_connect_the_others():
    ends, frames = frame_ends([133_332, 233_331, 433_329], 100_000, 50_000)
    to_second_label = [83_332, 133_332, 183_331, 233_331]
    assert ends.tolist() == [*to_second_label, 283_330, 333_330, 383_329, 433_329]
    assert frames.tolist() == [1, 3, 7]
    assert [part.tolist() for part in frame_ends([100_000], 100_000, 50_000)] == [
        [50_000, 100_000],
        [1],
    ]
    assert [len(part) for part in frame_ends([], 100_000, 50_000)] == [0, 0]


@given(
    st.lists(st.integers(0, 3_000_000), unique=True),
    st.sampled_from([(50, 50), (100, 50), (250, 50), (60, 20)]),
)
def test_frames_of_irregular_labels_step_by_about_a_window(times, steps_ms):
    interval, window = (1000 * step for step in steps_ms)
    chosen = label_times(np.sort(np.array(times, np.int64)), interval, 2_000)
    ends, frames = frame_ends(chosen, interval, window)
    assert ends[frames].tolist() == chosen
    assert np.all(np.abs(np.diff(ends) - window) <= 2_001)
    if chosen:
        assert window <= ends[0] < 2 * window


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_names": ()}, "data.class_names: must have at least one name, got none"),
        ({"interval_ms": 0}, "data.interval_ms: must be at least 1"),
        ({"filters": ("small",)}, re.escape("data.filters: must be of ['max_width', ")),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        LabelSettings(**settings)
