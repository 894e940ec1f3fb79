"""From predictions to detections: cut at the frame, and once for each class or the best one."""

import pytest
import torch
from torchvision.ops import batched_nms, box_convert

from etram_det.models import postprocessing
from etram_det.models.postprocessing import decode_detections

FRAME = (60, 80)  # height, width


def predictions(num_frames=3, num_anchors=200, num_classes=4, seed=0):
    """Decoded predictions, many of which reach beyond the frame or lie outside."""
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num_frames, num_anchors, 5 + num_classes, generator=random)
    height, width = FRAME
    scale = torch.tensor([1.4 * width, 1.4 * height, 40, 40])
    shift = torch.tensor([0.2 * width, 0.2 * height, -1, -1])
    uniform[..., :4] = uniform[..., :4] * scale - shift
    return uniform


def plain(decoded, score_threshold, nms_threshold, frame_size, every_class):
    """Detections of one frame, box by box: rows of corners, objectness, class confidence, class."""
    rows = []
    for prediction in decoded:
        corners = box_convert(prediction[:4], "cxcywh", "xyxy").tolist()
        if frame_size is not None:
            bounds = (frame_size[1], frame_size[0]) * 2
            corners = [min(max(x, 0.0), bound) for x, bound in zip(corners, bounds, strict=True)]
            if corners[2] <= corners[0] or corners[3] <= corners[1]:
                continue
        classes = range(len(prediction) - 5) if every_class else [int(prediction[5:].argmax())]
        for k in classes:
            objectness, confidence = prediction[4], prediction[5 + k]
            if objectness * confidence >= score_threshold:
                rows.append([*corners, objectness, confidence, float(k)])
    rows = torch.tensor(rows)
    scores, classes = rows[:, 4] * rows[:, 5], rows[:, 6].long()
    return rows[batched_nms(rows[:, :4], scores, classes, nms_threshold)]


@pytest.mark.parametrize("frame_size", [None, FRAME])
@pytest.mark.parametrize("every_class", [False, True])
def test_detections_equal_those_box_by_box(frame_size, every_class):
    decoded = predictions()
    found = decode_detections(
        decoded, 0.2, 0.45, 1000, frame_size=frame_size, every_class=every_class
    )
    for detections, of_frame in zip(found, decoded, strict=True):
        expected = plain(of_frame, 0.2, 0.45, frame_size, every_class)
        columns = [detections.objectness, detections.class_confidence, detections.classes]
        actual = torch.column_stack([detections.boxes, *columns])
        assert len(actual) > 30
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_boxes_are_cut_at_the_frame_before_the_suppression():
    # Two boxes of one object at the frame's edge: alike where they are cut, far apart beyond it.
    decoded = torch.tensor([[[0.0, 30, 20, 20, 0.9, 1], [-10.0, 30, 40, 20, 0.8, 1]]])
    (beyond,) = decode_detections(decoded, 0.1, 0.45)
    (cut,) = decode_detections(decoded, 0.1, 0.45, frame_size=FRAME)
    assert beyond.boxes.tolist() == [[-10, 20, 10, 40]]
    assert cut.boxes.tolist() == [[0, 20, 10, 40]]
    decoded[0, 1, 0] = -30  # wholly outside
    decoded[0, 1, 4] = 0.95
    (cut,) = decode_detections(decoded, 0.0, 0.45, frame_size=FRAME)
    assert cut.boxes.tolist() == [[0, 20, 10, 40]]


def test_a_box_counts_for_each_class_or_its_most_likely_one():
    decoded = torch.tensor([[[30.0, 30, 20, 20, 0.5, 0.2, 0.8, 0.6]]])
    (best,) = decode_detections(decoded, 0.2, 0.45)
    assert best.classes.tolist() == [1]
    (every,) = decode_detections(decoded, 0.2, 0.45, every_class=True)
    assert every.classes.tolist() == [1, 2]
    torch.testing.assert_close(every.scores, torch.tensor([0.4, 0.3]))


def test_only_the_best_candidates_are_suppressed(monkeypatch):
    decoded = predictions(num_frames=1)
    (all_of_them,) = decode_detections(decoded, 0.0, 1.0, 10_000, every_class=True)
    assert len(all_of_them) == 800
    monkeypatch.setattr(postprocessing, "_MOST_CANDIDATES", 100)
    (best,) = decode_detections(decoded, 0.0, 1.0, 10_000, every_class=True)
    torch.testing.assert_close(best.scores, all_of_them.scores[:100])
