"""Which of the actors of a scene may hide which: the order in which they are painted."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _corner_range(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Bounds of the second rectangle in the axes of the first: along and across."""
    cosine, sine = math.cos(first[2]), math.sin(first[2])
    low_x, high_x, low_y, high_y = np.inf, -np.inf, np.inf, -np.inf
    for i in range(4):
        along = second[3] if i % 2 else -second[3]
        across = second[4] if i >= 2 else -second[4]
        x = second[0] + along * math.cos(second[2]) - across * math.sin(second[2]) - first[0]
        y = second[1] + along * math.sin(second[2]) + across * math.cos(second[2]) - first[1]
        a, b = cosine * x + sine * y, cosine * y - sine * x
        low_x, high_x, low_y, high_y = min(low_x, a), max(high_x, a), min(low_y, b), max(high_y, b)
    return low_x, high_x, low_y, high_y


@njit(cache=True, nogil=True)
def _votes(first: NDArray[np.float64], second: NDArray[np.float64]) -> int:
    """For each side of the first rectangle that parts the two: +1 if the first is nearer, else -1.

    The camera is at the origin. Returns 1 or -1, 0 if sides disagree, and 2 if none parts them.
    """
    low_x, high_x, low_y, high_y = _corner_range(first, second)
    cosine, sine = math.cos(first[2]), math.sin(first[2])
    camera_x = -(cosine * first[0] + sine * first[1])
    camera_y = sine * first[0] - cosine * first[1]
    nearer, farther, slack = False, False, 0.05
    for beyond, ahead in (
        (low_x - first[3], camera_x - first[3]),
        (-high_x - first[3], -camera_x - first[3]),
        (low_y - first[4], camera_y - first[4]),
        (-high_y - first[4], -camera_y - first[4]),
    ):
        if beyond > -slack:
            nearer, farther = nearer or ahead < 0, farther or ahead >= 0
    if nearer and farther:
        return 0
    return 1 if nearer else -1 if farther else 2


@njit(cache=True, nogil=True)
def _waits(behind: NDArray[np.bool_], left: NDArray[np.bool_], i: int) -> bool:
    """Whether one of those that are left must come before the i-th."""
    for j in range(len(left)):
        if behind[i, j] and left[j]:
            return True
    return False


@njit(cache=True, nogil=True)
def far_to_near(actors: NDArray[np.void]) -> NDArray[np.int64]:
    """Order of painting: what hides something comes after it.

    Of two footprints, rectangles that do not overlap, the one on the camera's side of a line that
    parts them may hide the other.
    """
    number = len(actors)
    boxes, order = np.empty((number, 5)), np.empty(number, np.int64)
    away = np.empty(number)
    for i in range(number):
        heading = 0.5 * (actors[i].heading0 + actors[i].heading1)
        middle = 0.5 * (actors[i].rear + actors[i].front)
        boxes[i, 0] = 0.5 * (actors[i].x0 + actors[i].x1) + middle * math.cos(heading)
        boxes[i, 1] = 0.5 * (actors[i].y0 + actors[i].y1) + middle * math.sin(heading)
        boxes[i, 2], boxes[i, 3] = heading, 0.5 * (actors[i].front - actors[i].rear)
        boxes[i, 4] = actors[i].half_width
        away[i] = math.hypot(boxes[i, 0], boxes[i, 1])
    behind = np.zeros((number, number), np.bool_)  # [i, j]: j must come before i
    for i in range(number):
        for j in range(i):
            vote, other = _votes(boxes[i], boxes[j]), -_votes(boxes[j], boxes[i])
            if vote == 2:
                vote = other
            elif other != -2 and other != vote:
                vote = 0
            if vote == -2 or vote == 2:
                vote = 1 if away[i] < away[j] else -1
            behind[i, j], behind[j, i] = vote == 1, vote == -1
    left = np.ones(number, np.bool_)
    for k in range(number):
        best = -1
        for needs_free in (True, False):
            for i in range(number):
                if not left[i] or (best >= 0 and away[i] <= away[best]):
                    continue
                if needs_free and _waits(behind, left, i):
                    continue
                best = i
            if best >= 0:
                break
        order[k], left[best] = best, False
    return order
