"""Speed of labels from their tracks, metrics by motion, and what is found after it stopped."""

from math import inf, isnan, nan

import numpy as np
import pytest
import torch

from etram_det.errors import UserError
from etram_det.metrics.motion import motion_of
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.report.run_files import results_of
from etram_det.types import Detections, Labels


def motion(rows, moving_above=10.0):
    """Of rows of recording, time in ms, centre x and y, class, track."""
    recording, time, x, y, classes, tracks = (np.array(c) for c in zip(*rows, strict=True))
    centre = np.stack([x, y], axis=1).astype(float)
    return motion_of(recording, time * 1000, centre, classes, tracks, moving_above)


def test_speed_is_measured_over_half_a_second():
    rows = [(0, 0, 0, 0, 1, 7), (0, 100, 3, 4, 1, 7), (0, 200, 6, 8, 1, 7), (0, 300, 6, 8, 1, 7)]
    rest = [0.0, 0, 0, 0]
    # From the label within 0.25 s before to the one within 0.25 s after.
    expected = np.stack([[50, 100 / 3, 100 / 3, 25], rest], axis=1)
    order = [2, 0, 3, 1]  # whatever the order of the labels
    found = motion([rows[i] for i in order])
    np.testing.assert_allclose(found, expected[order], atol=1e-9)


def test_tracks_are_of_one_recording_and_class_and_have_no_long_gaps():
    rows = [
        (0, 0, 0, 0, 1, 7),
        (0, 1000, 100, 0, 1, 7),
        (0, 2001, 900, 0, 1, 7),  # more than 1 s later: no neighbour, so its speed is not known
        (0, 2000, 500, 0, 2, 7),  # of another class
        (1, 100, 300, 0, 1, 7),  # of another recording
    ]
    np.testing.assert_allclose(motion(rows)[:, 0], [100, 100, nan, nan, nan])


def test_clocks_of_recordings_may_lie_far_apart():
    # One starts at 0, one counts microseconds since 1970; enough tracks that no clock of all fits.
    number, start_us = 6000, 1_700_000_000_000_000
    tracks = np.append(np.repeat(np.arange(1, number + 1), 2), [1, 1])
    time_us = np.append(np.tile([0, 100_000], number), [start_us, start_us + 100_000])
    recording = np.append(np.zeros(2 * number, int), [1, 1])
    centre = np.zeros((len(tracks), 2))
    centre[1::2, 0] = 1
    found = motion_of(recording, time_us, centre, np.zeros_like(tracks), tracks, 5.0)
    np.testing.assert_allclose(found[:, 0], 10)


@pytest.mark.parametrize("time_us", [10**6, 10**12, 1_700_000_000_000_000_000])
def test_any_time_has_its_stretch(time_us):
    metric = SizeBinnedMAP(class_names=("car",))
    box = torch.tensor([[0.0, 0, 20, 20]])
    found = Detections(box, torch.ones(1), torch.ones(1), torch.zeros(1).long())
    labels = Labels.stack([0], [box], [torch.tensor([0])])
    metric.update([found], labels, ["r"], torch.tensor([time_us]), torch.ones(1, 2))
    metric.compute()
    [stretch] = metric.result.times
    low, high = (float(word) for word in stretch.removesuffix(" s").split(" to "))
    assert low < time_us / 1e6 <= high


def test_ids_that_are_no_tracks_give_no_speed():
    zero = [(0, 0, 0, 0, 1, 0), (0, 100, 3, 4, 1, 0)]
    assert motion(zero) is None
    assert motion([(*row[:5], -1) for row in zero]) is None
    assert (
        motion_of(*(np.zeros(0, int),) * 2, np.zeros((0, 2)), *(np.zeros(0, int),) * 2, 1) is None
    )
    # Id 0 is a track where there are others; an id that is there twice at a time is none.
    mixed = motion([*zero, (0, 0, 9, 9, 1, 5), (0, 100, 9, 9, 1, 5), (0, 100, 50, 9, 1, 5)])
    np.testing.assert_allclose(mixed[:, 0], [50, 50, nan, nan, nan])


def test_labels_that_are_off_by_a_pixel_stand():
    rng = np.random.default_rng(0)
    for interval_ms in (33, 100):
        off = rng.normal(0, 1, (20, 50, 2))
        rows = [
            (0, interval_ms * i, *off[track, i], 1, track + 1)
            for track in range(20)
            for i in range(50)
        ]
        assert (motion(rows)[:, 0] > 10).mean() < 0.05


def test_labels_further_apart_have_their_neighbours():
    rows = [(0, 400 * i, [0, 40, 80, 80][i], 0, 1, 7) for i in range(4)]
    np.testing.assert_allclose(motion(rows)[:, 0], [100, 100, 50, 0])


def test_rest_counts_from_the_last_motion():
    x = [0, 5, 10, 10, 10, 10, 10]
    stopping = [(0, 100 * i, x[i], 0, 1, 1) for i in range(7)]
    parked = [(0, 100 * i, 99, 0, 1, 2) for i in range(7)]
    found = motion(stopping + parked)
    np.testing.assert_allclose(found[:7, 0], [50, 100 / 3, 25, 12.5, 0, 0, 0])
    np.testing.assert_allclose(found[:7, 1], [0, 0, 0, 0, 0.1, 0.2, 0.3], atol=1e-9)
    assert (found[7:] == [0, inf]).all()
    faster = motion(stopping, moving_above=50.0)  # what is not above it does not move
    assert (faster[:, 1] == inf).all()


def evaluated(tracks, num_recordings=1, **settings):
    """A box that moves at 40 px/s for 1 s, always found, then stands for 3 s, missed after 1 s.

    A second one stands throughout and is found throughout. Both are of class 0, on a sensor of
    twice the network's pixels.
    """
    metric = SizeBinnedMAP(class_names=("car", "bus"), **settings)
    for r in range(num_recordings):
        for i in range(40):
            x = 2.0 * min(i, 10)
            boxes = torch.tensor([[x, 0, x + 20, 20], [200, 0, 220, 20]])
            seen = boxes if i <= 20 else boxes[1:]
            number = len(seen)
            found = Detections(
                seen, torch.ones(number), torch.full((number,), 0.9), torch.zeros(number).long()
            )
            ids = None if tracks is None else [torch.tensor(tracks)]
            labels = Labels.stack([0], [boxes], [torch.tensor([0, 0])], ids)
            times = torch.tensor([100_000 * (i + 1)])
            metric.update([found], labels, [f"r{r:02d}"], times, torch.full((1, 2), 2.0))
    metric.compute()
    return metric.result


def test_metrics_by_motion_and_what_is_found_after_it_stopped():
    results = results_of(evaluated([1, 2]), score_threshold=0.3, dropped_by_data={})
    # 10 frames at 40 px/s to 30 px/s, then 20 and 10, which is in two bins; 28 at rest, and 40 of
    # the other.
    assert (results["num_standing"], results["num_slow"], results["num_fast"]) == (69, 12, 0)
    assert results["AP_slow"] == pytest.approx(1)
    assert results["AR_standing"] == pytest.approx(50 / 69)
    assert results["AR_car_standing"] == results["AR_standing"]
    assert not {"AP_fast", "AP_bus_slow"} & results.keys()
    # All of them are logged, and can be monitored.
    named = evaluated([1, 2]).settings.metric_names
    flat = evaluated([1, 2]).flat_metrics()
    assert {name for name in flat if name.startswith("A")} == set(named)
    rest = {n: (row["found"], row["labels"]) for n, row in results["found_by_rest"].items()}
    assert rest == {
        "moving": (11, 11),
        "0 to 1 s": (10, 10),
        "1 to 2 s": (0, 10),
        "2 to 5 s": (0, 9),
        "5 to 10 s": (0, 0),
        "10 to 20 s": (0, 0),
        "over 20 s": (0, 0),
        "never moved": (40, 40),
    }
    assert list(results["times"]) == ["0 to 1 s", "1 to 2 s", "2 to 3 s", "3 to 4 s"]
    assert results["times"]["0 to 1 s"]["AR"] == pytest.approx(1)
    assert results["times"]["3 to 4 s"] == pytest.approx(
        {"AP": 51 / 101, "AP50": 51 / 101, "AP75": 51 / 101, "AR": 0.5, "num_boxes": 20}
        | {"AP_small": 51 / 101, "AP50_small": 51 / 101, "AP75_small": 51 / 101, "AR_small": 0.5}
        | {"num_small": 20, "num_medium": 0, "num_large": 0}
    )
    assert results["intervals"] == {}


def test_labels_without_tracks_have_no_metrics_by_motion():
    for tracks in (None, [0, 0], [3, 3]):
        result = evaluated(tracks)
        results = results_of(result, score_threshold=0.3, dropped_by_data={})
        assert result.motion_records == []
        assert results["found_by_rest"] == {}
        assert not [key for key in results if "standing" in key]


def test_the_first_motion_bin_needs_an_upper_bound():
    with pytest.raises(UserError, match=r"^model.motion_bins: must have a first bin with an upper"):
        SizeBinnedMAP(class_names=("car",), motion_bins={"moving": (10, inf)})


def test_motion_bins_are_a_setting():
    bins = {"still": (0, 30), "moving": (30, inf)}
    result = evaluated([1, 2], motion_bins=bins)
    assert [r.boxes for r in result.motion_records if not r.class_name] == [71, 10]
    assert result.description()["motion_bins"] == {"still": [0, 30], "moving": [30, None]}
    with pytest.raises(
        UserError, match=r"model.motion_bins.b: .* got \[8, 20\] after a, which end"
    ):
        evaluated([1, 2], motion_bins={"a": (0, 9), "b": (8, 20)})
    with pytest.raises(UserError, match="motion_bins.a: must be .* in pixels a second with"):
        evaluated([1, 2], motion_bins={"a": (9, 9)})
    with pytest.raises(UserError, match="got 'AP_small' twice"):
        evaluated([1, 2], motion_bins={"small": (0, 9)})
    assert evaluated([1, 2], motion_bins={}).motion_records == []


def test_shares_found_at_rest_have_intervals_from_ten_recordings_on():
    results = results_of(evaluated([1, 2], 10), score_threshold=0.3, dropped_by_data={})
    rows = results["found_by_rest"]
    assert rows["0 to 1 s"]["interval"] == (1.0, 1.0)
    assert rows["5 to 10 s"]["interval"] is None
    assert results["intervals"]["AR_standing"] == pytest.approx([50 / 69, 50 / 69])
    assert not isnan(results["AP"])
