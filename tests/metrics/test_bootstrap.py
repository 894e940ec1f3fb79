"""Intervals by the bootstrap: against plain re-evaluation, against the truth, and in time."""

from math import inf
from time import process_time

import numpy as np
import pytest

from etram_det.metrics.bootstrap import interval, resample_weights
from etram_det.metrics.evaluation import evaluate
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes
from etram_det.metrics.intervals import resamples_of
from etram_det.metrics.records import flat_metrics, time_part
from etram_det.metrics.settings import SIZE_BINS, EvaluationSettings

CLASSES = ("pedestrian", "car", "bicycle", "bus")
MOTION = {"standing": (0, 10), "slow": (10, 100), "fast": (100, inf)}


def settings(classes=CLASSES, groups=None, protocol="full", sizes=SIZE_BINS):
    return EvaluationSettings(classes, dict(sizes), "network", protocol, groups or {}, 100, MOTION)


def random_recording(seed, num_frames=6, num_boxes=5, num_classes=4):
    """Labels [M] and detections [D] of one recording as rows of frame, box, class, score, speed."""
    rng = np.random.default_rng(seed)
    labels, detections = [], []
    for frame in range(num_frames):
        corner = rng.uniform(0, 400, (num_boxes, 2))
        boxes = np.hstack([corner, corner + rng.choice([12, 40, 130], (num_boxes, 1))])
        ids = rng.integers(0, num_classes, num_boxes)
        if seed % 3 == 0:  # a class that few recordings have
            ids[ids == 3] = 0
        speed = rng.choice([0, 10, 50, 200, np.nan], num_boxes)
        labels += zip([frame] * num_boxes, boxes, ids, [1.0] * num_boxes, speed, strict=True)
        shift = rng.normal(0, 3, boxes.shape)
        corner = rng.uniform(0, 400, (num_boxes, 2))
        false = np.hstack([corner, corner + rng.uniform(8, 150, (num_boxes, 2))])
        found = np.concatenate([boxes + shift, false])
        of = np.concatenate([ids, rng.integers(0, num_classes, num_boxes)])
        rows = len(found)
        detections += zip(
            [frame] * rows, found, of, rng.uniform(0, 1, rows), [0] * rows, strict=True
        )
    return labels, detections


def frames_of(recordings, num_frames=6):
    """The recordings, by name, one after the other; a frame every 0.9 s."""

    def boxes(kind):
        rows = [
            (i * num_frames + frame, *rest)
            for i, recording in enumerate(recordings.values())
            for frame, *rest in recording[kind]
        ]
        frame, corners, classes, scores, speed = (
            list(column) for column in zip(*rows, strict=True)
        )
        motion = np.stack([speed, np.zeros(len(speed))], axis=1)
        columns = np.array(frame), np.array(corners), np.array(classes), np.array(scores)
        return FrameBoxes(*columns, motion if kind == 0 else None)

    names = np.repeat(np.array(list(recordings)), num_frames)
    time_us = np.tile(np.arange(1, num_frames + 1) * 900_000, len(recordings))
    scale = np.ones((len(names), 2))
    return EvaluationFrames(names, time_us, np.zeros_like(time_us), scale, boxes(0), boxes(1))


def everything(result):
    """All metrics by flat key, as they are in the files."""
    times = {
        key if part == "" else f"{key}_{part}": value
        for name, flat in result.per_time().items()
        for part in [time_part(name)]
        for key, value in flat.items()
    }
    return result.flat_metrics() | flat_metrics(result.motion_records) | times


@pytest.mark.parametrize("protocol", ["full", "prophesee", "etram_fork"])
def test_resamples_equal_a_plain_evaluation_of_the_drawn_recordings(protocol):
    names = sorted(f"val_{'day' if i % 3 else 'night'}_{i:02d}" for i in range(12))
    drawn_from = {name: random_recording(i) for i, name in enumerate(names)}
    how = settings(groups={"VH": (1, 3)}, protocol=protocol)
    weights = resample_weights(len(names), 20)
    assert (weights.sum(axis=1) == 12).all()
    assert weights.max() > 2
    found = resamples_of(evaluate(frames_of(drawn_from), how), weights).values
    assert {"AP", "AP50_VH_small", "AR1", "AR_night", "AP_time 0 to 1 s"} <= found.keys() or (
        protocol != "full"
    )
    assert any("standing" in key for key in found)
    for s, weight in enumerate(weights):
        # Copies are recordings of their own, under new names.
        copies = {
            f"{name}_{copy}": drawn_from[name]
            for name, number in zip(names, weight, strict=True)
            for copy in range(number)
        }
        plain = everything(evaluate(frames_of(copies), how))
        for key, draws in found.items():
            expected = plain.get(key, np.nan)
            assert draws[s] == pytest.approx(expected, abs=1e-9, nan_ok=True), key


def test_intervals_are_percentiles_a_little_further_out():
    names = {f"a{i:02d}": random_recording(i) for i in range(12)}
    resamples = resamples_of(evaluate(frames_of(names), settings()))
    low, high = resamples.intervals()["AP"]
    assert len(resamples.values["AP"]) == 1000
    # Of 12 recordings: t with 11 degrees of freedom, times the root of 12/11.
    assert np.mean(resamples.values["AP"] < low) == pytest.approx(0.0108, abs=0.001)
    assert np.mean(resamples.values["AP"] > high) == pytest.approx(0.0108, abs=0.001)
    again = resamples_of(evaluate(frames_of(names), settings())).intervals()
    assert again == resamples.intervals()


def test_few_recordings_have_no_interval():
    nine = {f"a{i}": random_recording(i) for i in range(9)}
    assert resamples_of(evaluate(frames_of(nine), settings())).intervals() == {}
    # Nor has a class that is in nine of twelve.
    twelve = {f"a{i:02d}": random_recording(i + 1) for i in range(12)}
    for name in list(twelve)[:3]:
        labels, detections = twelve[name]
        twelve[name] = ([row for row in labels if row[2] != 2] or labels, detections)
    intervals = resamples_of(evaluate(frames_of(twelve), settings())).intervals()
    assert "AP_car" in intervals
    assert "AP_bicycle" not in intervals
    assert interval(np.full(1000, np.nan), 30) is None


def synthetic(rng, num_recordings):
    """Recordings whose detector is good in one and bad in the next, as one class and size."""
    recordings = {}
    for i in range(num_recordings):
        skill, num_labels = rng.beta(4, 3), rng.integers(4, 12)
        labels, detections = [], []
        for k in range(num_labels):
            box = np.array([40.0 * k, 0, 40.0 * k + 20, 20])
            labels.append((0, box, 0, 1.0, np.nan))
            if rng.random() < skill:
                moved = box + np.array([0, 0, rng.uniform(0, 8), 0])
                detections.append((0, moved, 0, rng.beta(3, 2), 0))
        for k in range(rng.poisson(8 * (1 - skill))):
            box = np.array([40.0 * k, 100, 40.0 * k + 20, 120])
            detections.append((0, box, 0, rng.beta(2, 3), 0))
        recordings[f"r{i:05d}"] = (labels, detections)
    return recordings


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    how = settings(("car",), sizes={"any": (0, inf)})
    truth = evaluate(frames_of(synthetic(rng, 20_000), 1), how).flat_metrics()
    weights = resample_weights(30, 400)
    held = dict.fromkeys(("AP", "AP50", "AR"), 0)
    for _ in range(500):
        result = evaluate(frames_of(synthetic(rng, 30), 1), how)
        intervals = resamples_of(result, weights).intervals()
        for key in held:
            low, high = intervals[key]
            held[key] += low <= truth[key] <= high
    for key, number in held.items():
        assert 0.91 * 500 <= number <= 0.98 * 500, (key, number)


@pytest.mark.slow
def test_four_thousand_frames_take_less_than_two_seconds_on_two_cores():
    recordings = {
        f"val_{'day' if i % 2 else 'night'}_{i:02d}": random_recording(i, 134, 8) for i in range(30)
    }
    result = evaluate(frames_of(recordings, 134), settings())
    assert len(result.frames) > 4000
    resamples_of(result)  # numba compiles once
    start = process_time()
    resamples_of(result)
    assert process_time() - start < 2 * 2
