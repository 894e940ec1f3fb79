from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from etram_det.data.augment import AugmentSettings
from etram_det.data.chunks import ChunkDataset, collate
from etram_det.data.streaming import ChunkRequest
from support.fake_recording import FakeRecording, T, training_plan
from support.plain_augmentation import frames_of


def loader(plan, dataset, **settings):
    return DataLoader(
        dataset, batch_sampler=plan, collate_fn=partial(collate, num_steps=T), **settings
    )


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        for name in ("events", "reset", "lane", "padded", "time_us", "scale", "stream"):
            assert torch.equal(getattr(left, name), getattr(right, name)), name
        for name in ("frame", "boxes", "classes"):
            assert torch.equal(getattr(left.labels, name), getattr(right.labels, name)), name
        for name in ("recording", "num_outside", "repaired_share"):
            assert getattr(left, name) == getattr(right, name), name


def test_batch_holds_what_the_plan_asked_for():
    dataset = ChunkDataset([FakeRecording(0, 12), FakeRecording(1, 40)], T)
    requests = [
        ChunkRequest(1, 10, False, 0, 5, True),
        ChunkRequest(0, 10, True, 3, None, False),
        ChunkRequest(0, 12, True, 1, None, True),  # past the end
    ]
    batch = collate([dataset[request] for request in requests], T)
    assert (batch.num_outside, batch.repaired_share) == ({0: 5}, {0: 0.25})
    assert batch.events.shape == (T, 3, 4, 12, 16)
    assert batch.events.dtype == torch.uint8
    assert batch.events[:, 0, :2, 0, 0].tolist() == [[1, 10], [1, 11], [1, 12], [1, 13], [1, 14]]
    assert batch.events[:, 1, 1, 0, 0].tolist() == [10, 11, 0, 0, 0]
    assert batch.events[2:, 1].sum() == 0
    assert batch.padded.T.tolist() == [[False] * 5, [False] * 2 + [True] * 3, [True] * 5]
    assert batch.time_us[:, 1].tolist() == [550_000, 600_000, -1, -1, -1]
    assert batch.reset.tolist() == [False, True, True]
    assert batch.lane.tolist() == [0, 3, 1]
    assert batch.stream.tolist() == [True, False, True]
    assert batch.recording == ["recording_1", "recording_0", "recording_0"]
    assert batch.scale.tolist() == [[2, 3]] * 3
    # Frames 11 and 13 of one, 11 of the other: places t * B + b, ascending.
    assert batch.labels.frame.tolist() == [3, 4, 9]
    assert batch.labels.classes.tolist() == [[3], [3], [5]]
    assert batch.labels.boxes.tolist() == [[[2, 3, 9, 8]]] * 3
    assert batch.labels.tracks.tolist() == [[111], [11], [113]]
    assert batch.labels.tracks.dtype == torch.int64


def test_labels_of_augmented_chunks_have_no_tracks():
    settings = AugmentSettings(flip=1, stream_zoom=0, random_zoom=0)
    dataset = ChunkDataset([FakeRecording(0, 12), FakeRecording(1, 40)], T, settings)
    requests = [ChunkRequest(1, 10, False, 0, 5, True), ChunkRequest(0, 10, True, 3, None, False)]
    labels = collate([dataset[request] for request in requests], T).labels
    assert labels.classes.tolist() == [[3], [3], [5]]
    assert labels.tracks is None


def test_augmentation_is_constant_until_the_next_reset():
    always = AugmentSettings(flip=0.5, stream_zoom=1, random_zoom=1)
    num_frames = [40, 35]
    dataset = ChunkDataset([FakeRecording(i, n) for i, n in enumerate(num_frames)], T, always)
    seen = {}
    for (request,) in training_plan(num_frames, stream_lanes=1, random_lanes=0):
        chunk = dataset[request]
        frames = frames_of(chunk)
        pattern = frames[0, 2].tobytes()
        assert all(frame[2].tobytes() == pattern for frame in frames)
        assert seen.setdefault(request.recording, pattern) == pattern
    assert seen[0] != seen[1]


def test_a_lane_keeps_its_polarities_and_drops_other_events_in_each_chunk():
    varied = AugmentSettings(
        flip=0, stream_zoom=0, polarity_flip=0.5, event_drop=1, event_drop_share=0.9
    )
    recordings = [FakeRecording(i, 40, (120, 160)) for i in range(6)]
    for recording in recordings:
        frames = np.zeros((1, 4, 120, 160), np.uint8)
        frames[:, 1] = 4
        recording.frames = lambda start, stop, frames=frames: frames.repeat(stop - start, axis=0)
    dataset = ChunkDataset(recordings, T, varied)
    swaps, shares = {}, {}
    for (request,) in training_plan([40] * 6, stream_lanes=1, random_lanes=0):
        frames = frames_of(dataset[request])
        np.testing.assert_array_equal(frames_of(dataset[request]), frames)
        swapped = not frames[:, 1].any()
        assert not frames[:, 1 if swapped else 3].any()
        of_lane = frames[:, 3 if swapped else 1]
        assert len({frame.tobytes() for frame in of_lane}) == T
        swaps.setdefault(request.recording, set()).add(swapped)
        shares.setdefault(request.recording, []).append(of_lane.mean() / 4)
    assert {len(each) for each in swaps.values()} == {1}
    assert len(set().union(*swaps.values())) == 2
    assert max(np.ptp(each) for each in shares.values()) < 0.01  # the same share in all chunks
    assert max(np.ptp(each) for each in shares.values()) > 0  # of other events
    assert np.ptp([np.mean(each) for each in shares.values()]) > 0.1


def test_counts_that_are_added_up_saturate_as_those_of_the_frames():
    halves = AugmentSettings(flip=0, random_zoom=1, zoom_in_share=0, zoom_out="sum", zoom_out_max=2)
    recording = FakeRecording(0, 20)
    recording.frames = lambda start, stop: np.full((stop - start, 4, 12, 16), 3, np.uint8)
    requests = [ChunkRequest(0, 0, True, 0, seed, False) for seed in range(8)]
    for cutoff in (3, 5, 10, 255):
        dataset = ChunkDataset([recording], T, halves, count_cutoff=cutoff)
        assert max(frames_of(dataset[each]).max() for each in requests) == min(cutoff, 12)


def test_labels_that_lose_all_boxes_are_no_labels():
    out_of_sight = AugmentSettings(flip=0, random_zoom=1, zoom_in_share=1, least_visible=1)
    recording = FakeRecording(0, 20)
    recording.boxes = lambda frame: (np.array([[0, 0, 16, 12]], np.float32), np.array([1]))
    chunk = ChunkDataset([recording], T, out_of_sight)[ChunkRequest(0, 0, True, 0, 1, False)]
    assert chunk.labels == []
    assert len(chunk.frames) == T


def test_frames_labelled_to_show_nothing_stay_so_when_augmented():
    zooms_in = AugmentSettings(flip=1, random_zoom=1, zoom_in_share=1)
    recording = FakeRecording(0, 20)
    nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64)
    recording.boxes = lambda frame: nothing if frame % 2 else None
    chunk = ChunkDataset([recording], T, zooms_in)[ChunkRequest(0, 0, True, 0, 1, False)]
    assert [(t, boxes.shape, len(classes)) for t, boxes, classes in chunk.labels] == [
        (1, (0, 4), 0),
        (3, (0, 4), 0),
    ]
    busy = ChunkDataset([FakeRecording(1, 20)], T)[ChunkRequest(0, 0, True, 1, None, False)]
    labels = collate([chunk, busy], T).labels
    assert labels.frame.tolist() == [2, 3, 6, 7]
    assert labels.classes.tolist() == [[-1], [1], [-1], [3]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_do_not_depend_on_the_workers(context):
    num_frames = [23, 40, 8]
    recordings = [FakeRecording(i, n) for i, n in enumerate(num_frames)]
    dataset = ChunkDataset(recordings, T, AugmentSettings())
    expected = list(loader(training_plan(num_frames), dataset))
    assert len(expected) == 8
    for workers in (1, 3) if context == "fork" else (1,):
        batches = loader(
            training_plan(num_frames), dataset, num_workers=workers, multiprocessing_context=context
        )
        assert_equal_batches(list(batches), expected)


def test_persistent_workers_follow_the_epoch():
    num_frames = [23, 40, 8]
    dataset = ChunkDataset([FakeRecording(i, n) for i, n in enumerate(num_frames)], T)
    with_workers = loader(
        training_plan(num_frames), dataset, num_workers=1, persistent_workers=True
    )
    plain = loader(training_plan(num_frames), dataset)
    for epoch in (0, 1):
        for batches in (with_workers, plain):
            batches.batch_sampler.sampler.set_epoch(epoch)  # as Lightning does
        assert_equal_batches(list(with_workers), list(plain))
