"""The empty scene: ground, houses, sky, and all that stands still in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from etram_det.simulator.rendering import GRAIN_SIZE
from etram_det.simulator.routes import Array
from etram_det.simulator.stage import Camera
from etram_det.simulator.streets import Strip, Wall

_TEXEL_M = 0.1
_ROWS = 16  # rays of so many rows are followed at a time, which bounds the memory
_RAYS = 2  # rays along each side of a pixel
_GRASS, _SKY = 0.15, 0.9
_FAR_M = 400.0

Image = NDArray[np.float32]


def draw_grains(rng: np.random.Generator) -> Image:
    """A seamless texture ``[GRAIN_SIZE, GRAIN_SIZE]`` in [-1, 1]."""
    fine = rng.uniform(-1, 1, (GRAIN_SIZE, GRAIN_SIZE))
    coarse = np.kron(rng.uniform(-1, 1, (GRAIN_SIZE // 4, GRAIN_SIZE // 4)), np.ones((4, 4)))
    return (0.5 * fine + 0.5 * coarse).astype(np.float32)


def _texture(grains: Image, a: Array, b: Array) -> Image:
    """Grain at points of a surface, from the nearest texel."""
    mask = len(grains) - 1
    return np.asarray(grains[b.astype(np.int32) & mask, a.astype(np.int32) & mask], np.float32)


class Ground:
    """The painted ground of a place, as a map in its own coordinates.

    Args:
        strips: in the order of painting, in metres.
    """

    def __init__(self, strips: Sequence[Strip]) -> None:
        corners = np.concatenate([strip.outline for strip in strips])
        self.low = corners.min(axis=0) - 1
        size = np.ceil((corners.max(axis=0) + 1 - self.low) / _TEXEL_M).astype(int)
        self.map = np.full((size[1], size[0]), round(255 * _GRASS), np.uint8)
        for strip in strips:
            points = np.round((strip.outline - self.low) / _TEXEL_M * 16 - 8).astype(np.int32)
            cv2.fillPoly(self.map, [points], round(255 * min(strip.albedo, 1)), cv2.LINE_AA, 4)

    def at(self, x: Array, y: Array) -> Image:
        """Albedo of points of the ground."""
        across = ((x - self.low[0]) / _TEXEL_M - 0.5).astype(np.float32)
        down = ((y - self.low[1]) / _TEXEL_M - 0.5).astype(np.float32)
        grass = round(255 * _GRASS)
        texels = cv2.remap(
            self.map, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=(grass,),
        )  # fmt: skip
        return np.asarray(texels, np.float32) / np.float32(255)


def draw_background(
    camera: Camera,
    size: tuple[int, int],
    ground: Ground,
    to_place: tuple[float, float, float],
    walls: Sequence[Wall],
    grains: Image,
) -> tuple[Image, Image]:
    """Albedo ``[H, W]`` of the empty scene, and 1 / depth of its walls (0 elsewhere).

    Args:
        camera: where it is seen from.
        size: height and width in pixels.
        ground: of the place.
        to_place: position of the camera in the place, and the angle from its axes to the place's.
        walls: in the camera's axes.
        grains: texture of all surfaces.
    """
    height, width = size
    albedo = np.empty(size, np.float32)
    nearest = np.zeros(size, np.float32)
    for top in range(0, height, _ROWS):
        rows = min(_ROWS, height - top)
        v, u = np.mgrid[0 : rows * _RAYS, 0 : width * _RAYS].astype(np.float32)
        right = ((u + 0.5) / _RAYS - camera.centre_u) / camera.focal_px
        above = (camera.centre_v - top - (v + 0.5) / _RAYS) / camera.focal_px
        image, near = _trace(camera, right, above, ground, to_place, walls, grains)
        for array, rays in ((albedo, image), (nearest, near)):
            blocks = rays.reshape(rows, _RAYS, width, _RAYS)
            array[top : top + rows] = blocks.mean((1, 3)) if array is albedo else blocks.max((1, 3))
    return albedo, nearest


def _trace(
    camera: Camera,
    right: Image,
    above: Image,
    ground: Ground,
    to_place: tuple[float, float, float],
    walls: Sequence[Wall],
    grains: Image,
) -> tuple[Image, Image]:
    """What rays hit: albedo, and 1 / depth of walls. Ray depth is 1, so ways are depths."""
    ray_y = camera.cos_pitch + above * camera.sin_pitch
    ray_z = above * camera.cos_pitch - camera.sin_pitch
    with np.errstate(divide="ignore", invalid="ignore"):
        way = np.where(ray_z < -1e-4, camera.height_m / -ray_z, _FAR_M).astype(np.float32)
    on_ground = way < _FAR_M
    x0, y0, angle = to_place
    cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y = way * right, way * ray_y
    place_x, place_y = cosine * x - sine * y + x0, sine * x + cosine * y + y0
    speckle = 1 + 0.1 * _texture(grains, 5 * place_x, 5 * place_y) * np.clip(25 / way, 0, 1)
    image = np.where(on_ground, ground.at(place_x, place_y) * speckle, _SKY).astype(np.float32)
    hit = np.where(on_ground, way, np.float32(_FAR_M))
    near = np.zeros_like(image)
    for number, wall in enumerate(walls):
        (ax, ay), (bx, by) = wall.start, wall.end
        dx, dy = bx - ax, by - ay
        with np.errstate(divide="ignore", invalid="ignore"):
            facing = right * dy - ray_y * dx
            to_wall = (ax * dy - ay * dx) / facing
            share = (ax * ray_y - ay * right) / facing
        z = camera.height_m + to_wall * ray_z
        here = (to_wall > 0.5) & (to_wall < hit) & (share >= 0) & (share <= 1)
        here &= (z < wall.height) & (z > 0)
        if not here.any():
            continue
        a, z = share[here] * math.hypot(dx, dy), z[here]
        pane = (np.mod(a, 2.6) > 1.2) & (np.mod(z, 3.0) > 1.2) & (np.mod(z, 3.0) < 2.7)
        front = wall.albedo * (1 + 0.08 * _texture(grains, 4 * a + 7 * number, 4 * z))
        image[here] = np.where(pane, 0.1, front)
        hit[here] = to_wall[here]
        near[here] = 1 / to_wall[here]
    return image, near
