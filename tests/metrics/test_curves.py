from collections import defaultdict

import numpy as np
import pytest
import torch

from etram_det.metrics.confusion import pair_boxes
from etram_det.metrics.evaluation import evaluate
from etram_det.metrics.evaluation_frames import EvaluationFrames, FrameBoxes
from etram_det.metrics.settings import SIZE_BINS, EvaluationSettings
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.types import Detections, Labels
from support.coco_case import NUM_CLASSES, NUM_FRAMES, STATS, coco_case, coco_stats

NAMES = tuple(f"class{i}" for i in range(NUM_CLASSES))


def frame_boxes(annotations, with_crowds):
    corner, size = np.split(np.array([each["bbox"] for each in annotations]), 2, axis=1)
    return FrameBoxes(
        np.array([each["image_id"] - 1 for each in annotations]),
        np.concatenate([corner, corner + size], axis=1),
        np.array([each["category_id"] // 2 for each in annotations]),
        np.array([each.get("score", 1.0) for each in annotations]),
        given_size=size,
        crowd=np.array([each["iscrowd"] == 1 for each in annotations]) if with_crowds else None,
    )


def test_boxes_with_their_sizes_equal_coco_to_the_last_digit_also_with_crowds():
    truth, found = coco_case(with_crowds=True)
    assert sum(each["iscrowd"] for each in truth["annotations"]) > 50
    frames = EvaluationFrames(
        np.full(NUM_FRAMES, "a"),
        np.arange(NUM_FRAMES),
        np.zeros(NUM_FRAMES, np.int64),
        np.ones((NUM_FRAMES, 2)),
        frame_boxes(truth["annotations"], True),
        frame_boxes(found, False),
        area_error=0.0,
    )
    settings = EvaluationSettings(NAMES, SIZE_BINS, "native", "full", {}, 100)
    ours = evaluate(frames, settings).flat_metrics()
    expected = coco_stats(truth, found)
    np.testing.assert_allclose([ours[key] for key in STATS], expected, rtol=0, atol=1e-12)


def test_corners_in_double_precision_equal_coco():
    truth, found = coco_case(with_crowds=False)
    of_image = defaultdict(lambda: ([], []))
    for kind, annotations in enumerate((truth["annotations"], found)):
        for each in annotations:
            of_image[each["image_id"]][kind].append(each)

    def tensors(annotations):
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        classes = torch.tensor([a["category_id"] // 2 for a in annotations], dtype=torch.int64)
        return boxes, classes

    metrics = {}
    for dtype in (torch.float64, torch.float32):
        metric = SizeBinnedMAP(class_names=NAMES)
        for image in range(1, NUM_FRAMES + 1):
            boxes, classes = tensors(of_image[image][0])
            detected, ids = tensors(of_image[image][1])
            scores = torch.tensor([a["score"] for a in of_image[image][1]], dtype=torch.float64)
            metric.update(
                [Detections(detected.to(dtype), scores, torch.ones_like(scores), ids)],
                Labels.stack([0], [boxes.to(dtype)], [classes]),
                ["a"],
                torch.tensor([image]),
                torch.ones(1, 2),
            )
        metric.compute()
        metrics[dtype] = [metric.result.flat_metrics()[key] for key in STATS]
    expected = coco_stats(truth, found)
    np.testing.assert_allclose(metrics[torch.float64], expected, rtol=0, atol=1e-12)
    # In single precision, an IoU of exactly 0.75 is a matter of luck.
    assert abs(metrics[torch.float32][STATS.index("AP75")] - expected[2]) > 1e-4


def test_a_crowd_neither_counts_nor_makes_false_alarms():
    crowd, person = [0, 0, 100, 100], [10, 10, 30, 30]
    detected = [[50, 50, 60, 60], [70, 70, 80, 80], [10, 10, 30, 30], [200, 0, 220, 20]]

    def boxes(corners, **others):
        corners = np.array(corners, dtype=float)
        number = len(corners)
        zeros = np.zeros(number, dtype=np.int64)
        return FrameBoxes(zeros, corners, zeros, np.linspace(0.9, 0.8, number), **others)

    frames = EvaluationFrames(
        np.array(["a"]),
        np.array([1]),
        np.array([0]),
        np.ones((1, 2)),
        boxes([crowd, person], crowd=np.array([True, False])),
        boxes(detected),
    )
    result = evaluate(frames, EvaluationSettings(("person",), SIZE_BINS, "native", "full", {}, 100))
    assert result.flat_metrics()["num_boxes"] == 1
    assert result.flat_metrics()["AP"] == pytest.approx(1)  # the false alarm comes last
    assert result.confusion(score_threshold=0.5).tolist() == [[1, 0], [1, 0]]
    pairing = pair_boxes(frames, score_threshold=0.5)
    assert pairing.truth_of.tolist() == [0, -1]
    assert pairing.detection_of.tolist() == [0]
