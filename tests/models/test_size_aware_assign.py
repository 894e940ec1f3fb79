"""Size-aware assignment: equal to an implementation box by box, and safe at the edges."""

import math

import numpy as np
import pytest
import torch

from etram_det.errors import UserError
from etram_det.models import assign
from etram_det.models.assign import SimOTA
from etram_det.models.losses import YOLOXLoss
from etram_det.models.size_aware_assign import SizeAwareSimOTA
from support.plain_loss import assign_image
from support.random_case import random_case

EVERYWHERE = ("cost", "points", "quality")


def iou(a, b):
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    overlap = max(width, 0) * max(height, 0)
    return overlap / (a[2] * a[3] + b[2] * b[3] - overlap)


def nwd(a, b, scale=12.8):
    centres = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    sides = (a[2] - b[2]) ** 2 + (a[3] - b[3]) ** 2
    return math.exp(-math.sqrt(centres + sides / 4) / scale)


def blend(a, b):
    share = math.exp(-a[2] * a[3] / 1024)
    return share * nwd(a, b) + (1 - share) * iou(a, b)


PLAIN = {"iou": iou, "nwd": nwd, "max": lambda a, b: max(iou(a, b), nwd(a, b)), "blend": blend}


def assert_equal_box_by_box(assignment, case, **plain):
    output, boxes, classes = case
    found = assignment(output, boxes, classes)
    for i in range(len(boxes)):
        valid = classes[i] >= 0
        if not valid.any():
            assert not found.foreground[i].any()
            continue
        points, index, quality = assign_image(
            output, boxes[i][valid], classes[i][valid], i, **plain
        )
        assert found.foreground[i].nonzero().squeeze(1).equal(points)
        assert found.box_index[i, points].equal(index)
        torch.testing.assert_close(found.quality[i, points], quality, rtol=0, atol=2e-6)


@pytest.mark.parametrize("similarity", PLAIN)
@pytest.mark.parametrize("seed", range(2))
def test_it_equals_an_assignment_box_by_box(similarity, seed):
    assert_equal_box_by_box(
        SizeAwareSimOTA(similarity),
        random_case(seed=seed),
        similar=PLAIN[similarity],
        acts_on=EVERYWHERE,
    )


@pytest.mark.parametrize("acts_on", [(), ("cost",), ("points",), ("quality",), ("cost", "points")])
def test_each_use_can_be_turned_off(acts_on):
    assignment = SizeAwareSimOTA("max", acts_on=acts_on)
    assert_equal_box_by_box(assignment, random_case(), similar=PLAIN["max"], acts_on=acts_on)


def test_small_boxes_get_their_fewest_points():
    def least(box):
        return 4 if box[2] * box[3] <= 200 else 1

    assignment = SizeAwareSimOTA("iou", small_points=4, small_area=200)
    assert_equal_box_by_box(assignment, random_case(), least=least)


def test_by_iou_it_is_simota():
    case = random_case()
    plain, found = SimOTA()(*case), SizeAwareSimOTA("iou")(*case)
    assert found.foreground.equal(plain.foreground)
    assert found.box_index.equal(plain.box_index)
    assert found.quality.equal(plain.quality)


def test_a_small_box_gets_more_points_than_by_iou():
    output, boxes, classes = random_case(num_frames=8)
    boxes[..., 2:] = boxes[..., 2:].clamp(max=12)
    plain, found = (each(output, boxes, classes) for each in (SimOTA(), SizeAwareSimOTA()))
    assert found.foreground.sum() > 1.5 * plain.foreground.sum()


def test_the_scale_can_follow_the_training_labels():
    assignment = SizeAwareSimOTA(adaptive_quantile=0.5)
    assert not assignment.adapted
    assignment.adapt(np.array([16.0, 100.0, 400.0]))
    assert assignment.adapted
    assert assignment.scale.item() == 10
    restored = SizeAwareSimOTA(adaptive_quantile=0.5)
    restored.load_state_dict(assignment.state_dict())
    assert restored.adapted
    assert restored.scale.item() == 10
    assert not SizeAwareSimOTA().state_dict()
    with pytest.raises(UserError, match=r"^model.assignment.adaptive_quantile: must have boxes"):
        SizeAwareSimOTA(adaptive_quantile=0.5).adapt(np.zeros(0))


def crowded_case(num_frames=3, num_boxes=200):
    """Frames with as many boxes, a fifth of them below a pixel, but for the first, an empty one."""
    output, boxes, classes = random_case(num_frames, num_boxes, seed=2)
    generator = torch.Generator().manual_seed(3)
    draws = torch.rand(*boxes.shape, generator=generator)
    boxes = draws * torch.tensor([128.0, 64, 30, 30]) + torch.tensor([0, 0, 2.0, 2])
    boxes[:, ::5, 2:] = draws[:, ::5, 2:] * 0.9 + 0.05
    classes = torch.randint(0, 4, classes.shape, generator=generator)
    classes[0] = -1
    return output, boxes, classes


@pytest.mark.parametrize("similarity", ["max", "iou"])
def test_crowded_frames_equal_an_assignment_box_by_box(similarity, monkeypatch):
    case = crowded_case()
    assignment = SizeAwareSimOTA(similarity)
    assert_equal_box_by_box(assignment, case, similar=PLAIN[similarity], acts_on=EVERYWHERE)
    found = assignment(*case)
    assert found.foreground[1:].sum(dim=1).min() > 100
    # Frames that are assigned one after the other, for less memory, get the same.
    shapes = []
    original = assign._assigned
    monkeypatch.setattr(
        assign, "_assigned", lambda *args: shapes.append(len(args[1])) or original(*args)
    )
    monkeypatch.setattr(assign, "_MOST_PAIRS", 2 * 200 * 680)  # of all anchor points
    apart = assignment(*case)
    assert shapes == [2, 1]
    for name in ("anchor", "used", "box", "fit"):
        assert getattr(apart, name).equal(getattr(found, name))


def test_edges_have_finite_losses_and_gradients():
    output, boxes, classes = crowded_case()
    for leaf in (output.offsets, output.objectness, output.classes):
        leaf.requires_grad_()
    loss = YOLOXLoss()
    loss.assignment = SizeAwareSimOTA(small_points=3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        halved = type(output)(
            output.offsets.to(dtype),
            output.objectness.to(dtype),
            output.classes.to(dtype),
            output.cells,
            output.strides,
            output.scales,
        )
        value = loss(halved, boxes, classes)["loss"]
        assert value.dtype == torch.float32
        gradients = torch.autograd.grad(value, [output.offsets, output.objectness, output.classes])
        assert all(gradient.isfinite().all() for gradient in gradients)
    empty = torch.full_like(classes, -1)
    assert not loss.assignment(output, boxes, empty).foreground.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity": "giou"}, "similarity: must be one of max, nwd, iou, blend, got giou"),
        ({"scale": 0.0}, "scale: must be a positive number of pixels, got 0.0: use 12.8"),
        ({"scale": -1.0}, "scale: must be a positive number of pixels, got -1.0: use 12.8"),
        ({"adaptive_quantile": 1.0}, r"adaptive_quantile: must be in \(0, 1\), got 1.0"),
        ({"acts_on": ["loss"]}, "acts_on: must be among cost, points, quality, got loss"),
        ({"small_points": 0}, r"small_points: must be in \[1, 10\], got 0: use 1"),
        ({"small_area": 0.0}, "small_area: must be above 0, got 0.0: use 1024"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=rf"^model\.assignment\.{message}"):
        SizeAwareSimOTA(**settings)
