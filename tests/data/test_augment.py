from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etram_det.data.augment import Augmentation, AugmentSettings, draw
from etram_det.errors import UserError
from support.plain_augmentation import added_up, travelled

SIZE = (48, 64)
DEFAULTS = AugmentSettings()
ALWAYS_IN = AugmentSettings(random_zoom=1, zoom_in_share=1)
ALWAYS_OUT = AugmentSettings(stream_zoom=1)
TWICE_OUT = AugmentSettings(stream_zoom=1, random_zoom=1, zoom_in_share=0, zoom_out_max=2)
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
    np.testing.assert_array_equal(travelled(frames, flip), frames[..., ::-1])
    np.testing.assert_array_equal(travelled(travelled(frames, flip), flip), frames)
    once, classes = flip.apply_to_boxes(box, CLASSES)
    np.testing.assert_array_equal(once[0, [0, 2]], 64 - box[0, [2, 0]])
    np.testing.assert_array_equal(flip.apply_to_boxes(once, classes)[0], box)


@given(seeds, boxes, st.booleans(), st.sampled_from([DEFAULTS, ALWAYS_IN, ALWAYS_OUT, TWICE_OUT]))
@settings(max_examples=200, deadline=None)
def test_boxes_follow_the_pixels(seed, box, stream, chosen):
    augmentation = draw(chosen, seed, SIZE, stream, box)
    frames = travelled(drawn(box), augmentation)
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
    frames = travelled(np.ones((1, 1, *SIZE), np.uint8), augmentation)
    assert frames.sum() == pytest.approx(48 * 64 * augmentation.zoom**2, rel=0.05)


@given(seeds, boxes)
@settings(max_examples=100, deadline=None)
def test_zooming_in_keeps_the_chosen_box_in_sight(seed, box):
    augmentation = draw(ALWAYS_IN, seed, SIZE, False, box)
    moved, _ = augmentation.apply_to_boxes(box, CLASSES)
    expected = augmentation.zoom * (box[0, 2:] - box[0, :2])
    np.testing.assert_allclose(moved[0, 2:] - moved[0, :2], expected, atol=1e-3)
    # Zooming in leaves no pixel without a source.
    assert travelled(np.ones((1, 1, *SIZE), np.uint8), augmentation).all()


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("factor", [1.03, 1.2, 2.0, 3.7])
@pytest.mark.parametrize("flip", [0, 1])
def test_zooming_out_adds_up_what_falls_together(dtype, factor, flip):
    chosen = AugmentSettings(flip=flip, stream_zoom=1, zoom_out_max=factor, zoom_out="sum")
    rng = np.random.default_rng(0)
    for seed in range(6):
        augmentation = replace(draw(chosen, seed, SIZE, stream=True), zoom=1 / factor)
        low = -5 if dtype is np.int8 else 0
        frames = rng.integers(low, 11, (2, 2, *SIZE), dtype) * (rng.random((2, 2, *SIZE)) < 0.2)
        for cutoff in (10, 127):
            result = travelled(frames.astype(dtype), augmentation, cutoff)
            assert result.dtype == dtype
            expected = added_up(frames, augmentation.zoom, augmentation.shift, cutoff)
            np.testing.assert_array_equal(result[..., ::-1] if flip else result, expected)


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_zooming_out_keeps_every_event(seed):
    frames = np.random.default_rng(seed).integers(0, 10, (2, 2, *SIZE), np.uint8)
    chosen = AugmentSettings(stream_zoom=1, zoom_out_max=2, zoom_out="sum")
    augmentation = draw(chosen, seed, SIZE, stream=True)
    # At most 3 by 3 pixels of up to 9 events fall together.
    assert travelled(frames, augmentation).sum() == frames.sum()
    nearest = draw(replace(chosen, zoom_out="nearest"), seed, SIZE, stream=True)
    kept = travelled(frames, nearest).sum() / frames.sum()
    assert kept == pytest.approx(augmentation.zoom**2, abs=0.06)
    assert replace(nearest, adds_up=True) == augmentation  # the same zoom


def test_sums_saturate_at_the_cutoff():
    frames = np.full((1, 2, *SIZE), 200, np.uint8)
    halved = Augmentation(SIZE, zoom=0.5, adds_up=True)
    for cutoff in (200, 255):
        result = travelled(frames, halved, cutoff)
        assert np.unique(result[:, :, :24, :32]).tolist() == [cutoff]
        assert result.sum() == 2 * 24 * 32 * cutoff
    signed = frames.astype(np.int8)  # -56
    assert np.unique(travelled(signed, halved, 127)).tolist() == [-127, 0]


@given(seeds, boxes)
@settings(max_examples=100, deadline=None)
def test_boxes_follow_the_pixels_that_are_added_up(seed, box):
    chosen = AugmentSettings(stream_zoom=1, zoom_out_max=2, zoom_out="sum")
    augmentation = draw(chosen, seed, SIZE, True)
    assert 0.5 <= augmentation.zoom < 1
    frames = travelled(drawn(box), augmentation)
    moved, _ = augmentation.apply_to_boxes(box, CLASSES)
    # Pixels that the box covers in part are set, so its edges lie within a pixel of theirs.
    assert np.abs(bounds(frames) - moved[0]).max() <= 0.75 + 1e-4


def test_events_are_dropped_one_by_one():
    frames = np.random.default_rng(0).integers(0, 11, (2, 4, 90, 160), np.uint8)
    dropping = Augmentation((90, 160), drop_share=0.3)
    before = frames.copy()
    result = travelled(frames, dropping, seed=(1, 5))
    np.testing.assert_array_equal(frames, before)
    assert (result <= frames).all()
    assert result.sum() / frames.sum() == pytest.approx(0.7, abs=0.003)
    left = result[frames == 10]  # as in a binomial distribution
    assert left.mean() == pytest.approx(7, abs=0.05)
    assert left.var() == pytest.approx(2.1, abs=0.1)
    np.testing.assert_array_equal(travelled(frames, dropping, seed=(1, 5)), result)
    assert (travelled(frames, dropping, seed=(1, 10)) != result).any()
    assert not travelled(frames, replace(dropping, drop_share=1.0)).any()


def test_polarities_are_swapped():
    frames = np.random.default_rng(0).integers(0, 11, (2, 6, *SIZE), np.uint8)
    swapped = travelled(frames, Augmentation(SIZE, polarity_flip=True))
    np.testing.assert_array_equal(swapped, frames[:, [3, 4, 5, 0, 1, 2]])
    signed = frames.astype(np.int8) - 5
    negative = travelled(signed, Augmentation(SIZE, polarity_flip=True))
    np.testing.assert_array_equal(negative, -signed)
    assert negative.dtype == np.int8


def test_drops_and_swaps_leave_flips_and_zooms_as_they_are():
    chosen = AugmentSettings(event_drop=0.4, event_drop_share=0.6, polarity_flip=0.25)
    drawn_so = [draw(chosen, seed, SIZE, True) for seed in range(2000)]
    plain = [replace(each, drop_share=0.0, polarity_flip=False) for each in drawn_so]
    assert plain == [draw(DEFAULTS, seed, SIZE, True) for seed in range(2000)]
    shares = np.array([each.drop_share for each in drawn_so])
    assert np.mean(shares > 0) == pytest.approx(0.4, abs=0.03)
    assert shares[shares > 0].mean() == pytest.approx(0.3, abs=0.02)
    assert 0.58 < shares.max() <= 0.6
    swapped = np.array([each.polarity_flip for each in drawn_so])
    assert swapped.mean() == pytest.approx(0.25, abs=0.03)
    together = np.mean(swapped & (shares > 0))
    assert together == pytest.approx(0.1, abs=0.025)  # they are independent
    flips = np.array([each.flip for each in drawn_so])
    assert np.mean(flips & swapped) == pytest.approx(0.125, abs=0.025)


@pytest.mark.parametrize(
    ("name", "value"),
    [("event_drop", 1.1), ("event_drop_share", -1), ("polarity_flip", 2), ("zoom_out", "mean")],
)
def test_newer_settings_out_of_range_are_named(name, value):
    with pytest.raises(UserError, match=rf"^data\.augmentation\.{name}: must be .*got {value}"):
        AugmentSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("flip", 1.5), ("random_zoom", -0.1), ("zoom_in_max", 0.5)]
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(
        UserError, match=rf"^data\.augmentation\.{name}: .*got {value}: set [01] for none$"
    ):
        AugmentSettings(**{name: value})
