"""Labels for training between the label times: boxes along their tracks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from etram_det.boxes import NO_TRACK, has_tracks

# Neighbouring label times further apart than this, or than the usual distance of a recording's
# label times times the factor, have a gap between them: what happened in it is not known.
LONGEST_US = 150_000
_GAP_FACTOR = 1.5
_SHARED = 0.1  # of the boxes: where more share their track id, the ids are none
_SIDES = ("x", "y", "w", "h")


@dataclass(frozen=True)
class TrainingLabels:
    """What training makes of the labels beyond those of the label times.

    Attributes:
        interpolate_labels: whether all frames are labelled that end at a time with labels or
            between two of them, there by interpolation along the tracks.
        label_phase: ``first`` takes the label times that follow from the first one, ``random``
            draws in each epoch which of the times within an interval they follow from, none twice
            before all had their turn.
        least_motion_px: in random chunks, labels are left out whose tracks have moved by less, in
            pixels of the sensor, since the chunk began; 0 leaves out none.
    """

    interpolate_labels: bool = False
    label_phase: Literal["first", "random"] = "first"
    least_motion_px: float = 0.0


def labels_between(
    boxes: NDArray[Any], times_us: NDArray[np.int64], end_us: NDArray[np.int64], tolerance_us: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Boxes at the ends of windows: those of that time, or interpolated linearly along tracks.

    An interpolated box lies between two boxes of the same track and class at neighbouring label
    times. So there is none where a track begins, ends or is interrupted, nor where the label times
    are further apart than 150 ms or 1.5 times their usual distance.

    Args:
        boxes: ``[M]`` boxes, :data:`BOX_DTYPE`, by time.
        times_us: ``[M]`` their times, ascending, the same for all boxes of a frame.
        end_us: ``[F]`` ends of the windows.
        tolerance_us: how far boxes of the time of an end may lie off it.

    Returns:
        ``[m]`` the place among the ends, ascending, and ``[m]`` the boxes.
    """
    if len(boxes) == 0:
        return np.empty(0, np.int64), boxes
    label_us, first = np.unique(times_us, return_index=True)
    stop = np.append(first[1:], len(boxes))
    after = np.searchsorted(label_us, end_us).clip(1, max(len(label_us) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(label_us) - 1)
    is_later = np.abs(label_us[after] - end_us) < np.abs(label_us[before] - end_us)
    nearest = np.where(is_later, after, before)
    at_label = np.abs(label_us[nearest] - end_us) <= tolerance_us
    gap_us = label_us[after] - label_us[before]
    inside = (label_us[before] < end_us) & (end_us < label_us[after])
    between = ~at_label & inside & (gap_us <= longest_gap_us(label_us))
    own, box = _ranges(np.flatnonzero(at_label), first[nearest], stop[nearest])

    pair_first, pair_second, pair_label = _pairs(boxes, np.searchsorted(label_us, times_us))
    starts = np.searchsorted(pair_label, before)
    stops = np.searchsorted(pair_label, before, side="right")
    place, pair = _ranges(np.flatnonzero(between), starts, stops)
    share = (end_us[place] - label_us[before[place]]) / gap_us[place]
    made = boxes[pair_first[pair]].copy()
    following = boxes[pair_second[pair]]
    made["t"] = end_us[place]
    for name in _SIDES:
        made[name] += (share * (following[name] - made[name])).astype(np.float32)
    frame = np.concatenate([own, place])
    order = np.argsort(frame, kind="stable")
    return frame[order], np.concatenate([boxes[box], made])[order]


def longest_gap_us(label_us: NDArray[np.int64]) -> float:
    """How far neighbouring label times may lie apart for boxes between them.

    Args:
        label_us: ``[L]`` label times, ascending, each once.
    """
    usual = np.median(np.diff(label_us)) if len(label_us) > 1 else 0
    return min(LONGEST_US, _GAP_FACTOR * float(usual))


def why_none_between(boxes: NDArray[Any], times_us: NDArray[np.int64]) -> str | None:
    """What :func:`labels_between` lacks to interpolate, in words; None where it lacks nothing.

    The arguments are its own.
    """
    label_us, label = np.unique(times_us, return_inverse=True)
    if len(label_us) < 2:
        return "it has a single label time"
    if len(_pairs(boxes, label)[0]) == 0:
        return "its boxes have no track ids that last from one label time to the next"
    usual_us = int(np.median(np.diff(label_us)))
    if usual_us > LONGEST_US:
        return f"its labels lie {usual_us / 1000:.0f} ms apart, more than {LONGEST_US // 1000} ms"
    return None


def _pairs(
    boxes: NDArray[Any], label: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Boxes of the same track and class at neighbouring label times.

    Args:
        boxes: ``[M]`` boxes.
        label: ``[M]`` the label time of each, by its place, ascending.

    Returns:
        ``[P]`` places of the first and the second box, and the first one's label time, ascending.
    """
    if not has_tracks(boxes):
        return (np.empty(0, np.intp),) * 3
    tracked = np.flatnonzero(boxes["track_id"] != NO_TRACK)
    ids, track = np.unique(boxes["track_id"][tracked], return_inverse=True)
    key = label[tracked] * len(ids) + track
    keys, place, count = np.unique(key, return_index=True, return_counts=True)
    shared = count > 1  # whichever of these boxes it was, is not known
    if count[shared].sum() > _SHARED * len(tracked):
        return (np.empty(0, np.intp),) * 3
    keys, place = keys[~shared], tracked[place[~shared]]
    following = np.searchsorted(keys, keys + len(ids)).clip(max=max(len(keys) - 1, 0))
    is_pair = keys[following] == keys + len(ids) if len(keys) else np.empty(0, np.bool_)
    one, other = place[is_pair], place[following[is_pair]]
    same = boxes["class_id"][one] == boxes["class_id"][other]
    return one[same], other[same], label[one[same]]


def _ranges(
    places: NDArray[np.intp], starts: NDArray[np.intp], stops: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each place, itself and all numbers from its start to its stop, flat."""
    starts, lengths = starts[places], (stops - starts)[places]
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(places, lengths), np.repeat(starts, lengths) + offset
