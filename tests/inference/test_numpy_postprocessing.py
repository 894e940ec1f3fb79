"""Detections without PyTorch are those that evaluation computes with it."""

import numpy as np
import pytest
import torch

from etram_det.inference.postprocessing import Predictions, detections_of, kept_boxes
from etram_det.inference.pytorch_engine import predictions_of
from etram_det.models.postprocessing import decode_detections


def random_output(points, num_classes, seed):
    """Decoded output ``[1, A, 5 + K]``, boxes of some pixels, many of them over each other."""
    generator = torch.Generator().manual_seed(seed)
    decoded = torch.rand(1, points, 5 + num_classes, generator=generator)
    decoded[..., :2] = decoded[..., :2] * 140 - 20  # some of them outside
    decoded[..., 2:4] = 4 + decoded[..., 2:4] * 60
    return decoded


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize(("score", "nms", "most"), [(0.1, 0.45, 300), (0.0, 0.9, 50), (1, 0, 9)])
def test_the_same_as_with_pytorch(num_classes, score, nms, most, agnostic):
    for seed in range(5):
        decoded = random_output(600, num_classes, seed)
        (expected,) = decode_detections(
            decoded, score, nms, most, frame_size=(90, 110), class_agnostic=agnostic
        )
        found = detections_of(predictions_of(decoded[0]), score, nms, most, (90, 110), agnostic)
        assert len(found) == len(expected)
        assert np.array_equal(found.classes, expected.classes)
        for name in ("boxes", "objectness", "class_confidence"):
            ours, theirs = getattr(found, name), getattr(expected, name).numpy()
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert (len(found) > 0) == (score < 1)


def test_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [90, 0, 99, 9]], np.float32)
    objectness = np.array([0.5, 1, 1, 1], np.float32)
    classes = np.array([[0.9, 0], [0.8, 0.1], [0.7, 0.1], [0, 1]], np.float32)
    predictions = Predictions(boxes, objectness, classes)
    found = detections_of(predictions, 0.3, 0.5, 300, (20, 20))
    # The first is 0.8 of the second, the third half of it, which is not above the threshold; the
    # last lies outside.
    assert found.boxes.tolist() == [[0, 0, 10, 8], [0, 0, 10, 4]]
    assert found.scores.tolist() == [np.float32(0.8), np.float32(0.7)]
    assert found.classes.tolist() == [0, 0]
    assert len(detections_of(predictions, 0.3, 0.5, 1, (20, 20))) == 1
    assert len(detections_of(predictions, 0.3, 1.0, 300, (20, 20))) == 3
    # A class of its own is not suppressed.
    classes[0] = [0.1, 0.9]
    assert detections_of(predictions, 0.3, 0.5, 300, (20, 20)).classes.tolist() == [0, 0, 1]
    found = detections_of(predictions, 0.3, 0.5, 300, (20, 20), class_agnostic=True)
    assert found.classes.tolist() == [0, 0]
    assert kept_boxes(boxes[[1, 0, 2]], 0.5).tolist() == [0, 2]
