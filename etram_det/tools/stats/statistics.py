"""What is known of recordings without their events, and statistics of their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.metrics.evaluation import PARTS_OF_DAY, part_of_day

SIZES = ("small", "medium", "large")
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class RecordingFacts:
    """What is known of one recording without its frames.

    Attributes:
        name: of the recording; ``day`` or ``night`` as a word of it says when it was made.
        seconds: from its first frame's start to its last one's end.
        event_rate: events in a second; None where it is not known.
        num_frames: of all its frames.
        num_labelled: of its labelled frames.
        classes: ``[M]`` class id of each label.
        sizes: ``[M, 2]`` width and height of each label in pixels of the input frame.
        dropped: number of boxes left out, by reason.
        labels_without_events: labels in whose windows there is no event.
    """

    name: str
    seconds: float
    event_rate: float | None
    num_frames: int
    num_labelled: int
    classes: NDArray[np.integer[Any]]
    sizes: NDArray[np.floating[Any]]
    dropped: Mapping[str, int]
    labels_without_events: int = 0

    @property
    def part_of_day(self) -> str | None:
        """``day`` or ``night`` by its name, as in evaluations; None where it does not say."""
        return part_of_day(self.name)


def statistics_of(
    splits: Mapping[str, Sequence[RecordingFacts]],
    class_names: Sequence[str],
    small_threshold: float,
    medium_threshold: float,
    pixels: str,
) -> dict[str, Any]:
    """Statistics of all splits, in plain numbers, strings and lists.

    Args:
        splits: recordings of each split.
        class_names: name of each class id.
        small_threshold: boxes of a smaller area are small, in square pixels of the input frame.
        medium_threshold: boxes of this area and more are large.
        pixels: the size of the input frame in words.
    """
    by_split = {
        split: _split_statistics(recordings, class_names, (small_threshold, medium_threshold))
        for split, recordings in splits.items()
    }
    advised_on = next((split for split in splits if by_split[split]["boxes"]), None)
    return {
        "pixels": pixels,
        "small_threshold": small_threshold,
        "medium_threshold": medium_threshold,
        "splits": by_split,
        "advice": None if advised_on is None else _advice(advised_on, splits[advised_on]),
    }


def _split_statistics(
    recordings: Sequence[RecordingFacts],
    class_names: Sequence[str],
    thresholds: tuple[float, float],
) -> dict[str, Any]:
    classes, sizes = labels_of(recordings)
    areas = sizes.prod(axis=1)
    parts = [each.part_of_day for each in recordings]
    # Where no name says it, nothing is known, which is not the same as none.
    part_of_box = None
    if any(parts):
        part_of_box = np.repeat(np.array(parts, object), [len(r.classes) for r in recordings])
    size_bin = np.digitize(areas, thresholds)
    seconds = sum(each.seconds for each in recordings)
    num_labelled = sum(each.num_labelled for each in recordings)
    rates = [each.event_rate for each in recordings if each.event_rate is not None]
    dropped: Counter[str] = Counter()
    for each in recordings:
        dropped.update(each.dropped)
    by_class = {}
    for class_id, name in enumerate(class_names):
        own = classes == class_id
        parts_of_own = None if part_of_box is None else part_of_box[own]
        by_class[name] = _class_statistics(areas[own], size_bin[own], parts_of_own)
    return {
        "recordings": len(recordings),
        **{f"recordings_{p}": parts.count(p) if any(parts) else None for p in PARTS_OF_DAY},
        "seconds": seconds,
        "frames": sum(each.num_frames for each in recordings),
        "labelled_frames": num_labelled,
        "labelled_frames_per_second": num_labelled / seconds if seconds else None,
        "boxes": len(classes),
        "boxes_per_labelled_frame": len(classes) / num_labelled if num_labelled else None,
        "dropped": dict(dropped),
        "labels_without_events": sum(each.labels_without_events for each in recordings),
        "events_per_second": _quantiles(np.array(rates)),
        "classes": by_class,
        "width": _quantiles(sizes[:, 0]),
        "height": _quantiles(sizes[:, 1]),
        "area": _quantiles(areas),
    }


def _class_statistics(
    areas: NDArray[Any], size_bin: NDArray[Any], part_of_box: NDArray[Any] | None
) -> dict[str, Any]:
    """Of the boxes ``[M]`` of one class."""
    parts = None if part_of_box is None else part_of_box.tolist()
    return {
        "boxes": len(areas),
        **dict(zip(SIZES, np.bincount(size_bin, minlength=3).tolist(), strict=True)),
        **{part: None if parts is None else parts.count(part) for part in PARTS_OF_DAY},
        "median_area": float(np.median(areas)) if len(areas) else None,
    }


def labels_of(recordings: Sequence[RecordingFacts]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes ``[M]`` and sizes ``[M, 2]`` of all labels."""
    classes = [np.zeros(0, np.int64), *(each.classes for each in recordings)]
    sizes = [np.zeros((0, 2)), *(each.sizes for each in recordings)]
    return np.concatenate(classes), np.concatenate(sizes)


def _quantiles(values: NDArray[Any]) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    quantiles = np.quantile(values, QUANTILES).tolist()
    return {f"{q:g}": value for q, value in zip(QUANTILES, quantiles, strict=True)}


def _advice(split: str, recordings: Sequence[RecordingFacts]) -> dict[str, Any]:
    """Thresholds that cut the boxes into thirds, as squares of whole sides."""
    areas = labels_of(recordings)[1].prod(axis=1)
    small, medium = (
        max(round(float(side)), 1) for side in np.quantile(areas, (1 / 3, 2 / 3)) ** 0.5
    )
    medium = max(medium, small + 1)
    return {
        "split": split,
        "small_threshold": small**2,
        "medium_threshold": medium**2,
        "share_small": float(np.mean(areas < small**2)),
        "share_medium": float(np.mean((areas >= small**2) & (areas < medium**2))),
        "share_below_1024": float(np.mean(areas < 32**2)),
        "share_below_9216": float(np.mean(areas < 96**2)),
    }
