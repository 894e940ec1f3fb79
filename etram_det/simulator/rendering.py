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

from etram_det.simulator.coverage import (
    FAST,
    chord_of_ball,
    columns_inside,
    cover_at,
    form_of,
    matrix_of,
    outline_of,
)
from etram_det.simulator.stage import CAST, GLOW, SHADOW, SOLID, Stage

GRAIN_SIZE = 64
# Of 1 / depth: shapes of one body that lie on each other do not hide each other.
_SLACK = 1.01
_LEAST_FILL = 6  # pixels of a row from which on its inner part is filled at once
_GRAIN_MASK = GRAIN_SIZE - 1
_GRAINS_PER_M = 2.5


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
    is_built: bool = True  # else what is painted stays, and hides what is painted behind it later


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
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


@njit(nogil=True, error_model="numpy", fastmath=FAST, forceinline=True)
def _fill(
    image: NDArray[np.float32], nearest: NDArray[np.float32], light: Light, row: int, start: int,
    end: int, w_u: float, w_row: float, value: float,
) -> None:  # fmt: skip
    """Paint the part of a row that a shape covers wholly, where nothing nearer stands."""
    if (min(w_u * (start + 0.5), w_u * (end - 0.5)) + w_row) * _SLACK > light.row_nearest[row]:
        image[row, start:end] = value
        return
    for column in range(start, end):
        if (w_u * (column + 0.5) + w_row) * _SLACK > nearest[row, column]:
            image[row, column] = value


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
def _paint_solid(
    image: NDArray[np.float32], nearest: NDArray[np.float32], window: tuple[int, int, int, int],
    shape: Any, spot: Any, light: Light, shine: float,
) -> None:  # fmt: skip
    """Paint a solid shape."""
    shone = shine * float(shape.light) if light.night else 0.0
    value = np.float32(light.ambient * float(shape.albedo) + shone)
    grain, grain_seed = light.ambient * float(shape.albedo * shape.grain), float(shape.grain_seed)
    first, last = max(spot.u_from, window[0]), min(spot.u_to, window[2])
    top, bottom = max(spot.v_from, window[1]), min(spot.v_to, window[3])
    if first >= last or top >= bottom:
        return
    form, m, grains = form_of(shape, spot), matrix_of(spot), light.grains
    outer, inner = outline_of(m, form, False), outline_of(m, form, True)
    fills = grain == 0 and light.is_built and form[0] > max(form[5], form[2])
    fills = fills and form[1] > max(form[6], form[2])
    # Of rods, whose pixels have one size along both axes: those that they cover wholly are side by
    # side in a row. Of flat shapes they may be in two parts.
    is_rod = m[6] == 0 and m[7] == 0 and form[7] == form[8] != 0
    is_even = is_rod and grain == 0 and light.is_built and not fills and form[4] == 0
    is_ball = is_rod and form[0] == form[1] == form[2] and m[1] == 0 and m[3] == 0  # upright
    for row in range(top, bottom):
        v = row + 0.5
        a_row, b_row, w_row = m[1] * v + m[2], m[4] * v + m[5], m[7] * v + m[8]
        start, end = columns_inside(outer, v, first, last)
        if is_ball and start < end:
            start, end = chord_of_ball(form, m, v, start, end)
        if start >= end:
            continue
        full_start, full_end = end, end
        if fills and end - start > _LEAST_FILL:
            full_start, full_end = columns_inside(inner, v, start, end)
            if full_start >= full_end:
                full_start, full_end = end, end
        column, step = start, 1
        while start <= column < end:
            if column == full_start:
                _fill(image, nearest, light, row, full_start, full_end, m[6], w_row, value)
                column = full_end
                continue
            u = column + 0.5
            w = m[6] * u + w_row
            if w * _SLACK > nearest[row, column]:
                depth = 1 / w
                a, b = (m[0] * u + a_row) * depth, (m[3] * u + b_row) * depth
                cover = cover_at(form, m, a, b, depth)
                if cover > 0:
                    colour = float(value)
                    if grain > 0:
                        colour += grain * _grain(grains, a + grain_seed, b)
                    image[row, column] += cover * (colour - image[row, column])
                    if not light.is_built and cover > 0.5:
                        nearest[row, column] = w
                    if is_even and cover == 1.0:
                        if step < 0:
                            _fill(image, nearest, light, row, start, column, m[6], w_row, value)
                            break
                        start, column, step = column + 1, end, -1
            column += step


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
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
    form, m, background = form_of(shape, spot), matrix_of(spot), light.background
    shade = light.sunlight if cast else float(shape.light)
    outer, inner = outline_of(m, form, False), outline_of(m, form, True)
    per_a, per_b = 1 / form[0], 1 / form[1]
    level = abs(m[6]) < 1e-12  # on the ground, a row has one depth
    for row in range(top, bottom):
        v = row + 0.5
        a_row, b_row, w_row = m[1] * v + m[2], m[4] * v + m[5], m[7] * v + m[8]
        start, end = columns_inside(outer, v, first, last)
        full_start, full_end = end, end
        if cast and start < end:
            full_start, full_end = columns_inside(inner, v, start, end)
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
                cover = cover_at(form, m, a, b, depth)
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
) -> None:
    """Paint the background, shadows and some actors into the image inside ``window``.

    Args:
        image: ``[H, W]``, changed in place.
        window: u0 v0 u1 v1.
        far_to_near: actors in the order of painting.
        stage: the actors and their places.
        light: the empty scene; its ``nearest`` changes as long as it is not built.
    """
    actors, shapes, placed, touched = stage.actors, stage.shapes, stage.placed, stage.touched
    # In loops: to assign a part of an array, numba compiles its error message, which takes 20 MB.
    # The numbers are not negative, which would count from the end.
    for i in range(window[1], window[3]):
        for j in range(window[0], window[2]):
            row, column = np.uint64(i), np.uint64(j)
            image[row, column] = light.background[row, column]
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
                _paint_solid(image, nearest, window, shapes[k], placed[k], light, stage.shine[i])
            elif light.night:
                _paint_light(image, nearest, window, shapes[k], placed[k], light, stage.shine[i])


@njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST)
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
            spot, form, m = placed[k], form_of(shapes[k], placed[k]), matrix_of(placed[k])
            outer, inner = outline_of(m, form, False), outline_of(m, form, True)
            first, last = max(spot.u_from, 0), min(spot.u_to, width)
            for row in range(max(spot.v_from, 0), min(spot.v_to, height)):
                v = row + 0.5
                start, end = columns_inside(outer, v, first, last)
                if start >= end:
                    continue
                full_start, full_end = columns_inside(inner, v, start, end)
                for column in range(start, end):
                    if owner[1, row, column] == i:
                        continue
                    u = column + 0.5
                    w = m[6] * u + m[7] * v + m[8]
                    if not full_start <= column < full_end:
                        depth = 1 / w
                        a = (m[0] * u + m[1] * v + m[2]) * depth
                        b = (m[3] * u + m[4] * v + m[5]) * depth
                        if cover_at(form, m, a, b, depth) < 0.3:
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
