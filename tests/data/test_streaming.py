import pickle
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from etram_det.data.augment import AugmentSettings
from etram_det.data.recording import OUTSIDE, Recording
from etram_det.data.streaming import (
    ChunkDataset,
    ChunkRequest,
    EvaluationPlan,
    TrainingPlan,
    collate,
)
from support.plain_augmentation import frames_of

T = 5
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8)


class FakeRecording:
    """Frames that encode their recording and index; every second one has a box."""

    def __init__(self, index, num_frames, size=(12, 16)):
        self.index = index
        self.name = f"recording_{index}"
        self.path = Path(self.name)
        self.input_size = size
        self.scale = (2.0, 3.0)
        self.frame_end_us = 50_000 * np.arange(1, num_frames + 1)
        self.dropped = {}
        self.repaired_share = 0.25 * index
        self.start_us = 1000 * index

    def __len__(self):
        return len(self.frame_end_us)

    @property
    def labelled(self):
        return np.arange(len(self)) % 2 == 1

    def frames(self, start, stop):
        frames = np.zeros((stop - start, 4, *self.input_size), np.uint8)
        frames[:, 0] = self.index
        frames[:, 1] = np.arange(start, stop)[:, None, None]
        frames[:, 2, 3:8, 2:9] = 1
        self.dropped[OUTSIDE] = self.dropped.get(OUTSIDE, 0) + self.index * len(frames)
        return frames

    sparse_frames = Recording.sparse_frames

    def boxes(self, frame):
        if frame % 2 == 0:
            return None
        return np.array([[2, 3, 9, 8]], np.float32), np.array([frame % 8])

    def track_ids(self, frame):
        return np.array([100 * self.index + frame])


def training_plan(num_frames, stream_lanes=2, random_lanes=2, **settings):
    labelled = [np.arange(length) % 2 == 1 for length in num_frames]
    return TrainingPlan(labelled, T, stream_lanes, random_lanes, **settings)


def chunks_of(num_frames):
    return {(i, start) for i, length in enumerate(num_frames) for start in range(0, length, T)}


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


@given(lengths, st.integers(1, 7), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_streaming_lanes_pass_once_through_all_recordings(num_frames, lanes, world_size, seed):
    plans = [training_plan(num_frames, lanes, 0, seed=seed, rank=r, world_size=world_size)
             for r in range(world_size)]  # fmt: skip
    ranks = [list(plan) for plan in plans]
    assert {len(steps) for steps in ranks} == {len(plans[0])}
    visits = Counter()
    for steps in ranks:
        for lane in range(lanes):
            previous = None
            for step in steps:
                request = step[lane]
                visits[request.recording, request.start] += 1
                assert request.lane == lane
                assert request.stream
                follows = (
                    previous is not None
                    and request.recording == previous.recording
                    and request.start == previous.start + T
                )
                # Without a reset, the chunk and its flip and zoom continue those before it.
                assert request.reset or (follows and request.augment_seed == previous.augment_seed)
                if previous is not None and not follows:
                    assert request.start == 0
                    assert previous.start + T >= num_frames[previous.recording]
                    assert request.augment_seed != previous.augment_seed
                previous = request
    assert set(visits) == chunks_of(num_frames)
    # The last step repeats no more chunks than it has surplus lanes.
    assert visits.total() - len(visits) < lanes * world_size


def test_lanes_start_apart_and_with_a_reset():
    steps = list(training_plan([100], stream_lanes=4, random_lanes=0))
    assert [request.start for request in steps[0]] == [0, 25, 50, 75]
    assert all(request.reset for request in steps[0])
    assert not any(request.reset for step in steps[1:] for request in step)
    assert len({request.augment_seed for request in steps[0]}) == 4


@given(lengths.filter(lambda n: max(n) > 1), st.integers(1, 5), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_random_lanes_take_each_window_once(num_frames, lanes, world_size):
    visits = Counter()
    for rank in range(world_size):
        for step in training_plan(num_frames, 0, lanes, rank=rank, world_size=world_size):
            assert [request.lane for request in step] == list(range(lanes))
            for request in step:
                assert request.reset
                assert not request.stream
                visits[request.recording, request.start] += 1
    windows = {
        (i, max(end - T + 1, 0))
        for i, length in enumerate(num_frames)
        for end in range(1, length, 2)
    }
    assert set(visits) == windows
    assert visits.total() - len(visits) < lanes * world_size


def test_mixed_lanes_keep_their_rows_and_draws_apart():
    steps = list(training_plan([60, 45], stream_lanes=1, random_lanes=2))
    assert len(steps) == 21
    for step in steps:
        assert [request.lane for request in step] == [0, 1, 2]
        assert [request.stream for request in step] == [True, False, False]
    seeds = [request.augment_seed for step in steps for request in step if not request.stream]
    assert len(set(seeds)) == len(seeds)


def test_plan_is_a_function_of_seed_and_epoch():
    num_frames = [60, 33, 47, 12]
    assert list(training_plan(num_frames, seed=3)) == list(training_plan(num_frames, seed=3))
    assert list(training_plan(num_frames, seed=3)) != list(training_plan(num_frames, seed=4))
    plan = training_plan(num_frames, seed=3)
    first = list(plan)
    plan.set_epoch(1)
    second = list(plan)
    plan.set_epoch(0)
    assert list(plan) == first != second


@pytest.mark.parametrize("epoch", [0, 3])
def test_resuming_skips_the_steps_before(epoch):
    num_frames = [60, 33, 47, 12]
    plan = training_plan(num_frames, epoch=epoch)
    whole = list(plan)
    resumed = training_plan(num_frames, epoch=epoch, start_step=7)
    resumed.set_epoch(epoch)  # as Lightning does before the epoch that goes on
    assert len(resumed) == len(whole)
    assert list(resumed) == whole[7:]
    for each in (plan, resumed):
        each.set_epoch(epoch + 1)
    assert list(resumed) == list(plan)


@given(lengths, st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_evaluation_visits_each_frame_once_and_in_order(num_frames, lanes, world_size):
    visits = []
    plans = [EvaluationPlan(num_frames, T, lanes, rank, world_size) for rank in range(world_size)]
    for plan in plans:
        steps = list(plan)
        assert len(steps) == len(plan) == len(plans[0])
        previous = {}
        for step in steps:
            assert 1 <= len(step) <= lanes
            assert len({request.lane for request in step}) == len(step)
            for request in step:
                if request.start >= num_frames[request.recording]:
                    assert len(step) == 1  # an idle rank keeps step
                    continue
                visits.append((request.recording, request.start))
                assert request.reset == (request.start == 0)
                if not request.reset:
                    assert previous[request.lane] == (request.recording, request.start - T)
                previous[request.lane] = (request.recording, request.start)
    assert len(visits) == len(set(visits))
    assert set(visits) == chunks_of(num_frames)


def test_work_is_shared_evenly_over_lanes_and_ranks():
    num_frames = np.random.default_rng(0).integers(200, 6000, 200).tolist()
    total = sum(-(-length // T) for length in num_frames)
    lanes, world_size = 6, 2
    ideal = total / (lanes * world_size)
    evaluation = EvaluationPlan(num_frames, T, lanes, 0, world_size)
    assert ideal <= len(evaluation) < 1.005 * ideal
    for rank in range(world_size):
        steps = list(EvaluationPlan(num_frames, T, lanes, rank, world_size))
        assert all(len(step) == lanes for step in steps[: int(0.99 * len(steps))])
    assert len(training_plan(num_frames, lanes, 0, world_size=world_size)) == np.ceil(ideal)


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


def test_plans_and_requests_can_be_pickled():
    plan = training_plan([20, 30])
    assert list(pickle.loads(pickle.dumps(plan))) == list(plan)
