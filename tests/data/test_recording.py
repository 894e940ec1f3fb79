"""Recordings of both layouts: equal to RVT's preprocessing, however irregular the files."""

import pickle

import h5py
import hdf5plugin
import numpy as np
import pytest

from etram_det.data.labels import LabelSettings, left_out
from etram_det.data.layouts import find_recordings
from etram_det.data.preprocessed import PreprocessedRecording
from etram_det.data.raw import RawRecording
from etram_det.data.recording import NoLabels, NoUsableLabels
from etram_det.data.representation import FrameSettings
from etram_det.data.timeline import LabelSource, labelled_timeline
from etram_det.errors import UserError
from support.paths import REFERENCE
from support.raw_files import boxes_at, random_events, write_raw

RVT = FrameSettings(downsample="nearest")
SPLITS = {"train": "train_day_0001", "val": "val_night_0001", "test": "test_day_0001"}
LABEL_TIMES = np.arange(1, 31) * 33_333


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def make(path, frames=RVT, labels=None, require_labels=True):
    box_path = path.with_name(path.name.replace("_td.h5", "_bbox.npy"))
    box_path = box_path if box_path.exists() else None
    return RawRecording(path, box_path, "train", frames, labels or LabelSettings(), require_labels)


def whole(recording):
    return recording.frames(0, len(recording))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("filters", [(), ("min_side_5", "max_width")])
def test_raw_recordings_equal_what_rvt_made_of_them(split, filters):
    labels = LabelSettings(filters=filters)
    (raw,) = find_recordings(REFERENCE / "raw_etram", split, RVT, labels)
    (stored,) = find_recordings(REFERENCE / "preprocessed_etram", split, RVT, labels)
    folder = REFERENCE / "preprocessed_etram" / split / SPLITS[split]
    boxes = np.load(folder / "labels_v2" / "labels.npz")["labels"]
    assert raw.name == stored.name == SPLITS[split]
    assert raw.sensor_size == stored.sensor_size == (720, 1280)
    assert raw.input_size == stored.input_size == (360, 640)
    assert raw.scale == stored.scale == (2.0, 2.0)
    np.testing.assert_array_equal(raw.frame_end_us, stored.frame_end_us)
    np.testing.assert_array_equal(raw.label_frame, stored.label_frame)
    for name in boxes.dtype.names:
        np.testing.assert_array_equal(raw.label_boxes[name], boxes[name])
        np.testing.assert_array_equal(stored.label_boxes[name], boxes[name])
    for frame in range(len(raw)):
        if not raw.labelled[frame]:
            assert raw.boxes(frame) is stored.boxes(frame) is None
            continue
        for of_raw, of_stored in zip(raw.boxes(frame), stored.boxes(frame), strict=True):
            np.testing.assert_array_equal(of_raw, of_stored)
    np.testing.assert_array_equal(whole(raw), whole(stored))


def test_what_was_left_out_is_counted():
    folder = REFERENCE / "raw_etram"
    (raw,) = find_recordings(folder, "train", RVT, LabelSettings(filters=("min_side_5",)))
    assert raw.dropped == {
        "boxes: outside the frame": 2,
        "boxes: min_side_5": 1,
        "boxes: between label times": 98,
    }
    assert len(raw.label_boxes) + 2 + 1 + 98 == len(
        np.load(folder / "train/train_day_0001_bbox.npy")
    )


def test_boxes_are_in_pixels_of_the_input(tmp_path):
    path = write_raw(tmp_path, "a", random_events(100), boxes_at([100_000, 200_000], class_id=3))
    recording = make(path, FrameSettings(input_size=(12, 32)))
    assert len(recording) == 4
    assert recording.labelled.tolist() == [False, True, False, True]
    boxes, classes = recording.boxes(1)
    assert (boxes.dtype, classes.dtype) == (np.float32, np.int64)
    assert boxes.tolist() == [[5.0, 3.0, 15.0, 7.0]]
    assert classes.tolist() == [3]
    assert recording.boxes(0) is None
    assert recording.track_ids(1).tolist() == [recording.label_boxes["track_id"][0]]
    assert recording.track_ids(0).tolist() == []
    assert recording.frames(1, 3).shape == (2, 20, 12, 32)


def test_frames_do_not_depend_on_how_they_are_asked_for(tmp_path):
    events = random_events(60_000)
    events["t"][1000::500] -= 40_000  # behind by most of a window
    events["t"][30_000] += 200_000  # lifts the timestamps of the 200 ms that follow
    recording = make(write_raw(tmp_path, "a", events, boxes_at(LABEL_TIMES)))
    frames = whole(recording)
    repaired = np.maximum.accumulate(events["t"])
    inside = [((repaired >= end - 50_000) & (repaired <= end)) for end in recording.frame_end_us]
    odd = (events["x"] % 2 == 1) & (events["y"] % 2 == 1)
    assert frames.sum(axis=(1, 2, 3)).tolist() == [np.count_nonzero(odd & each) for each in inside]
    again = pickle.loads(pickle.dumps(recording))
    parts = [again.frames(i, min(i + 3, len(again))) for i in range(0, len(again), 3)]
    np.testing.assert_array_equal(np.concatenate(parts), frames)


@pytest.mark.parametrize(
    "compression",
    [
        {},
        {"compression": "gzip"},
        {"compression": "lzf"},
        dict(hdf5plugin.Blosc()),
        dict(hdf5plugin.Zstd()),
    ],
    ids=["none", "gzip", "lzf", "blosc", "zstd"],
)
def test_any_packing_of_the_same_events_gives_the_same_frames(tmp_path, compression):
    events = random_events(5000)
    expected = whole(make(write_raw(tmp_path, "a", events, boxes_at(LABEL_TIMES))))
    other = {
        "x": events["x"].astype(">i4"),
        "y": events["y"].astype(np.int64),
        "p": (2 * events["p"] - 1).astype(np.int8),
        "t": events["t"].astype(np.uint32),
    }
    path = write_raw(tmp_path, "b", other, boxes_at(LABEL_TIMES), **compression)
    np.testing.assert_array_equal(whole(make(path)), expected)
    assert expected.sum() > 1000


def test_events_outside_the_sensor_are_dropped_and_counted(tmp_path):
    events = random_events(2000, seconds=0.09)
    expected = whole(make(write_raw(tmp_path, "a", events, boxes_at([100_000]))))
    order = np.argsort(np.append(events["t"], [1000, 20_000, 70_000]), kind="stable")
    stray = {"x": [5, 64, 9], "y": [33014, 7, 48], "p": [0, 1, 1], "t": [1000, 20_000, 70_000]}
    events = {
        name: np.append(column, np.array(stray[name], column.dtype))[order]
        for name, column in events.items()
    }
    recording = make(write_raw(tmp_path, "b", events, boxes_at([100_000])))
    np.testing.assert_array_equal(whole(recording), expected)
    assert recording.dropped["events: outside the sensor"] == 3


def test_windows_without_events_are_empty_frames(tmp_path):
    path = write_raw(tmp_path, "a", random_events(500, seconds=0.1), boxes_at([100_000, 500_000]))
    recording = make(path)
    sums = whole(recording).sum(axis=(1, 2, 3))
    assert len(sums) == 10
    assert np.all(sums[:2] > 0)
    assert np.all(sums[2:] == 0)


def test_labels_without_events_at_their_times_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"b_td.h5: must hold events, got none: take it out"):
        make(write_raw(tmp_path, "b", random_events(0), boxes_at([100_000])))
    labels = boxes_at([100_000, 500_000])
    for start, last in ((550_000, 1_549_000), (-1_000_000, -1_000)):
        events = random_events(500)
        events["t"] = np.linspace(start, last, 500).astype(np.int64)
        with pytest.raises(
            UserError,
            match=rf"c_td.h5: its events \({start} to {last} us\) lie outside its labels' times "
            r"\(100000 to 500000 us\): let the times of both count from the recording's start",
        ):
            make(write_raw(tmp_path, "c", events, labels))
    events["t"] += 1_001_001  # the first events lie in the last window
    assert len(make(write_raw(tmp_path, "c", events, labels))) == 10


def test_the_share_of_repaired_timestamps_is_known_once_frames_are_read(tmp_path):
    events = random_events(500)
    events["t"][100] = events["t"][149] + 1  # 49 events are behind it
    recording = make(write_raw(tmp_path, "a", events, boxes_at([100_000])))
    assert recording.repaired_share == 0
    whole(recording)
    assert recording.repaired_share == 49 / 500
    assert recording.events["with a repaired timestamp"] == 49


@pytest.mark.parametrize("first_us", [0, 4_095, 99_999])
def test_windows_end_at_the_same_times_with_and_without_labels(tmp_path, first_us):
    events = random_events(3000, seconds=0.98)
    events["t"] += first_us - events["t"][0]
    settings = FrameSettings(input_size=(48, 64))
    path = write_raw(tmp_path / "labelled", "a", events, boxes_at([200_000, 900_000]))
    labelled = make(path, settings)
    path = write_raw(tmp_path / "plain", "a", events)
    plain = make(path, settings, require_labels=False)
    empty = first_us // 50_000  # windows before the first event, which lead up to labels only
    number = len(labelled) - empty
    assert labelled.frame_end_us[empty:].tolist() == plain.frame_end_us[:number].tolist()
    assert plain.frame_end_us[0] == 50_000 * (empty + 1)
    np.testing.assert_array_equal(whole(labelled)[empty:], plain.frames(0, number))
    assert not whole(labelled)[:empty].any()


def test_without_labels_frames_follow_each_other_over_the_whole_recording(tmp_path):
    events = random_events(3000, seconds=0.98)
    events["t"] += 11_718_656
    recording = make(
        write_raw(tmp_path, "a", events), FrameSettings(input_size=(48, 64)), require_labels=False
    )
    first, last = events["t"][[0, -1]]
    assert recording.frame_end_us[0] == first + 50_000
    assert np.all(np.diff(recording.frame_end_us) == 50_000)
    assert recording.frame_end_us[-2] <= last < recording.frame_end_us[-1]
    assert not recording.labelled.any()
    assert whole(recording).sum() >= 3000  # an event on the edge of two windows lies in both


def test_the_sensor_is_the_files_or_the_attributes_or_the_settings(tmp_path):
    path = write_raw(tmp_path, "a", random_events(9), boxes_at([100_000]), size=None)
    assert make(path).sensor_size == (720, 1280)
    assert make(path, FrameSettings(sensor_size=(50, 70))).input_size == (25, 35)
    with h5py.File(path, "a") as file:
        file["events"].attrs.update(height=48, width=64)
    assert make(path).sensor_size == (48, 64)


def test_missing_and_unusable_labels_are_different_errors(tmp_path):
    events = random_events(50)
    without = write_raw(tmp_path, "without", events)
    none = write_raw(tmp_path, "none", events, boxes_at([]))
    early = write_raw(tmp_path, "early", events, boxes_at([33_333, 99_999]))
    with pytest.raises(NoLabels, match="without_td.h5: its boxes must be in without_bbox.npy"):
        make(without)
    with pytest.raises(NoLabels, match="none_bbox.npy: must hold boxes, got none"):
        make(none)
    with pytest.raises(NoUsableLabels, match="early_bbox.npy: no label at 100 ms or later among 2"):
        make(early)
    outside = write_raw(tmp_path, "outside", events, boxes_at([100_000, 200_000], x=np.nan))
    with pytest.raises(NoUsableLabels) as refused:
        make(outside)
    assert str(refused.value).endswith(
        "among 2 boxes (2 outside the frame or not finite): correct them, change data.filters, or "
        "take the recording out of its folder"
    )
    assert left_out({"boxes: outside the frame": 0, "boxes: min_side_5": 3}) == " (3 by min_side_5)"
    assert left_out({"boxes: outside the frame": 0}) == ""
    for path in (without, none, early):
        assert len(make(path, require_labels=False)) == 20
    assert len(make(write_raw(tmp_path, "single", events, boxes_at([133_332])))) == 2


def refusal(path, **settings):
    """What is said of a recording that cannot be used: one line that names the file."""
    with pytest.raises(UserError) as caught:
        whole(make(path, FrameSettings(**settings), require_labels=False))
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_damaged_files_are_refused(tmp_path):
    events = random_events(3000)
    cut = write_raw(tmp_path, "cut", events)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    assert "was cut short, and nothing is left of events/p: fetch the file again" in refusal(cut)
    overwritten = write_raw(tmp_path, "overwritten", events, compression="gzip")
    content = bytearray(overwritten.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    overwritten.write_bytes(content)
    assert "cannot be read as HDF5" in refusal(overwritten)
    (tmp_path / "text_td.h5").write_text("not HDF5")
    assert "cannot be read as HDF5" in refusal(tmp_path / "text_td.h5")


def test_columns_that_do_not_fit_are_refused(tmp_path):
    events = random_events(3000)

    def refusal_of(name, columns):
        return refusal(write_raw(tmp_path, name, columns))

    without_t = {name: events[name] for name in "xyp"}
    assert (
        "events/t is missing, got events/height, events/p, events/width, events/x, events/y: "
        "fetch the file again" in refusal_of("without_t", without_t)
    )
    short = refusal_of("short", {**events, "p": events["p"][:-1]})
    assert "must be equally long" in short
    assert "'p': 2999, 't': 3000" in short
    text = refusal_of("text", {**events, "t": events["t"].astype("S")})
    assert "events/t must be a row of numbers, got |S" in text
    late = {**events, "t": events["t"] + np.arange(3000) * 10**9}
    assert "span a day at most" in refusal_of("late", late)
    assert "must hold events, got none" in refusal_of("empty", random_events(0))


def test_an_unknown_filter_is_refused_by_number(tmp_path, monkeypatch):
    path = write_raw(tmp_path, "a", random_events(3000), compression="gzip")
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    assert "HDF5 filter 1 (deflate) is not known here" in refusal(path)


def test_settings_that_do_not_fit_the_recording_are_refused(tmp_path):
    path = write_raw(tmp_path, "a", random_events(9), boxes_at([100_000]))
    too_large = refusal(path, input_size=(49, 64))
    assert "data.input_size: must not exceed the sensor's (48, 64)" in too_large
    with pytest.raises(UserError, match=r"data.interval_ms: must be a multiple .* \(50\), got 75"):
        make(path, labels=LabelSettings(interval_ms=75))
    late = write_raw(tmp_path, "late", random_events(9), boxes_at([1_700_000_000_000_000]))
    with pytest.raises(UserError, match="late_td.h5: its events .* lie outside its labels' times"):
        make(late)
    boxes = tmp_path / "very_late_bbox.npy"
    np.save(boxes, boxes_at([0, 100_000, 200_000_000_000]))
    message = r"very_late_bbox.npy: label times must lie within a day of the recording's start at"
    with pytest.raises(UserError, match=message):  # of boxes alone
        labelled_timeline(LabelSource(boxes, boxes, (48, 64), "train", RVT, LabelSettings()))


def stored(folder, filters=(), **frames):
    labels = LabelSettings(filters=filters)
    return PreprocessedRecording(folder, "train", FrameSettings(**frames), labels)


def write_preprocessed(folder, name="stacked_histogram_dt50_nbins10", num_labels=2, ds2="_ds2"):
    """Four frames of 6 x 8 whose counts are 0, 4, 8, 12; the second and fourth are labelled."""
    frames = folder / "event_representations_v2" / name
    frames.mkdir(parents=True)
    (folder / "labels_v2").mkdir()
    with h5py.File(frames / f"event_representations{ds2}_nearest.h5", "w") as file:
        counts = np.uint8([0, 4, 8, 12])[:, None, None, None]
        file["data"] = np.broadcast_to(counts, (4, 20, 6, 8)).copy()
    np.save(frames / "timestamps_us.npy", np.arange(1, 5) * 50_000)
    np.save(frames / "objframe_idx_2_repr_idx.npy", np.array([1, 3])[:num_labels])
    boxes = boxes_at([100_000, 200_000], x=2, y=4, w=[4, 6], h=6)
    np.savez(
        folder / "labels_v2" / "labels.npz", labels=boxes, objframe_idx_2_label_idx=np.array([0, 1])
    )
    return frames


def test_preprocessed_folders_of_evlib_are_read(tmp_path):
    write_preprocessed(tmp_path / "a")
    recording = stored(tmp_path / "a")
    assert (recording.sensor_size, recording.input_size) == ((12, 16), (6, 8))
    assert recording.labelled.tolist() == [False, True, False, True]
    assert recording.boxes(3)[0].tolist() == [[1, 2, 4, 5]]
    filtered = stored(tmp_path / "a", filters=("min_side_5",))
    assert filtered.labelled.tolist() == [False, False, False, True]
    assert filtered.dropped == {"boxes: outside the frame": 0, "boxes: min_side_5": 1}
    assert whole(recording)[:, 0, 0, 0].tolist() == [0, 4, 8, 10]
    write_preprocessed(tmp_path / "b", "stacked_histogram_dt=50_nbins=10", ds2="")
    assert stored(tmp_path / "b").sensor_size == (6, 8)


def test_preprocessed_folders_that_do_not_fit_are_refused(tmp_path):
    frames = write_preprocessed(tmp_path / "a")
    message = r"must hold stacked_histogram_dt=20_nbins=10 for .*, got stacked_histogram_dt50_n"
    with pytest.raises(UserError, match=message):
        stored(tmp_path / "a", window_ms=20)
    message = r"must hold frames of shape \[F, 20, 12, 16\] uint8 for .*, got .*\(4, 20, 6, 8\)"
    with pytest.raises(UserError, match=message):
        stored(tmp_path / "a", input_size=(12, 16))
    np.save(frames / "timestamps_us.npy", np.arange(5))
    with pytest.raises(UserError, match=r"must hold the 5 frames of timestamps_us.npy, got 4"):
        stored(tmp_path / "a")
    write_preprocessed(tmp_path / "b", num_labels=1)
    with pytest.raises(UserError, match=r"labels.npz: objframe_idx_2_label_idx and .* must ascend"):
        stored(tmp_path / "b")
    (tmp_path / "b" / "labels_v2" / "labels.npz").unlink()
    with pytest.raises(NoLabels, match=r"labels.npz: must hold the boxes, got no such file"):
        stored(tmp_path / "b")
    assert len(PreprocessedRecording(tmp_path / "b", "test", RVT, LabelSettings(), False)) == 4


@pytest.mark.parametrize("size", [(720, 1280), (540, 960), (360, 640), (100, 333)])
def test_any_input_size_keeps_every_event_and_scales_the_labels(tmp_path, size):
    events = random_events(4000, seconds=0.25, size=(720, 1280))
    boxes = boxes_at([100_000, 200_000], x=960, y=540, w=160, h=90)
    path = write_raw(tmp_path, "a", events, boxes, size=(720, 1280))
    recording = make(path, FrameSettings(input_size=size, count_cutoff=255))
    assert recording.scale == (1280 / size[1], 720 / size[0])
    frames = whole(recording)
    assert frames.shape == (4, 20, *size)
    ends = recording.frame_end_us
    inside = [(events["t"] >= end - 50_000) & (events["t"] <= end) for end in ends]
    assert frames.sum(axis=(1, 2, 3)).tolist() == [np.count_nonzero(each) for each in inside]
    first = inside[0]
    rows = events["y"][first].astype(int) * size[0] // 720
    columns = events["x"][first].astype(int) * size[1] // 1280
    pixels = np.zeros(size, int)
    np.add.at(pixels, (rows, columns), 1)
    np.testing.assert_array_equal(frames[0].sum(axis=0), pixels)
    expected = np.array([960, 540, 1120, 630]) / np.tile(recording.scale, 2)
    np.testing.assert_allclose(recording.boxes(1)[0], [expected], rtol=1e-6)


def test_damage_anywhere_ends_in_frames_or_one_line(tmp_path):
    box_file = tmp_path / "a_bbox.npy"
    events, boxes = random_events(3000), boxes_at(LABEL_TIMES)
    path = write_raw(tmp_path, "a", events, boxes, compression="gzip")
    intact = {each: each.read_bytes() for each in (path, box_file)}
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(120):
        damaged = (path, box_file)[i % 2]
        content = bytearray(intact[damaged])
        if i % 5 == 0:
            content = content[: rng.integers(len(content))]
        else:
            start = rng.integers(len(content))
            length = min(int(rng.integers(1, 40)), len(content) - start)
            content[start : start + length] = rng.bytes(length)
        damaged.write_bytes(content)
        refusal = None
        try:
            recording = make(path)
            frames = recording.frames(0, min(len(recording), 6))
        except UserError as error:
            refusal = str(error)
        damaged.write_bytes(intact[damaged])
        if refusal is None:
            assert frames.max(initial=0) <= 10
            assert np.all(np.diff(recording.frame_end_us) >= 0)
        else:
            refused += 1
            assert "\n" not in refusal
            assert str(tmp_path) in refusal
    assert 30 < refused < 120
