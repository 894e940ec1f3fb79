"""Which label times become labelled frames, and where the windows of the frames end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etram_det.data.interpolation import TrainingLabels
from etram_det.data.recording import INTERVAL, Note

LEAD_US = 100_000  # RVT's: frames lead up to the first label for this long, at any label rate
_LEAST_OF_PHASE = 0.8  # of the times of the first phase


def merged_times(times_us: NDArray[np.int64], tolerance_us: int) -> NDArray[np.int64]:
    """For each time the first one of its frame: times that differ by little are one frame's.

    Boxes of one frame differ by microseconds where their times were rounded. Times that follow each
    other closely over more than the tolerance are frames of their own.

    Args:
        times_us: ``[L]`` ascending.
        tolerance_us: how far the times of one frame may lie apart.
    """
    starts = np.flatnonzero(
        np.diff(times_us, prepend=times_us[:1] - tolerance_us - 1) > tolerance_us
    )
    lengths = np.diff(starts, append=len(times_us))
    first = times_us[starts]
    last = times_us[starts + lengths - 1]
    is_frame = np.repeat(last - first <= tolerance_us, lengths)
    return np.where(is_frame, np.repeat(first, lengths), times_us)


def label_times(
    times_us: NDArray[np.int64], interval_us: int, jitter_us: int, origin_us: int = 0
) -> list[int]:
    """The times that become labelled frames, by RVT's rule.

    The first one is the first at or after one interval, or 100 ms where that is longer, so that
    frames lead up to it. Each later one lies a whole number of intervals, give or take the jitter,
    after the one before it. Any label rate fits, regular or not.

    Args:
        times_us: ``[L]`` times at which there are labels, ascending, each once.
        interval_us: time between labelled frames.
        jitter_us: how far a time may lie off a whole number of intervals.
        origin_us: where the recording starts, of :func:`origin_of`.
    """
    accepted: list[int] = []
    # RVT's clocks start at 0 and its rule is exact; elsewhere the first event is a matter of luck.
    least_us = origin_us + min(interval_us, LEAD_US) - (jitter_us if origin_us else 0)
    for time in times_us[np.searchsorted(times_us, least_us) :].tolist():
        if accepted:
            elapsed = time - accepted[-1]
            intervals = round(elapsed / interval_us)
            if intervals == 0 or abs(elapsed - intervals * interval_us) > jitter_us:
                continue
        accepted.append(time)
    return accepted


def label_phases(
    first: list[int],
    times_us: NDArray[np.int64],
    interval_us: int,
    jitter_us: int,
    training: TrainingLabels,
) -> list[list[int]]:
    """The times that become labelled frames, in each of the phases that training may draw.

    Where labels come more often than they are used, those of every phase start at another of the
    times before the second one that is used. A phase in which far fewer times match is none.

    Args:
        first: the times of the first phase, of :func:`label_times`.
        times_us: ``[L]`` as there.
        interval_us: as there.
        jitter_us: as there.
        training: whether there are other phases than the first.
    """
    phases = [first]
    if training.label_phase == "random" and len(first) > 1:
        inside = np.searchsorted(times_us, [first[0] + 1, first[1]])
        for start in range(*inside.tolist()):
            phase = label_times(times_us[start:], interval_us, jitter_us)
            is_new = all(phase[0] not in other for other in phases)
            if is_new and len(phase) >= _LEAST_OF_PHASE * len(first):
                phases.append(phase)
    return phases


def frame_ends(
    label_times_us: list[int], interval_us: int, window_us: int, origin_us: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ends of the windows that lead up to and connect labelled frames, by RVT's rule.

    Windows go back from the first label for as long as they start at the origin or later. Between
    two labels they are spread evenly, so that each label lies at the end of a window.

    Args:
        label_times_us: times of the labelled frames, ascending.
        interval_us: time between labelled frames, a multiple of the window.
        window_us: length of a window.
        origin_us: where the recording starts, of :func:`origin_of`.

    Returns:
        ``[F]`` ends of the windows, and ``[N]`` the frame of each label time.
    """
    if not label_times_us:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    first = label_times_us[0]
    num_before = max((first - origin_us) // window_us - 1, 0)
    ends = [np.arange(first - num_before * window_us, first + 1, window_us)]
    for this, following in zip(label_times_us, label_times_us[1:], strict=False):
        num_frames = round((following - this) / interval_us) * (interval_us // window_us)
        ends.append(np.linspace(this, following, num_frames + 1).astype(np.int64)[1:])
    frame_end_us = np.concatenate(ends)
    labelled = np.cumsum([len(part) for part in ends]) - 1
    return frame_end_us, labelled


def notes_on_interval(
    times: list[int], label_us: NDArray[np.int64], interval_ms: int
) -> tuple[Note, ...]:
    """A note where labels come often enough, but few of their times match the interval.

    Args:
        times: those that become labelled frames, of :func:`label_times`.
        label_us: ``[L]`` all of them.
        interval_ms: time between labelled frames.
    """
    if not times:
        return ()
    num_intervals = np.round(np.diff(times) / (interval_ms * 1000))
    # Between label times that are used lie others; in a pause there are none.
    passed_over = np.diff(np.searchsorted(label_us, times)) > 1
    num_after = int(np.count_nonzero(label_us > times[-1]))  # which a long pause may come before
    after_last = min(int((label_us[-1] - times[-1]) / (interval_ms * 1000)), num_after)
    is_passed_over = passed_over.any() and int(np.median(num_intervals[passed_over])) >= 2
    if not is_passed_over and after_last < 2:
        return ()
    implied = int(num_intervals[passed_over].sum()) + np.count_nonzero(~passed_over) + 1
    implied += after_last if after_last >= 2 else 0
    apart_us = np.diff(label_us)
    usual_us = np.median(apart_us)
    is_regular = np.mean(np.abs(apart_us - usual_us) < 0.2 * usual_us) > 0.8
    where, remedy = "", "data.jitter_ms higher"
    if is_passed_over and is_regular:
        usual_ms = int(np.median(num_intervals[passed_over])) * interval_ms
        where, remedy = f" every {usual_ms} ms only,", f"it to {usual_ms}"
    return (
        Note(
            f"its labels, {usual_us / 1000:.0f} ms apart, match data.interval_ms {interval_ms}"
            f"{where} at {len(times):,} time{'s' * (len(times) > 1)} and not at {implied:,}: set "
            f"{remedy}, and data.interpolate_labels to train on all windows",
            True,
            INTERVAL,
        ),
    )
