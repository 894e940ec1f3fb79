"""Windows of random chunks, and how often each recording gives one: more often for rare classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.recording import Recording
from etram_det.data.subset import boxes_by_class

_log = logging.getLogger(__name__)


def windows_with_labels(labelled: Sequence[NDArray[Any]], num_steps: int) -> NDArray[np.int64]:
    """``[W, 2]`` recording and first frame of each window that ends with a labelled frame.

    Args:
        labelled: for each recording, ``[F]`` bool, true for its labelled frames.
        num_steps: frames of a window.
    """
    windows = [np.empty((0, 2), np.int64)]
    for recording, frames in enumerate(labelled):
        starts = np.unique((np.flatnonzero(frames) - num_steps + 1).clip(min=0))
        windows.append(np.stack([np.full_like(starts, recording), starts], axis=1))
    return np.concatenate(windows)


def balanced_shares(
    recordings: Sequence[Recording], num_steps: int, class_names: Sequence[str], balance: float
) -> list[float] | None:
    """Share of each training recording in the random chunks; what comes of it is logged.

    Args:
        recordings: to train on, ``R`` of them.
        num_steps: frames of a chunk.
        class_names: name of each class id.
        balance: as in :func:`chunk_shares`.

    Returns:
        ``R`` shares with a sum of 1; None at ``balance`` 0, where each window comes once.
    """
    if not balance:
        return None
    boxes = boxes_by_class(recordings, len(class_names))
    found = windows_with_labels([each.labelled for each in recordings], num_steps)
    num_windows = np.bincount(found[:, 0], minlength=len(recordings))
    shares, plain = (chunk_shares(boxes, num_windows, each) for each in (balance, 0.0))
    rarest = int(np.where(boxes.any(axis=0), boxes.sum(axis=0), np.inf).argmin())
    now, before = (expected_class_shares(boxes, num_windows, each) for each in (shares, plain))
    message = (
        "data.class_balance: %s, the rarest class, has about %.1f%% of the boxes in random chunks, "
        "%.1f%% without it"
    )
    _log.info(message, class_names[rarest], 100 * now[rarest], 100 * before[rarest])
    return [float(share) for share in shares]


def chunk_shares(
    boxes: NDArray[np.int64], num_windows: NDArray[np.int64], balance: float
) -> NDArray[np.float64]:
    """Share of the random chunks that each recording gets.

    At ``balance`` 0 it is the recording's share of all windows. At 1 every class has the same
    weight, divided among the recordings by their boxes of it: a recording's share is the mean, over
    the classes, of its share of the class's boxes. Between, it is the weighted mean of both.

    Args:
        boxes: ``[R, K]`` boxes of each class in each recording.
        num_windows: ``[R]`` windows to draw from; a recording without any gets no share.
        balance: in [0, 1].

    Returns:
        ``[R]``, with a sum of 1.
    """
    by_windows = num_windows / num_windows.sum()
    of_class = np.where(num_windows[:, None] > 0, boxes, 0)
    is_there = of_class.sum(axis=0) > 0
    if not is_there.any():
        return by_windows
    by_class = (of_class[:, is_there] / of_class[:, is_there].sum(axis=0)).mean(axis=1)
    return (1 - balance) * by_windows + balance * by_class


def expected_class_shares(
    boxes: NDArray[np.int64], num_windows: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each class among the boxes of random chunks, where windows of a recording are alike.

    Args:
        boxes: as in :func:`chunk_shares`.
        num_windows: as in :func:`chunk_shares`.
        shares: ``[R]`` of the recordings in the chunks.

    Returns:
        ``[K]``, with a sum of 1.
    """
    of_a_window = boxes / np.maximum(num_windows, 1)[:, None]
    expected = shares @ of_a_window
    return expected / max(expected.sum(), np.finfo(float).tiny)


def draw_windows(
    windows: NDArray[np.int64], shares: Sequence[float], number: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Windows of an epoch, shuffled, so many of each recording as its share of them asks for.

    The number of each recording is its share of all, rounded up or down at random, and right in the
    mean. Its windows follow each other in random order, none again before all had their turn.

    Args:
        windows: ``[W, 2]`` recording, as an index of ``shares``, and what else there is of each
            window.
        shares: ``[R]`` with a sum of 1; 0 for recordings without windows.
        number: of windows to draw.
        rng: random numbers.

    Returns:
        ``[number, 2]``, rows of ``windows``.
    """
    ends = np.cumsum(shares) * number
    ends[-1] = number
    numbers = np.diff(np.floor(ends + rng.random()).clip(max=number), prepend=0).astype(np.int64)
    drawn = [np.empty((0, windows.shape[1]), np.int64)]
    for recording, wanted in enumerate(numbers):
        own = windows[windows[:, 0] == recording]
        laps = -(-wanted // max(len(own), 1))
        turns = [rng.permutation(own) for _ in range(laps)]
        drawn.append(np.concatenate([own[:0], *turns])[:wanted])
    return rng.permutation(np.concatenate(drawn))
