"""Assignment and losses: equal to RVT and to a plain per-image implementation."""

import math
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.nn import functional as F

from etram_det.errors import UserError
from etram_det.models.assign import simota
from etram_det.models.box_losses import BlendedBoxLoss, CIOULoss, DIOULoss, GIOULoss, NWDLoss
from etram_det.models.class_losses import BCELoss, FocalLoss, VarifocalLoss
from etram_det.models.head import HeadOutput
from etram_det.models.losses import (
    IOULoss,
    SizeAwareFocalLoss,
    SizeAwareIOULoss,
    SizeAwareLossWrapper,
    SizeWeight,
    YOLOXLoss,
)
from support import rvt
from support.plain_loss import assign_image, iou_matrix, plain_loss
from support.random_case import random_case

WEIGHT_TYPES = ("exponential", "linear", "step", "power", "gaussian")
BOX_LOSSES = [IOULoss, GIOULoss, DIOULoss, CIOULoss, NWDLoss, BlendedBoxLoss, SizeAwareIOULoss]
CLASS_LOSSES = [BCELoss, FocalLoss, VarifocalLoss]


def test_assignment_equals_rvt():
    output, (boxes, classes) = rvt.training_output(), rvt.labels()
    found = simota(output, boxes, classes)
    assert not found.foreground[0].any()
    for i in range(1, 6):
        foreground = rvt.arrays()[f"assign_fg_{i}"]
        assert found.foreground[i].equal(foreground)
        assert found.box_index[i][foreground].equal(rvt.arrays()[f"assign_gt_{i}"])
        expected = rvt.arrays()[f"assign_iou_{i}"]
        torch.testing.assert_close(found.quality[i][foreground], expected, rtol=0, atol=1e-5)


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
        value = loss(
            HeadOutput(*leaves, output.cells, output.strides, output.scales), boxes, classes
        )
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
        torch.testing.assert_close(found.quality[i, points], iou, rtol=0, atol=1e-6)


def test_among_equal_costs_the_first_wins():
    output, boxes, classes = random_case()
    equal = HeadOutput(
        torch.zeros_like(output.offsets),
        torch.zeros_like(output.objectness),
        torch.zeros_like(output.classes),
        output.cells,
        output.strides,
        output.scales,
    )
    boxes[3, 1], classes[3, 1] = boxes[3, 0], classes[3, 0]  # the same object twice
    found = simota(equal, boxes, classes)
    for i in range(1, len(boxes)):
        valid = classes[i] >= 0
        points, index, _ = assign_image(equal, boxes[i][valid], classes[i][valid], i)
        assert found.foreground[i].nonzero().squeeze(1).equal(points)
        assert found.box_index[i, points].equal(index)


def test_padding_may_stand_anywhere():
    output, boxes, classes = random_case()
    order = torch.randperm(boxes.shape[1], generator=torch.Generator().manual_seed(0))
    found, moved = (
        simota(output, boxes, classes),
        simota(output, boxes[:, order], classes[:, order]),
    )
    assert moved.foreground.equal(found.foreground)
    points = found.foreground.nonzero(as_tuple=True)
    assert order[moved.box_index[points]].equal(found.box_index[points])
    torch.testing.assert_close(moved.quality, found.quality)


@pytest.mark.parametrize("max_boxes", [0, 3])
def test_frames_without_boxes_teach_objectness_only(max_boxes):
    output, _, _ = random_case(num_frames=2)
    boxes, classes = torch.zeros(2, max_boxes, 4), torch.full((2, max_boxes), -1)
    losses = YOLOXLoss()(output, boxes, classes)
    expected = F.binary_cross_entropy_with_logits(
        output.objectness, torch.zeros_like(output.objectness), reduction="sum"
    )
    assert losses["loss"].item() == pytest.approx(expected.item())
    assert losses["box_loss"] == 0
    assert losses["class_loss"] == 0
    assert losses["num_foreground"] == 0


@pytest.mark.parametrize("offset", [100.0, torch.inf])  # of which exp is infinite
def test_overflow_at_a_point_that_no_box_takes_has_no_gradient(offset):
    output, boxes, classes = random_case()
    frame = 1  # of one box
    found = simota(output, boxes, classes)
    background = found.anchor[frame][~found.foreground[frame, found.anchor[frame]]]
    offsets = output.offsets.clone()
    offsets[frame, background, 2:] = offset
    offsets.requires_grad_()
    output = replace(output, offsets=offsets)
    found = simota(output, boxes, classes)
    unused = set(background.tolist()) & set(found.anchor[frame][~found.used[frame]].tolist())
    assert unused
    YOLOXLoss()(output, boxes, classes)["loss"].backward()
    assert offsets.grad.isfinite().all()
    assert offsets.grad[frame].any()
    assert not offsets.grad[frame, list(unused)].any()


def test_half_precision_predictions_give_a_finite_float32_loss():
    output, boxes, classes = random_case()
    for dtype in (torch.float16, torch.bfloat16):
        half = HeadOutput(
            (output.offsets * 8).to(dtype),
            (output.objectness * 20).to(dtype),
            (output.classes * 20).to(dtype),
            output.cells,
            output.strides,
            output.scales,
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
        ("power", 0, 2.5),
        ("power", 32, 1.75),
        ("power", 96, 1.15),
        ("gaussian", 0, 2.5),
        ("gaussian", 32, 1 + 1.5 * math.exp(-0.5)),
        ("gaussian", 96, 1.0),
    ],
)
def test_size_weights(weight_type, side, weight):
    loss = SizeAwareIOULoss(2.5, weight_type=weight_type)
    assert loss.compute_size_weights(square(side)).item() == pytest.approx(weight)


@hypothesis.given(
    weight_type=st.sampled_from(WEIGHT_TYPES),
    largest=st.floats(1, 100),
    small=st.floats(1e-2, 1e6),
    ratio=st.floats(1.001, 1e3),
    areas=st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=20),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_weights_are_bounded_and_fall_with_area(weight_type, largest, small, ratio, areas):
    weight = SizeWeight(largest, small, small * ratio, weight_type)
    # No area, one pixel and a huge box are always among them.
    weights = weight(torch.tensor(sorted([0.0, 1.0, 3e38, *areas])))
    assert weights.isfinite().all()
    assert weights.max() <= torch.tensor(largest)
    assert weights.min() >= 1
    assert (weights.diff() <= 1e-6 * largest).all()
    assert weights[0] == pytest.approx(largest)
    assert weights[-1] == pytest.approx(1)


def test_mean_weight_can_be_kept_at_one():
    areas = torch.tensor([16.0, 500.0, 4000.0, 50000.0])
    plain, kept = SizeWeight(2.5)(areas), SizeWeight(2.5, unit_mean=True)(areas)
    assert kept.mean().item() == pytest.approx(1)
    torch.testing.assert_close(kept, plain / plain.mean())
    assert SizeWeight(unit_mean=True)(torch.zeros(0)).shape == (0,)


def test_adaptive_thresholds_are_quantiles_and_part_of_the_state():
    weight = SizeWeight(2.5, weight_type="step", adaptive_quantiles=(0.25, 0.75))
    assert not weight.adapted
    weight.adapt(np.arange(0, 101, dtype=np.float32))
    assert weight.adapted
    assert weight(torch.tensor([25.0, 26.0, 75.0, 76.0])).tolist() == [2.5, 1.75, 1.75, 1.0]
    restored = SizeWeight(2.5, weight_type="step", adaptive_quantiles=(0.25, 0.75))
    restored.load_state_dict(weight.state_dict())
    assert restored.adapted
    assert (restored.small_threshold, restored.medium_threshold) == (25, 75)
    # What was set stands in the configuration alone.
    assert SizeWeight().adapted
    assert not SizeWeight().state_dict()
    with pytest.raises(UserError, match="adaptive_quantiles: .* no box in the training split"):
        restored.adapt(np.empty(0, np.float32))


def test_size_aware_loss_scales_the_iou_loss():
    pred, target = square(20), square(16)
    expected = 2.5 * math.exp(-0.25) * IOULoss()(pred, target)
    torch.testing.assert_close(SizeAwareIOULoss(2.5)(pred, target), expected)
    assert SizeAwareIOULoss()(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_weight_one_is_the_baseline():
    case = random_case()
    expected = YOLOXLoss()(*case)
    for loss in (
        YOLOXLoss(SizeAwareIOULoss(size_aware_weight=1.0)),
        SizeAwareLossWrapper(1.0, classification=BCELoss()),
        SizeAwareLossWrapper(2.5, classification=BCELoss(), weighted_terms=()),
    ):
        assert loss(*case)["loss"] == expected["loss"]


@pytest.mark.parametrize("unit_mean", [False, True])
@pytest.mark.parametrize("terms", [("box",), ("class",), ("objectness",), ("box", "objectness")])
def test_weights_apply_to_the_terms_that_are_named(terms, unit_mean):
    output, boxes, classes = random_case()
    found = SizeAwareLossWrapper(
        3.0, weight_type="linear", weighted_terms=terms, unit_mean=unit_mean
    )(output, boxes, classes)

    # The same, point by point.
    assignment = simota(output, boxes, classes)
    points = assignment.foreground.nonzero().tolist()
    truths = [boxes[n, assignment.box_index[n, a]] for n, a in points]
    weights = [max(3 - 2 * float(t[2] * t[3]) / 9216, 1) for t in truths]
    if unit_mean:
        weights = [weight * len(weights) / sum(weights) for weight in weights]
    weight_of = {tuple(p): w for p, w in zip(points, weights, strict=True)}
    predicted = output.boxes_cxcywh()
    box = class_ = 0.0
    for (n, a), truth in zip(points, truths, strict=True):
        weight = weight_of[n, a]
        overlap = iou_matrix(predicted[n, a][None], truth[None])[0, 0]
        box += (weight if "box" in terms else 1) * (1 - overlap**2)
        target = torch.zeros(4)
        target[classes[n, assignment.box_index[n, a]]] = overlap
        probability = output.classes[n, a].sigmoid()
        for k in range(4):
            p, t = probability[k], target[k]
            focus = (0.25 * t + 0.75 * (1 - t)) * (t - p) ** 2
            entropy = -t * p.log() - (1 - t) * (1 - p).log()
            class_ += (weight if "class" in terms else 1) * focus * entropy
    objectness = 0.0
    for n, a in assignment.foreground.new_ones(assignment.foreground.shape).nonzero().tolist():
        sign = 1 if (n, a) in weight_of else -1
        weight = weight_of.get((n, a), 1) if "objectness" in terms else 1
        objectness -= weight * F.logsigmoid(sign * output.objectness[n, a])
    expected = {
        "box_loss": 5 * box / len(points),
        "class_loss": class_ / len(points),
        "objectness_loss": objectness / len(points),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(float(value), rel=1e-4), name
    assert found["loss"].item() == pytest.approx(float(sum(expected.values())), rel=1e-4)


def test_other_box_losses_by_hand():
    # Squares of side 2, one moved by half its side: IoU 1/3, hull 6, centres 1 apart, diagonal² 13.
    pred, target = torch.tensor([[1.0, 1, 2, 2]]), torch.tensor([[2.0, 1, 2, 2]])
    assert GIOULoss()(pred, target).item() == pytest.approx(2 / 3)
    assert DIOULoss()(pred, target).item() == pytest.approx(2 / 3 + 1 / 13)
    assert CIOULoss()(pred, target).item() == pytest.approx(2 / 3 + 1 / 13)
    assert NWDLoss(scale=2.0)(pred, target).item() == pytest.approx(1 - math.exp(-0.5))
    blend = BlendedBoxLoss(second=NWDLoss(scale=2.0), share=0.25)(pred, target).item()
    assert blend == pytest.approx(0.75 * (8 / 9) + 0.25 * (1 - math.exp(-0.5)))
    # Half a side of 6 against half a side of 2, at one centre: distance √(2² + 2²).
    wider = NWDLoss(scale=2.0)(torch.tensor([[1.0, 1, 6, 6]]), pred).item()
    assert wider == pytest.approx(1 - math.exp(-math.sqrt(8) / 2))
    # An aspect of 2 against 1: v = 4/π² (atan 2 - atan 1)², IoU 1/2.
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    wide = CIOULoss()(torch.tensor([[1.0, 1, 4, 2]]), pred).item()
    assert wide == pytest.approx(0.5 + v * v / (0.5 + v), rel=1e-4)


def test_class_losses_by_hand():
    # Logit 0: probability 1/2, cross-entropy ln 2 whatever the target.
    logits = torch.zeros(1, 3)
    target = torch.tensor([[1.0, 0.0, 0.7]])
    ln2 = math.log(2)
    assert BCELoss()(logits, target).tolist() == [pytest.approx([ln2] * 3)]
    focal = [0.25 * 0.25 * ln2, 0.75 * 0.25 * ln2, (0.25 * 0.7 + 0.75 * 0.3) * 0.04 * ln2]
    assert FocalLoss()(logits, target).tolist() == [pytest.approx(focal)]
    assert VarifocalLoss()(logits, target).tolist() == [
        pytest.approx([ln2, 0.75 * 0.25 * ln2, 0.7 * ln2])
    ]
    boxes = square(16)
    weighted = SizeAwareFocalLoss(2.5)(logits, target, boxes)
    expected = 2.5 * math.exp(-0.25) * torch.tensor([focal])
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_class_losses_are_least_at_the_target(loss):
    probability = torch.linspace(0.01, 0.99, 99)
    target = torch.full_like(probability, 0.7)
    values = loss()(torch.logit(probability)[:, None], target[:, None])
    assert probability[values.argmin()].item() == pytest.approx(0.7)


@pytest.mark.parametrize("loss", BOX_LOSSES)
def test_gradients_of_box_losses_by_finite_differences(loss):
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 6, 4, generator=generator, dtype=torch.float64) * 20 + 5
    pred[:3] = target[:3] + 1.5  # some overlap much, whatever was drawn
    if loss is CIOULoss:
        # Its gradient takes the weight of the shapes' difference as constant, as in its paper, so
        # only boxes of one shape have a gradient to compare with.
        pred[:, 2:] = target[:, 2:]
    pred.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss()(x, target), (pred,))


@pytest.mark.parametrize("loss", CLASS_LOSSES)
def test_gradients_of_class_losses_by_finite_differences(loss):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.rand(5, 3, generator=generator, dtype=torch.float64).round(decimals=1)
    target[0] = 0
    assert torch.autograd.gradcheck(lambda x: loss()(x, target), (logits,))


@pytest.mark.parametrize("loss", BOX_LOSSES)
def test_box_losses_take_extremes(loss):
    assert loss()(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    boxes = torch.tensor(
        [[0, 0, 0, 0], [100, 80, 0, 0], [500, 300, 1, 1], [100, 100, 30000, 30000], [9, 9, 1, 500]]
    )
    pairs = [(a, b) for a in boxes for b in boxes]
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        pred = torch.stack([a for a, _ in pairs]).to(dtype).requires_grad_()
        target = torch.stack([b for _, b in pairs]).to(dtype)
        values = loss()(pred, target)
        values.sum().backward()
        assert values.dtype == torch.float32
        assert values.isfinite().all()
        assert pred.grad.isfinite().all()


@pytest.mark.parametrize("loss", [*CLASS_LOSSES, SizeAwareFocalLoss])
def test_class_losses_take_extremes(loss):
    boxes = (torch.tensor([[5.0, 5, 300, 300]]),) if loss is SizeAwareFocalLoss else ()
    empty = (torch.zeros(0, 4),) if boxes else ()
    assert loss()(torch.zeros(0, 3), torch.zeros(0, 3), *empty).shape == (0, 3)
    for dtype in (torch.float16, torch.bfloat16):
        pred = torch.tensor([[-6e4, 0, 6e4]], dtype=dtype, requires_grad=True)
        for target in (0.0, 0.5, 1.0):
            values = loss()(
                pred, torch.full((1, 3), target, dtype=dtype), *[b.to(dtype) for b in boxes]
            )
            values.sum().backward()
            assert values.dtype == torch.float32
            assert values.isfinite().all()
            assert pred.grad.isfinite().all()


def test_the_whole_size_aware_loss_takes_frames_without_boxes():
    output, _, _ = random_case(num_frames=2)
    boxes, classes = torch.zeros(2, 3, 4), torch.full((2, 3), -1)
    losses = SizeAwareLossWrapper(unit_mean=True)(output, boxes, classes)
    assert losses["loss"].isfinite()
    assert losses["box_loss"] == losses["class_loss"] == 0


@pytest.mark.parametrize(
    ("loss", "settings", "name"),
    [
        (SizeAwareIOULoss, {"size_aware_weight": 0.5}, "size_aware_weight"),
        (SizeAwareIOULoss, {"size_aware_weight": math.nan}, "size_aware_weight"),
        (SizeAwareIOULoss, {"small_threshold": 9216, "medium_threshold": 1024}, "small_threshold"),
        (SizeAwareIOULoss, {"small_threshold": 0}, "small_threshold"),
        (SizeAwareFocalLoss, {"weight_type": "cubic"}, "weight_type: .* gaussian, got 'cubic'"),
        (SizeAwareFocalLoss, {"alpha": 2}, "alpha"),
        (FocalLoss, {"gamma": 0.5}, "gamma"),
        (VarifocalLoss, {"gamma": -1}, "gamma"),
        (NWDLoss, {"scale": 0}, "scale"),
        (BlendedBoxLoss, {"share": 1.5}, "share"),
        (SizeAwareLossWrapper, {"weighted_terms": ["box", "mask"]}, "weighted_terms: .* mask"),
        (SizeAwareLossWrapper, {"adaptive_quantiles": (0.7, 0.3)}, "adaptive_quantiles"),
    ],
)
def test_settings_out_of_range_are_refused(loss, settings, name):
    with pytest.raises(UserError, match=name):
        loss(**settings)
