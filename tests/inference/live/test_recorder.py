"""Recorded events are read back as they were; what is complete is kept."""

import errno

import numpy as np
import pytest

from etram_det.data.camera_formats import DatFile
from etram_det.errors import UserError
from etram_det.inference.live.recorder import Recorder, require_new
from etram_det.inference.writer import GrowingFile
from support.raw_files import random_events

LONG_US = 2**32


def columns_of(events):
    return tuple(events[name] for name in "xytp")


def read(path):
    file = DatFile(path)
    parts = [[column.copy() for column in part] for part in file.slices(path.parent)]
    return file, [np.concatenate(each) for each in zip(*parts, strict=True)]


def test_events_are_read_back(tmp_path):
    events = random_events(3000)
    events["t"] += LONG_US - 500_000  # the format's clock starts anew, and is continued
    path = tmp_path / "new" / "a.dat"
    recorder = Recorder(path, (48, 64))
    for start in range(0, 3000, 700):
        recorder.add(tuple(column[start : start + 700] for column in columns_of(events)))
    assert not path.exists()
    recorder.finish()
    assert [each.name for each in path.parent.iterdir()] == ["a.dat"]
    file, columns = read(path)
    assert file.sensor_size == (48, 64)
    assert file.num_wraps == 1
    assert recorder.num_events == 3000
    for found, name in zip(columns, "xytp", strict=True):
        np.testing.assert_array_equal(found, events[name])


def test_what_the_format_cannot_hold_is_left_out_not_wrapped(tmp_path):
    recorder = Recorder(tmp_path / "a.dat", (48, 64))
    x = np.array([5, 2**14, -1, 6])
    recorder.add((x, np.array([1, 1, 1, 33014]), np.arange(4), np.array([1, 1, 1, -1])))
    recorder.add((np.array([7]), np.array([2]), np.array([4]), np.array([-1])))
    recorder.finish()
    _, (x, y, t, p) = read(tmp_path / "a.dat")
    assert (x.tolist(), y.tolist(), t.tolist(), p.tolist()) == ([5, 7], [1, 2], [0, 4], [1, 0])


def test_a_full_disk_keeps_what_is_complete(tmp_path, monkeypatch):
    events, write = random_events(3000), GrowingFile.write

    def full(self, part):
        if self._file.tell() > 8_000:
            self._file.write(part[:13])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, part)

    recorder = Recorder(tmp_path / "a.dat", (48, 64))
    monkeypatch.setattr(GrowingFile, "write", full)
    for start in range(0, 3000, 700):
        recorder.add(tuple(column[start : start + 700] for column in columns_of(events)))
    monkeypatch.undo()
    recorder.finish()
    assert recorder.error.strerror == "No space left on device"
    file, (_, _, t, _) = read(tmp_path / "a.dat")
    assert recorder.num_events == 1400
    assert file.cut_within is None
    np.testing.assert_array_equal(t, events["t"][:1400])


def test_no_file_without_events(tmp_path):
    recorder = Recorder(tmp_path / "a.dat", (48, 64))
    assert len(list(tmp_path.iterdir())) == 1
    recorder.finish()
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"^record: must be a .dat file, got a.h5: use a.dat$"):
        require_new(tmp_path.__class__("a.h5"))
    (tmp_path / "a.dat").write_bytes(b"of before")
    with pytest.raises(UserError, match="^record: must be a new file, got .*a.dat, which is there"):
        Recorder(tmp_path / "a.dat", (48, 64))
    assert (tmp_path / "a.dat").read_bytes() == b"of before"
    with pytest.raises(UserError, match="^record: .*b.dat cannot be written"):
        Recorder(tmp_path / "a.dat" / "b.dat", (48, 64))
