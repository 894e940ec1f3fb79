"""What counts in an evaluation: its protocol, size bins and classes, checked when they are set.

The protocol ``full`` judges a detector by everything that is labelled. ``prophesee`` repeats the
filter of Prophesee's Automotive Dataset Toolbox as RVT applies it, for comparison with published
numbers; it removes most small objects. ``prophesee_gen1`` is the same with the bounds for Gen1's
smaller sensor. ``etram_fork`` also ignores classes, which eTraM's fork of RVT prints as "Overall".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Literal, get_args

import numpy as np

from etram_det.errors import UserError
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes
from etram_det.metrics.records import METRICS, Cell, flat_key, motion_cells, reported_cells

ProtocolName = Literal["full", "prophesee", "etram_fork", "prophesee_gen1"]
PixelFrame = Literal["network", "native"]
SKIPPED_US = 500_000
COUNTED_DETECTIONS = 100  # of each frame and class, as in COCO

# COCO's, in square pixels: 32 and 96 pixels squared.
SIZE_BINS: dict[str, tuple[float, float]] = {
    "small": (0, 1024),
    "medium": (1024, 9216),
    "large": (9216, inf),
}
# In sensor pixels a second.
MOTION_BINS: dict[str, tuple[float, float]] = {
    "standing": (0, 10),
    "slow": (10, 100),
    "fast": (100, inf),
}
# Flat keys of what was evaluated, beside those of the records.
FRAME_COUNTS = ("num_frames", "num_recordings", "num_dropped_labels", "num_dropped_detections")


@dataclass(frozen=True)
class Protocol:
    """How boxes are chosen and scored: by default as for Prophesee's published results.

    Attributes:
        filtered: drop boxes of the first 0.5 s and small ones, from labels and detections, then
            leave out the frames that have no label left. Unfiltered, every labelled frame counts,
            those without boxes too.
        uses_objectness: score is objectness times class confidence, else class confidence alone.
        class_agnostic: treat all boxes as one class.
        as_published: detections may reach beyond the frame and each predicted box counts for its
            most likely class alone. Otherwise they are cut at the frame, as labels are, and count
            for every class that reaches the score threshold.
        min_side_px: shortest side, on the sensor, of a box that the filter keeps.
        min_diagonal_px: its shortest diagonal.
    """

    filtered: bool = True
    uses_objectness: bool = False
    class_agnostic: bool = False
    as_published: bool = True
    min_side_px: int = 20
    min_diagonal_px: int = 60

    def apply(self, frames: EvaluationFrames) -> EvaluationFrames:
        """The frames and boxes that count, boxes still in the pixels in which they came."""
        if self.class_agnostic:
            frames = frames.without_classes()
        if not self.filtered:
            return frames
        frames = frames.with_boxes(lambda b: b.select(self._large_enough(b, frames.scale)))
        has_truth = np.bincount(frames.truth.frame, minlength=len(frames)) > 0
        return frames.select(has_truth & (frames.time_us - frames.start_us > SKIPPED_US))

    def _large_enough(self, boxes: FrameBoxes, scale: np.ndarray) -> np.ndarray:
        size = boxes.size * scale[boxes.frame]
        long_enough = (size**2).sum(axis=1) >= self.min_diagonal_px**2
        return (size >= self.min_side_px).all(axis=1) & long_enough


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "full": Protocol(filtered=False, uses_objectness=True, as_published=False),
    "prophesee": Protocol(),
    "etram_fork": Protocol(class_agnostic=True),
    "prophesee_gen1": Protocol(min_side_px=10, min_diagonal_px=30),
}


@dataclass(frozen=True)
class EvaluationSettings:
    """How an evaluation counts and what it reports.

    Attributes:
        class_names: name of each class id.
        size_bins: least and greatest area of each size bin in square pixels, both included.
        pixel_frame: pixels in which areas are measured: the network's input or the sensor's.
        protocol: key of ``PROTOCOLS``.
        class_groups: ids of the classes in each group; a group's metric is the mean over those
            of its classes that have ground truth.
        max_detections: most detections that count for each frame and class.
        motion_bins: least and greatest speed of each motion bin in sensor pixels a second, both
            included. What is faster than the first one counts as moving.

    Raises:
        UserError: for settings that do not fit together.
    """

    class_names: tuple[str, ...]
    size_bins: dict[str, tuple[float, float]]
    pixel_frame: PixelFrame
    protocol: ProtocolName
    class_groups: dict[str, tuple[int, ...]]
    max_detections: int
    motion_bins: dict[str, tuple[float, float]] = field(default_factory=MOTION_BINS.copy)

    def __post_init__(self) -> None:
        for key in ("size_bins", "motion_bins", "class_groups"):  # whose names YAML may read as 1
            named = {str(name): value for name, value in getattr(self, key).items()}
            object.__setattr__(self, key, named)
        for key, choices in (("protocol", PROTOCOLS), ("pixel_frame", get_args(PixelFrame))):
            if (value := getattr(self, key)) not in choices:
                raise UserError(
                    f"model.{key}: must be one of {', '.join(choices)}, got {value!r}: set one of "
                    "them"
                )
        _check_bins("size_bins", "square pixels", self.size_bins)
        _check_bins("motion_bins", "pixels a second", self.motion_bins)
        if self.moving_above == inf:
            raise UserError(
                "model.motion_bins: must have a first bin with an upper bound, above which a label "
                "moves, got .inf: set such a bound"
            )
        if self.max_detections < 1:
            raise UserError(
                f"model.max_detections: must be at least 1, got {self.max_detections}: set 100, as "
                "COCO does"
            )
        bins = (*self.size_bins, *self.motion_bins)
        cells = reported_cells((*self.class_names, *self.class_groups), bins)
        keys = [flat_key(metric, cell) for cell in cells for metric in (*METRICS, "boxes")]
        key, count = Counter([*FRAME_COUNTS, *keys]).most_common(1)[0]
        if count > 1:
            raise UserError(
                "data.class_names, model.size_bins, model.motion_bins, model.class_groups: must "
                f"give each metric a key of its own, got {key!r} twice: use another name for one "
                "of them"
            )

    @property
    def rules(self) -> Protocol:
        """The protocol itself."""
        return PROTOCOLS[self.protocol]

    @property
    def reported_classes(self) -> tuple[str, ...]:
        """Names of the classes with metrics of their own; none where classes are ignored."""
        return () if self.rules.class_agnostic else self.class_names

    @property
    def reported_groups(self) -> dict[str, tuple[int, ...]]:
        """The groups with metrics of their own: none where classes are ignored."""
        return {} if self.rules.class_agnostic else self.class_groups

    @property
    def reported(self) -> dict[str, tuple[int, ...]]:
        """Ids of the classes in each class and group with metrics of its own."""
        classes = {name: (i,) for i, name in enumerate(self.reported_classes)}
        return {**classes, **self.reported_groups}

    @property
    def metric_names(self) -> list[str]:
        """Flat keys of all precisions and recalls, which are logged and can be monitored."""
        return [flat_key(metric, cell) for metric, cell in self._logged] + self.recall_names

    @property
    def metric_folders(self) -> dict[str, str]:
        """Folder of each of these metrics where they are shown as a list; empty for the main ones.

        Main are AP, AP50 and AR of everything, and AP of each size bin, motion bin, day and night.
        """
        folders = {}
        for metric, (part, name, bin_name) in self._logged:
            kinds = ["day"] * bool(part) + ["class"] * bool(name)
            if bin_name:
                kinds.append("size" if bin_name in self.size_bins else "motion")
            is_main = metric == "AP" and len(kinds) < 2 and not name
            is_main = is_main or (not kinds and metric in ("AP50", "AR"))
            folder = f"by_{'_and_'.join(kinds)}" if kinds else "more"
            folders[flat_key(metric, (part, name, bin_name))] = "" if is_main else folder
        return folders | dict.fromkeys(self.recall_names, "more")

    @property
    def _logged(self) -> list[tuple[str, Cell]]:
        cells = reported_cells(self.reported, self.size_bins)
        cells += motion_cells(self.reported, self.motion_bins)
        return [(metric, cell) for cell in cells for metric in METRICS]

    @property
    def recall_names(self) -> list[str]:
        """Flat keys of recall with fewer detections than count: ``AR1`` and ``AR10``."""
        return [f"AR{number}" for number in self.detection_limits[:-1]]

    @property
    def num_classes(self) -> int:
        """Classes that are counted apart."""
        return 1 if self.rules.class_agnostic else len(self.class_names)

    def area_ranges(self, area_error: float) -> list[tuple[float, float]]:
        """All areas first, then each bin, its bounds wide enough for areas of rounded corners.

        Args:
            area_error: greatest relative error of an area.
        """
        lower, upper = 1 - area_error, 1 + area_error
        return [(0, inf), *((low * lower, high * upper) for low, high in self.size_bins.values())]

    @property
    def moving_above(self) -> float | None:
        """Speed in sensor pixels a second above which a label moves; None without motion bins."""
        return next((high for _, high in self.motion_bins.values()), None)

    @property
    def detection_limits(self) -> list[int]:
        """Numbers of detections for which recall is reported, ascending."""
        return [n for n in (1, 10) if n < self.max_detections] + [self.max_detections]


def class_groups_by_id(
    class_groups: Mapping[str, Sequence[int | str]], class_names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Class ids of each group, from ids or names.

    Raises:
        UserError: for a class that ``class_names`` does not have, or an empty group.
    """
    ids = {name: i for i, name in enumerate(class_names)}
    groups = {}
    for group, members in class_groups.items():
        found = [ids.get(member, -1) if isinstance(member, str) else member for member in members]
        unknown = [m for m, i in zip(members, found, strict=True) if not 0 <= i < len(ids)]
        if unknown or not found:
            named = ", ".join(f"{i} {name}" for name, i in ids.items())
            raise UserError(
                f"model.class_groups.{group}: must be ids or names out of {named}, got "
                f"{unknown or 'none'}: set such, or no groups by --model.class_groups null"
            )
        groups[group] = tuple(dict.fromkeys(found))
    return groups


def _check_bins(setting: str, unit: str, bins: Mapping[str, tuple[float, float]]) -> None:
    previous_name, previous_high = "", 0.0
    for name, (low, high) in bins.items():
        if not 0 <= low < high:
            raise UserError(
                f"model.{setting}.{name}: must be [low, high] in {unit} with 0 <= low < "
                f"high, got [{low:g}, {high:g}]: set other bounds (.inf leaves a bin open)"
            )
        if low < previous_high:
            raise UserError(
                f"model.{setting}.{name}: must follow the bin before it and share a bound at most, "
                f"got [{low:g}, {high:g}] after {previous_name}, which ends at {previous_high:g}: "
                "set another bound or order"
            )
        previous_name, previous_high = name, high
