"""Backbone, pyramid and head: equal to RVT, whole or in chunks, at any input size."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etram_det.errors import UserError
from etram_det.models.backbone import PartitionAttention
from etram_det.models.detector import Detector
from etram_det.models.postprocessing import decode_detections
from support import rvt


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


@torch.no_grad()
def test_features_and_states_equal_rvt():
    reference, detector = rvt.arrays(), rvt.detector()
    events = F.pad(reference["events"].float(), (0, 4, 0, 8))
    features, state = detector.backbone(events)
    for i in range(4):
        assert_close(features[i], reference[f"feature_stage{i + 1}"], 1e-5)
        assert_close(state[i][0], reference[f"state_h{i + 1}"], 1e-5)
        assert_close(state[i][1], reference[f"state_c{i + 1}"], 1e-5)


@torch.no_grad()
def test_pyramid_decoding_and_detections_equal_rvt():
    reference, detector = rvt.arrays(), rvt.detector()
    features, _ = detector.features(reference["events"])
    for i, x in enumerate(detector.fpn(features)):
        assert_close(x, reference[f"fpn_out{i}"], 1e-5)
    decoded = detector.predict(features).decode()
    assert_close(decoded, reference["decoded"], 1e-4)
    for threshold in (0.1, 0.001):
        for i, found in enumerate(decode_detections(decoded, threshold, 0.45)):
            expected = reference[f"det_conf{threshold}_{i}"]
            actual = torch.cat(
                [
                    found.boxes,
                    torch.stack(
                        [found.objectness, found.class_confidence, found.classes.float()], dim=1
                    ),
                ],
                dim=1,
            )
            # As sets: nearly equal scores may swap places.
            distance = (actual[:, None] - expected[None]).abs().amax(dim=-1)
            assert len(actual) == len(expected)
            assert distance.min(dim=0).values.max() < 1e-3
            assert distance.min(dim=1).values.max() < 1e-3


def test_training_head_equals_rvt():
    assert_close(rvt.training_output().decode(), rvt.arrays()["train_decoded"], 1e-3)


def small_detector(**settings):
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33}
    return Detector(**(sizes | {"layer_scale_init": 1.0} | settings)).eval()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1, 1), (4, 2), (1, 5)])
def test_chunks_equal_the_whole_sequence(chunks):
    detector = small_detector()
    events = torch.randint(0, 10, (6, 2, 20, 60, 100), dtype=torch.uint8)
    whole, final = detector(events)
    state, rows = None, []
    for chunk in events.split(chunks):
        output, state = detector(chunk, state)
        rows.append(output.decode())
    assert_close(torch.cat(rows), whole.decode(), 1e-5 * float(whole.decode().max()))
    for (hidden, cell), (final_hidden, final_cell) in zip(state, final, strict=True):
        assert_close(hidden, final_hidden, 1e-5)
        assert_close(cell, final_cell, 1e-5)


@torch.no_grad()
def test_padding_covers_any_input_size():
    detector = small_detector()
    for height, width in ((1, 1), (64, 64), (65, 130)):
        output, state = detector(torch.zeros(1, 1, 20, height, width, dtype=torch.uint8))
        rows, columns = -(-height // 64) * 64, -(-width // 64) * 64
        assert state[0][0].shape == (1, 8, rows // 4, columns // 4)
        assert output.cells.shape[0] == sum(rows // s * columns // s for s in (4, 8, 16, 32))


@torch.no_grad()
def test_padded_and_padding_by_hand_agree():
    detector = small_detector()
    events = torch.randint(0, 5, (2, 1, 20, 50, 70), dtype=torch.uint8)
    by_hand = F.pad(events, (0, 128 - 70, 0, 64 - 50))
    assert_close(detector(events)[0].decode(), detector(by_hand)[0].decode(), 0)


@torch.no_grad()
@pytest.mark.parametrize("grid", [False, True])
def test_attention_is_confined_to_its_cell(grid):
    torch.manual_seed(0)
    block = PartitionAttention(dim=8, dim_head=4, grid=grid, layer_scale_init=1.0)
    x = torch.randn(1, 4, 6, 8)
    changed = x.clone()
    changed[0, 0, 0, 0] += 1  # one channel: the norm takes out what all have in common
    moved = (block(x, (2, 3)) - block(changed, (2, 3))).abs().amax(dim=(0, 3)) > 1e-6
    expected = torch.zeros(4, 6, dtype=torch.bool)
    if grid:
        expected[::2, ::2] = True  # pixels 4/2 and 6/3 apart
    else:
        expected[:2, :3] = True
    assert moved.equal(expected)


@pytest.mark.parametrize(("embed_dim", "dim_head", "depth", "millions"), [
    (32, 32, 0.33, 4.4), (48, 24, 0.33, 9.9), (64, 32, 0.67, 18.5),
])  # fmt: skip
def test_presets_have_the_published_number_of_parameters(embed_dim, dim_head, depth, millions):
    with torch.device("meta"):
        model = Detector(
            num_classes=3,
            embed_dim=embed_dim,
            dim_head=dim_head,
            fpn_depth=depth,
            fpn_stages=(2, 3, 4),
        )
    found = sum(p.numel() for p in model.parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.06)


def test_first_predictions_follow_the_prior():
    model = small_detector()
    for output in (*model.head.class_outputs, *model.head.objectness_outputs):
        assert isinstance(output, nn.Conv2d)
        assert output.bias.sigmoid().detach() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("stages", [(), (1, 2, 3), (0, 1, 2, 3, 4), (2, 4), (4, 3)])
def test_stages_that_are_not_consecutive_are_refused(stages):
    with pytest.raises(UserError, match=r"model\.fpn_stages"):
        small_detector(fpn_stages=stages)


def test_head_width_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"model\.dim_head.*got 5"):
        small_detector(dim_head=5)


@torch.no_grad()
def test_a_box_prior_centres_the_first_boxes_on_their_cells():
    output, _ = small_detector(box_prior=(3.0, 2.5))(torch.zeros(1, 1, 20, 64, 64))
    boxes, stride = output.boxes_cxcywh()[0], output.strides[:, None]
    expected = torch.cat([output.cells + 0.5, torch.tensor([3.0, 2.5]).expand(len(boxes), 2)], 1)
    # The weights of the output add a little to its bias.
    assert ((boxes / stride - expected).abs() < 0.5).all()
    with pytest.raises(UserError, match=r"^model.box_prior: must be a width and a height above 0"):
        small_detector(box_prior=(3.0, 0.0))


@torch.no_grad()
def test_a_larger_epsilon_keeps_noise_below_edges():
    noise, edge = torch.zeros(1, 1, 20, 64, 64), torch.zeros(1, 1, 20, 64, 64)
    noise[..., 3, 32, 32] = 1
    edge[..., 32, 28:36] = 10

    def strength(events, **settings):
        first = small_detector(**settings).backbone.stages[0]
        return first.norm(first.downsample(events[0]).permute(0, 2, 3, 1)).abs().max().item()

    assert strength(noise) > 0.5 * strength(edge)
    assert strength(noise, stem_norm_eps=0.01) < 0.5 * strength(edge, stem_norm_eps=0.01)
    with pytest.raises(UserError, match=r"^model.stem_norm_eps: must be above 0, got 0"):
        small_detector(stem_norm_eps=0.0)


def test_the_momentum_of_batch_norm_is_set_throughout():
    norms = [
        m for m in small_detector(batch_norm_momentum=0.03).modules() if hasattr(m, "momentum")
    ]
    assert len(norms) > 20
    assert {norm.momentum for norm in norms} == {0.03}
    with pytest.raises(UserError, match=r"^model.batch_norm_momentum: must be in \(0, 1\], got 0"):
        small_detector(batch_norm_momentum=0)
