"""Windows of a stream are those of the same events in a file."""

import numpy as np
import pytest

from etram_det.data.layouts import open_recording
from etram_det.data.representation import FrameSettings
from etram_det.inference.live.frame_maker import FrameMaker
from etram_det.inference.live.windows import Slice, WindowCutter
from support.raw_files import random_events, write_raw

SETTINGS = FrameSettings(input_size=(24, 32), window_ms=10)
WINDOW_US = 10_000


def columns_of(events):
    return tuple(np.asarray(events[name]) for name in "xytp")


def sliced(events, sizes, seed=0):
    """The events in packets of random sizes, each an arrival of its own."""
    random, start, number = np.random.default_rng(seed), 0, 0
    while start < len(events["t"]):
        stop = start + int(random.integers(*sizes))
        yield Slice(tuple(column[start:stop] for column in columns_of(events)), float(number))
        start, number = stop, number + 1


def at(*times, **slice_fields):
    """A slice of events at these times."""
    t = np.array(times, np.int64)
    same = np.zeros(len(t), np.uint16)
    return Slice((same, same, t, same), slice_fields.pop("arrived_s", 1.0), **slice_fields)


def ends(windows):
    return [(window.end_us, window.columns[2].tolist()) for window in windows]


@pytest.mark.parametrize("sizes", [(1, 4), (1, 400), (6000, 6001)])
def test_windows_are_those_of_a_file(sizes, tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    events = random_events(6000, 0.2)
    events["t"][1000] = 3  # timestamps that go back are repaired
    events["t"][2000:2010] -= 20_000
    events["t"][3000:] += 35_000  # three windows hold nothing
    events["t"][4000:4005] = events["t"][0] + 150_000  # two windows hold these
    events["t"][4005:] = np.maximum(events["t"][4005:], events["t"][4004])
    recording = open_recording(write_raw(tmp_path, "a", events), SETTINGS)
    cutter, maker = WindowCutter(WINDOW_US), FrameMaker((48, 64), SETTINGS, "stretch")
    found = [window for part in sliced(events, sizes) for window in cutter.add(part)]
    found += cutter.finish()
    assert [window.end_us for window in found] == recording.frame_end_us.tolist()
    assert [window.is_first for window in found] == [True] + [False] * (len(recording) - 1)
    frames = np.stack([maker.frame(window) for window in found])
    np.testing.assert_array_equal(frames, recording.frames(0, len(recording)))
    maker.count_repaired(cutter)
    assert (maker.events, maker.dropped) == (recording.events, recording.dropped | maker.dropped)
    assert maker.repaired_share == recording.repaired_share > 0


def test_a_window_is_over_once_the_clock_is_past_its_end():
    cutter = WindowCutter(WINDOW_US)
    assert ends(cutter.add(at(500_100, 510_100, now_us=510_100))) == []  # more may come then
    assert ends(cutter.add(at(510_100, 510_100))) == []
    assert ends(cutter.add(at(now_us=510_101))) == [(510_100, [500_100, 510_100, 510_100, 510_100])]
    # What lies on the border is in both.
    assert ends(cutter.add(at(520_101))) == [(520_100, [510_100, 510_100, 510_100])]
    following = [(530_100, [520_101]), (540_100, []), (550_100, [])]
    assert ends(cutter.add(at(now_us=550_200))) == following
    assert ends(cutter.finish()) == []


@pytest.mark.parametrize(
    ("first_us", "end_us"),
    [(0, 10_000), (100, 10_000), (99_999, 100_000), (100_000, 110_000), (-5, 9_995)],
)
def test_the_first_window_starts_at_a_whole_one_or_at_a_late_first_event(first_us, end_us):
    cutter = WindowCutter(WINDOW_US)
    assert ends(cutter.add(at(first_us, now_us=end_us + 1))) == [(end_us, [first_us])]


def test_the_last_window_is_the_one_with_the_last_event():
    cutter = WindowCutter(WINDOW_US)
    list(cutter.add(at(0, 10_000)))
    assert ends(cutter.finish()) == [(10_000, [0, 10_000]), (20_000, [10_000])]
    assert ends(WindowCutter(WINDOW_US).finish()) == []


def test_arrival_is_that_of_the_last_event():
    cutter = WindowCutter(WINDOW_US)
    arrivals = []
    for events in (
        at(0, arrived_s=1.0),
        at(9_000, arrived_s=2.0),
        at(now_us=9_999, arrived_s=3.0),
        at(10_001, arrived_s=4.0),  # in the second window
        at(now_us=30_001, arrived_s=5.0),  # the third one is empty
        at(39_000, 41_000, arrived_s=6.0),
    ):
        arrivals += [(window.arrived_s, window.over_s) for window in cutter.add(events)]
    assert arrivals == [(2.0, 4.0), (4.0, 5.0), (5.0, 5.0), (6.0, 6.0)]


def test_windows_of_which_events_were_lost_are_left_out_and_counted():
    cutter = WindowCutter(WINDOW_US)
    assert ends(cutter.add(at(0, 4_000, 12_000))) == [(10_000, [0, 4_000])]
    assert ends(cutter.add(at(is_behind_loss=True, now_us=15_000))) == []
    assert ends(cutter.add(at(25_000, 29_000))) == []  # the second and third window
    assert cutter.num_lost == 2
    assert ends(cutter.add(at(30_000, 41_000))) == [(40_000, [30_000])]
    assert ends(cutter.add(at(60_000, is_behind_loss=True))) == []
    assert cutter.num_lost == 4
    assert ends(cutter.add(at(70_001))) == [(70_000, [60_000])]
    # A second loss in a window costs no other one.
    for time_us in (72_000, 75_000):
        assert ends(cutter.add(at(time_us, is_behind_loss=True))) == []
    assert cutter.num_lost == 5
    assert ends(cutter.add(at(81_000, 90_001))) == [(90_000, [81_000])]


@pytest.mark.parametrize("jump_us", [-2_000_000, 61_000_000])
def test_windows_start_anew_where_a_cameras_clock_jumps(jump_us):
    later = 5_000_000 + jump_us
    cutter = WindowCutter(WINDOW_US, may_reset=True)
    list(cutter.add(at(4_995_000, 5_000_000)))
    assert ends(cutter.add(at(later))) == []
    (window,) = cutter.add(at(later + 10_001))
    assert (window.end_us, window.is_first, cutter.num_resets) == (later + 10_000, True, 1)
    # In a recording there is but one clock.
    cutter = WindowCutter(WINDOW_US)
    list(cutter.add(at(4_995_000, 5_000_000)))
    list(cutter.add(at(later)))
    assert cutter.num_resets == 0


def test_a_silent_camera_is_no_jump_of_its_clock():
    cutter = WindowCutter(WINDOW_US, may_reset=True)
    list(cutter.add(at(0)))
    for now_us in range(0, 90_000_000, 100_000):
        list(cutter.add(at(now_us=now_us)))
        list(cutter.add(at()))  # without word of the clock
    windows = [*cutter.add(at(89_905_000, 89_915_000))]
    assert ends(windows) == [(89_900_000, []), (89_910_000, [89_905_000])]
    assert (windows[1].is_first, cutter.num_resets) == (False, 0)


def test_memory_is_that_of_the_window_that_is_not_over():
    cutter = WindowCutter(WINDOW_US)
    for start in range(0, 10_000_000, 5_000):
        list(cutter.add(at(*range(start, start + 5_000, 50))))
        assert sum(len(part[2]) for part in cutter._parts) <= 301
