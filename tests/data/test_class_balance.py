"""Random chunks by class: shares of recordings, draws of their windows, and whole plans of them."""

import logging
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data.class_balance import chunk_shares, draw_windows, expected_class_shares
from etram_det.data.datamodule import EventDataModule
from etram_det.data.streaming import TrainingPlan
from etram_det.errors import UserError
from support.raw_files import boxes_at, random_events, write_raw

# Three recordings: cars alone, cars and a few bicycles, nothing. [R, K]
BOXES = np.array([[60, 0], [20, 5], [0, 0]])
WINDOWS = np.array([30, 10, 10])
T = 5


def plan(shares, frames=(40, 20, 60), **others):
    labelled = [np.arange(length) % 2 == 1 for length in frames]
    given = {"num_steps": T, "stream_lanes": 0, "random_lanes": 3, "seed": 7} | others
    return TrainingPlan(labelled, chunk_shares=shares, **given)


def requests(plan):
    return [[(each.recording, each.start, each.augment_seed) for each in step] for step in plan]


def test_shares_run_from_windows_to_classes():
    assert chunk_shares(BOXES, WINDOWS, 0.0).tolist() == [0.6, 0.2, 0.2]
    # Cars: 60 and 20 of 80; bicycles: all in the second; both classes weigh a half.
    assert chunk_shares(BOXES, WINDOWS, 1.0).tolist() == [0.375, 0.625, 0.0]
    assert chunk_shares(BOXES, WINDOWS, 0.5) == pytest.approx([0.4875, 0.4125, 0.1])


def test_a_recording_without_windows_has_no_share():
    assert chunk_shares(BOXES, np.array([30, 0, 10]), 1.0).tolist() == [1.0, 0.0, 0.0]
    assert chunk_shares(np.zeros((2, 3), int), np.array([1, 3]), 1.0).tolist() == [0.25, 0.75]


def test_expected_shares_of_classes():
    # Of 50 windows as they come, 80 boxes are cars and 5 bicycles.
    before = expected_class_shares(BOXES, WINDOWS, np.array([0.6, 0.2, 0.2]))
    assert before == pytest.approx([80 / 85, 5 / 85])
    # A window of the first has 2 cars, of the second 2 cars and half a bicycle.
    after = expected_class_shares(BOXES, WINDOWS, np.array([0.375, 0.625, 0.0]))
    assert after == pytest.approx([2 / 2.3125, 0.3125 / 2.3125])


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    st.integers(0, 80),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_each_recording_gives_its_share_rounded_up_or_down(counts, number, seed):
    windows = np.array([(i, 5 * j) for i, count in enumerate(counts) for j in range(count)])
    shares = np.array(counts) / sum(counts)
    drawn = draw_windows(windows, shares, number, np.random.default_rng(seed))
    assert drawn.shape == (number, 2)
    for recording, count in enumerate(counts):
        own = drawn[drawn[:, 0] == recording]
        assert abs(len(own) - shares[recording] * number) < 1 + 1e-9
        # No window comes again before all of the recording had their turn.
        times = Counter(map(tuple, own.tolist())).values()
        assert not times or max(times) - (min(times) if len(times) == count else 0) <= 1


def test_numbers_are_right_in_the_mean():
    windows = np.array([(0, 0), (1, 0), (2, 0)])
    shares = [0.13, 0.29, 0.58]
    draws = [draw_windows(windows, shares, 5, np.random.default_rng(i)) for i in range(4000)]
    means = np.mean([np.bincount(drawn[:, 0], minlength=3) for drawn in draws], axis=0)
    assert means == pytest.approx([0.65, 1.45, 2.9], abs=0.03)


def test_a_plan_draws_by_the_shares_and_as_much_as_before():
    plain, balanced = plan(None), plan([0.1, 0.8, 0.1])
    assert len(plain) == len(balanced)
    number = 3 * len(plain)
    drawn = Counter(each.recording for step in balanced for each in step)
    for recording, share in enumerate((0.1, 0.8, 0.1)):
        assert abs(drawn[recording] - share * number) < 1
    # Windows end with a labelled frame, and a repeated one is augmented anew.
    assert all((each.start + T - 1) % 2 or not each.start for step in balanced for each in step)
    seeds = [each.augment_seed for step in balanced for each in step]
    assert len({*seeds}) == len(seeds)


def test_a_balanced_plan_is_a_function_of_seed_epoch_and_step():
    shares = [0.2, 0.5, 0.3]
    whole = requests(plan(shares, epoch=2))
    assert requests(plan(shares, epoch=2)) == whole
    assert requests(plan(shares, epoch=2, start_step=4)) == whole[4:]
    assert requests(plan(shares, epoch=3)) != whole
    assert requests(plan(shares, epoch=2, seed=8)) != whole


@pytest.mark.parametrize("stream_lanes", [0, 2])
def test_ranks_share_one_draw(stream_lanes):
    shares = [0.2, 0.5, 0.3]
    lanes = {"stream_lanes": stream_lanes, "random_lanes": 2}
    ranks = [requests(plan(shares, **lanes, rank=rank, world_size=3)) for rank in range(3)]
    assert len({len(rank) for rank in ranks}) == 1
    of_random = [
        each[:2]
        for step in zip(*ranks, strict=True)
        for rank in step
        for each in rank[stream_lanes:]
    ]
    drawn = Counter(recording for recording, _ in of_random)
    for recording, share in enumerate(shares):
        assert abs(drawn[recording] - share * len(of_random)) < 1
    if not stream_lanes:  # as one process with all lanes
        one = requests(plan(shares, stream_lanes=0, random_lanes=6))
        assert [each[:2] for step in one for each in step] == of_random


def test_label_phases_have_the_shares_of_their_recordings():
    frames = np.arange(40)
    labelled = [frames % 4 == 1, frames % 4 == 3, frames % 4 == 1, np.zeros(40, bool)]
    both = TrainingPlan(
        labelled, T, 0, 2, seed=1, num_phases=[2, 2], chunk_shares=[0.25, 0.75]
    )  # fmt: skip
    seen = set()
    for epoch in range(4):
        both.set_epoch(epoch)
        drawn = Counter(each.recording for step in both for each in step)
        seen |= {*drawn}
        if 2 in drawn:  # where the second recording has windows in the epoch's phase
            first = drawn[0] + drawn[1]
            assert abs(first - 0.25 * 2 * len(both)) < 1
            assert len(drawn) == 2
    assert seen == {0, 1, 2}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Four recordings of one class and one of another."""
    root = tmp_path_factory.mktemp("uneven")
    times = list(range(100_000, 1_000_001, 100_000))
    for i in range(5):
        boxes = boxes_at(times, class_id=7 if i == 4 else 0, x=6.0)
        write_raw(root / "train", f"train_day_{i:04d}", random_events(2000, 1.05, seed=i), boxes)
    return root


def data_of(root, **given):
    size = {"input_size": (48, 64), "num_steps": 2, "num_workers": 0, "train_lanes": 2}
    return EventDataModule(root=str(root), **{"sampling": "random"} | size | given)


def test_rare_classes_are_as_frequent_as_others_in_the_batches(uneven, caplog):
    def share(balance):
        data = data_of(uneven, class_balance=balance)
        data.trainer = SimpleNamespace(
            limit_val_batches=0, current_epoch=0, global_rank=0, world_size=1
        )
        data.setup("fit")
        names = Counter(name for batch in data.train_dataloader() for name in batch.recording)
        return names["train_day_0004"] / sum(names.values())

    caplog.set_level(logging.INFO)
    assert share(0.0) == pytest.approx(0.2)
    assert share(1.0) == pytest.approx(0.5, abs=0.02)
    assert caplog.messages[-1] == (
        "data.class_balance: wheelchair, the rarest class, has about 50.0% of the boxes in random "
        "chunks, 20.0% without it"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_balance": 1.5}, "data.class_balance: must be in [0, 1], got 1.5: set 0 for none"),
        ({"class_balance": -1.0}, "data.class_balance: must be in [0, 1], got -1.0: set"),
        (
            {"class_balance": 1.0, "sampling": "stream"},
            "data.class_balance: must be 0 with data.sampling stream, which passes once through "
            "each recording, got 1.0: set data.sampling to mixed or random",
        ),
    ],
)
def test_settings_that_do_not_fit_are_named(given, message):
    with pytest.raises(UserError) as error:
        data_of("nowhere", **given)
    assert str(error.value).startswith(message)
