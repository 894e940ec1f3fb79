from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data.augment import Augmentation, AugmentSettings, draw
from etram_det.errors import UserError

SIZE = (48, 64)
DEFAULTS = AugmentSettings()
ALWAYS_IN = AugmentSettings(random_zoom=1, zoom_in_share=1)
ALWAYS_OUT = AugmentSettings(stream_zoom=1)
seeds = st.integers(0, 2**63 - 1)
# Rectangles on the pixel grid, inside the frame.
boxes = st.tuples(
    st.integers(0, 54), st.integers(0, 38), st.integers(5, 10), st.integers(5, 10)
).map(lambda box: np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], np.float32))
CLASSES = np.array([3])


def drawn(box, value=7):
    """Frames [1, 1, H, W] in which the pixels of a box [1, 4] are set."""
    frames = np.zeros((1, 1, *SIZE), np.uint8)
    left, top, right, bottom = box[0].astype(int)
    frames[:, :, top:bottom, left:right] = value
    return frames


def bounds(frames):
    """Box [4] around the pixels of frames [1, 1, H, W] that are set."""
    rows, columns = np.nonzero(frames[0, 0])
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@given(seeds, boxes)
@settings(max_examples=30, deadline=None)
def test_two_flips_change_nothing(seed, box):
    frames = np.random.default_rng(seed).integers(0, 11, (2, 3, *SIZE), np.uint8)
    flip = Augmentation(SIZE, flip=True)
    np.testing.assert_array_equal(flip.apply_to_frames(frames), frames[..., ::-1])
    np.testing.assert_array_equal(flip.apply_to_frames(flip.apply_to_frames(frames)), frames)
    once, classes = flip.apply_to_boxes(box, CLASSES)
    np.testing.assert_array_equal(once[0, [0, 2]], 64 - box[0, [2, 0]])
    np.testing.assert_array_equal(flip.apply_to_boxes(once, classes)[0], box)


@given(seeds, boxes, st.booleans(), st.sampled_from([DEFAULTS, ALWAYS_IN, ALWAYS_OUT]))
@settings(max_examples=200, deadline=None)
def test_boxes_follow_the_pixels(seed, box, stream, chosen):
    augmentation = draw(chosen, seed, SIZE, stream, box)
    frames = augmentation.apply_to_frames(drawn(box))
    moved, classes = augmentation.apply_to_boxes(box, CLASSES)
    assert frames.shape == (1, 1, *SIZE)
    assert classes.tolist() == [3]
    # The edges of nearest neighbours lie within half a pixel of the box's.
    assert np.abs(bounds(frames) - moved[0]).max() <= 0.5 + 1e-4


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_streams_zoom_out_only(seed):
    augmentation = draw(ALWAYS_OUT, seed, SIZE, stream=True)
    assert 1 / 1.2 <= augmentation.zoom <= 1
    corners = np.array([[0, 0, 64, 48]], np.float32)
    moved, _ = augmentation.apply_to_boxes(corners, CLASSES)
    assert moved[0, 2] - moved[0, 0] == pytest.approx(64 * augmentation.zoom, rel=1e-5)
    frames = augmentation.apply_to_frames(np.ones((1, 1, *SIZE), np.uint8))
    assert frames.sum() == pytest.approx(48 * 64 * augmentation.zoom**2, rel=0.05)


@given(seeds, boxes)
@settings(max_examples=100, deadline=None)
def test_zooming_in_keeps_the_chosen_box_in_sight(seed, box):
    augmentation = draw(ALWAYS_IN, seed, SIZE, False, box)
    moved, _ = augmentation.apply_to_boxes(box, CLASSES)
    expected = augmentation.zoom * (box[0, 2:] - box[0, :2])
    np.testing.assert_allclose(moved[0, 2:] - moved[0, :2], expected, atol=1e-3)
    # Zooming in leaves no pixel without a source.
    assert augmentation.apply_to_frames(np.ones((1, 1, *SIZE), np.uint8)).all()


def test_a_box_larger_than_the_window_fills_it():
    box = np.array([[2, 1, 62, 47]], np.float32)
    for seed in range(20):
        augmentation = draw(replace(ALWAYS_IN, flip=0), seed, SIZE, False, box)
        moved, _ = augmentation.apply_to_boxes(box, CLASSES)
        if augmentation.zoom > 1.1:
            np.testing.assert_array_equal(moved, [[0, 0, 64, 48]])


def test_a_streams_map_depends_on_the_seed_alone():
    box = np.array([[10, 10, 20, 20]], np.float32)
    for seed in range(50):
        maps = {draw(DEFAULTS, seed, SIZE, True, seen) for seen in (None, box, box + 20)}
        assert len(maps) == 1


def test_default_probabilities_are_rvts():
    box = np.array([[10, 10, 20, 20]], np.float32)
    streams = [draw(DEFAULTS, seed, SIZE, True) for seed in range(2000)]
    randoms = [draw(DEFAULTS, seed, SIZE, False, box) for seed in range(2000)]
    assert np.mean([a.flip for a in streams]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([a.zoom < 1 for a in streams]) == pytest.approx(0.5, abs=0.04)
    assert max(a.zoom for a in streams) == 1
    assert np.mean([a.zoom > 1 for a in randoms]) == pytest.approx(0.8 * 0.8, abs=0.04)
    assert np.mean([a.zoom < 1 for a in randoms]) == pytest.approx(0.8 * 0.2, abs=0.04)
    assert 1.45 < max(a.zoom for a in randoms) <= 1.5
    assert 1 / 1.2 <= min(a.zoom for a in randoms) < 1 / 1.15


def test_boxes_out_of_sight_go_with_their_classes():
    window = Augmentation(SIZE, zoom=2, shift=(-64, -48), least_visible=0.1)  # lower right quarter
    boxes = np.array([[0, 0, 10, 10], [22, 24, 42, 44], [31, 30, 33, 31], [12, 30, 33, 40]])
    moved, classes = window.apply_to_boxes(boxes.astype(np.float32), np.arange(4))
    # The last box has 1 of its 21 columns left, which is less than a tenth.
    assert classes.tolist() == [1, 2]
    np.testing.assert_array_equal(moved, [[0, 0, 20, 40], [0, 12, 2, 14]])
    none, _ = window.apply_to_boxes(np.empty((0, 4), np.float32), np.empty(0, np.int64))
    assert none.shape == (0, 4)


@pytest.mark.parametrize(
    ("name", "value"), [("flip", 1.5), ("random_zoom", -0.1), ("zoom_in_max", 0.5)]
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(
        UserError, match=rf"^data\.augmentation\.{name}: .*got {value}: set a value"
    ):
        AugmentSettings(**{name: value})
