"""Frames as they travel, and what they become on the device."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from etram_det.data.augment import Augmentation, AugmentSettings, draw
from etram_det.data.representation import FrameSettings, Representation
from etram_det.data.sparse_batch import SparseBatch, SparseEvents
from etram_det.data.sparse_frames import SparseFrames, decode, encode, fit_into
from etram_det.types import Batch, Labels
from support.forks import device_that_is_not_there
from support.plain_augmentation import plain

SIZE = (37, 53)  # no multiple of what is compared at a time
SETTINGS = {
    "RVT's": AugmentSettings(),
    "far": AugmentSettings(stream_zoom=1, random_zoom=1, zoom_in_max=10, zoom_out_max=10),
    "sum": AugmentSettings(stream_zoom=1, random_zoom=1, zoom_out_max=4, zoom_out="sum"),
    "swaps": AugmentSettings(polarity_flip=0.5, flip=0.2),
}


def some_frames(num_frames, dtype=np.uint8, share=0.1, seed=0, size=SIZE, most=10):
    rng = np.random.default_rng(seed)
    shape = (num_frames, 6, *size)
    frames = rng.integers(-most if dtype == np.int8 else 0, most + 1, shape).astype(dtype)
    return frames * (rng.random(shape) < share)


def plain_entries(counts, count_bits):
    """Entries of counts [n], written one by one."""
    longest, last, entries = 2 ** (16 - count_bits) - 1, -1, []
    for place in np.flatnonzero(counts):
        while place - last > longest:
            entries.append(longest << count_bits)
            last += longest
        entries.append(((place - last) << count_bits) | int(counts[place]))
        last = place
    return entries


@pytest.mark.parametrize("share", [0, 1e-4, 0.01, 0.5, 1])
@pytest.mark.parametrize(("count_bits", "most"), [(4, 15), (8, 255), (1, 1)])
@pytest.mark.parametrize("size", [1, 7, 8, 4095, 4096, 4103, 300_001])
def test_entries_hold_every_count(share, count_bits, most, size):
    rng = np.random.default_rng(0)
    counts = (rng.integers(1, most + 1, size) * (rng.random(size) < share)).astype(np.uint8)
    entries = encode(counts.reshape(1, 1, -1), count_bits)
    assert entries.dtype == np.uint16
    assert entries.tolist() == plain_entries(counts, count_bits)
    decoded = np.full((1, size), 99, np.uint8)
    assert decode(decoded, entries, np.array([0, len(entries)]), count_bits)
    np.testing.assert_array_equal(decoded[0], counts)


def test_entries_that_leave_their_frame_are_seen():
    entries = np.array([5 << 4 | 1, 3 << 4 | 2, 8 << 4 | 1], np.uint16)  # at 4 and 7; at 7
    for size, fits in ((8, True), (7, False)):
        assert fit_into(size, entries, np.array([0, 2, 3]), 4) is fits
        assert decode(np.zeros((2, size), np.uint8), entries, np.array([0, 2, 3]), 4) is fits


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("chosen", SETTINGS)
def test_lanes_of_a_batch_equal_their_plain_form(chosen, dtype):
    steps, cutoff = 3, 10
    frames = [some_frames(n, dtype, share, n) for n, share in [(3, 0.1), (0, 0), (2, 1), (1, 0)]]
    frames += [some_frames(3, dtype, 0.2, seed) for seed in range(20)]
    drawn = [
        draw(SETTINGS[chosen], seed, SIZE, stream=seed % 2 == 0) for seed in range(len(frames))
    ]
    drawn[4] = Augmentation(SIZE)
    sparse = [SparseFrames.of(each, cutoff) for each in frames]
    events = SparseEvents.stack(sparse, drawn, steps).dense()
    assert events.shape == (steps, len(frames), 6, *SIZE)
    assert events.is_contiguous()
    assert events.numpy().dtype == dtype
    for b, (augmentation, of_lane) in enumerate(zip(drawn, frames, strict=True)):
        expected = plain(augmentation, of_lane, cutoff)
        np.testing.assert_array_equal(events[: len(of_lane), b], expected, err_msg=f"{b}")
        assert not events[len(of_lane) :, b].any()
    kinds = {(each.zoom > 1, each.zoom < 1, each.flip, each.polarity_flip) for each in drawn}
    assert len(kinds) >= 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_frames_that_nothing_moves_need_no_tables(dtype):
    frames = [some_frames(2, dtype, seed=1), some_frames(4, dtype, share=0.9, seed=2, most=127)]
    sparse = [SparseFrames.of(each, 127) for each in frames]
    events = SparseEvents.stack(sparse, [Augmentation(SIZE, drop_share=0.5)] * 2, 4)
    assert events.num_tables == 0
    dense = events.dense()
    for b, of_lane in enumerate(frames):
        np.testing.assert_array_equal(dense[: len(of_lane), b], of_lane)
    assert not dense[2:, 0].any()


@pytest.mark.parametrize("share", [0.01, 0.3, 1])
def test_dropped_events_are_those_of_the_plain_form(share):
    frames = some_frames(3, share=0.2)
    dropping = Augmentation(SIZE, drop_share=share)
    sparse = SparseFrames.of(frames, 10)
    before = sparse.entries.copy()
    thinned = sparse.without_share(share, np.random.default_rng((5, 6)))
    np.testing.assert_array_equal(sparse.entries, before)
    events = SparseEvents.stack([thinned], [dropping], 3).dense()[:, 0]
    np.testing.assert_array_equal(events, plain(dropping, frames, 10, (5, 6)))


def test_a_sum_of_counts_reaches_the_cutoff_and_no_further():
    frames = np.full((1, 2, *SIZE), 255, np.uint8)
    tenth = Augmentation(SIZE, zoom=0.1, adds_up=True)  # 100 counts of 255 add up to 25,500
    events = SparseEvents.stack([SparseFrames.of(frames, 255)], [tenth], 1).dense()
    np.testing.assert_array_equal(events[:, 0], plain(tenth, frames, 255))
    assert np.unique(events).tolist() == [0, 255]


def sparse_batch(sparse_events):
    steps, lanes = sparse_events.shape[:2]
    return SparseBatch(
        sparse_events=sparse_events,
        labels=Labels.stack([], [], []),
        reset=torch.ones(lanes, dtype=torch.bool),
        lane=torch.arange(lanes),
        padded=torch.zeros(steps, lanes, dtype=torch.bool),
        time_us=torch.zeros(steps, lanes, dtype=torch.int64),
        recording=["a"] * lanes,
        scale=torch.ones(lanes, 2),
        stream=torch.ones(lanes, dtype=torch.bool),
        start_us={0: 7},
    )


def test_a_batch_becomes_dense_on_its_way_to_the_device():
    frames = some_frames(2)
    events = SparseEvents.stack([SparseFrames.of(frames, 10)], [Augmentation(SIZE)], 2)
    batch = sparse_batch(events).to("cpu", non_blocking=True)
    assert type(batch) is Batch
    np.testing.assert_array_equal(batch.events[:, 0], frames)
    assert batch.frame_size == SIZE
    assert (batch.recording, batch.start_us) == (["a"], {0: 7})


class NothingCrosses(TorchDispatchMode):
    """Refuses copies between devices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in (*args, result) if isinstance(x, torch.Tensor)}
        assert len(devices) < 2, f"{func} on {devices}"
        return result


@pytest.mark.parametrize("chosen", [None, *SETTINGS])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_the_host_does_not_wait_for_the_device(chosen, dtype):
    settings = SETTINGS[chosen or "RVT's"]
    drawn = [draw(settings, seed, SIZE, seed < 8) for seed in range(16)]
    if chosen is None:
        drawn = [Augmentation(SIZE)] * len(drawn)
    sparse = [SparseFrames.of(some_frames(3, dtype), 10)] * len(drawn)
    events = SparseEvents.stack(sparse, drawn, 4)
    expected = events.dense()
    with device_that_is_not_there(), FakeTensorMode() as mode:
        assert not mode.allow_scalar_outputs
        buffer = torch.empty(len(events.buffer), dtype=torch.uint8, device="cuda")
        with NothingCrosses():
            dense = replace(events, buffer=buffer).dense()
            assert dense.device.type == "cuda"
            assert (dense.shape, dense.dtype) == (expected.shape, expected.dtype)
            assert dense.is_contiguous()
            with pytest.raises(DataDependentOutputException):
                dense.sum().item()
            with pytest.raises(AssertionError, match="cpu"):
                dense[0].cpu()


def test_far_fewer_bytes_travel_than_dense_frames_have():
    sensor, size, num_events = (720, 1280), (360, 640), 100_000
    representation = Representation(sensor, size, FrameSettings())
    frames, rng = np.empty((5, *representation.shape), np.uint8), np.random.default_rng(0)
    for frame in frames:
        # All over the sensor, so that hardly any events share a count: the worst case.
        x, y = rng.integers(0, 1280, num_events), rng.integers(0, 720, num_events)
        t = np.sort(rng.integers(0, 50_000, num_events))
        representation.fill(frame, x, y, rng.integers(0, 2, num_events), t, (0, 50_000))
    drawn = [draw(SETTINGS["RVT's"], seed, size, stream=False) for seed in range(2)]
    events = SparseEvents.stack([SparseFrames.of(frames, 10)] * 2, drawn, 5)
    assert 2 * frames.nbytes / len(events.buffer) > 20
