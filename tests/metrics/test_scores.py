"""The best score of each class, and detections that are off apart from false alarms."""

import numpy as np
import pytest

from etram_det.metrics.bootstrap import FALSE, IGNORED, TRUE
from etram_det.metrics.confusion import confusion_matrix, localisation_errors
from etram_det.metrics.matching import Matches
from etram_det.metrics.scores import SCORES, BestScore, counts_over_score
from support.small_evaluation import evaluated


def row(*detections, labels=(((10, 10, 30, 30), 0),)):
    return [("a", 100_000, list(labels), list(detections))]


def test_counts_and_f1_by_hand():
    found = evaluated().over_score
    assert found.labels.tolist() == [2, 2, 3]
    at = {s: int(np.flatnonzero(np.isclose(SCORES, s))[0]) for s in (0.0, 0.3, 0.45, 0.55)}
    # Pedestrians at 0.9 and 0.4, both right; cars at 0.7 (nothing), 0.6 (right) and 0.5 (the same
    # one again); buses at 0.8 (a car) and 0.2 (right).
    for score, true, detections in (
        (0.0, [2, 1, 1], [2, 3, 2]),
        (0.3, [2, 1, 0], [2, 3, 1]),
        (0.45, [1, 1, 0], [1, 3, 1]),
        (0.55, [1, 1, 0], [1, 2, 1]),
    ):
        assert found.true[at[score]].tolist() == true
        assert found.detections[at[score]].tolist() == detections
    assert found.f1(1)[at[0.55]] == pytest.approx(2 * 1 / (2 + 2))
    assert found.f1()[at[0.0]] == pytest.approx(2 * 4 / (7 + 7))
    # From 0 to 0.4 both pedestrians are found, and nothing else: the middle of these scores.
    assert found.best(0) == BestScore(0.2, 1.0, 1.0, 1.0)
    assert found.best(1) == pytest.approx((0.55, 0.5, 0.5, 0.5), abs=0.011)


def test_no_labels_and_nothing_found_have_no_best_score():
    missed = evaluated(row(((100, 100, 120, 120), 0, 0.9))).over_score
    assert missed.best(0) is missed.best(1) is missed.best() is None
    assert not missed.f1(0).any()


def test_detections_in_crowds_do_not_count():
    scores, status = np.array([0.9, 0.6, 0.5]), np.array([[[TRUE, IGNORED, FALSE]]], np.int8)
    places = np.zeros(3, np.int64)
    found = counts_over_score(
        Matches(places, places, np.array([0, 3]), scores, status), np.array([2])
    )
    at = np.flatnonzero(np.isin(SCORES.round(2), [0.2, 0.55, 0.8]))
    assert found.detections[at, 0].tolist() == [2, 1, 1]
    assert found.true[at, 0].tolist() == [1, 1, 1]


def counts(frames):
    pairing = evaluated(frames).pairing(score_threshold=0.3)
    false = confusion_matrix(pairing, 3)[-1, :-1]
    near = localisation_errors(pairing, 3)
    assert (pairing.is_false_alarm.sum(), (pairing.near_of >= 0).sum()) == (
        (false - near).sum(),
        near.sum(),
    )
    return near.tolist(), (false - near).tolist()


@pytest.mark.parametrize(
    ("detections", "near", "false"),
    [
        # The label is 20 px wide; moved by 10 px, the IoU is 1/3.
        ([((20, 10, 40, 30), 0, 0.9)], [1, 0, 0], [0, 0, 0]),
        ([((20, 10, 40, 30), 2, 0.9)], [0, 0, 1], [0, 0, 0]),  # of any class
        # Moved by 17 px, it is 3/37, less than 0.1.
        ([((27, 10, 47, 30), 0, 0.9)], [0, 0, 0], [1, 0, 0]),
        # One that fits takes the label, whatever its score: the other is a false alarm.
        ([((20, 10, 40, 30), 0, 0.9), ((10, 10, 30, 31), 0, 0.4)], [0, 0, 0], [1, 0, 0]),
        # A label explains one detection, the best.
        ([((20, 10, 40, 30), 1, 0.9), ((10, 20, 30, 40), 0, 0.8)], [0, 1, 0], [1, 0, 0]),
        # Below the score nothing counts.
        ([((20, 10, 40, 30), 0, 0.2)], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_localisation_errors_overlap_a_label_that_is_free(detections, near, false):
    assert counts(row(*detections)) == (near, false)


def test_each_free_label_explains_one_detection():
    labels = [((10, 10, 30, 30), 0), ((50, 10, 70, 30), 1)]
    detections = [
        ((20, 10, 40, 30), 0, 0.9),
        ((60, 10, 80, 30), 1, 0.8),
        ((50, 25, 70, 45), 1, 0.7),
    ]
    assert counts(row(*detections, labels=labels)) == ([1, 1, 0], [0, 1, 0])
