"""All metrics of an evaluation in every resample of its recordings, and their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from etram_det.metrics.bootstrap import (
    LEAST_RECORDINGS,
    ResampledCurves,
    interval,
    resample_weights,
)
from etram_det.metrics.matching import IOU_THRESHOLDS
from etram_det.metrics.records import METRICS, PARTS_OF_DAY, flat_key, part_of_day, time_part

if TYPE_CHECKING:
    from etram_det.metrics.evaluation import EvaluationResult

_IOU50, _IOU75 = (int(np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))[0]) for iou in (0.5, 0.75))


@dataclass(frozen=True)
class Resamples:
    """Metrics in S resamples of the recordings.

    The resamples depend on the number of recordings only: those of two evaluations of the same
    recordings belong together.

    Attributes:
        values: ``[S]`` float64 of each metric by flat key; nan without ground truth there.
        num_recordings: by the same keys, the recordings that have labels of what is measured.
    """

    values: Mapping[str, np.ndarray]
    num_recordings: Mapping[str, int]

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval of each metric that has one."""
        found = {k: interval(v, self.num_recordings[k]) for k, v in self.values.items()}
        return {key: bounds for key, bounds in found.items() if bounds is not None}


def resamples_of(result: EvaluationResult, weights: np.ndarray | None = None) -> Resamples:
    """Every metric of an evaluation in each resample; none below ten recordings.

    Args:
        result: what was evaluated.
        weights: ``[S, R]`` how often each recording, by name, counts; drawn unless given.
    """
    names, recording = np.unique(result.frames.recording, return_inverse=True)
    if weights is None:
        if len(names) < LEAST_RECORDINGS:
            return Resamples({}, {})
        weights = resample_weights(len(names))
    values, counts = {}, {}
    for key, draws, num_recordings in _metrics(result, recording, weights):
        values[key], counts[key] = draws, num_recordings
    return Resamples(values, counts)


_Metric = tuple[str, np.ndarray, int]


def _metrics(
    result: EvaluationResult, recording: np.ndarray, weights: np.ndarray
) -> Iterator[_Metric]:
    everywhere = np.ones(len(result.frames), dtype=bool)
    sizes, motions = ("", *result.settings.size_bins), tuple(result.settings.motion_bins)
    classes = {"": None, **result.settings.reported}
    curves = result.evaluator.resampled(everywhere, recording, weights)
    for name, ids in classes.items():
        yield from _of_curves(curves, "", name, sizes, ids)
    for limit, key in enumerate(result.settings.recall_names):
        yield key, curves.average_recall(limit=limit), curves.num_recordings()
    if result.by_motion is not None:
        by_motion = result.by_motion.resampled(everywhere, recording, weights)
        for name, ids in classes.items():
            yield from _of_curves(by_motion, "", name, motions, ids)
    part = np.array([part_of_day(str(name)) for name in result.frames.recording], dtype=object)
    for day in PARTS_OF_DAY:
        if (kept := part == day).any():
            of_part = curves if kept.all() else result.evaluator.resampled(kept, recording, weights)
            yield from _of_curves(of_part, day, "", sizes)
    for time, kept in result.times.items():
        of_time = curves if kept.all() else result.evaluator.resampled(kept, recording, weights, 1)
        yield from _of_curves(of_time, time_part(time), "", [""])


def _of_curves(
    curves: ResampledCurves,
    part: str,
    name: str,
    bins: Sequence[str],
    classes: Sequence[int] | None = None,
) -> Iterator[_Metric]:
    for area, size in enumerate(bins):
        num_recordings = curves.num_recordings(classes=classes, area=area)
        ap, ap50, ap75 = (
            curves.average_precision(classes=classes, area=area, iou=iou)
            for iou in (None, _IOU50, _IOU75)
        )
        recall = curves.average_recall(classes=classes, area=area)
        for metric, draws in zip(METRICS, (ap, ap50, ap75, recall), strict=True):
            yield flat_key(metric, (part, name, size)), draws, num_recordings
