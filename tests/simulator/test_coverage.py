"""The share of a pixel that a shape covers."""

from __future__ import annotations

import numpy as np

from etram_det.simulator.coverage import cover_at

# The window in the rear of a car beside the camera, seen along its plane from 2 micrometres off it:
# half sizes, corner, taper, ring, sizes of pixels in metres; and its matrix.
FORM = (0.864, 0.3109, 0.04, 0.22, 0.0, 621.8, 497.7, 0.0, 0.0)
MATRIX = (
    *(-32.9289555612633, -30.039173634976326, 18625.368226516934),
    *(28.025219784351783, 25.56242809466032, -15850.692120125628),
    *(4.389281036981062, 4.003874983562415, -2482.5180424089012),
)


def test_a_tapered_shape_seen_along_its_plane_covers_no_pixel_more_than_once() -> None:
    covers, beyond_tip = [], []
    for v in np.arange(272.5, 335):
        for u in np.arange(260.5, 318):
            a, b, w = np.reshape(MATRIX, (3, 3)) @ (u, v, 1)
            if w > 0:
                covers.append(cover_at(FORM, MATRIX, a / w, b / w, 1 / w))
                if b / w > 0.3109 * (2 / 0.22 - 1):
                    beyond_tip.append(covers[-1])
    assert len(beyond_tip) > 1000
    assert np.max(covers) <= 1
    assert np.max(beyond_tip) <= 0
