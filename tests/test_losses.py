"""Assignment and losses: equal to RVT and to a plain per-image implementation."""

import math

import pytest
import rvt
import torch
from torch.nn import functional as F

from etram_det.models.assign import simota
from etram_det.models.head import HeadOutput
from etram_det.models.losses import IOULoss, SizeAwareIOULoss, SizeWeight, YOLOXLoss
from etram_det.types import UserError


def iou_matrix(a, b):
    """Plain IoU [M, A] of cxcywh boxes."""
    rows = []
    for box in a:
        low = torch.maximum(box[:2] - box[2:] / 2, b[:, :2] - b[:, 2:] / 2)
        high = torch.minimum(box[:2] + box[2:] / 2, b[:, :2] + b[:, 2:] / 2)
        size = (high - low).clamp(min=0)
        overlap = size[:, 0] * size[:, 1]
        rows.append(overlap / (box[2] * box[3] + b[:, 2] * b[:, 3] - overlap))
    return torch.stack(rows)


def assign_image(output, boxes, classes, index):
    """SimOTA of one image, box by box."""
    predicted = output.boxes_cxcywh()[index].detach()
    points = (output.cells + 0.5) * output.strides[:, None]
    near = torch.stack(
        [((points - box[:2]).abs() < 1.5 * output.strides[:, None]).all(dim=1) for box in boxes]
    )
    candidates = near.any(dim=0).nonzero().squeeze(1)
    near, predicted = near[:, candidates], predicted[candidates]
    iou = iou_matrix(boxes, predicted)
    scores = (
        output.classes[index, candidates].sigmoid()
        * output.objectness[index, candidates].sigmoid()[:, None]
    ).sqrt()
    cost = torch.stack(
        [
            F.binary_cross_entropy(
                scores, F.one_hot(c, scores.shape[1]).float().expand_as(scores), reduction="none"
            ).sum(dim=1)
            for c in classes
        ]
    )
    cost = (cost - 3 * torch.log(iou + 1e-8) + 1e6 * ~near).detach()
    matched = torch.zeros_like(cost, dtype=torch.bool)
    for m in range(len(boxes)):
        best = iou[m].topk(min(10, iou.shape[1])).values
        count = max(int(best.sum()), 1)
        matched[m, cost[m].topk(count, largest=False).indices] = True
    several = matched.sum(dim=0) > 1
    winner = cost.argmin(dim=0)
    matched[:, several] = False
    matched[winner[several], several.nonzero().squeeze(1)] = True
    foreground = matched.any(dim=0)
    box_index = matched.int().argmax(dim=0)[foreground]
    points = candidates[foreground]
    return points, box_index, iou[box_index, foreground.nonzero().squeeze(1)]


def plain_loss(output, boxes, classes):
    """YOLOX's loss, image by image."""
    box_loss = class_loss = 0.0
    target = torch.zeros_like(output.objectness)
    num_foreground = 0
    for i in range(len(boxes)):
        valid = classes[i] >= 0
        if not valid.any():
            continue
        points, index, iou = assign_image(output, boxes[i][valid], classes[i][valid], i)
        target[i, points] = 1
        num_foreground += len(points)
        predicted, truth = output.boxes_cxcywh()[i, points], boxes[i][valid][index]
        overlap = torch.stack(
            [iou_matrix(p[None], t[None])[0, 0] for p, t in zip(predicted, truth, strict=True)]
        )
        box_loss = box_loss + (1 - overlap**2).sum()
        one_hot = F.one_hot(classes[i][valid][index], output.classes.shape[-1])
        class_loss = class_loss + F.binary_cross_entropy_with_logits(
            output.classes[i, points], one_hot * iou[:, None], reduction="sum"
        )
    objectness_loss = F.binary_cross_entropy_with_logits(output.objectness, target, reduction="sum")
    return (5 * box_loss + objectness_loss + class_loss) / max(num_foreground, 1)


def random_case(num_frames=5, most=7, seed=0):
    """A head output over four scales of a 64x128 frame, and boxes in it."""
    generator = torch.Generator().manual_seed(seed)
    cells, strides = [], []
    for stride in (4, 8, 16, 32):
        y, x = torch.meshgrid(
            torch.arange(64 // stride), torch.arange(128 // stride), indexing="ij"
        )
        cells.append(torch.stack([x, y], dim=-1).flatten(0, 1).float())
        strides.append(torch.full((x.numel(),), float(stride)))
    cells, strides = torch.cat(cells), torch.cat(strides)
    num_points = len(strides)
    output = HeadOutput(
        torch.randn(num_frames, num_points, 4, generator=generator) * 0.5,
        torch.randn(num_frames, num_points, generator=generator) * 2,
        torch.randn(num_frames, num_points, 4, generator=generator) * 2,
        cells,
        strides,
    )
    centre = torch.rand(num_frames, most, 2, generator=generator) * torch.tensor([128.0, 64])
    size = torch.rand(num_frames, most, 2, generator=generator) * 40 + 2
    classes = torch.randint(0, 4, (num_frames, most), generator=generator)
    counts = torch.arange(num_frames) % (most + 1)
    classes[torch.arange(most) >= counts[:, None]] = -1
    boxes = torch.cat([centre, size], dim=-1) * (classes >= 0)[..., None]
    return output, boxes, classes


def test_assignment_equals_rvt():
    output, (boxes, classes) = rvt.training_output(), rvt.labels()
    found = simota(output, boxes, classes)
    assert not found.foreground[0].any()
    for i in range(1, 6):
        foreground = rvt.arrays()[f"assign_fg_{i}"]
        assert found.foreground[i].equal(foreground)
        assert found.box_index[i][foreground].equal(rvt.arrays()[f"assign_gt_{i}"])
        expected = rvt.arrays()[f"assign_iou_{i}"]
        torch.testing.assert_close(found.iou[i][foreground], expected, rtol=0, atol=1e-5)


def test_loss_equals_rvt():
    output, (boxes, classes) = rvt.training_output(), rvt.labels()
    losses = YOLOXLoss()(output, boxes, classes)
    for ours, theirs in {
        "loss": "loss",
        "box_loss": "iou_loss",
        "objectness_loss": "conf_loss",
        "class_loss": "cls_loss",
        "num_foreground": "num_fg",
    }.items():
        expected = float(rvt.arrays()[f"loss_{theirs}"])
        assert losses[ours].item() == pytest.approx(expected, rel=1e-5)


def test_gradient_equals_the_plain_loss():
    boxes, classes = rvt.labels()
    gradients = []
    for loss in (plain_loss, lambda *args: YOLOXLoss()(*args)["loss"]):
        output = rvt.training_output()
        leaves = [
            x.detach().requires_grad_() for x in (output.offsets, output.objectness, output.classes)
        ]
        value = loss(HeadOutput(*leaves, output.cells, output.strides), boxes, classes)
        gradients.append(torch.autograd.grad(value, leaves))
    for plain, batched in zip(*gradients, strict=True):
        torch.testing.assert_close(batched, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_assignment_equals_image_by_image(seed):
    output, boxes, classes = random_case(seed=seed)
    found = simota(output, boxes, classes)
    for i in range(len(boxes)):
        valid = classes[i] >= 0
        if not valid.any():
            assert not found.foreground[i].any()
            continue
        points, index, iou = assign_image(output, boxes[i][valid], classes[i][valid], i)
        assert found.foreground[i].nonzero().squeeze(1).equal(points)
        # Valid boxes come first here, so the indices are the same with and without padding.
        assert found.box_index[i, points].equal(index)
        torch.testing.assert_close(found.iou[i, points], iou, rtol=0, atol=1e-6)


@pytest.mark.parametrize("most", [0, 3])
def test_frames_without_boxes_teach_objectness_only(most):
    output, _, _ = random_case(num_frames=2)
    boxes, classes = torch.zeros(2, most, 4), torch.full((2, most), -1)
    losses = YOLOXLoss()(output, boxes, classes)
    expected = F.binary_cross_entropy_with_logits(
        output.objectness, torch.zeros_like(output.objectness), reduction="sum"
    )
    assert losses["loss"].item() == pytest.approx(expected.item())
    assert losses["box_loss"] == 0
    assert losses["class_loss"] == 0
    assert losses["num_foreground"] == 0


def test_half_precision_predictions_give_a_finite_float32_loss():
    output, boxes, classes = random_case()
    for dtype in (torch.float16, torch.bfloat16):
        half = HeadOutput(
            (output.offsets * 8).to(dtype),
            (output.objectness * 20).to(dtype),
            (output.classes * 20).to(dtype),
            output.cells,
            output.strides,
        )
        loss = YOLOXLoss(SizeAwareIOULoss())(half, boxes, classes)["loss"]
        assert loss.dtype == torch.float32
        assert loss.isfinite()


def square(side):
    return torch.tensor([[50.0, 50.0, side, side]])


def test_iou_loss_by_hand():
    # A square of side 2, moved by half its side: overlap 2, union 6.
    pred, target = torch.tensor([[1.0, 1, 2, 2]]), torch.tensor([[2.0, 1, 2, 2]])
    assert IOULoss()(pred, target).item() == pytest.approx(1 - (1 / 3) ** 2)
    assert IOULoss()(pred, pred).item() == pytest.approx(0, abs=1e-6)
    assert IOULoss()(pred, target + 10).item() == 1


@pytest.mark.parametrize(
    ("weight_type", "side", "weight"),
    [
        ("exponential", 16, 2.5 * math.exp(-0.25)),
        ("exponential", 32, 1.0),
        ("exponential", 64, 1.0),
        ("linear", 0, 2.5),
        ("linear", 48, 2.5 - 1.5 * 0.25),
        ("linear", 96, 1.0),
        ("linear", 200, 1.0),
        ("step", 32, 2.5),
        ("step", 33, 1.75),
        ("step", 96, 1.75),
        ("step", 97, 1.0),
    ],
)
def test_size_weights(weight_type, side, weight):
    loss = SizeAwareIOULoss(2.5, weight_type=weight_type)
    assert loss.compute_size_weights(square(side)).item() == pytest.approx(weight)


@pytest.mark.parametrize("weight_type", ["exponential", "linear", "step"])
def test_weights_are_bounded_and_fall_with_area(weight_type):
    area = torch.cat([torch.zeros(1), torch.logspace(0, 12, 500)])
    weights = SizeWeight(3.0, weight_type=weight_type)(area)
    assert weights.max() <= 3
    assert weights.min() >= 1
    assert (weights.diff() <= 0).all()


def test_size_aware_loss_scales_the_iou_loss():
    pred, target = square(20), square(16)
    expected = 2.5 * math.exp(-0.25) * IOULoss()(pred, target)
    torch.testing.assert_close(SizeAwareIOULoss(2.5)(pred, target), expected)
    assert SizeAwareIOULoss()(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_weight_one_is_the_baseline():
    case = random_case()
    weighted = YOLOXLoss(SizeAwareIOULoss(size_aware_weight=1.0))(*case)
    assert weighted["loss"] == YOLOXLoss()(*case)["loss"]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"size_aware_weight": 0.5}, "size_aware_weight"),
        ({"small_threshold": 9216, "medium_threshold": 1024}, "small_threshold"),
        ({"small_threshold": 0}, "small_threshold"),
        ({"weight_type": "cubic"}, "weight_type"),
    ],
)
def test_settings_out_of_range_are_refused(settings, name):
    with pytest.raises(UserError, match=name):
        SizeAwareIOULoss(**settings)
