"""How labels move: speed from their tracks, and the time for which they have been at rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from etram_det.metrics.confusion import Pairing
from etram_det.metrics.evaluation_frames import EvaluationFrames

# Of a track's labels, those further apart are no neighbours.
_LONGEST_GAP_US = 1_000_000
# Speed is measured over so much time before and after a label: over a few milliseconds, labels that
# are off by a pixel seem to move.
_HALF_SPAN_US = 250_000
# Seconds since the last motion between which recall is reported.
REST_BOUNDS_S = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, np.inf)
MOVING, NEVER_MOVED = "moving", "never moved"


def with_motion(
    frames: EvaluationFrames, tracks: np.ndarray, moving_above: float | None
) -> EvaluationFrames:
    """The same frames with the motion of their labels, where it is known.

    Args:
        frames: with boxes of which ``scale`` makes sensor pixels.
        tracks: ``[M]`` int64, track ids of the labels.
        moving_above: speed in sensor pixels a second above which a label moves; None to leave
            out motion.
    """
    if moving_above is None:
        return frames
    truth, recording = frames.truth, np.unique(frames.recording, return_inverse=True)[1]
    of = truth.frame
    centre = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2 * frames.scale[of]
    motion = motion_of(
        recording[of], frames.time_us[of], centre, truth.classes, tracks, moving_above
    )
    return replace(frames, truth=replace(truth, motion=motion))


def motion_of(
    recording: np.ndarray,
    time_us: np.ndarray,
    centre: np.ndarray,
    classes: np.ndarray,
    tracks: np.ndarray,
    moving_above: float,
) -> np.ndarray | None:
    """Speed of labels and the time since their tracks last moved.

    The speed is that of the box's centre from the first to the last label of the track within
    0.25 s before and after it, or between its direct neighbours where these are further away, 1 s
    at most; one of them may be missing. A label that is off by a pixel changes it by some 2 px/s
    where there are labels for all of that time. A track is
    an id within a class and recording. Ids are no tracks where they are below 0, where all labels
    of a recording have id 0, and where an id is there twice at a time.

    Args:
        recording: ``[M]`` int64, index of each label's recording.
        time_us: ``[M]`` int64, time in the recording.
        centre: ``[M, 2]`` centre of the box in sensor pixels.
        classes: ``[M]`` int64, class ids.
        tracks: ``[M]`` int64, track ids.
        moving_above: speed in pixels a second above which a label moves.

    Returns:
        ``[M, 2]`` float64: speed in pixels a second, nan where it is not known; and seconds since
        the track's last label that moved, 0 where it moves, inf where none has moved yet, nan
        where the speed is not known. None where no speed is known.
    """
    motion = np.full((len(tracks), 2), np.nan)
    has_ids = np.zeros(recording.max(initial=-1) + 1, dtype=bool)
    has_ids[recording[tracks > 0]] = True
    order = np.lexsort((time_us, tracks, classes, recording))
    order = order[(tracks[order] >= 0) & has_ids[recording[order]]]
    key = np.stack([recording[order], classes[order], tracks[order]])
    starts = (np.diff(key, axis=1, prepend=-1) != 0).any(axis=0)
    track = np.cumsum(starts) - 1
    times = time_us[order]
    gap = np.diff(times, prepend=0)
    twice = np.zeros(track.max(initial=-1) + 1, dtype=bool)
    twice[track[~starts & (gap == 0)]] = True
    linked = ~starts & (gap <= _LONGEST_GAP_US)  # to the label before it
    index = np.arange(len(order))
    # Times of all tracks in one ascending row, in which no track reaches into the next one. They
    # count from each track's start, as clocks of recordings may lie far apart.
    since = times - times[starts][track]
    row = track * (since.max(initial=0) + 2 * _HALF_SPAN_US + 1) + since
    before = np.minimum(index - linked, np.searchsorted(row, row - _HALF_SPAN_US))
    last = np.searchsorted(row, row + _HALF_SPAN_US, side="right") - 1
    after = np.maximum(index + np.append(linked[1:], False), last)
    known = (before < after) & ~twice[track]
    before, after = before[known], after[known]
    moved = centre[order[after]] - centre[order[before]]
    speed = np.hypot(*moved.T) / (times[after] - times[before]) * 1e6
    if not len(speed):
        return None
    motion[order[known], 0] = speed
    motion[order, 1] = _rest_s(motion[order, 0], times, track, moving_above)
    return motion


def _rest_s(
    speed: np.ndarray, time_us: np.ndarray, track: np.ndarray, moving_above: float
) -> np.ndarray:
    """Seconds since each track last moved; all arguments by track and time."""
    place = np.where(speed > moving_above, np.arange(len(speed)), -1)
    last = np.maximum.accumulate(place)
    rest = (time_us - time_us[last]) / 1e6
    rest[(last < 0) | (track[last] != track)] = np.inf
    rest[np.isnan(speed)] = np.nan
    return rest


def found_by_rest(
    pairing: Pairing, recording: np.ndarray, num_recordings: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels that were found, and all, over the seconds since their tracks last moved.

    Args:
        pairing: of the frames; a label is found where a detection of its class took it.
        recording: ``[F]`` int64, index of each frame's recording.
        num_recordings: R.

    Returns:
        Labels found and all labels, ``[R]`` each, by name: of those that move, of those at rest
        between ``REST_BOUNDS_S``, and of those that have not moved yet. Empty where no label has
        a known speed.
    """
    truth = pairing.truth
    if truth.motion is None:
        return {}
    rest = truth.motion[:, 1]
    taken = pairing.detection_of >= 0
    found = np.zeros(len(truth), dtype=bool)
    found[taken] = pairing.detections.classes[pairing.detection_of[taken]] == truth.classes[taken]
    groups: dict[str, Any] = {MOVING: rest == 0}
    for low, high in zip(REST_BOUNDS_S, REST_BOUNDS_S[1:], strict=False):
        name = f"{low:g} to {high:g} s" if high < np.inf else f"over {low:g} s"
        groups[name] = (rest > low) & (rest <= high) & (rest < np.inf)
    groups[NEVER_MOVED] = rest == np.inf
    of_label = recording[truth.frame]
    return {
        name: (
            np.bincount(of_label[group & found], minlength=num_recordings),
            np.bincount(of_label[group], minlength=num_recordings),
        )
        for name, group in groups.items()
    }
