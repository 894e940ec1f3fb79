"""What is on the screen: shapes of road users, where they go, and where they are seen.

World axes in metres: ``x`` to the right, ``y`` away from the camera, ``z`` up from the ground; the
camera is above the origin. Screen axes in pixels: ``u`` to the right, ``v`` down.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Where a shape lies: on a plane of the body, of which only sides that face the camera are drawn;
# or a rod, along the body or across it.
SIDE, FRONT, REAR, TOP, ROD, AXLE = range(6)
# Effects of a shape on the image behind it. Shadows lie on the ground, under all bodies: SHADOW by
# daylight, CAST by the sun.
SOLID, GLOW, SHADOW, CAST = range(4)


class Shape(NamedTuple):
    """One shape of a body, in metres and radians."""

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
    tilt: float = 0.0  # metres that an upright plane leans inwards per metre of height
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

# An actor is a rigid part of a road user, or a tree or lamp, between two moments: "0" is the first,
# "1" the second.
ACTOR = np.dtype(
    [
        ("class_id", "i4"),  # -1 for what is not labelled
        ("track", "i4"),  # the same for all parts of a road user
        ("first_shape", "i4"),
        ("first_body", "i4"),  # shadows come before this shape, all others from it on
        ("end_shape", "i4"),
        *[(f"{name}{when}", "f8") for when in "01" for name in ("x", "y", "heading")],
        *[(f"{name}{when}", "f8") for when in "01" for name in ("driven", "phase", "vigour")],
        ("rear", "f8"),  # footprint: from here to ``front`` along the heading
        ("front", "f8"),
        ("half_width", "f8"),
        ("height", "f8"),
        ("limb_reach", "f8"),  # metres that a limb moves per radian of ``phase``
        ("flicker", "f8"),  # depth of the modulation of its lamps, in [0, 1]
    ]
)

_MATRIX = ("a_u", "a_v", "a_1", "b_u", "b_v", "b_1", "w_u", "w_v", "w_1")
# A shape on the screen. Its matrix takes a pixel (u, v, 1) to (a, b, 1) / depth, with a and b in
# the shape's own axes in metres; ``edge_x`` and ``edge_z`` are the largest size of a pixel along
# them in metres, ``per_x`` and ``per_z`` are pixels per metre where these hardly vary, else 0.
PLACED = np.dtype(
    [
        (name, "f8")
        for name in (*_MATRIX, "half_x", "half_z", "corner", "edge_x", "edge_z", "per_x", "per_z")
    ]
    + [(name, "i4") for name in ("u_from", "u_to", "v_from", "v_to")]
)

# The view of an actor.
VIEW = np.dtype(
    [
        ("box", "f8", (4,)),  # bounds of its silhouette, u0 v0 u1 v1, not clipped
        ("seen", "i4", (4,)),  # bounds of its visible pixels, u0 v0 u1 v1
        ("num_own", "i4"),  # pixels of its silhouette inside the frame
        ("num_visible", "i4"),  # of these, those that nothing nearer hides
        ("num_events", "i8"),  # that it has caused so far
    ]
)


class Camera(NamedTuple):
    """A pinhole camera without roll."""

    focal_px: float
    centre_u: float  # column of the optical axis
    centre_v: float  # row of the optical axis
    height_m: float  # above the ground
    sin_pitch: float  # of the angle by which it looks down
    cos_pitch: float


class Sun(NamedTuple):
    """Direction of the shadows: metres on the ground per metre of height."""

    x: float
    y: float


class Stage(NamedTuple):
    """``A`` actors with ``S`` shapes and their current places on the screen."""

    actors: NDArray[Any]  # [A] as ACTOR
    shapes: NDArray[Any]  # [S] of all actors, as SHAPE
    placed: NDArray[Any]  # [S] as PLACED
    touched: NDArray[np.int64]  # [A, 4] bounds u0 v0 u1 v1 of the pixels that change; 0 for none
    shine: NDArray[np.float64]  # [A] factor of the light of its lamps
    views: NDArray[Any]  # [A] as VIEW
