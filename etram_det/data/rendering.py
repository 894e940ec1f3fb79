"""How simulated road users look from the camera: shapes put on the screen, painted, seen.

A road user is a handful of flat shapes (rounded boxes, discs, rings, bars) on the planes of its
body. Each is projected by its own tangent (an affine map) and drawn with smooth edges, so that a
tenth of a pixel of motion changes the picture by a tenth of an edge.

World axes in metres: ``x`` to the right, ``y`` away from the camera, ``z`` up from the ground; the
camera stands over the origin. Screen axes in pixels: ``u`` to the right, ``v`` down.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Planes of a body on which shapes lie. Of the two sides the one that faces the camera is drawn.
SIDE, FRONT, REAR, TOP = range(4)
# What a shape does to the light behind it.
SOLID, GLOW, SHADOW = range(3)

SHAPE = np.dtype(
    [
        ("plane", "i4"),
        ("effect", "i4"),
        ("offset", "f4"),  # of the plane from the middle of the body, along the plane's normal
        ("x", "f4"),  # middle of the shape in its plane
        ("z", "f4"),
        ("half_x", "f4"),
        ("half_z", "f4"),
        ("corner", "f4"),  # radius of the rounded corners
        ("taper", "f4"),  # share of its width that the shape loses from bottom to top
        ("ring", "f4"),  # width of the rim if only the rim is drawn, else 0
        ("angle", "f4"),
        ("pivot_x", "f4"),  # what a swinging shape turns about
        ("pivot_z", "f4"),
        ("swing", "f4"),  # radians to either side
        ("swing_phase", "f4"),
        ("roll", "f4"),  # radians turned for each metre driven
        ("albedo", "f4"),
        ("grain", "f4"),  # strength of the texture, relative to the albedo
        ("grain_seed", "f4"),
        ("light", "f4"),  # given off at night; the strength of a shadow by day
    ]
)

ACTOR = np.dtype(
    [
        ("class_id", "i4"),
        ("first_shape", "i4"),
        ("end_shape", "i4"),
        ("x", "f8"),  # where it is at time 0
        ("y", "f8"),
        ("heading_x", "f8"),  # unit vector of its way
        ("heading_y", "f8"),
        ("speed", "f8"),  # metres a second, on average
        ("sway", "f8"),  # metres by which it runs ahead of and behind that average
        ("sway_hz", "f8"),
        ("sway_phase", "f8"),
        ("cadence_hz", "f8"),  # of swinging limbs
        ("limb_speed", "f8"),  # metres a second of the fastest limb, relative to the body
        ("enter_us", "i8"),  # it is out of view before and after these
        ("leave_us", "i8"),
    ]
)

# A shape as it stands on the screen: its middle, the matrix from pixels to metres in the shape's
# own axes, pixels per metre, and the pixels that it can touch.
PLACED = np.dtype(
    [
        ("u", "f8"),
        ("v", "f8"),
        ("a_u", "f8"),
        ("a_v", "f8"),
        ("b_u", "f8"),
        ("b_v", "f8"),
        ("px_per_m", "f8"),
        ("u_from", "i4"),
        ("u_to", "i4"),
        ("v_from", "i4"),
        ("v_to", "i4"),
    ]
)

# What look() tells of each actor.
VIEW = np.dtype(
    [
        ("box", "f8", (4,)),  # bounds of its whole silhouette, u0 v0 u1 v1, not clipped
        ("seen", "i4", (4,)),  # bounds of its visible pixels, u0 v0 u1 v1
        ("num_own", "i4"),  # pixels of its silhouette inside the frame
        ("num_visible", "i4"),  # of these, the ones that no nearer actor hides
        ("num_events", "i8"),  # that it has caused so far
    ]
)

_NEAREST_M = 3.0
GRAIN_SIZE = 64
_GRAIN_MASK = GRAIN_SIZE - 1
_GRAINS_PER_M = 2.5


class Camera(NamedTuple):
    """A pinhole camera without roll.

    Attributes:
        focal_px: focal length in pixels.
        centre_u: column of the optical axis.
        centre_v: row of the optical axis.
        height_m: height over the ground.
        sin_pitch: of the angle by which it looks down.
        cos_pitch: of the same angle.
    """

    focal_px: float
    centre_u: float
    centre_v: float
    height_m: float
    sin_pitch: float
    cos_pitch: float


class Light(NamedTuple):
    """What is there to see besides the actors.

    Attributes:
        background: ``[H, W]`` float32, intensity of the empty scene; white in daylight is 1.
        grains: ``[G, G]`` float32 in [-1, 1], the texture of all surfaces.
        ambient: intensity of white in this light.
        night: lamps are on.
    """

    background: NDArray[np.float32]
    grains: NDArray[np.float32]
    ambient: float
    night: bool


@njit(cache=True, nogil=True)
def project(camera: Camera, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Screen position ``(u, v)`` of a point of the world, and its depth in metres."""
    depth = y * camera.cos_pitch - (z - camera.height_m) * camera.sin_pitch
    above = y * camera.sin_pitch + (z - camera.height_m) * camera.cos_pitch
    u = camera.centre_u + camera.focal_px * x / depth
    v = camera.centre_v - camera.focal_px * above / depth
    return u, v, depth


@njit(cache=True, nogil=True)
def distance_driven(actor: Any, time_s: float) -> float:
    """Metres along its way since time 0."""
    turn = 2 * math.pi * actor.sway_hz * time_s + actor.sway_phase
    return actor.speed * time_s + actor.sway * (np.sin(turn) - np.sin(actor.sway_phase))


@njit(cache=True, nogil=True)
def _screen_step(
    camera: Camera, x: float, y: float, z: float, step: tuple[float, float, float]
) -> tuple[float, float]:
    """How far ``(u, v)`` moves for a small step in the world, per metre."""
    depth = y * camera.cos_pitch - (z - camera.height_m) * camera.sin_pitch
    above = y * camera.sin_pitch + (z - camera.height_m) * camera.cos_pitch
    step_depth = step[1] * camera.cos_pitch - step[2] * camera.sin_pitch
    step_above = step[1] * camera.sin_pitch + step[2] * camera.cos_pitch
    scale = camera.focal_px / (depth * depth)
    return (
        scale * (step[0] * depth - x * step_depth),
        -scale * (step_above * depth - above * step_depth),
    )


@njit(cache=True, nogil=True)
def _in_body(shape: Any, actor: Any, driven: float, time_s: float) -> tuple[float, float, float]:
    """Middle of a shape in its plane and its angle, after swinging and rolling."""
    swing = shape.swing * math.sin(2 * math.pi * actor.cadence_hz * time_s + shape.swing_phase)
    sine, cosine = math.sin(swing), math.cos(swing)
    x, z = shape.x - shape.pivot_x, shape.z - shape.pivot_z
    return (
        shape.pivot_x + cosine * x - sine * z,
        shape.pivot_z + sine * x + cosine * z,
        shape.angle + swing - shape.roll * driven,
    )


@njit(cache=True, nogil=True)
def _place_shape(
    camera: Camera, actor: Any, shape: Any, driven: float, time_s: float, placed: Any
) -> tuple[float, float, float, float]:
    """Put a shape on the screen; returns its bounds u0 v0 u1 v1, empty if it faces away."""
    placed.u_from = placed.u_to = placed.v_from = placed.v_to = 0
    nothing = (np.inf, np.inf, -np.inf, -np.inf)
    forward_x, forward_y = actor.heading_x, actor.heading_y
    body_x, body_y = actor.x + driven * forward_x, actor.y + driven * forward_y
    x, z, angle = _in_body(shape, actor, driven, time_s)
    along, across, up = x, 0.0, z
    if shape.plane == SIDE:
        # The left of the heading is (-forward_y, forward_x): near if it points to the camera.
        across = shape.offset if forward_y * body_x - forward_x * body_y > 0 else -shape.offset
    elif shape.plane == TOP:
        along, across, up = x, z, shape.offset
    else:
        along, across = shape.offset, x
        towards = -(forward_x * body_x + forward_y * body_y) - shape.offset
        if (towards < 0) == (shape.plane == FRONT):
            return nothing
    point_x = body_x + along * forward_x - across * forward_y
    point_y = body_y + along * forward_y + across * forward_x
    u, v, depth = project(camera, point_x, point_y, up)
    if depth < _NEAREST_M:
        return nothing
    ahead, left, upward = (forward_x, forward_y, 0.0), (-forward_y, forward_x, 0.0), (0.0, 0.0, 1.0)
    first = left if shape.plane == FRONT or shape.plane == REAR else ahead
    second = left if shape.plane == TOP else upward
    first_u, first_v = _screen_step(camera, point_x, point_y, up, first)
    second_u, second_v = _screen_step(camera, point_x, point_y, up, second)
    sine, cosine = math.sin(angle), math.cos(angle)
    a_u, a_v = cosine * first_u + sine * second_u, cosine * first_v + sine * second_v
    b_u, b_v = cosine * second_u - sine * first_u, cosine * second_v - sine * first_v
    determinant = a_u * b_v - b_u * a_v
    if abs(determinant) < 1e-3:
        return nothing
    placed.u, placed.v = u, v
    placed.a_u, placed.a_v = b_v / determinant, -b_u / determinant
    placed.b_u, placed.b_v = -a_v / determinant, a_u / determinant
    placed.px_per_m = math.sqrt(abs(determinant))
    straight_x, straight_z = shape.half_x - shape.corner, shape.half_z - shape.corner
    reach_u = abs(a_u) * straight_x + abs(b_u) * straight_z + shape.corner * math.hypot(a_u, b_u)
    reach_v = abs(a_v) * straight_x + abs(b_v) * straight_z + shape.corner * math.hypot(a_v, b_v)
    placed.u_from, placed.u_to = math.floor(u - reach_u - 1), math.ceil(u + reach_u + 1)
    placed.v_from, placed.v_to = math.floor(v - reach_v - 1), math.ceil(v + reach_v + 1)
    return u - reach_u, v - reach_v, u + reach_u, v + reach_v


@njit(cache=True, nogil=True)
def place(
    camera: Camera,
    actors: NDArray[Any],
    index: int,
    shapes: NDArray[Any],
    time_us: float,
    placed: NDArray[Any],
    views: NDArray[Any],
    touched: NDArray[np.int64],
) -> None:
    """Put one actor on the screen as it stands at a time.

    Writes its ``placed`` shapes, the bounds of its silhouette ``views[index].box`` and the pixels
    that it can touch ``touched[index]``, both u0 v0 u1 v1.
    """
    actor = actors[index]
    time_s = time_us * 1e-6
    driven = distance_driven(actor, time_s)
    box = views[index].box
    box[:2], box[2:] = np.inf, -np.inf
    touched[index] = 0
    for i in range(actor.first_shape, actor.end_shape):
        u0, v0, u1, v1 = _place_shape(camera, actor, shapes[i], driven, time_s, placed[i])
        if u1 < u0:
            continue
        if shapes[i].effect == SOLID:
            box[0], box[1] = min(box[0], u0), min(box[1], v0)
            box[2], box[3] = max(box[2], u1), max(box[3], v1)
        if touched[index, 2] == touched[index, 0]:
            touched[index, 0], touched[index, 1] = placed[i].u_from, placed[i].v_from
            touched[index, 2], touched[index, 3] = placed[i].u_to, placed[i].v_to
        else:
            touched[index, 0] = min(touched[index, 0], placed[i].u_from)
            touched[index, 1] = min(touched[index, 1], placed[i].v_from)
            touched[index, 2] = max(touched[index, 2], placed[i].u_to)
            touched[index, 3] = max(touched[index, 3], placed[i].v_to)


# Half width, half height, corner, taper and ring of a shape.
Form = tuple[float, float, float, float, float]


@njit(cache=True, nogil=True)
def _form(shape: Any) -> Form:
    """What ``_distance`` needs of a shape, as numbers that stay in registers."""
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
    """Texture in [-1, 1] at a point of a plane, in metres; repeats after 25 m."""
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
    """Where ``abs(at_0 + slope * x) <= half``; empty (inf, -inf) if nowhere."""
    if abs(slope) < 1e-9:
        return (-np.inf, np.inf) if abs(at_0) <= half else (np.inf, -np.inf)
    centre, reach = -at_0 / slope, half / abs(slope)
    return centre - reach, centre + reach


@njit(cache=True, nogil=True)
def _columns(spot: Any, form: Form, dv: float, first: int, last: int) -> tuple[int, int]:
    """The columns of ``first`` to ``last`` in which a shape can touch the row at ``dv``."""
    edge = 0.5 / spot.px_per_m
    widest = form[0] * max(1.0, 1 - form[3])
    a0, a1 = _span(spot.a_u, spot.a_v * dv, widest + edge)
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
    actors: NDArray[Any],
    shapes: NDArray[Any],
    placed: NDArray[Any],
    touched: NDArray[np.int64],
    light: Light,
) -> None:
    """Paint the background and all actors into the part of the image inside ``window``."""
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
def look(
    far_to_near: NDArray[np.int64],
    actors: NDArray[Any],
    shapes: NDArray[Any],
    placed: NDArray[Any],
    owner: NDArray[np.int32],
    views: NDArray[Any],
) -> None:
    """Count each actor's pixels in the frame, and those that no nearer actor hides.

    Args:
        far_to_near: actors in the order of painting.
        actors: as ``ACTOR``.
        shapes: as ``SHAPE``.
        placed: where the shapes are, as ``PLACED``.
        owner: ``[2, H, W]`` scratch: nearest actor of a pixel, actor that counted it last.
        views: as ``VIEW``; ``num_own``, ``num_visible`` and ``seen`` are written.
    """
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
