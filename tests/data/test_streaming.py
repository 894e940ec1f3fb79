import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data.streaming import EvaluationPlan
from support.fake_recording import T, training_plan

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8)


def chunks_of(num_frames):
    return {(i, start) for i, length in enumerate(num_frames) for start in range(0, length, T)}


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


def test_plans_and_requests_can_be_pickled():
    plan = training_plan([20, 30])
    assert list(pickle.loads(pickle.dumps(plan))) == list(plan)
