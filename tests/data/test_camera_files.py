"""Files of cameras, written here by encoders of their published formats, and two real ones."""

import os
import pickle
from pathlib import Path

import eventcv
import h5py
import numpy as np
import pytest

from etram_det.data.camera_files import CameraRecording
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings, open_recording
from etram_det.data.recording import NoLabels
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from support.camera_files import ENCODERS, dat, evt2
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
        file["CD/events"] = np.zeros(3, [("x", "u2"), ("y", "u2"), ("p", "i2"), ("t", "i8")])
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
def test_a_file_that_ends_within_an_event_is_reported(tmp_path, caplog, name):
    intact = ENCODERS[name](random_events(2000))
    path = tmp_path / name
    path.write_bytes(intact)
    whole = columns_of(open_recording(path, FRAMES))
    assert not [line for line in caplog.messages if "cut short" in line]
    path.write_bytes(intact[:-1])
    cut = columns_of(open_recording(path, FRAMES))
    assert f"{path}: ends within an event" in caplog.text
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
