"""Labels and detections of the same recordings, brought together frame by frame."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.data.box_formats.reading import ReadBoxes
from etram_det.data.box_formats.table import BoxTable
from etram_det.errors import UserError
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes
from etram_det.metrics.motion import with_motion
from etram_det.tools.evaluate.labels import LabelledFrames
from etram_det.tools.evaluate.window_ends import WindowEnds

_log = logging.getLogger(__name__)
_MAX_NAMES = 3
_FEW_MATCHED = 0.5  # share of the label times below which this is reported


@dataclass(frozen=True)
class PixelSettings:
    """In which pixels boxes are, and in which areas are measured.

    Attributes:
        boxes: boxes are in pixels of the sensor, or in those of a frame that was made of it.
        frame_scale: pixels of the sensor for each pixel of that frame, on a side: 2 for 1280x720
            at 640x360. Areas are measured in pixels of the frame, as in training; at 1, of the
            sensor.
    """

    boxes: Literal["sensor", "frame"] = "sensor"
    frame_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.frame_scale < np.inf:
            raise UserError(
                f"pixels.frame_scale: must be above 0, got {self.frame_scale:g}: set 1 for areas "
                "in pixels of the sensor"
            )

    @property
    def factor(self) -> float:
        """By which boxes are divided, to be in pixels of the frame."""
        return self.frame_scale if self.boxes == "sensor" else 1.0


def common_recordings(
    name: str, labels: LabelledFrames, detections: ReadBoxes, only_common: bool
) -> list[str]:
    """The recordings to evaluate: those with labels, or with labels and detections.

    Args:
        name: of the detector, for messages.
        labels: of all recordings.
        detections: of one detector.
        only_common: leave out recordings that have no detections, or no labels.

    Raises:
        UserError: there are detections of recordings without labels, unless ``only_common`` is
            set; or of none with labels.
    """
    labelled = labels.table.recordings
    others = sorted(detections.recordings.keys() - {*labelled})
    common = [each for each in labelled if each in detections.recordings]
    if (others and not only_common) or not common:
        file = detections.recordings[others[0]] if others else "its files"
        keep = ", or set only_common to leave them out" if common else ""
        raise UserError(
            f"detections: must be of recordings with labels ({_some(labelled)}), got "
            f"{_some(others) or 'none'} in {file}: name the files or the column recording after "
            f"these, or set times.pattern{keep}"
        )
    if only_common:
        return common
    if missing := [each for each in labelled if each not in detections.recordings]:
        _log.warning(
            "%s: no detections in %d of %d recordings with labels, all of which count as missed: "
            "%s: set only_common to leave such recordings out",
            name,
            len(missing),
            len(labelled),
            _some(missing),
        )
    return labelled


def evaluation_frames(
    name: str,
    labels: LabelledFrames,
    detections: ReadBoxes,
    pixels: PixelSettings,
    tolerance_us: float,
    moving_above: float | None,
) -> EvaluationFrames:
    """Frames with labels, and the detections at their times.

    Args:
        name: of the detector, for messages.
        labels: of the recordings that are evaluated.
        detections: of one detector.
        pixels: of the boxes and areas.
        tolerance_us: how far the time of detections may lie off that of labels.
        moving_above: speed in sensor pixels a second above which a label moves; None without
            motion.

    Raises:
        UserError: there are detections, but none at the time of a label.
    """
    table = detections.table.of_frames(np.isin(detections.table.recording, labels.table.recordings))
    place = _label_frame_of(table, labels.table, tolerance_us)
    _require_common_times(name, labels.table, table, place, tolerance_us)
    found = table.select(place[table.frame] >= 0)
    frames = EvaluationFrames(
        labels.table.recording,
        labels.table.time_us,
        labels.start_us,
        np.full((len(labels.table.time_us), 2), pixels.frame_scale),
        _frame_boxes(labels.table, labels.table.frame, pixels, is_truth=True),
        _frame_boxes(found, place[found.frame], pixels, is_truth=False),
        area_error=0.0,
        rank=labels.rank,
    )
    return with_motion(frames, labels.table.tracks, moving_above)


def log_left_out(labels: LabelledFrames, ends: Sequence[WindowEnds]) -> None:
    """Report label times that are not evaluated, as no window ends there.

    Args:
        labels: those that are evaluated.
        ends: of the windows, of each detector where they are known.
    """
    names = labels.table.recordings
    if left := sum(labels.off_windows.get(name, 0) for name in names):
        num = len(labels.table.time_us)
        steps = " and ".join(dict.fromkeys(f"{each.step_us / 1000:g} ms" for each in ends))
        _log.warning(
            "labels: evaluated at %d of %d label times, those at which windows end: every %s, by "
            "the times of the detections: set interval_ms to evaluate label times so far apart "
            "whether one ends there or not",
            num,
            num + left,
            steps,
        )


def _frame_boxes(
    table: BoxTable, frame: NDArray[np.int64], pixels: PixelSettings, is_truth: bool
) -> FrameBoxes:
    boxes = table.boxes if pixels.factor == 1 else table.boxes / pixels.factor
    corner, size = boxes[:, :2], boxes[:, 2:]
    crowd = table.crowd if is_truth and table.crowd.any() else None
    corners = np.concatenate([corner, corner + size], axis=1)
    scores = np.ones(len(table)) if is_truth else table.scores
    return FrameBoxes(frame, corners, table.classes, scores, given_size=size, crowd=crowd)


def _label_frame_of(table: BoxTable, labels: BoxTable, tolerance_us: float) -> NDArray[np.int64]:
    """For each frame of detections the frame of labels nearest in time, -1 for none.

    A frame of labels takes the nearest one only.
    """
    place = np.full(len(table.time_us), -1, dtype=np.int64)
    for name in table.recordings:
        own = np.flatnonzero(table.recording == name)
        theirs = np.flatnonzero(labels.recording == name)
        if not len(theirs):
            continue
        times, label_us = table.time_us[own], labels.time_us[theirs]
        after = np.searchsorted(label_us, times).clip(1, max(len(label_us) - 1, 1))
        around = np.stack([after - 1, after.clip(max=len(label_us) - 1)])
        apart = np.abs(label_us[around] - times)
        nearest = np.where(apart[0] <= apart[1], around[0], around[1])
        distance = apart.min(axis=0)
        order = np.lexsort((distance, nearest))
        is_first = np.diff(nearest[order], prepend=-1) != 0
        taken = order[is_first & (distance[order] <= tolerance_us)]
        place[own[taken]] = theirs[nearest[taken]]
    return place


def _require_common_times(
    name: str,
    labels: BoxTable,
    table: BoxTable,
    place: NDArray[np.int64],
    tolerance_us: float,
) -> None:
    """Refuse detections that share no time with labels; report those that share few."""
    if not len(table):
        return
    if (place < 0).all():
        spans = [f"{t.time_us.min():,} to {t.time_us.max():,} us" for t in (table, labels)]
        raise UserError(
            f"detections: must have times of labels, within tolerance_ms ({tolerance_us / 1000:g}),"
            f" got {spans[0]} in {name}, where labels are at {spans[1]}: set times.unit, "
            "times.start_us, interval_ms or tolerance_ms, or detect with predict, whose windows "
            "end at label times"
        )
    covered = np.isin(labels.recording, table.recordings)
    share = np.count_nonzero(place >= 0) / np.count_nonzero(covered)
    if share < _FEW_MATCHED:
        _log.warning(
            "%s: detections within %g ms at %d of %d label times, and the labels at all others "
            "count as missed: set interval_ms to evaluate label times so far apart, or "
            "tolerance_ms",
            name,
            tolerance_us / 1000,
            np.count_nonzero(place >= 0),
            np.count_nonzero(covered),
        )
    if left := int(np.count_nonzero(place[table.frame] < 0)):
        _log.info(
            "%s: not evaluated: %d of %d detections, at times without labels that count",
            name,
            left,
            len(table),
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")
