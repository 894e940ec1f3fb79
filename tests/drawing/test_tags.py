"""Tags of boxes: none hides another one or an object."""

import numpy as np
import pytest

from etram_det.drawing.frames import CLASS_COLOURS, draw_boxes
from etram_det.drawing.tags import place_tags

PICTURE = 360, 640
SIZES = [(60, 12), (20, 12)]


def placed(boxes, taken=(), sizes=SIZES, others=()):
    boxes = np.array(boxes, np.int64).reshape(-1, 4)
    objects = np.concatenate([boxes, np.array(others, np.int64).reshape(-1, 4)])
    places = place_tags(boxes, [sizes] * len(boxes), PICTURE, objects, taken)
    return [
        None if place is None else (*place[1:], *np.add(place[1:], sizes[place[0]]) - 1)
        for place in places
    ]


def shared(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    return np.prod(np.maximum(high - low + 1, 0))


def test_a_tag_stands_above_its_box_and_elsewhere_where_there_is_no_room():
    assert placed([[100, 100, 180, 140]]) == [(100, 87, 159, 98)]
    assert placed([[100, 3, 180, 43]]) == [(100, 45, 159, 56)]  # below
    assert placed([[100, 3, 180, 359]]) == [(182, 3, 241, 14)]  # beside
    assert placed([[620, 100, 639, 140]]) == [(580, 87, 639, 98)]
    assert placed([[0, 0, 639, 359]]) == [(0, 2, 59, 13)]  # within, as there is nothing around it
    above = (90, 80, 200, 99)
    assert placed([[100, 100, 180, 140]], taken=[above]) == [(100, 142, 159, 153)]
    assert placed([[100, 100, 180, 140]], others=[above]) == [(100, 142, 159, 153)]


def test_a_tag_is_short_or_left_out_where_there_is_no_room():
    small = [100, 100, 130, 112]
    around = [(0, 0, 99, 359), (160, 0, 639, 359), (100, 0, 159, 98), (100, 114, 159, 359)]
    [place] = placed([small], taken=around)
    assert place[2] - place[0] == 19
    everything = [(0, 0, 639, 359)]
    assert placed([small], taken=everything) == [None]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [1, 10, 60])
def test_no_tag_hides_another_one_or_an_object(seed, number):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (600, 320), (number, 2))
    sizes = rng.integers(2, 90, (number, 2))
    boxes = np.concatenate([corners, np.minimum(corners + sizes, (639, 359))], axis=1)
    places = placed(boxes)
    tags = [place for place in places if place is not None]
    assert len(tags) >= min(number, 15)
    for i, tag in enumerate(tags):
        assert min(tag) >= 0
        assert tag[2] < 640
        assert tag[3] < 360
        assert all(shared(tag, other) == 0 for other in tags[:i])
        for box in boxes:
            area = np.prod(box[2:] - box[:2] + 1)
            assert shared(tag, box) <= 0.15 * area


def test_names_in_a_picture_leave_all_objects_in_view():
    """Where boxes lie close together, as do those of a group, and one is short of room."""
    image = np.zeros((120, 200, 3), np.uint8)
    boxes = np.array([[60, 40, 80, 70], [82, 40, 102, 70], [104, 40, 124, 70], [60, 72, 124, 100]])
    draw_boxes(image, boxes, np.arange(4), ["pedestrian"] * 4, np.linspace(0.9, 0.5, 4))
    for left, top, right, bottom in boxes:
        inner = image[top + 1 : bottom, left + 1 : right]
        assert (inner > 0).any(axis=2).mean() <= 0.15
    grounds = [(image == colour).all(axis=2).sum() for colour in CLASS_COLOURS[:4]]
    assert min(grounds) >= 100
