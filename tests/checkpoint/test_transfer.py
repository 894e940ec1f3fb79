"""Weights carried over to networks of other scales and classes."""

import logging
from pathlib import Path

import pytest
import torch

from etram_det.checkpoint.file import read_checkpoint
from etram_det.checkpoint.transfer import carry_over
from etram_det.cli.commands import run
from etram_det.errors import UserError
from etram_det.training.module import DetectionModule
from support import rvt
from support.small_checkpoints import EIGHT, GEN1, THREE, make, save, small_run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def outputs_of(stage, detector, features):
    """Predictions of the scale of a stage."""
    strides = {2: 8, 3: 16, 4: 32}
    output = detector.head(features)
    at_stage = output.strides == strides[stage]
    return output.offsets[:, at_stage], output.objectness[:, at_stage], output.classes[:, at_stage]


@torch.no_grad()
def test_three_scales_and_classes_carry_over_to_four_and_eight():
    old, new = make(THREE, fpn_stages=(2, 3, 4)), make(EIGHT, seed=1)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    transfer = carry_over(save(old, THREE), new, EIGHT, dim_head=4)

    # The backbone is the same function, and so are pyramid and head scale by scale.
    events = rvt.arrays()["events"]
    ours, theirs = new.features(events)[0], old.features(events)[0]
    assert all(a.equal(b) for a, b in zip(ours[1:], theirs, strict=True))
    scales = [torch.randn_like(x) for x in theirs]
    unused = torch.randn_like(ours[0])
    for stage in (2, 3, 4):
        offsets, objectness, classes = outputs_of(stage, new, [unused, *scales])
        old_offsets, old_objectness, old_classes = outputs_of(stage, old, scales)
        assert offsets.equal(old_offsets)
        assert objectness.equal(old_objectness)
        # Pedestrian is class 0 of both, car is 2 of the one and 1 of the other.
        torch.testing.assert_close(classes[..., :2], old_classes[..., [0, 2]], rtol=0, atol=1e-6)
    joins = ("reduce", "merge_down", "downsample", "merge_up")
    for join in joins:
        for old_index, new_index in ((0, 1), (1, 2)):
            of_old = getattr(old.fpn, join)[old_index].state_dict()
            of_new = getattr(new.fpn, join)[new_index].state_dict()
            assert all(of_new[name].equal(of_old[name]) for name in of_old)

    # What is new keeps its start: the first join, the finest scale, and six classes.
    after = new.state_dict()
    for name in (*(f"fpn.{join}.0." for join in joins), "head.stems.0.", "head.box_outputs.0."):
        assert all(after[key].equal(fresh[key]) for key in after if key.startswith(name))
    assert after["head.class_outputs.3.bias"][2:].equal(fresh["head.class_outputs.3.bias"][2:])

    assert transfer.carried_classes == ("pedestrian", "car")
    assert transfer.new_classes == EIGHT[2:]
    missed = {name: shapes for name, *shapes in transfer.not_loaded}
    assert missed["head.class_outputs.1.weight"] == [(3, 16, 1, 1), (8, 16, 1, 1)]
    assert missed["head.stems.0.conv.weight"] == [None, (16, 8, 1, 1)]
    assert not any(name.startswith("backbone") for name in missed)
    num_new = sum(
        p.numel() for name, p in new.named_parameters() if name in missed and "class_o" not in name
    )
    class_rows = 3 * (8 - 2) * (16 + 1)
    whole_class_output = 8 * (16 + 1)  # of the new scale
    total = sum(p.numel() for p in new.parameters())
    assert transfer.num_parameters == total
    assert transfer.num_loaded == total - num_new - class_rows - whole_class_output


def test_the_report_names_both_shapes_and_ends_with_the_share():
    new = make(EIGHT, seed=1)
    old = save(make(THREE, fpn_stages=(2, 3, 4)), THREE)
    *missed, summary = carry_over(old, new, EIGHT, dim_head=4).lines()
    assert any(
        "head.class_outputs.1.weight" in line
        and line.endswith("checkpoint (3, 16, 1, 1), model (8, 16, 1, 1)")
        for line in missed
    )
    assert any(
        "head.stems.0.conv.weight" in line and line.endswith("checkpoint none, model (16, 8, 1, 1)")
        for line in missed
    )
    assert all(line.startswith("not loaded") for line in missed)
    assert summary.startswith("95.8% of the parameters loaded (285,685 of 298,100)")
    assert "class rows by name: pedestrian, car; new classes: bicycle, bus" in summary


@torch.no_grad()
def test_four_scales_carry_over_to_three():
    old, new = make(EIGHT), make(EIGHT, seed=1, fpn_stages=(2, 3, 4))
    transfer = carry_over(save(old, EIGHT), new, EIGHT, dim_head=4)
    assert transfer.num_loaded == transfer.num_parameters
    assert new.head.stems[0].conv.weight.equal(old.head.stems[1].conv.weight)
    left = {name: shapes for name, *shapes in transfer.not_loaded}
    assert left["head.stems.0.conv.weight"] == [(16, 8, 1, 1), None]
    assert transfer.lines()[-1].startswith("100.0% of the parameters loaded")


@torch.no_grad()
def test_rows_go_by_name_even_where_the_shapes_agree():
    old, new = make(GEN1), make(GEN1[::-1], seed=1)
    carry_over(save(old, GEN1), new, GEN1[::-1], dim_head=4)
    for ours, theirs in zip(new.head.class_outputs, old.head.class_outputs, strict=True):
        assert ours.weight.equal(theirs.weight.flip(0))
        assert ours.bias.equal(theirs.bias.flip(0))


@torch.no_grad()
def test_what_does_not_fit_keeps_its_start():
    old, new = make(EIGHT, in_channels=10), make(EIGHT, seed=1, num_blocks=(2, 1, 1, 1))
    start = new.backbone.stages[0].downsample.weight.clone()
    transfer = carry_over(save(old, EIGHT), new, EIGHT, dim_head=4)
    assert new.backbone.stages[0].downsample.weight.equal(start)
    missed = {name: shapes for name, *shapes in transfer.not_loaded}
    assert missed["backbone.stages.0.downsample.weight"] == [(8, 10, 7, 7), (8, 20, 7, 7)]
    assert missed["backbone.stages.0.attention.2.qkv.weight"] == [None, (24, 8)]
    assert "backbone.stages.0.lstm.weight" not in missed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"mdl.fpn.x": torch.zeros(1)}}, "import-rvt"),
        ({"state_dict": {"detector.x": torch.zeros(1)}}, "checkpoint of this project"),
        (
            {
                "state_dict": {"detector.x": torch.zeros(1)},
                "hyper_parameters": {"class_names": ["car"], "embed_dim": 7},
            },
            "must fit.*got no tensor of its shapes in old.ckpt: set model.embed_dim to 7",
        ),
        (
            {
                "state_dict": {"detector.x": torch.zeros(1)},
                "hyper_parameters": {"class_names": ["car"], "dim_head": 8},
            },
            r"model\.dim_head: must be that of model\.init_from, 8, got 4",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(content, message):
    torch.save(content, "old.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        carry_over("old.ckpt", make(EIGHT), EIGHT, dim_head=4)
    assert "\n" not in str(caught.value)


def last(version):
    return read_checkpoint(f"runs/baseline/version_{version}/checkpoints/last.ckpt").content


def test_fine_tuning_from_an_imported_checkpoint(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source = str(rvt.REFERENCE / "rvt_reference.ckpt")
    flags = ["--checkpoint", source, "--output", "rvt.ckpt", "--dim-head=4"]
    assert run(["import-rvt", *flags]) == 0
    start = small_run(tmp_path, "--model.init_from", "rvt.ckpt")
    assert run(["fit", *start]) == 0
    assert "% of the parameters loaded" in caplog.text
    assert "not loaded  head.stems.0.conv.weight" in caplog.text
    imported, tuned = read_checkpoint("rvt.ckpt").tensors, last(0)["state_dict"]
    name = "detector.backbone.stages.0.lstm.weight"
    torch.testing.assert_close(tuned[name], imported[name], rtol=0, atol=1e-9)
    # The scale of stride 8 has moved by one place.
    torch.testing.assert_close(
        tuned["detector.head.box_outputs.1.weight"],
        imported["detector.head.box_outputs.0.weight"],
        rtol=0,
        atol=1e-9,
    )
    # Neither resuming nor evaluating reads it again: the file may be gone.
    Path("rvt.ckpt").unlink()
    caplog.clear()
    checkpoint = "runs/baseline/version_0/checkpoints/last.ckpt"
    resume = [*start, "--trainer.max_steps", "2", "--ckpt_path", checkpoint]
    assert run(["fit", *resume]) == 0
    assert last(0)["global_step"] == 2  # in the same run folder
    not_read = "model.init_from: rvt.ckpt is not read, as training goes on from the weights of"
    assert caplog.text.count(f"{not_read} ckpt_path {checkpoint}") == 1
    assert run(["validate", *start, "--ckpt_path", checkpoint]) == 0
    assert caplog.text.count("model.init_from: ") == 1
    assert "parameters loaded" not in caplog.text
    assert run(["fit", *start]) == 2
    assert not Path("runs/baseline/version_2").exists()


def test_a_file_that_is_missing_is_reported_before_traffic_is_simulated(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    assert run(["fit", "--config", "quick", "--model.init_from", "packge"]) == 2
    error = "model.init_from: no file packge: give the path of a checkpoint (.ckpt)"
    assert error in capfd.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_initial_weights_are_taken_once():
    save(make(EIGHT), EIGHT)
    module = DetectionModule(class_names=EIGHT, embed_dim=8, dim_head=4, init_from="old.ckpt")
    module.load_initial_weights()
    with torch.no_grad():
        module.detector.head.stems[0].conv.weight.fill_(7)
    module.load_initial_weights()
    assert module.detector.head.stems[0].conv.weight.eq(7).all()
