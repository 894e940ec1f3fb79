"""Confidence intervals of metrics: the bootstrap over recordings.

A resample is a list of as many recordings as there are, drawn with replacement. Detections are
matched once; in a resample each counts as often as its recording was drawn.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist

import numba
import numpy as np

NUM_RESAMPLES = 1000
LEAST_RECORDINGS = 10  # with labels of what is measured: below, there is no interval
LEVEL = 0.95
_SEED = 17
_LANES = 64  # resamples that are computed side by side
_JOB_LANES = 4 * _LANES  # resamples of a job for one thread

# What a detection is at one IoU threshold and in one range.
FALSE, TRUE, IGNORED = 0, 1, 2


def resample_weights(num_recordings: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """How often each of R recordings is drawn, ``[S, R]`` int64: the same for equal arguments."""
    rng = np.random.default_rng(_SEED)
    drawn = rng.integers(0, max(num_recordings, 1), (num_resamples, num_recordings))
    weights = np.zeros((num_resamples, num_recordings), dtype=np.int64)
    np.add.at(weights, (np.arange(num_resamples)[:, None], drawn), 1)
    return weights


def interval(draws: np.ndarray, num_recordings: int) -> tuple[float, float] | None:
    """The 95 % interval of a metric or of a difference; None below 10 recordings.

    The expanded percentile interval of Hesterberg, "What Teachers Should Know About the Bootstrap"
    (2015): percentiles lie further out than 2.5 and 97.5, as few recordings vary less than many.

    Args:
        draws: ``[S]`` values in the resamples; those that are nan do not count.
        num_recordings: recordings that have labels of what is measured.
    """
    draws = draws[~np.isnan(draws)]
    if num_recordings < LEAST_RECORDINGS or not len(draws):
        return None
    normal = NormalDist()
    z, freedom = normal.inv_cdf((1 + LEVEL) / 2), num_recordings - 1
    # Student's t by Cornish and Fisher's expansion: 2.2622 for 2.2622 at 9 degrees of freedom.
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    tail = normal.cdf(-student * (num_recordings / freedom) ** 0.5)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class ResampledCurves:
    """Average precision and recall in S resamples; nan for a class without ground truth there.

    Attributes:
        precision: ``[S, K, A, I]`` float64, mean precision over recall, for classes K, ranges A
            and IoU thresholds I.
        recall: ``[S, K, A, I, L]`` float64, with at most L detections for each frame and class.
        has_boxes: ``[R, K, A]`` bool, recordings that have ground truth.
    """

    precision: np.ndarray
    recall: np.ndarray
    has_boxes: np.ndarray

    def average_precision(
        self, *, classes: Sequence[int] | None = None, area: int = 0, iou: int | None = None
    ) -> np.ndarray:
        """Mean over IoU and those classes that have ground truth, ``[S]``.

        Args:
            classes: ids to average over, all by default.
            area: index of the range.
            iou: index of one IoU threshold in place of their mean.
        """
        precision = self.precision[:, :, area]
        precision = precision if iou is None else precision[..., [iou]]
        return _mean_of_known(precision if classes is None else precision[:, list(classes)])

    def average_recall(
        self, *, classes: Sequence[int] | None = None, area: int = 0, limit: int = -1
    ) -> np.ndarray:
        """The same of recall; ``limit`` is the index of the number of detections."""
        recall = self.recall[:, :, area, :, limit]
        return _mean_of_known(recall if classes is None else recall[:, list(classes)])

    def num_recordings(self, *, classes: Sequence[int] | None = None, area: int = 0) -> int:
        """Recordings with ground truth of these classes, all by default, in one range."""
        has_boxes = self.has_boxes[:, :, area]
        has_boxes = has_boxes if classes is None else has_boxes[:, list(classes)]
        return int(np.count_nonzero(has_boxes.any(axis=1)))


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean ``[S]`` of what is not nan in ``[S, K, I]``; nan where there is nothing."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=(1, 2)) / known.sum(axis=(1, 2))


# Status [I, D] of detections of one class in one range, best score first; recording [D] of each;
# and the number of ground-truth boxes [S] in each resample.
Job = tuple[np.ndarray, np.ndarray, np.ndarray]


def resampled_precision(
    jobs: Sequence[Job], weights: np.ndarray, recall_thresholds: np.ndarray
) -> np.ndarray:
    """Mean precision over recall ``[S, J, I]`` of J jobs in S resamples, on all cores.

    Args:
        jobs: what to compute.
        weights: ``[S, R]`` how often each recording counts in each resample.
        recall_thresholds: ascending, in [0, 1].
    """
    num_resamples, num_recordings = weights.shape
    padded = -(-num_resamples // _LANES) * _LANES
    by_recording = np.zeros((num_recordings, padded), dtype=np.int32)
    by_recording[:, :num_resamples] = weights.T
    precision = np.zeros((padded, len(jobs), jobs[0][0].shape[0]))

    def compute(job: int, start: int) -> None:
        status, recording, num_boxes = jobs[job]
        lanes = slice(start, start + _JOB_LANES)
        counts = np.zeros(padded, dtype=np.int64)
        counts[:num_resamples] = num_boxes
        _resampled_precision(
            np.ascontiguousarray(status),
            recording,
            np.ascontiguousarray(by_recording[:, lanes]),
            counts[lanes],
            recall_thresholds,
            precision[lanes, job],
        )

    with ThreadPoolExecutor(_num_threads()) as threads:
        starts = range(0, padded, _JOB_LANES)
        done = [threads.submit(compute, job, s) for job in range(len(jobs)) for s in starts]
        for each in done:
            each.result()
    return precision[:num_resamples]


def _num_threads() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _resampled_precision(
    status: np.ndarray,
    recording: np.ndarray,
    weights: np.ndarray,
    num_boxes: np.ndarray,
    recall_thresholds: np.ndarray,
    precision: np.ndarray,
) -> None:
    """Fill in ``precision`` ``[S, I]`` for ``weights`` ``[R, S]``, ``num_boxes`` ``[S]``."""
    constant, places = _split(status)
    num_places, needed = len(places), _needed(num_boxes, recall_thresholds)
    last = places[-1] + 1 if num_places else 0
    counted_anyway = np.empty((num_places, _LANES), np.int32)
    # A row for each true detection: true ones up to it, and the highest precision from it on.
    true = np.empty((num_places, _LANES), np.int32)
    highest = np.empty((num_places, _LANES))
    num_true, num_counted = np.empty(_LANES, np.int32), np.empty(_LANES, np.int32)
    for start in range(0, weights.shape[1], _LANES):
        of_recording = weights[:, start : start + _LANES].copy()
        num_counted[:] = 0
        p = 0
        for d in range(last):
            if constant[d]:
                drawn = of_recording[recording[d]]
                for s in range(_LANES):
                    num_counted[s] += drawn[s]
            if d == places[p]:
                counted_anyway[p] = num_counted
                p += 1
        for i in range(len(status)):
            num_true[:] = num_counted[:] = 0
            k = 0
            for p in range(num_places):
                d = places[p]
                found = status[i, d]
                if found == IGNORED:
                    continue
                r = recording[d]
                if not constant[d]:
                    for s in range(_LANES):
                        num_counted[s] += of_recording[r, s]
                if found == TRUE:
                    for s in range(_LANES):
                        num_true[s] += of_recording[r, s]
                        true[k, s] = num_true[s]
                    for s in range(_LANES):
                        counted = max(num_counted[s] + counted_anyway[p, s], 1)
                        highest[k, s] = num_true[s] / counted
                    k += 1
            for later in range(k - 1, 0, -1):
                for s in range(_LANES):
                    highest[later - 1, s] = max(highest[later - 1, s], highest[later, s])
            for s in range(_LANES):
                precision[start + s, i] = _mean_precision(
                    true[:k, s], highest[:k, s], needed[start + s]
                )


@numba.njit(cache=True, nogil=True)
def _split(status: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections count at all IoU thresholds, and the places of those that differ with them.

    The places end with the last one of a true detection.
    """
    constant = np.zeros(status.shape[1], np.bool_)
    places = np.empty(status.shape[1], np.int64)
    num_places, last = 0, 0
    for d in range(status.shape[1]):
        num_true, num_ignored = 0, 0
        for i in range(len(status)):
            num_true += status[i, d] == TRUE
            num_ignored += status[i, d] == IGNORED
        constant[d] = num_ignored == 0
        if num_true or 0 < num_ignored < len(status):
            places[num_places] = d
            num_places += 1
            if num_true:
                last = num_places
    return constant, places[:last]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _needed(num_boxes: np.ndarray, recall_thresholds: np.ndarray) -> np.ndarray:
    """True detections ``[S, R]`` that reach each recall of ``num_boxes`` ``[S]``."""
    needed = np.empty((len(num_boxes), len(recall_thresholds)), np.int32)
    for s in range(len(num_boxes)):
        for r in range(len(recall_thresholds)):
            threshold, of = recall_thresholds[r], num_boxes[s]
            number = int(threshold * of)
            # Compared as recall is: rounding decides about thresholds that are met exactly.
            while number / max(of, 1) < threshold and of > 0:
                number += 1
            needed[s, r] = number
    return needed


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mean_precision(true: np.ndarray, highest: np.ndarray, needed: np.ndarray) -> float:
    """Mean precision over recall, from true detections so far and the highest precision after."""
    total = 0.0
    k, leap = 0, 1 + len(true) // 400
    for r in range(len(needed)):
        # In leaps, then step by step.
        while k + leap < len(true) and true[k + leap] < needed[r]:
            k += leap
        while k < len(true) and true[k] < needed[r]:
            k += 1
        if k == len(true):
            break
        total += highest[k]
    return total / len(needed)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count_true(
    status: np.ndarray,
    recording: np.ndarray,
    rank: np.ndarray,
    limits: np.ndarray,
    num_recordings: int,
) -> np.ndarray:
    """True detections ``[R, A, I, L]`` by recording, of ``status`` ``[A, I, D]``."""
    num_ranges, num_ious, num_detections = status.shape
    counts = np.zeros((num_recordings, num_ranges, num_ious, len(limits)), np.int64)
    for a in range(num_ranges):
        for i in range(num_ious):
            for d in range(num_detections):
                if status[a, i, d] == TRUE:
                    for n in range(len(limits)):
                        counts[recording[d], a, i, n] += rank[d] < limits[n]
    return counts
