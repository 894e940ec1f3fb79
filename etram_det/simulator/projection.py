"""Projection of road users and their shapes onto the screen.

A road user is a handful of shapes. Flat ones (rounded boxes, discs, rings) lie on the planes of its
body and are projected by the exact perspective of their plane, a homography. Rods, balls included,
are bars with round ends; they look alike from all sides.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from etram_det.simulator.stage import AXLE, CAST, FRONT, ROD, SIDE, SOLID, TOP, Camera, Stage, Sun

_NEAR_M = 0.7
_LEAST_PX = 0.7  # smaller shapes are not drawn
_EVEN = 1.15  # largest over mean size of pixels up to which these count as equal
_FAR_PX = 1e5  # bounds on the screen stay within this
FLICKER_HZ = 100.0  # of lamps on 50 Hz mains

Point = tuple[float, float, float]


@njit(cache=True, nogil=True, error_model="numpy")
def _turned(camera: Camera, x: float, y: float, z: float) -> Point:
    """A direction of the world as (right, up, ahead) of the camera."""
    return (
        x,
        y * camera.sin_pitch + z * camera.cos_pitch,
        y * camera.cos_pitch - z * camera.sin_pitch,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def project(camera: Camera, x: float, y: float, z: float) -> Point:
    """Screen position ``(u, v)`` of a point of the world, and its depth in metres.

    Points behind the near plane are moved onto it.
    """
    right, up, depth = _turned(camera, x, y, z - camera.height_m)
    near = max(depth, _NEAR_M)
    u = camera.centre_u + camera.focal_px * right / near
    return u, camera.centre_v - camera.focal_px * up / near, depth


@njit(cache=True, nogil=True, error_model="numpy")
def between(start: float, end: float, share: float) -> float:
    """Linear interpolation."""
    return start + share * (end - start)


@njit(cache=True, nogil=True, error_model="numpy")
def _in_body(shape: Any, driven: float, phase: float, vigour: float) -> Point:
    """Centre of a shape in its plane and its angle, after swinging and rolling."""
    swing = shape.swing * vigour * math.sin(phase + shape.swing_phase)
    sine, cosine = math.sin(swing), math.cos(swing)
    x, z = shape.x - shape.pivot_x, shape.z - shape.pivot_z
    return (
        shape.pivot_x + cosine * x - sine * z,
        shape.pivot_z + sine * x + cosine * z,
        shape.angle + swing - shape.roll * driven,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _bound(spot: Any, bounds: tuple[float, float, float, float], slack: float) -> None:
    """Set the pixels that a shape can change."""
    spot.u_from = math.floor(max(bounds[0] - slack, -_FAR_PX))
    spot.v_from = math.floor(max(bounds[1] - slack, -_FAR_PX))
    spot.u_to = math.ceil(min(bounds[2] + slack, _FAR_PX))
    spot.v_to = math.ceil(min(bounds[3] + slack, _FAR_PX))


@njit(cache=True, nogil=True, error_model="numpy")
def _place_rod(
    camera: Camera, shape: Any, spot: Any, start: Point, end: Point
) -> tuple[float, float, float, float]:
    """Place a rod between two points of the camera's axes; returns its bounds."""
    depth = 0.5 * (start[2] + end[2])
    if min(start[2], end[2]) < _NEAR_M:
        return np.inf, np.inf, -np.inf, -np.inf
    scale, radius = camera.focal_px / depth, float(shape.half_z)
    if 2 * float(shape.half_x) * scale < _LEAST_PX:
        return np.inf, np.inf, -np.inf, -np.inf
    u0, v0 = camera.focal_px * start[0] / start[2], -camera.focal_px * start[1] / start[2]
    u1, v1 = camera.focal_px * end[0] / end[2], -camera.focal_px * end[1] / end[2]
    length = math.hypot(u1 - u0, v1 - v0)
    cosine, sine = ((u1 - u0) / length, (v1 - v0) / length) if length > 1e-6 else (1.0, 0.0)
    u = camera.centre_u + 0.5 * (u0 + u1)
    v = camera.centre_v + 0.5 * (v0 + v1)
    weight = 1 / (depth * scale)
    spot.a_u, spot.a_v, spot.a_1 = weight * cosine, weight * sine, -weight * (cosine * u + sine * v)
    spot.b_u, spot.b_v, spot.b_1 = weight * sine, -weight * cosine, weight * (cosine * v - sine * u)
    spot.w_u, spot.w_v, spot.w_1 = 0.0, 0.0, 1 / depth
    spot.half_x, spot.half_z = 0.5 * length / scale + radius, radius
    spot.corner, spot.edge_x, spot.edge_z = radius, 1.42 / scale, 1.42 / scale
    spot.per_x = spot.per_z = scale
    reach = radius * scale
    bounds = (
        u - 0.5 * abs(u1 - u0) - reach,
        v - 0.5 * abs(v1 - v0) - reach,
        u + 0.5 * abs(u1 - u0) + reach,
        v + 0.5 * abs(v1 - v0) + reach,
    )
    _bound(spot, bounds, 1.0)
    return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def _place_plane(
    camera: Camera, shape: Any, spot: Any, centre: Point, first: Point, second: Point
) -> tuple[float, float, float, float]:
    """Place a flat shape by its centre and axes in the camera's axes; returns its bounds."""
    f = camera.focal_px
    # The matrix from (a, b, 1) to (u, v, 1) * depth, around the optical axis, and its inverse.
    m00, m01, m02 = f * first[0], f * second[0], f * centre[0]
    m10, m11, m12 = -f * first[1], -f * second[1], -f * centre[1]
    m20, m21, m22 = first[2], second[2], centre[2]
    c00, c10, c20 = m11 * m22 - m12 * m21, m12 * m20 - m10 * m22, m10 * m21 - m11 * m20
    determinant = m00 * c00 + m01 * c10 + m02 * c20
    if abs(determinant) < 1e-3 * f:
        return np.inf, np.inf, -np.inf, -np.inf
    k, cu, cv = 1 / determinant, camera.centre_u, camera.centre_v
    spot.a_u, spot.a_v = k * c00, k * (m02 * m21 - m01 * m22)
    spot.a_1 = k * (m01 * m12 - m02 * m11) - spot.a_u * cu - spot.a_v * cv
    spot.b_u, spot.b_v = k * c10, k * (m00 * m22 - m02 * m20)
    spot.b_1 = k * (m02 * m10 - m00 * m12) - spot.b_u * cu - spot.b_v * cv
    spot.w_u, spot.w_v = k * c20, k * (m01 * m20 - m00 * m21)
    spot.w_1 = k * (m00 * m11 - m01 * m10) - spot.w_u * cu - spot.w_v * cv
    half_x, half_z = float(shape.half_x), float(shape.half_z)
    spot.half_x, spot.half_z, spot.corner = half_x, half_z, float(shape.corner)
    u0, v0, u1, v1, edge_x, edge_z = np.inf, np.inf, -np.inf, -np.inf, 0.0, 0.0
    for i in range(4):
        # One corner, and where the side that follows it pierces the near plane.
        a0, b0 = (half_x if i in (1, 2) else -half_x), (half_z if i >= 2 else -half_z)
        a1, b1 = (half_x if i in (0, 1) else -half_x), (half_z if i in (1, 2) else -half_z)
        depth0, depth1 = m20 * a0 + m21 * b0 + m22, m20 * a1 + m21 * b1 + m22
        if (depth0 < _NEAR_M) != (depth1 < _NEAR_M):
            share = (_NEAR_M - depth0) / (depth1 - depth0)
            a, b = between(a0, a1, share), between(b0, b1, share)
            u, v = (m00 * a + m01 * b + m02) / _NEAR_M, (m10 * a + m11 * b + m12) / _NEAR_M
            u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
        if depth0 >= _NEAR_M:
            u, v = (m00 * a0 + m01 * b0 + m02) / depth0, (m10 * a0 + m11 * b0 + m12) / depth0
            u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
            edge_a = math.hypot(spot.a_u - a0 * spot.w_u, spot.a_v - a0 * spot.w_v)
            edge_b = math.hypot(spot.b_u - b0 * spot.w_u, spot.b_v - b0 * spot.w_v)
            edge_x, edge_z = max(edge_x, depth0 * edge_a), max(edge_z, depth0 * edge_b)
    if max(u1 - u0, v1 - v0) < _LEAST_PX:
        return np.inf, np.inf, -np.inf, -np.inf
    spot.edge_x, spot.edge_z = 1.1 * edge_x, 1.1 * edge_z
    # At the centre, of which depth and gradients are known.
    per_x = 1 / (m22 * math.hypot(spot.a_u, spot.a_v))
    per_z = 1 / (m22 * math.hypot(spot.b_u, spot.b_v))
    is_even = m22 > 0 and edge_x * per_x < _EVEN and edge_z * per_z < _EVEN
    spot.per_x, spot.per_z = (per_x, per_z) if is_even else (0.0, 0.0)
    bounds = (cu + u0, cv + v0, cu + u1, cv + v1)
    _bound(spot, bounds, 1.0)
    return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def _rod_ends(
    camera: Camera, shape: Any, pose: Point, x: float, z: float, angle: float
) -> tuple[Point, Point]:
    """Both ends of a rod in the camera's axes."""
    ahead_x, ahead_y = math.cos(pose[2]), math.sin(pose[2])
    half, offset = float(shape.half_x - shape.half_z), float(shape.offset)
    is_along = shape.plane == ROD
    along, rise = (half * math.cos(angle), half * math.sin(angle)) if is_along else (0.0, 0.0)
    across = 0.0 if is_along else half
    start = _turned(
        camera,
        pose[0] + (x - along) * ahead_x - (offset - across) * ahead_y,
        pose[1] + (x - along) * ahead_y + (offset - across) * ahead_x,
        z - rise - camera.height_m,
    )
    end = _turned(
        camera,
        pose[0] + (x + along) * ahead_x - (offset + across) * ahead_y,
        pose[1] + (x + along) * ahead_y + (offset + across) * ahead_x,
        z + rise - camera.height_m,
    )
    return start, end


@njit(cache=True, nogil=True, error_model="numpy")
def _place_shape(
    camera: Camera, sun: Sun, shape: Any, pose: Point, motion: Point, spot: Any
) -> tuple[float, float, float, float]:
    """Place a shape on the screen; returns its bounds u0 v0 u1 v1, empty if it faces away.

    ``pose`` is x, y and heading; ``motion`` is metres driven, phase and vigour of the limbs.
    """
    spot.u_from = spot.u_to = spot.v_from = spot.v_to = 0
    nothing = (np.inf, np.inf, -np.inf, -np.inf)
    body_x, body_y = pose[0], pose[1]
    ahead_x, ahead_y = math.cos(pose[2]), math.sin(pose[2])
    x, z, angle = _in_body(shape, motion[0], motion[1], motion[2])
    sine, cosine = math.sin(angle), math.cos(angle)
    plane, offset, tilt = shape.plane, float(shape.offset), float(shape.tilt)
    if plane == ROD or plane == AXLE:
        start, end = _rod_ends(camera, shape, pose, x, z, angle)
        return _place_rod(camera, shape, spot, start, end)
    # Left of the heading is (-ahead_y, ahead_x). The camera is over the origin.
    camera_ahead = -(ahead_x * body_x + ahead_y * body_y)
    camera_left = ahead_y * body_x - ahead_x * body_y
    along, across_m, up = x, 0.0, z
    first_x, first_y = ahead_x, ahead_y
    second_x, second_y, second_z = 0.0, 0.0, 1.0
    if shape.effect == CAST:
        if plane == FRONT:
            along, across_m, first_x, first_y = offset, x, -ahead_y, ahead_x
        second_x, second_y, second_z, up = sun.x, sun.y, 0.0, 0.01
        body_x, body_y = body_x + z * sun.x, body_y + z * sun.y
    elif plane == SIDE:
        side = 1.0 if camera_left > 0 else -1.0
        across_m = side * offset
        if camera_left * side < offset - tilt * (camera.height_m - z):
            return nothing
        second_x, second_y = side * tilt * ahead_y, -side * tilt * ahead_x
    elif plane == TOP:
        along, across_m, up = x, z, offset
        second_x, second_y, second_z = -ahead_y, ahead_x, 0.0
        if camera.height_m < offset:
            return nothing
    else:
        facing = 1.0 if plane == FRONT else -1.0
        along, across_m = offset, x
        if (camera_ahead - offset) * facing < -tilt * (camera.height_m - z):
            return nothing
        first_x, first_y = -ahead_y, ahead_x
        second_x, second_y = -facing * tilt * ahead_x, -facing * tilt * ahead_y
    centre = _turned(
        camera,
        body_x + along * ahead_x - across_m * ahead_y,
        body_y + along * ahead_y + across_m * ahead_x,
        up - camera.height_m,
    )
    first = _turned(camera, first_x, first_y, 0.0)
    second = _turned(camera, second_x, second_y, second_z)
    if angle != 0:
        f0, f1, f2 = first
        s0, s1, s2 = second
        first = (cosine * f0 + sine * s0, cosine * f1 + sine * s1, cosine * f2 + sine * s2)
        second = (cosine * s0 - sine * f0, cosine * s1 - sine * f1, cosine * s2 - sine * f2)
    return _place_plane(camera, shape, spot, centre, first, second)


@njit(cache=True, nogil=True, error_model="numpy")
def place(camera: Camera, sun: Sun, stage: Stage, index: int, share: float, time_us: float) -> None:
    """Place one actor on the screen: set its placed shapes, box, touched pixels and shine.

    Args:
        camera: where it is seen from.
        sun: direction of its shadow.
        stage: changed in place.
        index: of the actor.
        share: of its way from its first to its second moment, in [0, 1].
        time_us: for flickering lamps.
    """
    actor, shapes, placed = stage.actors[index], stage.shapes, stage.placed
    box, touched = stage.views[index].box, stage.touched[index]
    pose = (
        between(actor.x0, actor.x1, share),
        between(actor.y0, actor.y1, share),
        between(actor.heading0, actor.heading1, share),
    )
    motion = (
        between(actor.driven0, actor.driven1, share),
        between(actor.phase0, actor.phase1, share),
        between(actor.vigour0, actor.vigour1, share),
    )
    stage.shine[index] = 1 + actor.flicker * math.sin(2e-6 * math.pi * FLICKER_HZ * time_us)
    box[:2], box[2:] = np.inf, -np.inf
    touched[:] = 0
    for i in range(actor.first_shape, actor.end_shape):
        u0, v0, u1, v1 = _place_shape(camera, sun, shapes[i], pose, motion, placed[i])
        if u1 < u0:
            continue
        if shapes[i].effect == SOLID:
            box[0], box[1] = min(box[0], u0), min(box[1], v0)
            box[2], box[3] = max(box[2], u1), max(box[3], v1)
        spot, is_first = placed[i], touched[0] == touched[2]
        touched[0] = spot.u_from if is_first else min(touched[0], spot.u_from)
        touched[1] = spot.v_from if is_first else min(touched[1], spot.v_from)
        touched[2] = spot.u_to if is_first else max(touched[2], spot.u_to)
        touched[3] = spot.v_to if is_first else max(touched[3], spot.v_to)


@njit(cache=True, nogil=True, error_model="numpy")
def place_all(
    camera: Camera,
    sun: Sun,
    stage: Stage,
    order: NDArray[np.int64],
    share: float,
    time_us: float,
) -> None:
    """Place actors, as ``place`` does."""
    for i in order:
        place(camera, sun, stage, i, share, time_us)


@njit(cache=True, nogil=True, error_model="numpy")
def pixels_moved(camera: Camera, actor: Any) -> float:
    """Largest way on the screen, in pixels, of an actor's visible points between its moments.

    Points are taken along its base and its roof; those far outside of the frame do not count.
    """
    most = 0.0
    for number in range(10):
        along = between(actor.rear, actor.front, (number % 5) / 4)
        up = actor.height if number >= 5 else 0.0
        u0, v0, depth0 = project(
            camera,
            actor.x0 + along * math.cos(actor.heading0),
            actor.y0 + along * math.sin(actor.heading0),
            up,
        )
        u1, v1, depth1 = project(
            camera,
            actor.x1 + along * math.cos(actor.heading1),
            actor.y1 + along * math.sin(actor.heading1),
            up,
        )
        outside_u = abs(u1 - camera.centre_u) > 1.3 * camera.centre_u
        outside_v = abs(v1 - camera.centre_v) > 1.3 * camera.centre_v
        if min(depth0, depth1) > _NEAR_M and not outside_u and not outside_v:
            most = max(most, math.hypot(u1 - u0, v1 - v0))
    if most == 0 and (actor.x0 != actor.x1 or actor.y0 != actor.y1):
        most = 3.0  # only a part between these points may be in the frame
    _, _, depth = project(camera, actor.x1, actor.y1, 0.5 * actor.height)
    vigour = max(actor.vigour0, actor.vigour1)
    turned = abs(actor.phase1 - actor.phase0) * vigour + 0.5 * abs(actor.vigour1 - actor.vigour0)
    return most + turned * actor.limb_reach * camera.focal_px / max(depth, 1.0)
