"""Projection of moving road users and their shapes onto the screen.

A road user is a handful of flat shapes (rounded boxes, discs, rings, bars) on the planes of its
body. Each shape is projected by the affine map that is tangent to the perspective at its centre.

World axes in metres: ``x`` to the right, ``y`` away from the camera, ``z`` up from the ground; the
camera is above the origin. Screen axes in pixels: ``u`` to the right, ``v`` down.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Planes of a body on which shapes lie. Only the side that faces the camera is drawn.
SIDE, FRONT, REAR, TOP = range(4)
# Effects of a shape on the image behind it.
SOLID, GLOW, SHADOW = range(3)


class Shape(NamedTuple):
    """One flat shape of a body, in metres and radians."""

    plane: int
    offset: float  # of the plane from the centre of the body, along the plane's normal
    x: float  # centre of the shape in its plane
    z: float
    half_x: float
    half_z: float
    albedo: float = 0.0
    effect: int = SOLID
    corner: float = 0.0  # radius of the rounded corners
    taper: float = 0.0  # share of its width that the shape loses from bottom to top
    ring: float = 0.0  # width of the rim if only the rim is drawn, else 0
    angle: float = 0.0
    pivot_x: float = 0.0  # point that a swinging shape turns about
    pivot_z: float = 0.0
    swing: float = 0.0  # radians to either side
    swing_phase: float = 0.0
    roll: float = 0.0  # radians turned per metre driven
    grain: float = 0.0  # strength of the texture, relative to the albedo
    grain_seed: float = 0.0
    light: float = 0.0  # emitted at night; the strength of a shadow by day


SHAPE = np.dtype([(name, "i4" if name in ("plane", "effect") else "f4") for name in Shape._fields])

ACTOR = np.dtype(
    [
        ("class_id", "i4"),
        ("first_shape", "i4"),
        ("end_shape", "i4"),
        ("x", "f8"),  # position at time 0
        ("y", "f8"),
        ("heading_x", "f8"),  # unit vector
        ("heading_y", "f8"),
        ("speed", "f8"),  # mean, in metres per second
        ("sway", "f8"),  # metres that it gets ahead of and behind that mean
        ("sway_hz", "f8"),
        ("sway_phase", "f8"),
        ("cadence_hz", "f8"),  # of swinging limbs
        ("limb_speed", "f8"),  # of the fastest limb relative to the body, in metres per second
        ("enter_us", "i8"),  # out of view before this and after ``leave_us``
        ("leave_us", "i8"),
    ]
)

# A shape on the screen: its centre, the matrix from pixels to metres in the shape's own axes,
# pixels per metre, and the bounds of the pixels that it can change.
PLACED = np.dtype(
    [(name, "f8") for name in ("u", "v", "a_u", "a_v", "b_u", "b_v", "px_per_m")]
    + [(name, "i4") for name in ("u_from", "u_to", "v_from", "v_to")]
)

# The view of an actor.
VIEW = np.dtype(
    [
        ("box", "f8", (4,)),  # bounds of its silhouette, u0 v0 u1 v1, not clipped
        ("seen", "i4", (4,)),  # bounds of its visible pixels, u0 v0 u1 v1
        ("num_own", "i4"),  # pixels of its silhouette inside the frame
        ("num_visible", "i4"),  # of these, those that no nearer actor hides
        ("num_events", "i8"),  # that it has caused so far
    ]
)

_MIN_DEPTH_M = 3.0


class Camera(NamedTuple):
    """A pinhole camera without roll."""

    focal_px: float
    centre_u: float  # column of the optical axis
    centre_v: float  # row of the optical axis
    height_m: float  # above the ground
    sin_pitch: float  # of the angle by which it looks down
    cos_pitch: float


class Stage(NamedTuple):
    """``A`` actors with ``S`` shapes and their current places on the screen."""

    actors: NDArray[Any]  # [A] as ACTOR, from far to near
    shapes: NDArray[Any]  # [S] of all actors, as SHAPE
    placed: NDArray[Any]  # [S] as PLACED
    touched: NDArray[np.int64]  # [A, 4] bounds u0 v0 u1 v1 of the pixels that change; 0 for none
    views: NDArray[Any]  # [A] as VIEW


@njit(cache=True, nogil=True)
def project(camera: Camera, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Screen position ``(u, v)`` of a point of the world, and its depth in metres."""
    depth = y * camera.cos_pitch - (z - camera.height_m) * camera.sin_pitch
    above = y * camera.sin_pitch + (z - camera.height_m) * camera.cos_pitch
    u = camera.centre_u + camera.focal_px * x / depth
    v = camera.centre_v - camera.focal_px * above / depth
    return u, v, depth


@njit(cache=True, nogil=True)
def distance_driven(actor: Any, time_s: Any) -> Any:
    """Metres driven since time 0."""
    turn = 2 * math.pi * actor.sway_hz * time_s + actor.sway_phase
    return actor.speed * time_s + actor.sway * (np.sin(turn) - np.sin(actor.sway_phase))


@njit(cache=True, nogil=True)
def _screen_step(
    camera: Camera, x: float, y: float, z: float, step: tuple[float, float, float]
) -> tuple[float, float]:
    """Derivative of ``(u, v)`` along a direction ``step`` in the world, in pixels per metre."""
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
    """Centre of a shape in its plane and its angle, after swinging and rolling."""
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
    """Place a shape on the screen; returns its bounds u0 v0 u1 v1, empty if it faces away."""
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
    if depth < _MIN_DEPTH_M:
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
def place(camera: Camera, stage: Stage, index: int, time_us: float) -> None:
    """Place one actor on the screen at a time: set its placed shapes, box and touched pixels."""
    actor, shapes, placed = stage.actors[index], stage.shapes, stage.placed
    box, touched = stage.views[index].box, stage.touched[index]
    time_s = time_us * 1e-6
    driven = distance_driven(actor, time_s)
    box[:2], box[2:] = np.inf, -np.inf
    touched[:] = 0
    for i in range(actor.first_shape, actor.end_shape):
        u0, v0, u1, v1 = _place_shape(camera, actor, shapes[i], driven, time_s, placed[i])
        if u1 < u0:
            continue
        if shapes[i].effect == SOLID:
            box[0], box[1] = min(box[0], u0), min(box[1], v0)
            box[2], box[3] = max(box[2], u1), max(box[3], v1)
        spot, first = placed[i], touched[0] == touched[2]
        touched[0] = spot.u_from if first else min(touched[0], spot.u_from)
        touched[1] = spot.v_from if first else min(touched[1], spot.v_from)
        touched[2] = spot.u_to if first else max(touched[2], spot.u_to)
        touched[3] = spot.v_to if first else max(touched[3], spot.v_to)
