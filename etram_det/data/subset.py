"""Part of a data set to work on first: by name, or as a share that resembles the whole."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etram_det.data.layouts import names_under
from etram_det.data.recording import Recording
from etram_det.errors import UserError

_log = logging.getLogger(__name__)


def require_subset(subset: float | str | None) -> None:
    """Refuse a subset that can be none, whatever the recordings are.

    Args:
        subset: as in :func:`choose_subset`, or None for all recordings.

    Raises:
        UserError: the file is missing or no text, or the share is out of its range.
    """
    if isinstance(subset, str):
        _names_in(subset)
    elif subset is not None and not 0 < subset <= 1:
        raise UserError(f"data.subset: must be above 0 and at most 1, got {subset:g}: set it so")


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
        names = _names_in(subset)
        chosen = [recording for recording in recordings if recording.name in names]
        if not chosen:
            raise UserError(
                f"data.subset: {subset} must name recordings of {recordings[0].name} … "
                f"{recordings[-1].name}, got {', '.join(sorted(names)[:3]) or 'nothing'}: add one"
            )
        return chosen
    require_subset(subset)
    counts = boxes_by_class(recordings, num_classes)
    places = _representative(counts, max(1, round(subset * len(recordings))), seed)
    return [recordings[place] for place in places]


def class_share_difference(
    chosen: Sequence[Recording], whole: Sequence[Recording], num_classes: int
) -> float:
    """Largest difference of a class's share of the boxes, in [0, 1], between part and whole.

    Args:
        chosen: recordings of a split.
        whole: all recordings of the split.
        num_classes: number of classes, ``K``.
    """
    counts = (boxes_by_class(some, num_classes).sum(axis=0) for some in (chosen, whole))
    part, total = map(_shares, counts)
    return float(np.abs(part - total).max())


def in_words(chosen: Sequence[Recording], whole: Sequence[Recording], num_classes: int) -> str:
    """How many recordings were chosen, how well they represent the whole, and which.

    The arguments are those of :func:`class_share_difference`.
    """
    difference = class_share_difference(chosen, whole, num_classes)
    return (
        f"{len(chosen)} of {len(whole)} recordings, class shares within {difference:.1%} of the "
        f"whole: {', '.join(each.name for each in chosen)}"
    )


def boxes_by_class(recordings: Sequence[Recording], num_classes: int) -> NDArray[np.int64]:
    """``[R, K]`` boxes of each class in each recording.

    Args:
        recordings: ``R`` of them.
        num_classes: number of classes, ``K``.
    """
    class_ids = (recording.label_boxes["class_id"] for recording in recordings)
    return np.array([np.bincount(each, minlength=num_classes) for each in class_ids])


def warn_of_unknown_names(subset: float | str | None, root: Path) -> None:
    """Warn of names in a subset's file that no recording has, in any split.

    Args:
        subset: as in :func:`choose_subset`; only a file has names.
        root: folder of the recordings.
    """
    if isinstance(subset, str) and root.is_dir():
        unknown = sorted(_names_in(subset) - names_under(root))
        if unknown:
            _log.warning(
                "data.subset: %s has names that no recording under %s has: %s: correct them",
                subset,
                root,
                ", ".join(unknown),
            )


def _names_in(path: str) -> set[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"data.subset: must be a share, or a text file of recordings' names, got {path} "
            f"({getattr(error, 'strerror', None) or 'not a text file'}): set one of them"
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
