"""Pictures of frames and boxes."""

import time

import numpy as np
import pytest

from etram_det.drawing.frames import (
    BACKGROUND,
    BRIGHTER,
    CLASS_COLOURS,
    DARKER,
    draw_boxes,
    draw_text,
    frame_image,
)

NAMES = ("pedestrian", "car")


def test_a_pixel_shows_the_polarity_that_prevails_and_how_many():
    frame = np.zeros((4, 1, 5), np.uint8)  # two bins of darker, two of brighter events
    frame[0, 0] = [9, 0, 0, 2, 1]
    frame[2, 0] = [0, 4, 0, 1, 1]
    frame[3, 0] = [0, 0, 0, 0, 1]
    image = frame_image(frame)
    assert image.shape == (1, 5, 3)
    assert image[0, 0].tolist() == list(DARKER)
    assert image[0, 1].tolist() == list(BRIGHTER)
    assert image[0, 2].tolist() == list(BACKGROUND)
    assert image[0, 3].tolist() == [116, 61, 0]  # two of four events
    assert image[0, 4].tolist() == [35, 74, 111]


def test_counts_of_all_bins_add_up_beyond_a_byte():
    assert frame_image(np.full((20, 2, 2), 255, np.uint8))[0, 0].tolist() == list(BRIGHTER)


def test_a_mixed_density_shows_all_of_its_window():
    frame = np.zeros((3, 1, 3), np.int8)
    frame[0, 0] = [-128, 5, 0]
    frame[1:] = 9
    image = frame_image(frame, "mixed_density")
    assert image[0].tolist() == [list(DARKER), list(BRIGHTER), list(BACKGROUND)]


def test_boxes_are_outlined_in_the_colour_of_their_class():
    image = np.zeros((60, 120, 3), np.uint8)
    boxes = np.array([[10.4, 30.0, 40.0, 50.0], [60, 30, 90, 50]])
    draw_boxes(image, boxes, np.array([0, 1]), NAMES, np.array([0.9, 0.5]))
    assert image[50, 25].tolist() == list(CLASS_COLOURS[0])
    assert image[40, 10].tolist() == list(CLASS_COLOURS[0])
    assert image[40, 60].tolist() == list(CLASS_COLOURS[1])
    assert not image[35:45, 15:35].any()  # the object itself stays in view
    assert image[15:29, 10:90].any()  # names stand above


def test_the_best_box_lies_on_top_and_labels_have_no_name():
    image = np.zeros((60, 60, 3), np.uint8)
    box = np.array([[10, 30, 40, 50]] * 2)
    draw_boxes(image, box, np.array([1, 0]), NAMES)
    assert image[50, 20].tolist() == list(CLASS_COLOURS[1])
    image = np.zeros((60, 60, 3), np.uint8)
    draw_boxes(image, box[:1], np.array([0]), NAMES, dashed=True)
    assert not image[:30].any()
    assert 0.4 < (image[50, 10:41, 0] == 255).mean() < 0.6


@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, 500, 500],
        [59, 59, 59, 59],
        [0, 0, 3, 3],
        [200, 200, 300, 300],
        [np.nan, 0, np.inf, 9],
    ],
)
@pytest.mark.parametrize("dashed", [False, True])
def test_any_box_can_be_drawn(box, dashed):
    image = np.zeros((60, 60, 3), np.uint8)
    draw_boxes(image, np.array([box]), np.array([9]), ["name"] * 10, dashed=dashed)
    assert image.any()


def test_tracks_and_lines_of_text_show():
    plain, tracked = np.zeros((2, 60, 160, 3), np.uint8)
    box, classes = np.array([[10, 30, 40, 50]]), np.array([1])
    draw_boxes(plain, box, classes, NAMES, track_ids=np.array([-1]))
    draw_boxes(tracked, box, classes, NAMES, track_ids=np.array([12]))
    assert (tracked[:30] > 0).sum() > (plain[:30] > 0).sum()
    draw_text(plain, "1.25 s", (2, 2))
    assert plain[2:14, 2:40].max() > 200


def plain_image(frame):
    """Pixel by pixel what ``frame_image`` gives of a stacked histogram."""
    darker, brighter = frame.reshape(2, -1, *frame.shape[1:]).sum(axis=1, dtype=int)
    image = np.zeros((*darker.shape, 3), np.uint8)
    for y, x in zip(*np.nonzero(darker + brighter), strict=True):
        pixel = np.zeros((2, 1, 1), np.uint8)
        pixel[:, 0, 0] = np.minimum([darker[y, x], brighter[y, x]], 255)
        image[y, x] = frame_image(pixel)[0, 0]
    return image


def test_a_frame_is_drawn_as_its_pixels_are_and_much_faster():
    frame = np.random.default_rng(0).poisson(0.02, (20, 180, 320)).astype(np.uint8)

    def seconds(draw):
        started = time.perf_counter()
        image = draw(frame)
        return time.perf_counter() - started, image

    frame_image(frame)  # compiled
    fast, image = min((seconds(frame_image) for _ in range(12)), key=lambda each: each[0])
    plain, expected = seconds(plain_image)
    assert (image == expected).all()
    assert plain > 10 * fast  # some hundreds of times
