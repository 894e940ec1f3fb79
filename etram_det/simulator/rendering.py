"""Rendering of simulated road users, and the visible pixels of each.

Edges are smooth over one pixel, so that a motion of a tenth of a pixel changes the image by a tenth
of an edge. This makes the events of slow road users realistic. Shapes thinner than a pixel are
fainter in proportion.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.stage import CAST, GLOW, SHADOW, SOLID, Stage

GRAIN_SIZE = 64
# Of 1 / depth: shapes of one body that lie on each other do not hide each other.
_SLACK = 1.01
_LEAST_FILL = 6  # pixels of a row from which on its inner part is filled at once
_GRAIN_MASK = GRAIN_SIZE - 1
_GRAINS_PER_M = 2.5

# Rounding may differ; infinities and signs may not.
_FAST = {"contract", "arcp"}
# Half width, half height, corner, taper, ring of a shape, the largest size of its pixels along both
# axes, and pixels per metre along both where these hardly vary, else 0.
Form = tuple[float, float, float, float, float, float, float, float, float]
# Its matrix: what it takes to get from a pixel to a / depth, b / depth and 1 / depth.
Matrix = tuple[float, float, float, float, float, float, float, float, float]


# A line on the screen, u = a * v + b, and the sign of the side of it that is outside.
Line = tuple[float, float, float]
Outline = tuple[Line, Line, Line, Line]


class Light(NamedTuple):
    """The scene without its actors; white in daylight has intensity 1."""

    background: NDArray[np.float32]  # [H, W] intensity of the empty scene
    nearest: NDArray[np.float32]  # [H, W] 1 / depth of what stands there, 0 for ground and sky
    row_nearest: NDArray[np.float32]  # [H] largest of each row
    grains: NDArray[np.float32]  # [GRAIN_SIZE, GRAIN_SIZE] in [-1, 1], texture of all surfaces
    ambient: float  # intensity of white
    night: bool  # whether lamps are on
    sunlight: float  # share of the light that a cast shadow takes away
    glare: float  # factor of the glow around lamps


@njit(cache=True, nogil=True)
def _form(shape: Any, spot: Any) -> Form:
    """The fields of a shape that ``_cover`` needs, as numbers that stay in registers."""
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
def _matrix(spot: Any) -> Matrix:
    return (
        spot.a_u, spot.a_v, spot.a_1, spot.b_u, spot.b_v, spot.b_1, spot.w_u, spot.w_v, spot.w_1,
    )  # fmt: skip


@njit(cache=True, nogil=True, inline="always")
def _pixel_m(across: float, down: float) -> float:
    """Length of a gradient in both directions of the screen, to 4 %."""
    across, down = abs(across), abs(down)
    return max(across, down) + 0.4 * min(across, down)


@njit(nogil=True, error_model="numpy", fastmath=_FAST, forceinline=True)
def _cover(form: Form, m: Matrix, a: float, b: float, depth: float) -> float:
    """Share of a pixel that a shape covers, from its point ``(a, b)`` of the shape's plane."""
    half_x, half_z, corner, taper, ring, edge_x, edge_z, per_x, per_z = form
    width = half_x
    if taper != 0:
        width *= 1 - taper * 0.5 * (b / half_z + 1)
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _grain(grains: NDArray[np.float32], a: float, b: float) -> float:
    """Texture in [-1, 1] at a point of a plane, in metres; it repeats every 25 m."""
    a, b = a * _GRAINS_PER_M, b * _GRAINS_PER_M
    column, row = math.floor(a), math.floor(b)
    right, down = a - column, b - row
    left, next_column = int(column) & _GRAIN_MASK, (int(column) + 1) & _GRAIN_MASK
    top, next_row = int(row) & _GRAIN_MASK, (int(row) + 1) & _GRAIN_MASK
    upper = grains[top, left] * (1 - right) + grains[top, next_column] * right
    lower = grains[next_row, left] * (1 - right) + grains[next_row, next_column] * right
    return upper * (1 - down) + lower * down


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=_FAST)
def _line(slope: float, at_v: float, at_1: float) -> Line:
    """Where ``slope * u + at_v * v + at_1 <= 0``: to the left or right of a line in u and v."""
    if slope == 0:
        return at_v, at_1, 0.0
    return -at_v / slope, -at_1 / slope, slope


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _outline(m: Matrix, form: Form, inner: bool) -> Outline:
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


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=_FAST)
def _clip(line: Line, v: float, low: float, high: float) -> tuple[float, float]:
    """The part of an interval of a row on the inner side of a line."""
    at = line[0] * v + line[1]
    if line[2] > 0:
        return low, min(high, at)
    if line[2] < 0:
        return max(low, at), high
    return (low, high) if at <= 0 else (1.0, 0.0)


@njit(cache=True, nogil=True, inline="always", error_model="numpy", fastmath=_FAST)
def _columns(outline: Outline, v: float, first: int, last: int) -> tuple[int, int]:
    """The columns of ``first`` to ``last`` inside an outline, in the row at ``v``."""
    low, high = float(first), float(last)
    low, high = _clip(outline[0], v, low, high)
    low, high = _clip(outline[1], v, low, high)
    low, high = _clip(outline[2], v, low, high)
    low, high = _clip(outline[3], v, low, high)
    if not low <= high:
        return first, first
    return max(first, math.ceil(low - 0.5)), min(last, math.floor(high - 0.5) + 1)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _paint_solid(
    image: NDArray[np.float32],
    nearest: NDArray[np.float32],
    window: tuple[int, int, int, int],
    shape: Any,
    spot: Any,
    light: Light,
    shine: float,
    stays: bool,
) -> None:
    """Paint a solid shape; one that ``stays`` hides what is painted behind it later."""
    shone = shine * float(shape.light) if light.night else 0.0
    value = np.float32(light.ambient * float(shape.albedo) + shone)
    grain, grain_seed = light.ambient * float(shape.albedo * shape.grain), float(shape.grain_seed)
    first, last = max(spot.u_from, window[0]), min(spot.u_to, window[2])
    top, bottom = max(spot.v_from, window[1]), min(spot.v_to, window[3])
    if first >= last or top >= bottom:
        return
    form, m, grains = _form(shape, spot), _matrix(spot), light.grains
    outer, inner = _outline(m, form, False), _outline(m, form, True)
    fills = grain == 0 and not stays and form[0] > max(form[5], form[2])
    fills = fills and form[1] > max(form[6], form[2])
    # Where pixels have one size, those that a shape covers wholly are side by side in a row.
    is_even = grain == 0 and not stays and not fills and form[4] == 0 and form[7] != 0
    for row in range(top, bottom):
        v = row + 0.5
        a_row, b_row, w_row = m[1] * v + m[2], m[4] * v + m[5], m[7] * v + m[8]
        start, end = _columns(outer, v, first, last)
        if start >= end:
            continue
        full_start, full_end = end, end
        if fills and end - start > _LEAST_FILL:
            full_start, full_end = _columns(inner, v, start, end)
            if full_start >= full_end:
                full_start, full_end = end, end
        column, step = start, 1
        while start <= column < end:
            if column == full_start:
                least = min(m[6] * (full_start + 0.5), m[6] * (full_end - 0.5)) + w_row
                if least * _SLACK > light.row_nearest[row]:
                    image[row, full_start:full_end] = value
                else:
                    for inside in range(full_start, full_end):
                        if (m[6] * (inside + 0.5) + w_row) * _SLACK > nearest[row, inside]:
                            image[row, inside] = value
                column = full_end
                continue
            u = column + 0.5
            w = m[6] * u + w_row
            if w * _SLACK > nearest[row, column]:
                depth = 1 / w
                a, b = (m[0] * u + a_row) * depth, (m[3] * u + b_row) * depth
                cover = _cover(form, m, a, b, depth)
                if cover > 0:
                    colour = float(value)
                    if grain > 0:
                        colour += grain * _grain(grains, a + grain_seed, b)
                    image[row, column] += cover * (colour - image[row, column])
                    if stays and cover > 0.5:
                        nearest[row, column] = w
                    if is_even and cover == 1.0:
                        if step < 0:  # all from ``start`` to here
                            for inside in range(start, column):
                                if (m[6] * (inside + 0.5) + w_row) * _SLACK > nearest[row, inside]:
                                    image[row, inside] = value
                            break
                        start, column, step = column + 1, end, -1
            column += step


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def _paint_light(
    image: NDArray[np.float32],
    nearest: NDArray[np.float32],
    window: tuple[int, int, int, int],
    shape: Any,
    spot: Any,
    light: Light,
    shine: float,
) -> None:
    """Add the glow of a lamp, or take away the light that a shadow lacks."""
    glow, cast = shape.effect == GLOW, shape.effect == CAST
    value = shine * light.glare * float(shape.light)
    first, last = max(spot.u_from, window[0]), min(spot.u_to, window[2])
    top, bottom = max(spot.v_from, window[1]), min(spot.v_to, window[3])
    if first >= last or top >= bottom:
        return
    form, m, background = _form(shape, spot), _matrix(spot), light.background
    shade = light.sunlight if cast else float(shape.light)
    outer, inner = _outline(m, form, False), _outline(m, form, True)
    per_a, per_b = 1 / form[0], 1 / form[1]
    level = abs(m[6]) < 1e-12  # on the ground, a row has one depth
    for row in range(top, bottom):
        v = row + 0.5
        a_row, b_row, w_row = m[1] * v + m[2], m[4] * v + m[5], m[7] * v + m[8]
        start, end = _columns(outer, v, first, last)
        full_start, full_end = end, end
        if cast and start < end:
            full_start, full_end = _columns(inner, v, start, end)
        w, depth = w_row, 1 / w_row if level else 0.0
        for column in range(start, end):
            u = column + 0.5
            if not level:
                w = m[6] * u + w_row
                depth = 1 / w
            if w * _SLACK <= nearest[row, column]:
                continue
            if full_start <= column < full_end:
                image[row, column] = min(image[row, column], background[row, column] * (1 - shade))
                continue
            a, b = (m[0] * u + a_row) * depth, (m[3] * u + b_row) * depth
            if cast:
                cover = _cover(form, m, a, b, depth)
                lit = background[row, column] * (1 - shade * max(cover, 0.0))
                image[row, column] = min(image[row, column], lit)
                continue
            a, b = a * per_a, b * per_b
            fade = 1 - a * a - b * b
            if fade > 0:
                if glow:
                    image[row, column] += value * fade * fade
                else:
                    image[row, column] *= 1 - shade * min(2 * fade, 1.0)


@njit(cache=True, nogil=True)
def _apart(touched: NDArray[np.int64], window: tuple[int, int, int, int]) -> bool:
    return (
        touched[0] >= window[2]
        or touched[2] <= window[0]
        or touched[1] >= window[3]
        or touched[3] <= window[1]
    )


@njit(cache=True, nogil=True)
def paint(
    image: NDArray[np.float32],
    window: tuple[int, int, int, int],
    far_to_near: NDArray[np.int64],
    stage: Stage,
    light: Light,
    stays: bool,
) -> None:
    """Paint the background, shadows and some actors into the image inside ``window``.

    Args:
        image: ``[H, W]``, changed in place.
        window: u0 v0 u1 v1.
        far_to_near: actors in the order of painting.
        stage: the actors and their places.
        light: the empty scene.
        stays: whether the actors hide what is painted behind them later: ``light.nearest`` changes.
    """
    actors, shapes, placed, touched = stage.actors, stage.shapes, stage.placed, stage.touched
    image[window[1] : window[3], window[0] : window[2]] = light.background[
        window[1] : window[3], window[0] : window[2]
    ]
    nearest = light.nearest
    for i in far_to_near:
        if not light.night and not _apart(touched[i], window):
            for k in range(actors[i].first_shape, actors[i].first_body):
                if shapes[k].effect == SHADOW or light.sunlight > 0:
                    _paint_light(image, nearest, window, shapes[k], placed[k], light, 1.0)
    for i in far_to_near:
        if _apart(touched[i], window):
            continue
        for k in range(actors[i].first_body, actors[i].end_shape):
            if shapes[k].effect == SOLID:
                _paint_solid(
                    image, nearest, window, shapes[k], placed[k], light, stage.shine[i], stays
                )
            elif light.night:
                _paint_light(image, nearest, window, shapes[k], placed[k], light, stage.shine[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_FAST)
def look(
    far_to_near: NDArray[np.int64], stage: Stage, light: Light, owner: NDArray[np.int32]
) -> None:
    """Count the pixels of labelled actors in the frame, and those that nothing nearer hides.

    Sets ``num_own``, ``num_visible`` and ``seen`` of their views. Leaves and lamps hide nothing.

    Args:
        far_to_near: actors in the order of painting.
        stage: the actors and their places.
        light: the empty scene.
        owner: ``[2, H, W]`` scratch: nearest track of each pixel, and last actor counted there.
    """
    actors, shapes, placed, views = stage.actors, stage.shapes, stage.placed, stage.views
    _, height, width = owner.shape
    owner[:] = -1
    for i in far_to_near[::-1]:
        num_own, num_visible, track = 0, 0, actors[i].track
        if track < 0:
            continue
        u0, v0, u1, v1 = width, height, 0, 0
        for k in range(actors[i].first_body, actors[i].end_shape):
            if shapes[k].effect != SOLID:
                continue
            spot, form, m = placed[k], _form(shapes[k], placed[k]), _matrix(placed[k])
            outer, inner = _outline(m, form, False), _outline(m, form, True)
            first, last = max(spot.u_from, 0), min(spot.u_to, width)
            for row in range(max(spot.v_from, 0), min(spot.v_to, height)):
                v = row + 0.5
                start, end = _columns(outer, v, first, last)
                if start >= end:
                    continue
                full_start, full_end = _columns(inner, v, start, end)
                for column in range(start, end):
                    if owner[1, row, column] == i:
                        continue
                    u = column + 0.5
                    w = m[6] * u + m[7] * v + m[8]
                    if not full_start <= column < full_end:
                        depth = 1 / w
                        a = (m[0] * u + m[1] * v + m[2]) * depth
                        b = (m[3] * u + m[4] * v + m[5]) * depth
                        if _cover(form, m, a, b, depth) < 0.3:
                            continue
                    owner[1, row, column] = i
                    num_own += 1
                    before = owner[0, row, column]
                    if w * _SLACK > light.nearest[row, column] and (
                        before == -1 or before == track
                    ):
                        owner[0, row, column] = track
                        num_visible += 1
                        u0, u1 = min(u0, column), max(u1, column + 1)
                        v0, v1 = min(v0, row), max(v1, row + 1)
        views[i].num_own, views[i].num_visible = num_own, num_visible
        seen = views[i].seen
        seen[0], seen[1], seen[2], seen[3] = u0, v0, u1, v1
