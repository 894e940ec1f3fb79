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


@pytest.mark.parametrize("every_class", [False, True])
def test_frames_do_not_suppress_each_other(every_class):
    decoded = predictions(num_frames=4)
    decoded[2] = decoded[1]  # the same boxes in two frames
    decoded[3, :, 4] = 0  # nothing in the last one
    together = decode_detections(decoded, 0.2, 0.45, 20, every_class=every_class)
    assert [len(each) for each in together] == [20, 20, 20, 0]
    for i, found in enumerate(together):
        [alone] = decode_detections(decoded[i : i + 1], 0.2, 0.45, 20, every_class=every_class)
        for name in ("boxes", "objectness", "class_confidence", "classes"):
            assert getattr(found, name).equal(getattr(alone, name)), name


def test_on_a_gpu_groups_lie_side_by_side_in_spans_of_whole_frames(monkeypatch):
    decoded = predictions(num_frames=5)
    expected = decode_detections(decoded, 0.2, 0.45, every_class=True)
    candidates = postprocessing.best_candidates(decoded, 0.2, every_class=True)
    numbers = candidates.number.tolist()
    assert postprocessing._spans(numbers, 10_000) == [(0, sum(numbers))]
    assert postprocessing._spans([30, 80, 10, 20], 40) == [(0, 30), (30, 110), (110, 140)]
    monkeypatch.setattr(postprocessing.ops, "batched_nms", postprocessing._keep_on_gpu)
    found = decode_detections(decoded, 0.2, 0.45, every_class=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.boxes.equal(theirs.boxes)
        assert ours.classes.equal(theirs.classes)


def test_values_of_all_types_come_in_one_copy():
    tensors = [torch.tensor([True, False]), torch.tensor([[1.5]]), torch.arange(3), torch.ones(0)]

    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    found = postprocessing.on_host([each.as_subclass(Elsewhere) for each in tensors])
    for ours, theirs in zip(found, tensors, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.as_subclass(torch.Tensor), theirs)
