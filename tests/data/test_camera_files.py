"""Files of cameras, written here by encoders of their published formats, and two real ones."""

import os
import pickle
from pathlib import Path

import eventcv
import h5py
import numpy as np
import pytest

from etram_det.data import camera_formats
from etram_det.data.camera_files import CameraRecording
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings, open_recording
from etram_det.data.recording import NoLabels
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.camera_files import ENCODERS, dat, evt2, evt3
from support.raw_files import boxes_at, random_events, write_raw

FRAMES = FrameSettings(input_size=(24, 32), clock="camera")
RECORDINGS = os.environ.get("ETRAM_DET_RECORDINGS", "")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def columns_of(recording):
    with h5py.File(recording.path) as file:
        return {name: file[f"events/{name}"][:] for name in "xytp"}


@pytest.mark.parametrize("name", [*ENCODERS, "dv.aedat4"])
def test_decoded_events_are_those_encoded(tmp_path, name):
    events = random_events(5000, seconds=1.3)
    path = tmp_path / name
    if name in ENCODERS:
        path.write_bytes(ENCODERS[name](events))
    else:
        rows = np.stack([events[column].astype(np.int64) for column in "xytp"], axis=1)
        eventcv.from_numpy(rows, sensor_size=(64, 48), time_unit="us").save(str(path))
    recording = open_recording(path, FRAMES)
    assert isinstance(recording, CameraRecording)
    assert (recording.name, recording.sensor_size) == (path.stem, (48, 64))
    decoded = columns_of(recording)
    for column, values in events.items():
        np.testing.assert_array_equal(decoded[column], values)
    raw = open_recording(write_raw(tmp_path, "same", events), FRAMES)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(recording)).frames(0, len(raw)), raw.frames(0, len(raw))
    )


def test_evt3_vectors_are_many_events(tmp_path):
    words = [0x8001, 0x6002, 0x0007, 0x3 << 12 | 1 << 11 | 20, 0x4 << 12 | 0b100000000101]
    words += [0x5 << 12 | 0b10000001]
    path = tmp_path / "a.raw"
    path.write_bytes(b"% evt 3.0\n% geometry 64x48\n" + np.array(words, "<u2").tobytes())
    decoded = columns_of(open_recording(path, FRAMES))
    assert decoded["x"].tolist() == [20, 22, 31, 32, 39]
    assert decoded["t"].tolist() == [4098] * 5
    assert decoded["p"].tolist() == [1] * 5


def test_blocks_leave_no_trace(tmp_path, monkeypatch):
    # A vector and a repeated TIME_HIGH, after which the lower part of the time stays.
    words = [0x8001, 0x6002, 0x0007, 0x3014, 0x4FFF, 0x8001, 0x4801, 0x8002, 0x5081, 0x2805]
    path = tmp_path / "a.raw"
    path.write_bytes(b"% evt 3.0\n% geometry 64x48\n" + np.array(words, "<u2").tobytes())
    monkeypatch.setattr(camera_formats, "_BLOCK", 4)
    decoded = columns_of(open_recording(path, FRAMES))
    assert decoded["x"].tolist() == [*range(20, 32), 32, 43, 44, 51, 5]
    assert decoded["t"].tolist() == [4098] * 14 + [8192] * 3
    assert decoded["p"].tolist() == [0] * 16 + [1]


START = {"t": np.array([0x25 << 12]), **{name: np.array([1]) for name in "xyp"}}
START_EVT2 = START | {"t": np.array([0x25 << 6])}
FULL = b"% evt 3.0\n% date 2023-03-29\n% geometry 64x48\n"


@pytest.mark.parametrize(
    ("name", "header", "data"),
    [
        ("a.raw", FULL + b"% end\n", evt3(START, b"")),
        ("a.raw", FULL, evt3(START, b"")),
        ("a.raw", FULL.replace(b"% ", b"%"), evt3(START, b"")),
        ("a.raw", FULL.replace(b"\n", b"\r\n") + b"% end\r\n", evt3(START, b"")),
        # An event at x = 37 as the first word: a per cent sign and a blank.
        ("a.raw", FULL + b"% end\n", np.array([0x2025], "<u2").tobytes() + evt3(START, b"")),
        ("a.raw", b"% evt 2.0\n% geometry 64x48\n% end\n", evt2(START_EVT2, b"")),
        ("a.raw", b"% evt 2.0\n% geometry 64x48\n", evt2(START_EVT2, b"")),
        ("a.dat", b"% Version 2\n% Height 48\n% Width 64\n", b"%" + dat(START, b"")[1:]),
        ("a.dat", b"% Height 48\n% Width 64\n% end\n", dat(START, b"")),
    ],
)
def test_data_may_begin_with_a_per_cent_sign(tmp_path, name, header, data):
    """Such data are no header, or its first line would be taken off them."""
    more = random_events(300)
    more["t"] += 200_000
    encode = dat if name == "a.dat" else evt2 if b"evt 2" in header else evt3
    rest = encode(more, b"")[2 if name == "a.dat" else 0 :]
    (tmp_path / name).write_bytes(header + data + rest)
    recording = open_recording(tmp_path / name, FRAMES)
    decoded = columns_of(recording)
    assert recording.sensor_size == (48, 64)
    first = 0x25 << (6 if b"evt 2" in header else 12)
    assert decoded["t"].tolist() == [first, *more["t"].tolist()]
    assert decoded["x"].tolist() == [1, *more["x"].tolist()]


CLOCK = "(data.clock)"


@pytest.mark.parametrize("name", ENCODERS)
def test_the_clock_is_the_recordings_or_the_cameras(tmp_path, name):
    events = random_events(2000)
    start_us = {"evt3.raw": 1570 << 12, "evt2.raw": 100_480 << 6, "cd.dat": 0}[name]
    camera = events | {"t": events["t"] + 6_430_720}
    (tmp_path / name).write_bytes(ENCODERS[name](camera))
    kept = open_recording(tmp_path / name, FRAMES)
    shifted = open_recording(tmp_path / name, FrameSettings(input_size=(24, 32)))
    np.testing.assert_array_equal(columns_of(kept)["t"], camera["t"])
    np.testing.assert_array_equal(columns_of(shifted)["t"], camera["t"] - start_us)
    assert [note.message for note in (*kept.notes, *shifted.notes) if CLOCK in note.message] == (
        [
            "times are those of the camera's clock, which is at 6.430720 s when the recording "
            "starts (data.clock)",
            "times count from the recording's start: 6.430720 s of the camera's clock are taken "
            "off (data.clock)",
        ]
        if start_us
        else []
    )
    assert not any(note.doubtful for note in shifted.notes)


def test_boxes_of_the_recordings_clock_meet_the_events(tmp_path):
    """A blob moves right, and a box that counts from the recording's start follows it."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 2_000_000, 4000))
    x, y = (2 + 20 * t / 1e6 + rng.integers(0, 8, 4000)).astype(int), rng.integers(20, 28, 4000)
    camera = {"x": x, "y": y, "p": t % 2, "t": t + (1570 << 12)}
    times = np.arange(100_000, 2_000_000, 100_000)
    boxes = boxes_at(times, x=2 + 20 * times / 1e6, y=20, w=8, h=8)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.raw").write_bytes(evt3(camera))
    np.save(tmp_path / "train" / "a_bbox.npy", boxes)
    settings = FrameSettings(input_size=(48, 64))
    (recording,) = find_recordings(tmp_path, "train", settings, LabelSettings())
    assert len(recording.label_boxes) == 19
    for frame in np.flatnonzero(recording.labelled):
        counts = recording.frames(frame, frame + 1)[0].sum(axis=0)
        (corners,), _ = recording.boxes(frame)
        left, right = int(corners[0]) - 1, int(corners[2]) + 2
        assert counts.sum() > 50
        assert counts[20:28, left:right].sum() == counts.sum()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_clock_that_starts_anew_goes_on(tmp_path, name):
    """EVT3's after 16.8 s, DAT's after 71.6 minutes, EVT2's after 4.8 hours; with pauses."""
    bits = {"evt3.raw": 24, "evt2.raw": 34, "cd.dat": 32}[name]
    events = random_events(2000)
    steps = np.full(2000, 2**bits // 700)
    steps[[300, 900]] = 2**bits // 4
    events["t"] = 2**bits - 2**bits // 100 + np.cumsum(steps)
    (tmp_path / name).write_bytes(ENCODERS[name](events))
    settings = FrameSettings(input_size=(24, 32), window_ms=60_000, clock="camera")
    decoded = open_recording(tmp_path / name, settings)
    np.testing.assert_array_equal(columns_of(decoded)["t"], events["t"])
    times = int(events["t"][-1]) >> bits
    assert times >= 3
    assert (
        f"its {bits}-bit clock starts anew {times} times: later timestamps continue those before"
        in [note.message for note in decoded.notes]
    )


def test_events_late_across_a_wrap_stay_before_it(tmp_path):
    events = random_events(6)
    events["t"] = 2**32 + np.array([-30, -20, 10, -5, 20, 30])
    (tmp_path / "a.dat").write_bytes(dat(events))
    decoded = open_recording(tmp_path / "a.dat", FRAMES)
    np.testing.assert_array_equal(columns_of(decoded)["t"], events["t"])


@pytest.mark.parametrize("bits", [0b1, 0b10, 0b11, 0b111])
@pytest.mark.parametrize(("name", "lowest"), [("cd.dat", 29), ("evt2.raw", 31)])
def test_a_damaged_timestamp_is_no_wrap(tmp_path, name, lowest, bits):
    events = random_events(300)
    whole = events["t"].copy()
    events["t"][100] |= bits << lowest
    (tmp_path / name).write_bytes(ENCODERS[name](events))
    decoded = columns_of(open_recording(tmp_path / name, FRAMES))
    np.testing.assert_array_equal(np.delete(decoded["t"], 100), np.delete(whole, 100))


def test_aedat4_is_used_up_to_the_cut(tmp_path):
    events = random_events(200_000)
    rows = np.stack([events[column].astype(np.int64) for column in "xytp"], axis=1)
    path = tmp_path / "a.aedat4"
    eventcv.from_numpy(rows, sensor_size=(64, 48), time_unit="us").save(str(path))
    intact = path.read_bytes()
    assert not open_recording(path, FRAMES).notes
    # Off the table of packets, off the second packet, and off the first.
    for cut, num_events, where in [
        (1, 200_000, "the table of its packets"),
        (1000, 100_000, "its packets of events"),
    ]:
        path.write_bytes(intact[:-cut])
        recording = open_recording(path, FRAMES)
        decoded = columns_of(recording)
        for column, values in events.items():
            np.testing.assert_array_equal(decoded[column], values[:num_events])
        message = f"it ends within {where}: it was cut short, and what comes before is used"
        assert [(note.message, note.doubtful) for note in recording.notes] == [(message, True)]
        assert not list((tmp_path / "cache" / "camera_files").glob(".*"))
    path.write_bytes(intact[: len(intact) // 4])
    assert "must hold events, got none before it ends within its packets of events" in refusal(path)
    path.write_bytes(intact[:500])
    assert "cannot be decoded (its header: the file ends within it)" in refusal(path)


def test_events_outside_the_sensor_are_counted(tmp_path):
    events = random_events(300)
    events["x"][[5, 50]], events["y"][7] = 1500, 48
    (tmp_path / "a.raw").write_bytes(evt2(events))
    recording = open_recording(tmp_path / "a.raw", FRAMES)
    assert recording.frames(0, len(recording)).sum() >= 297
    assert recording.dropped == {"events: outside the sensor": 3}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (b"% evt 2.0\n% plugin_name hal_plugin_gen3_fx3\n", (480, 640)),
        (b"% evt 2.0\n% plugin_name hal_plugin_gen41_evk3\n", (720, 1280)),
        (b"% format EVT2;width=100;height=60\n", (60, 100)),
        (b"% evt 2.0\n", (50, 70)),
    ],
)
def test_the_sensor_is_the_headers_or_the_settings(tmp_path, header, size):
    (tmp_path / "a.raw").write_bytes(evt2(random_events(300), header))
    frames = FrameSettings(sensor_size=(50, 70))
    assert open_recording(tmp_path / "a.raw", frames).sensor_size == size


def test_labelled_camera_files_train_like_any_other(tmp_path):
    events, boxes = random_events(3000), boxes_at([100_000, 200_000])
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "one_td.dat").write_bytes(dat(events))
    np.save(folder / "one_bbox.npy", boxes)
    (ours,) = find_recordings(tmp_path, "train", FRAMES, LabelSettings())
    write_raw(tmp_path / "raw" / "train", "one", events, boxes)
    (theirs,) = find_recordings(tmp_path / "raw", "train", FRAMES, LabelSettings())
    assert ours.name == theirs.name == "one"
    (tmp_path / "TWO_TD.DAT").write_bytes(dat(events))
    assert open_recording(tmp_path / "TWO_TD.DAT", FRAMES).name == "TWO"
    np.testing.assert_array_equal(ours.frames(0, 4), theirs.frames(0, 4))
    np.testing.assert_array_equal(ours.label_boxes, theirs.label_boxes)
    (folder / "one_bbox.npy").unlink()
    with pytest.raises(NoLabels, match=r"one_td.dat: its boxes must be in one_bbox.npy"):
        find_recordings(tmp_path, "train", FRAMES, LabelSettings())


def test_files_without_a_split_will_do_for_prediction(tmp_path):
    for name, encode in ENCODERS.items():
        (tmp_path / name).write_bytes(encode(random_events(300)))
    write_raw(tmp_path, "hdf5", random_events(300))
    found = find_recordings(tmp_path, "test", FRAMES, LabelSettings(), require_labels=False)
    assert [each.name for each in found] == ["cd", "evt2", "evt3", "hdf5"]
    alone = find_recordings(
        tmp_path / "cd.dat", "test", FRAMES, LabelSettings(), require_labels=False
    )
    assert [each.name for each in alone] == ["cd"]
    with pytest.raises(UserError, match="data.root: no test recordings"):
        find_recordings(tmp_path, "test", FRAMES, LabelSettings())


def test_a_file_is_decoded_once(tmp_path):
    path = tmp_path / "a.raw"
    path.write_bytes(evt2(random_events(300)))
    first = open_recording(path, FRAMES)
    decoded = first.path.stat().st_mtime_ns
    assert open_recording(path, FRAMES).path == first.path
    assert first.path.stat().st_mtime_ns == decoded
    path.write_bytes(evt2(random_events(400)))
    assert open_recording(path, FRAMES).path != first.path


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_recording(path, FRAMES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_decoded_is_refused_by_name(tmp_path):
    path = tmp_path / "a.raw"
    for header in (b"% evt 2.1\n% geometry 64x48\n", b"% format EVT21;height=48;width=64\n"):
        path.write_bytes(header + bytes(4000))
        assert "got encoding EVT 2.1: write it as DAT with OpenEB's metavision_file_to" in (
            refusal(path)
        )
    for content in (b"", b"nothing of the kind"):
        path.write_bytes(content)
        assert "got no header that names its encoding" in refusal(path)
    path.write_bytes(evt2(random_events(0)))
    assert "must hold events, got none" in refusal(path)
    with h5py.File(tmp_path / "coded.hdf5", "w") as file:
        fields = np.dtype([("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((3,))
        properties.set_filter(36559, h5py.h5z.FLAG_OPTIONAL)  # Prophesee's
        space = h5py.h5s.create_simple((3,))
        group = file.create_group("CD")
        kind = h5py.h5t.py_create(fields)
        h5py.h5d.create(group.id, b"events", kind, space, properties)
    assert "ECF filter, cannot be read: write it as DAT" in refusal(tmp_path / "coded.hdf5")
    (tmp_path / "a.dat").write_bytes(b"abc")
    (tmp_path / "a.aedat4").write_bytes(b"#!AER-DAT4.0\r\nxx")
    (tmp_path / "a.bag").write_bytes(b"")
    assert "cannot be decoded" in refusal(tmp_path / "a.aedat4")
    refusal(tmp_path / "a.dat")
    assert "must be a file of events: use .h5, .hdf5, .raw, .dat, .aedat4" in (
        refusal(tmp_path / "a.bag")
    )
    assert "got no such file" in refusal(tmp_path / "missing.raw")


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a.raw").write_bytes(evt2(random_events(300)))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "file"))
    assert "set ETRAM_DET_CACHE to another folder" in refusal(tmp_path / "a.raw")


@pytest.mark.parametrize("name", ENCODERS)
def test_a_file_that_ends_within_an_event_is_reported(tmp_path, name):
    intact = ENCODERS[name](random_events(2000))
    path = tmp_path / name
    path.write_bytes(intact)
    intact_recording = open_recording(path, FRAMES)
    whole = columns_of(intact_recording)
    assert not [note for note in intact_recording.notes if note.doubtful]
    path.write_bytes(intact[:-1])
    cut = columns_of(open_recording(path, FRAMES))
    message = "it ends within an event: it was cut short, and what comes before is used"
    notes = open_recording(path, FRAMES).notes
    assert [note.message for note in notes if note.doubtful] == [message]
    assert 1900 < len(cut["t"]) < 2000
    for column, values in cut.items():
        np.testing.assert_array_equal(values, whole[column][: len(values)])


@pytest.mark.parametrize("name", ENCODERS)
def test_damaged_files_end_in_frames_or_one_line(tmp_path, name):
    intact = ENCODERS[name](random_events(2000))
    rng = np.random.default_rng(0)
    path = tmp_path / name
    for i in range(25):
        content = bytearray(intact)
        if i % 3 == 0:
            content = content[: rng.integers(len(content))]
        for start in rng.integers(len(content) + 1, size=3):
            content[start : start + 20] = rng.bytes(len(content[start : start + 20]))
        path.write_bytes(content)
        refusal = None
        try:
            recording = open_recording(path, FRAMES)
            frames = recording.frames(0, min(len(recording), 4))
        except UserError as error:
            refusal = str(error)
        if refusal is None:
            assert frames.max(initial=0) <= 10
        else:
            assert str(path) in refusal or "data.input_size" in refusal
            assert "\n" not in refusal


@pytest.mark.skipif(not RECORDINGS, reason="ETRAM_DET_RECORDINGS names no folder")
@pytest.mark.parametrize(
    ("name", "size", "number", "first", "last"),
    [
        (
            "evt3_sample.raw",
            (720, 1280),
            219_596,
            (874, 200, 11_718_656, 0),
            (1218, 572, 11_727_457, 1),
        ),
        (
            "evt2_sample.raw",
            (480, 640),
            539_481,
            (237, 121, 1_317_888, 1),
            (210, 142, 1_367_888, 1),
        ),
    ],
)
def test_real_recordings_have_the_events_that_openeb_finds(name, size, number, first, last):
    recording = open_recording(Path(RECORDINGS) / name, FrameSettings(clock="camera"))
    columns = columns_of(recording)
    assert recording.sensor_size == size
    assert len(columns["t"]) == number
    for place, event in ((0, first), (-1, last)):
        assert tuple(int(columns[column][place]) for column in "xytp") == event
    frames = recording.frames(0, len(recording))
    assert frames.shape[0] == (last[2] - first[2]) // 50_000 + 1
    assert recording.dropped == {}
