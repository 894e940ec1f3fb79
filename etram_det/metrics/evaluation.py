"""All metrics of one evaluation, and what it takes to read them rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from math import isinf
from typing import Any

import numpy as np

from etram_det.metrics.confusion import Pairing, confusion_matrix, pair_boxes
from etram_det.metrics.curves import Curves, Evaluator
from etram_det.metrics.evaluation_frames import EvaluationFrames
from etram_det.metrics.intervals import Resamples, resamples_of
from etram_det.metrics.matching import IOU_THRESHOLDS
from etram_det.metrics.records import PARTS_OF_DAY, Record, flat_metrics, part_of_day
from etram_det.metrics.scores import ScoreCounts, counts_over_score
from etram_det.metrics.settings import FRAME_COUNTS, EvaluationSettings


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found.

    Attributes:
        settings: how it was counted.
        frames: the frames and boxes that counted, boxes in ``settings.pixel_frame`` pixels.
        evaluator: gives the curves over any choice of the frames.
        curves: precision and recall over all of them.
        day: the same over the recordings that have ``day`` in their name.
        night: the same over the recordings that have ``night`` in their name.
        by_motion: gives the curves by motion bin; None where no label has a known speed.
        num_dropped_labels: ground-truth boxes that the protocol left out.
        num_dropped_detections: detections that the protocol left out.
    """

    settings: EvaluationSettings
    frames: EvaluationFrames
    evaluator: Evaluator
    curves: Curves
    day: Curves
    night: Curves
    by_motion: Evaluator | None
    num_dropped_labels: int
    num_dropped_detections: int

    @property
    def num_recordings(self) -> int:
        """Recordings that have a frame which counted."""
        return len(np.unique(self.frames.recording))

    @cached_property
    def records(self) -> list[Record]:
        """Metrics of everything, of each class, group, day and night, over all sizes and by bin."""
        records = self._records("", "", self.curves)
        for name, ids in self.settings.reported.items():
            records += self._records("", name, self.curves, ids)
        return records + self._records("day", "", self.day) + self._records("night", "", self.night)

    @cached_property
    def motion_records(self) -> list[Record]:
        """Metrics of everything, each class and group by motion bin; none without known speeds."""
        if self.by_motion is None:
            return []
        curves = self.by_motion.curves(np.ones(len(self.frames), dtype=bool))
        bins = tuple(self.settings.motion_bins)
        of = {"": None, **self.settings.reported}
        return [r for name, ids in of.items() for r in self._records("", name, curves, ids, bins)]

    @cached_property
    def times(self) -> dict[str, np.ndarray]:
        """Which frames ``[F]`` lie in each stretch of time since the start of their recordings.

        Ten stretches at most, of 1, 2 or 5 times a power of ten seconds and 1 s or more.
        """
        seconds = (self.frames.time_us - self.frames.start_us) / 1e6
        last = max(seconds.max(initial=0), 1.0)
        steps = (d * 10.0**e for e in count() for d in (1, 2, 5))
        step = next(each for each in steps if last <= 10 * each)
        # A frame is named by its end: one that ends on a bound lies before it.
        place = np.maximum(np.ceil(seconds / step), 1).astype(int)
        return {
            f"{step * (i - 1):g} to {step * i:g} s": place == i for i in np.unique(place).tolist()
        }

    @cached_property
    def resamples(self) -> Resamples:
        """Every metric in resamples of the recordings; none below ten recordings."""
        return resamples_of(self)

    @cached_property
    def over_score(self) -> ScoreCounts:
        """Detections of each class from each score on."""
        return counts_over_score(self.evaluator.matches, self.curves.num_boxes[:, 0])

    def per_time(self) -> dict[str, dict[str, float]]:
        """The same by time since the start of the recordings."""
        return {name: self._flat_metrics_of(kept) for name, kept in self.times.items()}

    def flat_metrics(self) -> dict[str, float]:
        """Every metric by its flat key; nan where there is no ground truth.

        ``AP``, ``AP50``, ``AP75``, ``AR``, ``num_boxes`` over all boxes; ``AP_<bin>`` …
        ``num_<bin>`` for every size bin; the same for every class, class group, day and night as
        ``AP_<name>``, ``AP_<name>_<bin>`` … ``num_<name>_<bin>``; ``AR1`` and ``AR10`` with that
        many detections for each frame and class; ``num_frames``, ``num_recordings``,
        ``num_dropped_labels``, ``num_dropped_detections``. Where labels have known speeds, the
        same as for size bins for every motion bin, but by day and night.
        """
        dropped = self.num_dropped_labels, self.num_dropped_detections
        counts = len(self.frames), self.num_recordings, *dropped
        recalls = {
            name: self.curves.average_recall(limit=limit)
            for limit, name in enumerate(self.settings.recall_names)
        }
        of_frames = dict(zip(FRAME_COUNTS, counts, strict=True))
        return flat_metrics(self.records) | recalls | of_frames | flat_metrics(self.motion_records)

    def per_recording(self) -> dict[str, dict[str, float]]:
        """AP, AP50, AP75, AR and boxes, over all sizes and by size bin, of each recording."""
        names, recording = np.unique(self.frames.recording, return_inverse=True)
        return {str(n): self._flat_metrics_of(recording == i) for i, n in enumerate(names)}

    def _flat_metrics_of(self, kept: np.ndarray) -> dict[str, float]:
        return flat_metrics(self._records("", "", self.evaluator.curves(kept)))

    def pairing(self, *, score_threshold: float, iou_threshold: float = 0.5) -> Pairing:
        """Which detection took which ground-truth box, whatever the class.

        The arguments are those of :func:`~etram_det.metrics.confusion.pair_boxes`.
        """
        return pair_boxes(self.frames, score_threshold=score_threshold, iou_threshold=iou_threshold)

    def confusion(self, *, score_threshold: float, iou_threshold: float = 0.5) -> np.ndarray:
        """``[K + 1, K + 1]`` counts of true by detected class, background last.

        The arguments are those of :meth:`pairing`.
        """
        pairing = self.pairing(score_threshold=score_threshold, iou_threshold=iou_threshold)
        return confusion_matrix(pairing, self.settings.num_classes)

    def description(self) -> dict[str, Any]:
        """Protocol, bins, pixels, thresholds and numbers of frames, as plain values for JSON.

        A bin without an upper bound has None there, as have bounds of a filter that is not used.
        """
        settings = self.settings
        rules = asdict(settings.rules)
        if not settings.rules.filtered:
            rules |= {"min_side_px": None, "min_diagonal_px": None}
        return {
            "protocol": settings.protocol,
            **rules,
            "pixel_frame": settings.pixel_frame,
            "size_bins": _plain_bins(settings.size_bins),
            "motion_bins": _plain_bins(settings.motion_bins),
            "iou_thresholds": [round(float(iou), 2) for iou in IOU_THRESHOLDS],
            "max_detections": settings.max_detections,
            "class_names": list(settings.reported_classes),
            "class_groups": {
                name: [settings.class_names[i] for i in ids]
                for name, ids in settings.reported_groups.items()
            },
            "frames": len(self.frames),
            "recordings": self.num_recordings,
            "dropped_labels": self.num_dropped_labels,
            "dropped_detections": self.num_dropped_detections,
        }

    def _records(
        self,
        part: str,
        name: str,
        curves: Curves,
        classes: Sequence[int] | None = None,
        bins: Sequence[str] | None = None,
    ) -> list[Record]:
        """Over all sizes and by size bin, or by the bins that the curves are of."""
        records = []
        for area, size in enumerate(("", *self.settings.size_bins) if bins is None else bins):
            of: dict[str, Any] = {"classes": classes, "area": area}
            ap, ap50, ap75 = (curves.average_precision(**of, iou=iou) for iou in (None, 0.5, 0.75))
            recall, boxes = curves.average_recall(**of), curves.count(**of)
            records.append(Record(part, name, size, ap, ap50, ap75, recall, boxes))
        return records


def evaluate(frames: EvaluationFrames, settings: EvaluationSettings) -> EvaluationResult:
    """Apply the protocol and compute all curves.

    Args:
        frames: all labelled frames with boxes in pixels of the network's input.
        settings: how to count.
    """
    counted = settings.rules.apply(frames.ordered())
    if settings.pixel_frame == "native":
        counted = counted.native()
    limits = settings.detection_limits
    area_ranges = settings.area_ranges(frames.area_error)
    evaluator = Evaluator(counted, settings.num_classes, area_ranges, limits)
    ranges = list(settings.motion_bins.values())
    has_motion = counted.truth.motion is not None and bool(ranges)
    by_motion = (
        Evaluator(counted, settings.num_classes, ranges, limits, True) if has_motion else None
    )
    everything = evaluator.curves(np.ones(len(counted), dtype=bool))
    part = np.array([part_of_day(str(name)) for name in counted.recording], dtype=object)
    day, night = (
        everything if (part == name).all() else evaluator.curves(part == name)
        for name in PARTS_OF_DAY
    )
    return EvaluationResult(
        settings,
        counted,
        evaluator,
        everything,
        day,
        night,
        by_motion,
        num_dropped_labels=len(frames.truth) - len(counted.truth),
        num_dropped_detections=len(frames.detections) - len(counted.detections),
    )


def _plain_bins(bins: Mapping[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    return {name: [low, None if isinf(high) else high] for name, (low, high) in bins.items()}
