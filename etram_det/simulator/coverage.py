"""The pixels that a shape covers: their shares, and the columns of a row that may have any."""

from __future__ import annotations

import math
from typing import Any

from numba import njit

# Rounding may differ; infinities and signs may not.
FAST = {"contract", "arcp"}
# Half width, half height, corner, taper, ring of a shape, the largest size of its pixels along both
# axes, and pixels per metre along both where these hardly vary, else 0.
Form = tuple[float, float, float, float, float, float, float, float, float]
# Its matrix: what it takes to get from a pixel to a / depth, b / depth and 1 / depth.
Matrix = tuple[float, float, float, float, float, float, float, float, float]
# A line on the screen, u = a * v + b, and the sign of the side of it that is outside.
Line = tuple[float, float, float]
Outline = tuple[Line, Line, Line, Line]


@njit(cache=True, nogil=True)
def form_of(shape: Any, spot: Any) -> Form:
    """The fields of a shape that ``cover_at`` needs, as numbers that stay in registers."""
    return (
        float(spot.half_x),
        float(spot.half_z),
        float(spot.corner),
        float(shape.taper),
        float(shape.ring),
        float(spot.edge_x),
        float(spot.edge_z),
        float(spot.per_x),
        float(spot.per_z),
    )


@njit(cache=True, nogil=True)
def matrix_of(spot: Any) -> Matrix:
    """The matrix of a placed shape."""
    return (
        spot.a_u, spot.a_v, spot.a_1, spot.b_u, spot.b_v, spot.b_1, spot.w_u, spot.w_v, spot.w_1,
    )  # fmt: skip


@njit(cache=True, nogil=True, inline="always")
def _pixel_m(across: float, down: float) -> float:
    """Length of a gradient in both directions of the screen, to 4 %."""
    across, down = abs(across), abs(down)
    return max(across, down) + 0.4 * min(across, down)


@njit(nogil=True, error_model="numpy", fastmath=FAST, forceinline=True)
def cover_at(form: Form, m: Matrix, a: float, b: float, depth: float) -> float:
    """Share of a pixel that a shape covers, from its point ``(a, b)`` of the shape's plane."""
    half_x, half_z, corner, taper, ring, edge_x, edge_z, per_x, per_z = form
    width = half_x
    if taper != 0:
        width *= max(1 - taper * 0.5 * (b / half_z + 1), 0.0)  # no wider than 0 beyond its tip
    beyond_x, beyond_z = abs(a) - width + corner, abs(b) - half_z + corner
    in_corner = beyond_x > 0 and beyond_z > 0
    if not in_corner and beyond_x - corner < -edge_x and beyond_z - corner < -edge_z:
        return 1.0
    if per_x == 0:
        per_x = 1 / (depth * _pixel_m(m[0] - a * m[6], m[1] - a * m[7]) + 1e-9)
        per_z = 1 / (depth * _pixel_m(m[3] - b * m[6], m[4] - b * m[7]) + 1e-9)
    if in_corner:
        square_x, square_z = beyond_x * beyond_x, beyond_z * beyond_z
        square = square_x + square_z
        distance = math.sqrt(square) - corner
        per = (square_x * per_x + square_z * per_z) / square
        if ring > 0:
            distance = abs(distance + 0.5 * ring) - 0.5 * ring
            return min(0.5 - distance * per, 1.0) * min(ring * per, 1.0)
        outside = distance * per
    else:
        outside = max((beyond_x - corner) * per_x, (beyond_z - corner) * per_z)
    thin = min(2 * width * per_x, 1.0) * min(2 * half_z * per_z, 1.0)
    return min(0.5 - outside, 1.0) * thin


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=FAST)
def _line(slope: float, at_v: float, at_1: float) -> Line:
    """Where ``slope * u + at_v * v + at_1 <= 0``: to the left or right of a line in u and v."""
    if slope == 0:
        return at_v, at_1, 0.0
    return -at_v / slope, -at_1 / slope, slope


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def outline_of(m: Matrix, form: Form, inner: bool) -> Outline:
    """The lines that bound what a shape can cover, or what it covers wholly."""
    slant = 0.5 * form[0] * form[3] / form[1]
    more_x = -max(form[5], form[2]) if inner else form[5]
    more_z = -max(form[6], form[2]) if inner else form[6]
    wide, high = form[0] * (1 - 0.5 * form[3]) + more_x, form[1] + more_z
    return (
        _line(
            m[0] + slant * m[3] - wide * m[6],
            m[1] + slant * m[4] - wide * m[7],
            m[2] + slant * m[5] - wide * m[8],
        ),
        _line(
            slant * m[3] - m[0] - wide * m[6],
            slant * m[4] - m[1] - wide * m[7],
            slant * m[5] - m[2] - wide * m[8],
        ),
        _line(m[3] - high * m[6], m[4] - high * m[7], m[5] - high * m[8]),
        _line(-m[3] - high * m[6], -m[4] - high * m[7], -m[5] - high * m[8]),
    )


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=FAST)
def _clip(line: Line, v: float, low: float, high: float) -> tuple[float, float]:
    """The part of an interval of a row on the inner side of a line."""
    at = line[0] * v + line[1]
    if line[2] > 0:
        return low, min(high, at)
    if line[2] < 0:
        return max(low, at), high
    return (low, high) if at <= 0 else (1.0, 0.0)


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=FAST)
def columns_inside(outline: Outline, v: float, first: int, last: int) -> tuple[int, int]:
    """The columns of ``first`` to ``last`` inside an outline, in the row at ``v``."""
    low, high = float(first), float(last)
    low, high = _clip(outline[0], v, low, high)
    low, high = _clip(outline[1], v, low, high)
    low, high = _clip(outline[2], v, low, high)
    low, high = _clip(outline[3], v, low, high)
    if not low <= high:
        return first, first
    return max(first, math.ceil(low - 0.5)), min(last, math.floor(high - 0.5) + 1)


@njit(cache=True, nogil=True, error_model="numpy")
def chord_of_ball(form: Form, m: Matrix, v: float, first: int, last: int) -> tuple[int, int]:
    """The columns of ``first`` to ``last`` that a ball can cover in the row at ``v``."""
    centre, down, reach = -m[2] / m[0], v + m[5] / m[4], form[0] * form[7] + 0.6
    square = reach * reach - down * down
    if square <= 0:
        return first, first
    half = math.sqrt(square)
    low, high = math.ceil(centre - half - 0.5), math.floor(centre + half - 0.5)
    return max(first, low), min(last, high + 1)
