import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data.representation import (
    FrameSettings,
    Representation,
)
from etram_det.errors import UserError
from support import paths
from support.plain_histogram import oracle

REFERENCE = np.load(paths.REFERENCE / "stacked_histogram.npz")


def histogram(events, window_us, sensor_size, input_size, options):
    stack = Representation(sensor_size, input_size, options)
    frame = np.full(stack.shape, 7, np.uint8)
    num_outside = stack.fill(frame, *(events[name] for name in "xypt"), window_us)
    return frame, num_outside


@pytest.mark.parametrize("case", ["dense", "empty", "single", "hot_pixel", "same_time"])
@pytest.mark.parametrize(("size", "suffix"), [((72, 128), ""), ((36, 64), "_ds2_nearest")])
def test_equals_rvt(case, size, suffix):
    events = {name: REFERENCE[f"{case}_{name}"] for name in "xypt"}
    options = FrameSettings(downsample="nearest")
    frame, num_outside = histogram(events, (0, 0), (72, 128), size, options)
    np.testing.assert_array_equal(frame, REFERENCE[f"{case}_hist{suffix}"])
    assert num_outside == 0


@st.composite
def cases(draw):
    sensor = draw(st.sampled_from([(12, 16), (9, 15), (10, 10)]))
    target = tuple(draw(st.integers(1, side)) for side in sensor)
    options = FrameSettings(
        bins=draw(st.integers(1, 12)),
        count_cutoff=draw(st.sampled_from([1, 3, 10, 255])),
        timing=draw(st.sampled_from(["events", "window"])),
        downsample=draw(st.sampled_from(["sum", "nearest"])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_events = draw(st.sampled_from([0, 1, 2, 50, 3000]))
    start = draw(st.sampled_from([0, 777, 3 * 10**8]))
    length = draw(st.sampled_from([0, 1, 9, 50_000, 10**8]))
    signed = draw(st.booleans())
    # A few events lie outside the sensor, as in camera files with a stray bit in x or y.
    outside = rng.random(num_events) < draw(st.sampled_from([0.0, 0.1]))
    y = np.where(outside, 33014, rng.integers(0, sensor[0], num_events))
    events = {
        "x": rng.integers(-1 if signed else 0, sensor[1] + 1, num_events),
        "y": y,
        "p": rng.choice([-1, 1] if signed else [0, 1], num_events).astype(np.int8),
        "t": np.sort(rng.integers(start, start + length + 1, num_events)),
    }
    if not signed:
        events["x"], events["y"] = events["x"].astype(np.uint16), events["y"].astype(np.uint16)
    return events, (start, start + length), sensor, target, options


@given(cases())
@settings(deadline=None, max_examples=150)
def test_equals_the_plain_oracle(case):
    frame, num_outside = histogram(*case)
    expected, expected_outside = oracle(*case)
    np.testing.assert_array_equal(frame, expected)
    assert num_outside == expected_outside


def test_sum_loses_no_event_and_nearest_keeps_odd_pixels():
    events = {name: REFERENCE[f"dense_{name}"] for name in "xypt"}
    options = {"count_cutoff": 255}
    summed, _ = histogram(events, (0, 0), (72, 128), (36, 64), FrameSettings(**options))
    assert summed.sum() == len(events["t"])
    nearest = FrameSettings(downsample="nearest", **options)
    kept, _ = histogram(events, (0, 0), (72, 128), (36, 64), nearest)
    assert kept.sum() == np.count_nonzero((events["x"] % 2 == 1) & (events["y"] % 2 == 1))


def test_window_timing_cuts_the_bins_between_the_bounds_of_the_window():
    events = {"x": np.zeros(2, int), "y": np.zeros(2, int), "p": np.ones(2, int)}
    events["t"] = np.array([104_999, 105_000])
    options = FrameSettings(timing="window")
    frame, _ = histogram(events, (100_000, 150_000), (1, 1), (1, 1), options)
    assert np.flatnonzero(frame).tolist() == [10, 11]
    frame, _ = histogram(events, (100_000, 150_000), (1, 1), (1, 1), FrameSettings())
    assert np.flatnonzero(frame).tolist() == [10, 19]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("window_ms", 0),
        ("bins", 0),
        ("count_cutoff", 256),
        ("timing", "event"),
        ("downsample", "mean"),
        ("input_size", (360,)),
        ("sensor_size", (0, 640)),
        ("representation", "voxel_grid"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(setting, value):
    with pytest.raises(UserError, match=f"data.{setting}: must be .*, got"):
        FrameSettings(**{setting: value})


def test_events_outside_the_sensor_are_counted_and_left_out():
    events = {name: REFERENCE[f"dense_{name}"] for name in "xypt"}
    events["y"] = np.where(np.arange(len(events["y"])) % 50 == 0, 33014, events["y"])
    options = FrameSettings()
    frame, num_outside = histogram(events, (0, 0), (72, 128), (36, 64), options)
    expected, expected_outside = oracle(events, (0, 0), (72, 128), (36, 64), options)
    assert num_outside == expected_outside > 0
    np.testing.assert_array_equal(frame, expected)


def mixed_density(events, window_us, sensor_size, input_size, options):
    stack = Representation(sensor_size, input_size, options)
    frame = np.full(stack.shape, 7, stack.dtype)
    num_outside = stack.fill(frame, *(events[name] for name in "xypt"), window_us)
    return frame, num_outside


def mixed_density_oracle(events, window_us, sensor_size, input_size, options):
    """The same frame in plain torch, from the formula: bin = N - log(time) / log(1/2)."""
    x, y, p, t = (torch.from_numpy(events[name].astype(np.int64)) for name in "xypt")
    inside = (x >= 0) & (x < sensor_size[1]) & (y >= 0) & (y < sensor_size[0])
    if len(t) == 0:
        return np.zeros((options.bins, *input_size), np.int8), 0
    first, last = (t[0], t[-1]) if options.timing == "events" else window_us
    share = ((t - first).float() / float(max(last - first, 1))).clamp(1e-6, 1 - 1e-6)
    time_bin = (options.bins - share.log() / np.log(0.5)).clamp(min=0).floor().long()
    flat = (time_bin * sensor_size[0] + y) * sensor_size[1] + x
    sums = torch.zeros(options.bins * sensor_size[0] * sensor_size[1], dtype=torch.int64)
    sums.index_add_(0, flat[inside], torch.where(p[inside] > 0, 1, -1))
    sums = sums.reshape(options.bins, *sensor_size).cumsum(0)
    for axis in (1, 2):
        source, target = sensor_size[axis - 1], input_size[axis - 1]
        if options.downsample == "nearest":
            kept = ((torch.arange(target) + 0.5) * source / target).floor().long()
            sums = sums.index_select(axis, kept)
        else:
            pooled = torch.zeros(*sums.shape[:axis], target, *sums.shape[axis + 1 :]).long()
            sums = pooled.index_add(axis, torch.arange(source) * target // source, sums)
    frame = sums.clamp(-options.count_cutoff, options.count_cutoff)
    return frame.to(torch.int8).numpy(), int((~inside).sum())


@given(cases())
@settings(deadline=None, max_examples=100)
def test_mixed_density_equals_the_plain_oracle(case):
    events, window_us, sensor_size, input_size, options = case
    options = FrameSettings(
        bins=options.bins,
        count_cutoff=min(options.count_cutoff, 127),
        timing=options.timing,
        downsample=options.downsample,
        representation="mixed_density",
    )
    case = (events, window_us, sensor_size, input_size, options)
    frame, num_outside = mixed_density(*case)
    expected, expected_outside = mixed_density_oracle(*case)
    assert num_outside == expected_outside
    np.testing.assert_array_equal(frame, expected)


def test_mixed_density_halves_the_window_again_and_again():
    t = np.array([0, 120, 130, 260, 510, 900, 1000])
    events = {"x": np.zeros(7, int), "y": np.zeros(7, int), "t": t}
    events["p"] = np.array([1, 1, 1, 0, 1, 1, 1])
    options = FrameSettings(bins=4, representation="mixed_density", timing="window")
    frame, _ = mixed_density(events, (0, 1000), (1, 1), (1, 1), options)
    # The sums up to 1/8, 1/4, 1/2 and all of the window.
    assert frame.ravel().tolist() == [2, 3, 2, 5]
    saturated = FrameSettings(bins=4, representation="mixed_density", count_cutoff=2)
    frame, _ = mixed_density(events, (0, 1000), (1, 1), (1, 1), saturated)
    assert frame.ravel().tolist() == [2, 2, 2, 2]


def test_a_mixed_density_counts_in_eight_signed_bits():
    options = FrameSettings(representation="mixed_density", bins=7, count_cutoff=127)
    assert (options.channels, options.dtype) == (7, np.int8)
    assert (FrameSettings().channels, FrameSettings().dtype) == (20, np.uint8)
    with pytest.raises(UserError, match="count_cutoff: must be at most 127 for mixed_density"):
        FrameSettings(representation="mixed_density", count_cutoff=128)
