"""Replays keep the pace of life; RAW bytes from a pipe are decoded as those of a file."""

import os
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest

from etram_det.data.camera_formats import RawFile
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.inference.live import sources
from etram_det.inference.live.sources import RawPipe, Replay, standard_input
from etram_det.inference.live.windows import WindowCutter
from support.camera_files import dat, evt2, evt3
from support.paths import ROOT
from support.raw_files import random_events, write_raw

SETTINGS = FrameSettings(input_size=(24, 32))


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


class Clock:
    """A clock on which nothing but sleeping takes time."""

    def __init__(self):
        self.now_s = 50.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


def together(slices):
    """All columns, and when each event came."""
    columns = [np.concatenate(each) for each in zip(*(s.columns for s in slices), strict=True)]
    return columns, np.concatenate([[s.arrived_s] * len(s.columns[0]) for s in slices])


@pytest.mark.parametrize("pace", [1.0, 8.0])
def test_a_replay_gives_each_event_at_its_time(pace, tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(sources, "time", clock)
    events = random_events(5000, 1.0)
    events["t"] += 7_000_000
    events["t"][2500:] += 300_000  # a pause, in which the clock goes on
    replay = Replay(write_raw(tmp_path, "a", events), SETTINGS, "stretch", pace)
    assert (replay.sensor_size, replay.name) == ((48, 64), "a")
    slices = []
    for part in replay.slices():
        slices.append((clock.now_s, part._replace(columns=tuple(c.copy() for c in part.columns))))
    (x, y, t, p), arrived_s = together([part for _, part in slices])
    for found, name in zip((x, y, t, p), "xytp", strict=True):
        np.testing.assert_array_equal(found, events[name])
    late_s = (arrived_s - 50) - (t - t[0]) / 1e6 / pace
    assert -1e-9 <= late_s.min() <= late_s.max() <= 0.0041
    assert clock.now_s == pytest.approx(50 + (t[-1] - t[0]) / 1e6 / pace)
    for now_s, part in slices:
        assert now_s == pytest.approx(part.arrived_s)
        if part.now_us is not None:  # what it says has all come
            assert np.all(t[arrived_s > part.arrived_s] >= part.now_us)
    assert len([part for _, part in slices if len(part.columns[0]) == 0]) > 60 / pace


def test_a_window_is_over_with_the_packet_of_its_last_event(tmp_path, monkeypatch):
    """Also where a packet ends with it: it does not wait for the next packet."""
    monkeypatch.setattr(sources, "time", Clock())
    events = random_events(5000, 1.0)
    events["t"][:1] = 0
    replay = Replay(write_raw(tmp_path, "a", events), SETTINGS, "stretch", 1)
    cutter = WindowCutter(50_000)
    windows = [window for part in replay.slices() for window in cutter.add(part)]
    assert [window.end_us for window in windows] == list(range(50_000, 1_000_000, 50_000))
    for window in windows:
        assert window.over_s == pytest.approx(window.arrived_s)
        assert window.over_s - 50 - window.end_us / 1e6 <= 0.0041


def test_what_cannot_be_replayed(tmp_path):
    path = write_raw(tmp_path, "a", random_events(50))
    with pytest.raises(UserError, match=r"^pace: must be above 0, got 0: set 1"):
        Replay(path, SETTINGS, "stretch", 0)
    frames = ROOT / "tests/reference/preprocessed_etram/test/test_day_0001"
    with pytest.raises(UserError, match=r"^replay: must be a file of events, got frames"):
        Replay(frames, SETTINGS, "stretch", 1)
    with pytest.raises(UserError, match="got no such file"):
        Replay(tmp_path / "none.raw", SETTINGS, "stretch", 1)


def piped(content, sizes, clock="recording", **settings):
    """A pipe that gets these bytes in parts of these sizes, and then ends."""
    read, write = os.pipe()

    def send():
        place, number = 0, 0
        with suppress(BrokenPipeError), os.fdopen(write, "wb", buffering=0) as file:
            while place < len(content):
                size = sizes[number % len(sizes)]
                file.write(content[place : place + size])
                place, number = place + size, number + 1

    threading.Thread(target=send, daemon=True).start()
    return RawPipe(os.fdopen(read, "rb", buffering=0), clock, **settings)


@pytest.mark.parametrize("encode", [evt2, evt3])
@pytest.mark.parametrize("sizes", [(1,), (3, 5, 1001), (2**20,)])
def test_bytes_from_a_pipe_are_decoded_like_a_file(encode, sizes, tmp_path):
    events = random_events(300 if sizes == (1,) else 3000)
    events["t"] += 5_000_000
    content = encode(events)
    (tmp_path / "a.raw").write_bytes(content)
    file = RawFile(tmp_path / "a.raw")
    for clock in ("camera", "recording"):
        pipe = piped(content, sizes, clock)
        slices = [
            part._replace(columns=tuple(c.copy() for c in part.columns)) for part in pipe.slices()
        ]
        columns, _ = together(slices)
        expected = next(file.slices(tmp_path))
        shift = file.clock_start_us if clock == "recording" else 0
        for found, column, off in zip(columns, expected, (0, 0, shift, 0), strict=True):
            np.testing.assert_array_equal(found, column - off)
        assert pipe.sensor_size == file.sensor_size == (48, 64)
        assert pipe.notes == []
        times = [part.columns[2] for part in slices]
        for number, part in enumerate(slices):  # what the clock says has all come
            later = np.concatenate([*times[number + 1 :], [np.iinfo(np.int64).max]])
            assert part.now_us is None or part.now_us <= later.min()


def test_a_pipe_that_ends_within_an_event_gives_all_before(tmp_path):
    events = random_events(200)
    pipe = piped(evt2(events)[:-3], (64,))
    x = np.concatenate([part.columns[0].copy() for part in pipe.slices()])
    np.testing.assert_array_equal(x, events["x"][:-1])
    assert [note.message for note in pipe.notes] == [
        "it ends within an event: it was cut short, and what comes before is used"
    ]


def test_a_silent_pipe_gives_empty_slices():
    read, write = os.pipe()
    os.write(write, evt3(random_events(20)))
    slices = RawPipe(os.fdopen(read, "rb"), "camera").slices()
    assert len(next(slices).columns[0]) == 20
    assert len(next(slices).columns[0]) == 0
    os.close(write)
    assert next(slices, None) is None


def test_a_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as `<&-` makes it
    with pytest.raises(UserError, match=r"^standard input: must be open, got it closed: send the"):
        standard_input()


def test_sensor_of_a_pipe():
    bare = b"% evt 2.0\n"
    events = random_events(20)
    pipe = piped(evt2(events, bare), (64,))
    assert pipe.sensor_size == (720, 1280)
    assert "1280x720 px is assumed: set data.sensor_size" in pipe.notes[0].message
    assert piped(evt2(events, bare), (64,), sensor_size=(48, 64)).sensor_size == (48, 64)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "standard input: must be a RAW file of EVT 2.0 or EVT 3.0, got no header that"),
        (b"\x00" * 100, "standard input: must be a RAW file of EVT 2.0 or EVT 3.0, got no header"),
        (b"% evt 4.0\n% end\n", r"standard input: must be of EVT 2.0 or EVT 3.0, got .* EVT 4"),
        (dat(random_events(20)), "standard input: must be a RAW file of EVT 2.0 or EVT 3.0"),
        (b"% evt 3.0\n", "standard input: must hold events, got none: send the bytes of a RAW"),
    ],
)
def test_bytes_that_are_no_events(content, message):
    with pytest.raises(UserError, match=f"^{message}"):
        list(piped(content, (64,)).slices())
