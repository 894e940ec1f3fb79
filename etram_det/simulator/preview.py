"""A video of a simulated recording as light and as events, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etram_det.simulator.dataset import Plan, SimulationSettings
from etram_det.simulator.event_camera import EventCamera
from etram_det.simulator.labels import LABEL_INTERVAL_US, boxes_now
from etram_det.simulator.scene import Scene

_GAMMA = 2.0
_NIGHT_EXPOSURE = 3.0


def light_image(intensity: NDArray[np.float32], night: bool) -> NDArray[np.uint8]:
    """Intensities ``[H, W]`` as a grey picture ``[H, W, 3]``, exposed for day or night."""
    exposed = np.clip(intensity * (_NIGHT_EXPOSURE if night else 1.0), 0, 1) ** (1 / _GAMMA)
    return np.repeat((255 * exposed).astype(np.uint8)[..., None], 3, axis=2)


def recording_as_seen(
    settings: SimulationSettings, plan: Plan
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[Any]]]:
    """A recording of a set, 30 times a second: what its file holds.

    Args:
        settings: of the set.
        plan: of the recording.

    Yields:
        The light as a picture ``[H, W, 3]``; events since the last picture, ``[2, H, W]`` counts of
        negative and positive ones; and boxes as ``BOX_DTYPE``.
    """
    rng = np.random.default_rng(plan.seed)
    camera = EventCamera(Scene(rng, plan.conditions), settings.sensor, rng)
    size = settings.height, settings.width
    for time_us in range(LABEL_INTERVAL_US, round(settings.seconds * 1e6) + 1, LABEL_INTERVAL_US):
        events = camera.advance(time_us)
        cell = (events["p"].astype(np.int64) * size[0] + events["y"]) * size[1] + events["x"]
        number = np.bincount(cell, minlength=2 * size[0] * size[1]).reshape(2, *size)
        counts = np.minimum(number, 255).astype(np.uint8)
        yield light_image(camera.image, plan.conditions.night), counts, boxes_now(camera)
