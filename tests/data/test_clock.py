"""Events and labels on one clock: what does not meet, or is in another unit, is refused by name."""

import h5py
import numpy as np
import pytest

from etram_det.data.labels import LabelSettings
from etram_det.data.raw import RawRecording
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw

OFFSET_US = 36_607_300_656  # ten hours after a clock's zero
SIZE = (96, 128)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def opened(path, require_labels=True, jitter_ms=2, **frames):
    boxes = path.with_name(path.name.replace("_td.h5", "_bbox.npy"))
    settings = FrameSettings(**frames), LabelSettings(jitter_ms=jitter_ms)
    return RawRecording(path, boxes if boxes.exists() else None, "train", *settings, require_labels)


def written(folder, name, boxes=None, scale=1, shift=0, num_events=40_000, seconds=2.0):
    events = random_events(num_events, seconds, SIZE)
    if scale < 1:
        events["t"] = events["t"] // round(1 / scale)
    else:
        events["t"] = events["t"] * scale
    events["t"] = events["t"] + shift
    return write_raw(folder, name, events, boxes, SIZE)


@pytest.mark.parametrize("shift", [100_000_000, -100_000_000, OFFSET_US])
def test_labels_that_share_no_time_with_the_events_are_refused_with_both_spans(tmp_path, shift):
    times = np.arange(100_000, 2_000_000, 100_000) + max(shift, 0)
    path = written(tmp_path, "a", boxes_at(times), shift=max(-shift, 0))
    first, last = random_events(40_000, 2.0, SIZE)["t"][[0, -1]] + max(-shift, 0)
    message = (
        rf"a_td.h5: its events \({first} to {last} us\) lie outside its labels' times "
        rf"\({times[0]} to {times[-1]} us\): let the times of both count from the recording's start"
    )
    with pytest.raises(UserError, match=message):
        opened(path)


def test_labels_of_a_clock_that_begins_below_zero_are_all_used(tmp_path):
    boxes = boxes_at(np.arange(-900_000, 900_001, 100_000))
    recording = opened(written(tmp_path, "a", boxes, shift=-1_000_000))
    assert not any(recording.dropped.values())
    assert len(recording.label_boxes) == len(boxes)


def dsec(folder, name, label_offset=OFFSET_US, events_offset=0, t_offset=None):
    times = np.arange(100_000, 1_990_000, 50_000) + label_offset
    path = written(folder, name, boxes_at(times), shift=events_offset)
    if t_offset is not None:
        with h5py.File(path, "a") as file:
            file["t_offset"] = t_offset
    return path


def test_windows_start_with_the_first_event_of_a_clock_that_starts_anywhere(tmp_path):
    recording = opened(dsec(tmp_path, "a", events_offset=OFFSET_US))
    first = OFFSET_US + random_events(40_000, 2.0, SIZE)["t"][0]
    assert len(recording) == 37
    assert recording.frame_end_us[0] - 50_000 >= first
    assert recording.frame_end_us[0] == OFFSET_US + 100_000
    assert recording.frame_end_us[-1] == OFFSET_US + 1_900_000
    assert len(recording.label_boxes) == 19
    assert recording.labels_without_events == 0
    assert recording.start_us == OFFSET_US + 50_000  # with its first window
    frames = recording.frames(0, len(recording))
    assert np.all(frames.sum(axis=(1, 2, 3)) > 500)


def test_an_offset_in_the_file_is_added_where_labels_need_it(tmp_path):
    recording = opened(dsec(tmp_path, "a", t_offset=OFFSET_US))
    assert [note.message for note in recording.notes] == ["its t_offset is added to its timestamps"]
    absolute = opened(dsec(tmp_path, "b", events_offset=OFFSET_US))
    np.testing.assert_array_equal(recording.frame_end_us, absolute.frame_end_us)
    np.testing.assert_array_equal(recording.frames(0, 9), absolute.frames(0, 9))
    relative = opened(dsec(tmp_path, "c", label_offset=0, t_offset=OFFSET_US))
    assert relative.frame_end_us[0] == 50_000
    assert "not added" in relative.notes[0].message
    with pytest.raises(UserError, match="c_td.h5: its events .* lie outside its labels' times"):
        opened(dsec(tmp_path, "c", label_offset=OFFSET_US))
    unlabelled = opened(written(tmp_path, "d"), require_labels=False)
    assert unlabelled.frame_end_us[0] < 100_000
    with h5py.File(unlabelled.path, "a") as file:
        file["t_offset"] = OFFSET_US
    assert opened(unlabelled.path, False).frame_end_us[0] > OFFSET_US


@pytest.mark.parametrize(
    ("unit", "scale"), [("ms", 1 / 1000), ("ns", 1000)], ids=["milliseconds", "nanoseconds"]
)
def test_other_units_are_refused_with_the_setting_that_mends_it(tmp_path, unit, scale):
    path = written(tmp_path, "a", scale=scale)
    with pytest.raises(
        UserError, match=rf"they seem to be in {unit}: set data.time_unit to {unit}"
    ):
        opened(path, require_labels=False)
    recording = opened(path, require_labels=False, time_unit=unit)
    assert len(recording) == 40
    assert recording.frames(0, 40).shape == (40, 20, 48, 64)
    expected = opened(written(tmp_path, "b"), require_labels=False, timing="window")
    ours = opened(path, require_labels=False, time_unit=unit, timing="window")
    difference = ours.frames(1, 39).astype(int).sum() - expected.frames(1, 39).astype(int).sum()
    assert abs(difference) < 2000  # milliseconds move events across bounds
    as_said = opened(path, require_labels=False, time_unit="us")
    assert len(as_said) == {"ms": 1, "ns": 39_998}[unit]


def test_labels_that_show_the_unit_name_it(tmp_path):
    times = np.arange(100_000, 2_000_000, 100_000)
    path = written(tmp_path, "few", boxes_at(times), scale=1 / 1000, num_events=900)
    with pytest.raises(UserError, match=r"timestamps seem to be in ms: set data.time_unit to ms"):
        opened(path)
    recording = opened(path, time_unit="ms")
    assert len(recording.label_boxes) == 19
    in_ms = written(tmp_path, "both", boxes_at(times // 1000), scale=1 / 1000)
    assert opened(in_ms, time_unit="ms").label_boxes["t"].tolist() == times.tolist()


def test_seconds_with_fractions_are_inferred_and_said(tmp_path):
    events = random_events(40_000, 2.0, SIZE)
    expected = opened(write_raw(tmp_path, "a", events, size=SIZE), False).frames(0, 40)
    events["t"] = events["t"] / 1e6
    recording = opened(write_raw(tmp_path, "b", events, size=SIZE), False)
    assert [note.message for note in recording.notes] == [
        "its timestamps are in s, by span and rate (data.time_unit)"
    ]
    np.testing.assert_array_equal(recording.frames(0, 40), expected)
    few = {name: column[:500] for name, column in events.items()}
    with pytest.raises(UserError, match="got fractions, such as .*: set data.time_unit to their"):
        opened(write_raw(tmp_path, "c", few, size=SIZE), False)


def test_microseconds_with_fractions_are_read_where_they_are_no_milliseconds(tmp_path):
    events = random_events(5000, 1.0, SIZE)
    expected = opened(write_raw(tmp_path, "a", events, size=SIZE), False).frames(0, 20)
    few, many = ({**each, "t": each["t"] + 0.25} for each in (events, random_events(60_000, 1.0)))
    recording = opened(write_raw(tmp_path, "b", few, size=SIZE), False)
    assert [note.message for note in recording.notes] == [
        "its timestamps are in us, by span and rate (data.time_unit)"
    ]
    np.testing.assert_array_equal(recording.frames(0, 20), expected)
    with pytest.raises(UserError, match=r"got fractions, .* data.time_unit to .*, s, ms or us$"):
        opened(write_raw(tmp_path, "c", many, size=SIZE), False)


@pytest.mark.parametrize(("unit", "factor"), [("ms", 1e-3), ("ns", 1e3), ("s", 1e-6)])
def test_label_times_in_another_unit_are_refused(tmp_path, unit, factor):
    times = np.arange(1, 600) * 33_333 * factor
    path = written(tmp_path, "a", boxes_at(times.astype(np.int64)), seconds=20.0)
    message = (
        rf"a_bbox.npy: label times must be in microseconds, got .* seem to be in {unit}: write"
    )
    with pytest.raises(UserError, match=message):
        opened(path)


def test_times_of_one_frame_that_differ_by_microseconds_are_one(tmp_path):
    times = np.repeat(np.arange(100_000, 2_000_000, 100_000), 4)
    exact = boxes_at(times, class_id=np.tile([0, 1, 3, 5], 19))
    rounded = exact.copy()
    rounded["t"] += np.tile([0, 3, 1, 2], 19)
    ours, theirs = (
        opened(written(tmp_path, name, boxes)) for name, boxes in (("a", rounded), ("b", exact))
    )
    np.testing.assert_array_equal(ours.frame_end_us, theirs.frame_end_us)
    np.testing.assert_array_equal(ours.label_frame, theirs.label_frame)
    assert len(ours.label_boxes) == len(theirs.label_boxes) == 76
    assert ours.boxes(1)[1].tolist() == [0, 3, 5, 1]  # in the order of their times
    spread = exact.copy()
    spread["t"] += np.tile([0, 600, 1200, 1900], 19)
    assert len(opened(written(tmp_path, "e", spread)).label_boxes) == 76
    apart = opened(written(tmp_path, "c", rounded), jitter_ms=0)
    assert len(apart.label_boxes) == 19
    fast = boxes_at(np.arange(100_000, 1_900_000, 1_000))  # 1000 labelled times a second
    assert len(opened(written(tmp_path, "d", fast)).label_boxes) == 19


def test_labels_without_events_are_counted_at_the_ends_and_in_gaps(tmp_path):
    times = np.arange(100_000, 3_000_000, 100_000)
    events = random_events(40_000, 2.0, SIZE)
    paused = (events["t"] < 700_000) | (events["t"] > 1_150_000)
    events = {name: column[paused] for name, column in events.items()}
    recording = opened(write_raw(tmp_path, "a", events, boxes_at(times), SIZE))
    assert len(recording.label_boxes) == 29
    assert recording.labels_without_events == 9  # from 2.1 to 2.9 s, without reading the middle
    assert recording.num_events_to_index == len(events["t"])
    read = []
    recording.prepare(read.append)
    assert sum(read) == len(events["t"])
    assert recording.labels_without_events == 9 + 4  # and 0.8, 0.9, 1.0, 1.1 s
    assert recording.num_events_to_index == 0
    empty = recording.frames(0, len(recording)).sum(axis=(1, 2, 3)) == 0
    assert np.count_nonzero(empty[recording.label_frame]) == 13


def test_timestamps_that_wrap_are_refused_by_name_and_strays_are_not(tmp_path):
    events = random_events(40_000, 2.0, SIZE)
    stray = events["t"] + 2**32 - 1_000_000
    wrapped = {**events, "t": (stray % 2**32).astype(np.uint32)}
    with pytest.raises(UserError, match=r"\d us first and 999890 us last, a wrap at 32 bits: add"):
        opened(write_raw(tmp_path, "c", wrapped, size=SIZE), False)
    wrapped["t"][:3000] = np.arange(3000)
    place = int(np.argmax(stray >= 2**32))
    recording = opened(write_raw(tmp_path, "a", wrapped, size=SIZE), False, time_unit="us")
    message = (
        rf"a_td.h5: timestamps must ascend, got a wrap from \d+ to \d+ at event {place:,}: "
        r"write it with 64-bit timestamps, 4294967296 added"
    )
    with pytest.raises(UserError, match=message):
        recording.prepare()
    short = {name: column[15_000:25_000] for name, column in wrapped.items()}
    with pytest.raises(
        UserError, match=rf"d_td.h5: .* a wrap .* at event {place - 15_000:,}: write"
    ):
        opened(write_raw(tmp_path, "d", short, size=SIZE), False)
    stray[20_000:20_010] = 0
    recording = opened(write_raw(tmp_path, "b", {**events, "t": stray}, size=SIZE), False)
    recording.prepare()
    assert recording.repaired_share == 10 / 40_000


def test_gaps_of_minutes_are_read_to_the_end(tmp_path):
    events = random_events(40_000, 2.0, SIZE)
    events["t"][20_000:] += 600_000_000
    recording = opened(write_raw(tmp_path, "a", events, size=SIZE), False)
    assert len(recording) == 12_040
    frames = [recording.frames(i, i + 1).sum() for i in (0, 18, 6000, 12_022, 12_039)]
    assert [each > 0 for each in frames] == [True, True, False, True, True]


def test_labels_before_the_first_event_are_left_out_and_said(tmp_path):
    times = np.arange(100_000, 6_000_000, 100_000)
    path = written(tmp_path, "a", boxes_at(times), shift=5_000_000, seconds=0.9)
    recording = opened(path)
    assert recording.frame_end_us[0] - 50_000 >= 5_000_000
    assert recording.dropped["boxes: before the first event"] == 50
    assert recording.dropped["boxes: between label times"] == 0
    assert len(recording.label_boxes) == 9
    (note,) = recording.notes
    assert note.message == "50 boxes before the first event are left out"
    assert note.doubtful


@pytest.mark.parametrize("strays", [1, 7])
def test_few_events_hours_before_all_others_do_not_start_the_recording(tmp_path, strays):
    events = random_events(40_000, 2.0, SIZE)
    events["t"] += OFFSET_US
    events["t"][:strays] = np.arange(strays)
    times = np.arange(100_000, 2_000_000, 100_000) + OFFSET_US
    recording = opened(write_raw(tmp_path, "a", events, boxes_at(times), SIZE))
    assert len(recording) == 37
    assert [note.message for note in recording.notes] == [
        f"its first {strays} events lie 36,607 s before the others and are left out"
    ]
    unlabelled = opened(write_raw(tmp_path, "b", events, size=SIZE), False)
    assert len(unlabelled) == 40
    assert unlabelled.frames(0, 40).sum() > 30_000


@pytest.mark.parametrize("labels_in_ms", [True, False])
def test_milliseconds_of_a_long_recording_are_seen_too(tmp_path, labels_in_ms):
    times = np.arange(100_000, 10_000_000, 100_000)
    boxes = boxes_at(times // 1000 if labels_in_ms else times)
    path = written(tmp_path, "a", boxes, scale=1 / 1000, num_events=300_000, seconds=10.0)
    for require_labels in (True, False):
        with pytest.raises(UserError, match=r"seem to be in ms: set data.time_unit to ms"):
            opened(path, require_labels)
    assert len(opened(path, time_unit="ms").label_boxes) == 99


@pytest.mark.parametrize("labels_in_ns", [True, False])
def test_nanoseconds_at_usual_rates_are_seen_by_the_labels(tmp_path, labels_in_ns):
    times = np.arange(100_000, 4_000_000, 100_000)
    boxes = boxes_at(times * 1000 if labels_in_ns else times)
    path = written(tmp_path, "a", boxes, scale=1000, num_events=400_000, seconds=4.0)
    with pytest.raises(UserError, match=r"a_td.h5: .* seem to be in ns: set data.time_unit to ns"):
        opened(path)
    recording = opened(path, time_unit="ns")
    assert (len(recording), len(recording.label_boxes)) == (78, 39)
    (tmp_path / "a_bbox.npy").unlink()
    (note,) = opened(path, require_labels=False).notes
    assert note.doubtful
    assert "are in ns, set data.time_unit" in note.message


def test_seconds_of_a_long_recording_are_inferred_too(tmp_path):
    events = random_events(300_000, 10.0, SIZE)
    events["t"] = events["t"] / 1e6
    recording = opened(write_raw(tmp_path, "a", events, size=SIZE), False)
    assert [note.message for note in recording.notes] == [
        "its timestamps are in s, by span and rate (data.time_unit)"
    ]
    assert len(recording) == 200


def test_hours_of_empty_windows_are_doubtful(tmp_path):
    events = random_events(40_000, 2.0, SIZE)
    events["t"][20_000:] += 3600 * 10**6
    times = np.append(np.arange(100_000, 900_000, 100_000), 3_601_900_000)
    recording = opened(write_raw(tmp_path, "a", events, boxes_at(times), SIZE))
    recording.prepare()
    (note,) = recording.notes
    assert note.doubtful
    assert note.message.startswith("71,999 of its 72,038 windows hold no event, as in a pause or")


def test_a_label_long_behind_the_events_does_not_make_windows(tmp_path):
    times = np.append(np.arange(100_000, 2_000_000, 100_000), 36_000_000_000)
    recording = opened(written(tmp_path, "a", boxes_at(times)))
    assert len(recording) == 38
    assert recording.dropped["boxes: long after the last event"] == 1
    assert [note.message for note in recording.notes] == [
        "1 boxes long after the last event are left out"
    ]


def test_boxes_without_a_time_are_counted(tmp_path):
    boxes = boxes_at(np.arange(100_000, 2_000_000, 100_000))
    fields = [(name, "<f8" if name == "t" else boxes.dtype[name]) for name in boxes.dtype.names]
    untimed = boxes.astype(fields)
    untimed["t"][::2] = np.nan
    recording = opened(written(tmp_path, "a", untimed))
    assert recording.dropped["boxes: without a time"] == 10
    assert [note.doubtful for note in recording.notes] == [True]
    untimed["t"] = np.inf
    path = written(tmp_path, "b", untimed)
    settings = LabelSettings(keep_unlabelled=True)
    with pytest.raises(UserError, match=r"b_bbox.npy: boxes must have times, got 19 without"):
        RawRecording(path, tmp_path / "b_bbox.npy", "train", FrameSettings(), settings)


def test_few_labels_at_the_start_of_a_long_recording_are_no_other_unit(tmp_path):
    busy, quiet = random_events(400_000, 1.0, SIZE), random_events(1_000, 299.0, SIZE)
    quiet["t"] += 1_000_000
    events = {name: np.append(column, quiet[name]) for name, column in busy.items()}
    boxes = boxes_at([100_000, 200_000, 300_000])
    recording = opened(write_raw(tmp_path, "a", events, boxes, SIZE))
    assert len(recording.label_boxes) == 3
