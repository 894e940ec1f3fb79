"""Where the names of boxes stand in a picture: where there is room, in no one's way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAP = 2  # pixels between a tag and the outline of its box
_LITTLE = 0.02  # share of an object that a tag may cover
_MUCH = 0.15  # the same where there is no better place


def place_tags(
    boxes: NDArray[np.int64],
    sizes: Sequence[Sequence[tuple[int, int]]],
    picture_size: tuple[int, int],
    objects: NDArray[np.int64],
    taken: Sequence[tuple[int, int, int, int]] = (),
) -> list[tuple[int, int, int] | None]:
    """Places of tags that hide neither each other nor an object.

    Each stands above its box, below or beside it, or within it where it is large.

    Args:
        boxes: ``[D, 4]`` ``xyxy`` in pixels of the picture; the first ones choose first.
        sizes: of each box, width and height of its tag in pixels, the longest text first.
        picture_size: height and width in pixels.
        objects: ``[M, 4]`` what is not to be hidden, the boxes themselves included.
        taken: ``xyxy`` of places where nothing may stand.

    Returns:
        Of each box which of its tags stands where: its number, left and top; None where no tag
        finds room.
    """
    occupied = np.array([*taken], np.int64).reshape(-1, 4)
    places: list[tuple[int, int, int] | None] = []
    for box, of_box in zip(boxes.tolist(), sizes, strict=True):
        found = None
        for number, size in enumerate(of_box):
            around = _around(box, size, picture_size)
            around = around[~(_overlap(around, occupied) > 0).any(axis=1)]
            if not len(around):
                continue
            area = np.prod(objects[:, 2:] - objects[:, :2] + 1, axis=1)
            covered = (_overlap(around, objects) / area).max(axis=1, initial=0)
            # The first that is good, so that tags keep their side from frame to frame.
            best = int(np.argmax(covered <= _LITTLE)) if (covered <= _LITTLE).any() else -1
            best = int(covered.argmin()) if best < 0 else best
            if covered[best] <= _MUCH:
                found = number, int(around[best, 0]), int(around[best, 1])
                occupied = np.concatenate([occupied, around[best : best + 1]])
                break
        places.append(found)
    return places


def _around(
    box: Sequence[int], size: tuple[int, int], picture_size: tuple[int, int]
) -> NDArray[np.int64]:
    """Places ``[P, 4]`` ``xyxy`` within the picture for the tag of a box, best first."""
    left, top, right, bottom = box
    (width, height), (rows, columns) = size, picture_size
    above, below = top - _GAP - height + 1, bottom + _GAP
    # Along its upper and lower edge, from its corners to its middle.
    along = [left, right - width + 1, (left + right - width) // 2]
    along = [max(0, min(x, columns - width)) for x in along]
    places = [(x, y) for y in (above, below) for x in along]
    heights = (top, bottom - height + 1, (top + bottom - height) // 2)
    places += [(x, y) for x in (right + _GAP, left - _GAP - width + 1) for y in heights]
    places += [(x, y) for y in (top + _GAP, bottom - _GAP - height) for x in along]  # within it
    corners = np.array([(x, y, x + width - 1, y + height - 1) for x, y in places], np.int64)
    inside = (corners[:, :2] >= 0).all(axis=1) & (corners[:, 2:] < (columns, rows)).all(axis=1)
    return corners[inside]


def _overlap(places: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels ``[P, M]`` that places ``[P, 4]`` share with others ``[M, 4]``, ends included."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    return np.prod(np.maximum(high - low + 1, 0), axis=2)
