"""Part of a data set to work on first: by name, or as a share that resembles the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etram_det.data.recording import Recording
from etram_det.types import UserError


def choose_subset(
    recordings: Sequence[Recording], subset: float | str, num_classes: int, seed: int
) -> list[Recording]:
    """Some of the recordings of a split, in their order.

    Args:
        recordings: of one split.
        subset: a share in (0, 1], or a text file with the name of a recording in each line; empty
            lines and those that start with ``#`` do not count, nor do names of other splits.
        num_classes: number of classes, ``K``.
        seed: of the choice of a share.

    Raises:
        UserError: the file is missing or names none of the recordings, or the share is out of
            its range.
    """
    if isinstance(subset, str):
        names = _names_in(Path(subset).expanduser())
        chosen = [recording for recording in recordings if recording.name in names]
        if not chosen:
            raise UserError(
                f"data.subset: {subset} names none of the recordings; one of "
                f"{recordings[0].name} … {recordings[-1].name} is required, found "
                f"{', '.join(sorted(names)[:3]) or 'nothing'}"
            )
        return chosen
    if not 0 < subset <= 1:
        raise UserError(f"data.subset: a share must be above 0 and at most 1, found {subset:g}")
    counts = np.array(
        [
            np.bincount(recording.label_boxes["class_id"], minlength=num_classes)
            for recording in recordings
        ]
    )
    places = _representative(counts, max(1, round(subset * len(recordings))), seed)
    return [recordings[place] for place in places]


def class_share_difference(chosen: NDArray[np.int64], whole: NDArray[np.int64]) -> float:
    """Largest difference of a class's share between two sets of boxes, in [0, 1].

    Args:
        chosen: ``[K]`` boxes of each class.
        whole: ``[K]`` boxes of each class.
    """
    return float(np.abs(_shares(chosen) - _shares(whole)).max())


def _names_in(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.subset: a share, or a text file of recordings' names, is required, found {path} "
            f"({getattr(error, 'strerror', None) or 'not a text file'})"
        ) from error
    stripped = (line.strip() for line in lines)
    return {line for line in stripped if line and not line.startswith("#")}


def _representative(counts: NDArray[np.int64], size: int, seed: int) -> list[int]:
    """``size`` rows of ``counts`` [R, K] whose sum has nearly the class shares of all rows.

    A random choice, improved by the best exchange of two rows for as long as there is one.
    """
    whole = _shares(counts.sum(axis=0))
    order = np.random.default_rng(seed).permutation(len(counts))
    inside, outside = order[:size], order[size:]
    distance = np.abs(_shares(counts[inside].sum(axis=0)) - whole).sum()
    while len(outside):
        # Of each exchange: [inside, outside, K].
        sums = counts[inside].sum(axis=0) - counts[inside][:, None] + counts[outside][None]
        distances = np.abs(_shares(sums) - whole).sum(axis=2)
        best = np.unravel_index(distances.argmin(), distances.shape)
        if distances[best] >= distance - 1e-12:
            break
        distance = distances[best]
        inside[best[0]], outside[best[1]] = outside[best[1]], inside[best[0]]
    return sorted(inside.tolist())


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
