"""Rendering of simulated road users, and the visible pixels of each.

Edges are smooth over one pixel, so that a motion of a tenth of a pixel changes the image by a tenth
of an edge. This makes the events of slow road users realistic.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.projection import GLOW, SOLID, Stage

GRAIN_SIZE = 64
_GRAIN_MASK = GRAIN_SIZE - 1
_GRAINS_PER_M = 2.5

# Half width, half height, corner, taper and ring of a shape.
Form = tuple[float, float, float, float, float]


class Light(NamedTuple):
    """The scene without its actors; white in daylight has intensity 1."""

    background: NDArray[np.float32]  # [H, W] intensity of the empty scene
    grains: NDArray[np.float32]  # [GRAIN_SIZE, GRAIN_SIZE] in [-1, 1], texture of all surfaces
    ambient: float  # intensity of white
    night: bool  # whether lamps are on


@njit(cache=True, nogil=True)
def _form(shape: Any) -> Form:
    """The fields of a shape that ``_distance`` needs, as numbers that stay in registers."""
    return (
        float(shape.half_x),
        float(shape.half_z),
        float(shape.corner),
        float(shape.taper),
        float(shape.ring),
    )


@njit(cache=True, nogil=True)
def _distance(form: Form, a: float, b: float) -> float:
    """Signed distance in metres from the edge of a shape, negative inside."""
    half_x, half_z, corner, taper, ring = form
    beyond_x = abs(a) - half_x * (1 - taper * 0.5 * (b / half_z + 1)) + corner
    beyond_z = abs(b) - half_z + corner
    if beyond_x > 0 and beyond_z > 0:
        distance = math.sqrt(beyond_x * beyond_x + beyond_z * beyond_z) - corner
    else:
        distance = max(beyond_x, beyond_z) - corner
    if ring > 0:
        return abs(distance + 0.5 * ring) - 0.5 * ring
    return distance


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _span(slope: float, at_0: float, half: float) -> tuple[float, float]:
    """Interval in which ``abs(at_0 + slope * x) <= half``; (inf, -inf) if it is empty."""
    if abs(slope) < 1e-9:
        return (-np.inf, np.inf) if abs(at_0) <= half else (np.inf, -np.inf)
    centre, reach = -at_0 / slope, half / abs(slope)
    return centre - reach, centre + reach


@njit(cache=True, nogil=True)
def _columns(spot: Any, form: Form, dv: float, first: int, last: int) -> tuple[int, int]:
    """The columns of ``first`` to ``last`` that a shape can cover in the row at ``dv``."""
    edge = 0.5 / spot.px_per_m
    a0, a1 = _span(spot.a_u, spot.a_v * dv, form[0] + edge)
    b0, b1 = _span(spot.b_u, spot.b_v * dv, form[1] + edge)
    lowest, highest = max(a0, b0) + spot.u - 0.5, min(a1, b1) + spot.u - 0.5
    if not lowest <= highest or highest < first or lowest > last:
        return first, first
    return max(first, math.ceil(max(lowest, first))), min(last, math.floor(min(highest, last)) + 1)


@njit(cache=True, nogil=True)
def _paint_shape(
    image: NDArray[np.float32],
    window: tuple[int, int, int, int],
    shape: Any,
    spot: Any,
    light: Light,
) -> None:
    """Paint one shape into the part of the image inside ``window`` (u0 v0 u1 v1)."""
    solid, glow = shape.effect == SOLID, shape.effect == GLOW
    shine = float(shape.light) if light.night else 0.0
    value = light.ambient * float(shape.albedo) + shine
    grain, grain_seed = light.ambient * float(shape.albedo * shape.grain), float(shape.grain_seed)
    form, grains, shade = _form(shape), light.grains, float(shape.light)
    u, a_u, a_v, b_u, b_v = float(spot.u), spot.a_u, spot.a_v, spot.b_u, spot.b_v
    px_per_m = spot.px_per_m
    first, last = max(spot.u_from, window[0]), min(spot.u_to, window[2])
    for row in range(max(spot.v_from, window[1]), min(spot.v_to, window[3])):
        dv = row + 0.5 - spot.v
        for column in range(*_columns(spot, form, dv, first, last)):
            du = column + 0.5 - u
            a, b = a_u * du + a_v * dv, b_u * du + b_v * dv
            if solid:
                cover = 0.5 - _distance(form, a, b) * px_per_m
                if cover <= 0:
                    continue
                colour = value
                if grain > 0:
                    colour += grain * _grain(grains, a + grain_seed, b)
                image[row, column] += min(cover, 1.0) * (colour - image[row, column])
            else:
                fade = 1 - (a / form[0]) ** 2 - (b / form[1]) ** 2
                if fade <= 0:
                    continue
                if glow:
                    image[row, column] += shine * fade * fade
                else:
                    image[row, column] *= 1 - shade * min(2 * fade, 1.0)


@njit(cache=True, nogil=True)
def paint(
    image: NDArray[np.float32],
    window: tuple[int, int, int, int],
    far_to_near: NDArray[np.int64],
    stage: Stage,
    light: Light,
) -> None:
    """Paint the background and some actors into the part of the image inside ``window``."""
    actors, shapes, placed, touched = stage.actors, stage.shapes, stage.placed, stage.touched
    u0, v0, u1, v1 = window
    image[v0:v1, u0:u1] = light.background[v0:v1, u0:u1]
    for i in far_to_near:
        if touched[i, 0] >= u1 or touched[i, 2] <= u0 or touched[i, 1] >= v1:
            continue
        if touched[i, 3] <= v0:
            continue
        for k in range(actors[i].first_shape, actors[i].end_shape):
            _paint_shape(image, window, shapes[k], placed[k], light)


@njit(cache=True, nogil=True)
def look(far_to_near: NDArray[np.int64], stage: Stage, owner: NDArray[np.int32]) -> None:
    """Count the pixels of some actors in the frame, and those that no nearer actor hides.

    Sets ``num_own``, ``num_visible`` and ``seen`` of their views.

    Args:
        far_to_near: actors in the order of painting.
        stage: the actors and their places.
        owner: ``[2, H, W]`` scratch: nearest actor of each pixel, and last actor counted there.
    """
    actors, shapes, placed, views = stage.actors, stage.shapes, stage.placed, stage.views
    _, height, width = owner.shape
    owner[:] = -1
    for i in far_to_near[::-1]:
        num_own, num_visible = 0, 0
        u0, v0, u1, v1 = width, height, 0, 0
        for k in range(actors[i].first_shape, actors[i].end_shape):
            if shapes[k].effect != SOLID:
                continue
            spot, form = placed[k], _form(shapes[k])
            first, last = max(spot.u_from, 0), min(spot.u_to, width)
            for row in range(max(spot.v_from, 0), min(spot.v_to, height)):
                dv = row + 0.5 - spot.v
                for column in range(*_columns(spot, form, dv, first, last)):
                    du = column + 0.5 - spot.u
                    a, b = spot.a_u * du + spot.a_v * dv, spot.b_u * du + spot.b_v * dv
                    if owner[1, row, column] == i:
                        continue
                    if _distance(form, a, b) * spot.px_per_m >= 0.5:
                        continue
                    owner[1, row, column] = i
                    num_own += 1
                    if owner[0, row, column] < 0:
                        owner[0, row, column] = i
                        num_visible += 1
                        u0, u1 = min(u0, column), max(u1, column + 1)
                        v0, v1 = min(v0, row), max(v1, row + 1)
        views[i].num_own, views[i].num_visible = num_own, num_visible
        seen = views[i].seen
        seen[0], seen[1], seen[2], seen[3] = u0, v0, u1, v1
