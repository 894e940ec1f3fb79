"""The loss variants: what they differ in, what they train with, and what their checkpoints hold."""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from etram_det.cli.commands import run
from etram_det.cli.lightning import lightning_cli
from etram_det.models.box_losses import BlendedBoxLoss
from etram_det.models.class_losses import BCELoss, FocalLoss
from etram_det.models.losses import SizeAwareLossWrapper, YOLOXLoss
from support.paths import ROOT

RAW = ROOT / "tests" / "reference" / "raw_etram"
VARIANTS = (
    "baseline",
    "baseline_3scale",
    "size_aware",
    "size_aware_3scale",
    "size_aware_focal",
    "size_aware_full",
    "size_aware_step",
    "size_aware_linear",
    "size_aware_adaptive",
    "nwd",
)
SMALL = [
    *("--data.root", str(RAW), "--data.input_size", "[90, 160]", "--data.num_workers", "0"),
    *("--data.train_lanes", "2", "--model.embed_dim", "8", "--model.dim_head", "4"),
    *("--model.fpn_depth", "0.33", "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1"),
    *("--trainer.accelerator", "cpu", "--model.schedule", "constant"),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config_of(variant):
    return ["--config", str(ROOT / "configs" / f"{variant}.yaml")]


def loss_of(variant, *flags):
    return lightning_cli(["fit", *config_of(variant), *SMALL, *flags], run=False).model.loss


def run_folder(variant, version=0):
    return Path("runs") / variant / f"version_{version}"


def state_of(variant, version=0):
    path = run_folder(variant, version) / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["state_dict"]


def test_variants_differ_in_their_loss_and_scales_only():
    everything = []
    for variant in VARIANTS:
        path = ROOT / "configs" / f"{variant}.yaml"
        text = path.read_text()
        assert f"configs/{variant}.yaml" in text
        config = yaml.safe_load(text)
        assert config["trainer"]["logger"]["init_args"].pop("name") == variant
        stages = config["model"].pop("fpn_stages")
        assert stages == ([2, 3, 4] if variant.endswith("3scale") else [1, 2, 3, 4])
        assert config["model"].pop("loss")
        everything.append(config)
    assert all(config == everything[0] for config in everything)


@pytest.mark.parametrize(
    ("variant", "terms", "classification"),
    [
        ("size_aware", {"box"}, BCELoss),
        ("size_aware_3scale", {"box"}, BCELoss),
        ("size_aware_focal", {"box", "class"}, FocalLoss),
        ("size_aware_full", {"box", "class", "objectness"}, FocalLoss),
        ("size_aware_step", {"box"}, BCELoss),
        ("size_aware_linear", {"box"}, BCELoss),
        ("size_aware_adaptive", {"box"}, BCELoss),
    ],
)
def test_size_aware_variants(variant, terms, classification):
    loss = loss_of(variant)
    assert isinstance(loss, SizeAwareLossWrapper)
    assert loss.weighted_terms == terms
    assert type(loss.classification) is classification
    weight = loss.size_weight
    assert weight.size_aware_weight == 2.5
    kinds = {
        "size_aware_step": "step",
        "size_aware_adaptive": "step",
        "size_aware_linear": "linear",
    }
    assert weight.weight_type == kinds.get(variant, "exponential")
    assert bool(weight.adapted) == (variant != "size_aware_adaptive")
    assert (weight.small_threshold, weight.medium_threshold) == (1024, 9216)


def test_other_variants():
    for variant in ("baseline", "baseline_3scale"):
        loss = loss_of(variant)
        assert type(loss) is YOLOXLoss
        assert loss.size_weight is None
    assert isinstance(loss_of("nwd").box, BlendedBoxLoss)


def test_terms_can_be_chosen_on_the_command_line():
    flags = ["--model.loss.box", "GIOULoss", "--model.loss.classification", "VarifocalLoss"]
    flags += ["--model.loss.unit_mean", "true", "--model.loss.size_aware_weight", "3"]
    loss = loss_of("size_aware", *flags)
    assert type(loss.box).__name__ == "GIOULoss"
    assert type(loss.classification).__name__ == "VarifocalLoss"
    assert loss.size_weight.unit_mean
    assert loss.size_weight.size_aware_weight == 3


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--model.loss.size_aware_weight", "0.5", ["size_aware_weight", "0.5"]),
        ("--model.loss.small_threshold", "10000", ["small_threshold", "10000"]),
        ("--model.loss.weight_type", "cubic", ["weight_type", "cubic"]),
        ("--model.loss.weighted_terms", "[mask]", ["weighted_terms", "mask"]),
        ("--model.protocol", "coco", ["protocol", "coco"]),
        ("--model.class_groups", "{x: [9]}", ["class_groups.x", "9"]),
        ("--model.size_bins", "{a: [0, 9], b: [4, 20]}", ["size_bins.b", "4"]),
        ("--results.score_threshold", "2", ["results.score_threshold", "2"]),
    ],
)
def test_mistakes_are_refused_when_the_configuration_is_read(flag, value, words, capfd):
    assert run(["fit", *config_of("size_aware"), *SMALL, flag, value]) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    [line] = [line for line in error.splitlines() if "error:" in line]
    for word in words:
        assert word in line
    assert not Path("runs").exists()


def test_adaptive_thresholds_are_computed_once_and_kept(caplog):
    fit = ["fit", *config_of("size_aware_adaptive"), *SMALL]
    with caplog.at_level(logging.INFO):
        assert run(fit) == 0
    assert caplog.text.count("thresholds that follow the training labels") == 1
    state = state_of("size_aware_adaptive")
    small = state["loss.size_weight.small_threshold"]
    assert 0 < small < state["loss.size_weight.medium_threshold"]
    assert state["loss.size_weight.adapted"]

    # A resumed run takes them from the checkpoint, whatever the labels are by then.
    last = str(run_folder("size_aware_adaptive") / "checkpoints" / "last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    checkpoint["state_dict"]["loss.size_weight.small_threshold"] += 1
    torch.save(checkpoint, "changed.ckpt")
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert run([*fit, "--trainer.max_steps", "4", "--ckpt_path", "changed.ckpt"]) == 0
    assert "follow the training labels" not in caplog.text
    resumed = state_of("size_aware_adaptive", 1)
    assert resumed["loss.size_weight.small_threshold"] == small + 1

    # Other losses can evaluate it, and go on from it.
    assert run(["validate", *config_of("baseline"), *SMALL, "--ckpt_path", last]) == 0
    resume = [*SMALL, "--trainer.max_steps", "4", "--ckpt_path", last]
    assert run(["fit", *config_of("nwd"), *resume]) == 0
    assert not [name for name in state_of("nwd") if name.startswith("loss.")]


def test_a_baseline_checkpoint_serves_an_adaptive_run():
    assert run(["fit", *config_of("baseline"), *SMALL]) == 0
    last = str(run_folder("baseline") / "checkpoints" / "last.ckpt")
    adaptive = [*config_of("size_aware_adaptive"), *SMALL, "--ckpt_path", last]
    assert run(["validate", *adaptive]) == 0
    assert run(["fit", *adaptive, "--trainer.max_steps", "4"]) == 0
    assert state_of("size_aware_adaptive", 1)["loss.size_weight.adapted"]


def test_evaluation_settings_and_results(capsys):
    flags = ["--model.pixel_frame", "native", "--results.score_threshold", "0.01"]
    flags += ["--model.size_bins", "{tiny: [0, 400], small: [400, 4096], rest: [4096, .inf]}"]
    assert run(["fit", *config_of("baseline"), *SMALL, *flags]) == 0
    capsys.readouterr()
    last = str(run_folder("baseline") / "checkpoints" / "last.ckpt")
    assert run(["test", *config_of("baseline"), *SMALL, *flags, "--ckpt_path", last]) == 0
    shown = capsys.readouterr().out
    assert "areas in native px²: tiny 0 to 400, small 400 to 4096, rest from 4096" in shown
    assert "of 1 recording;" in shown
    assert "between label times" in shown
    assert "score at least 0.01" in shown
    assert "test/AP50" not in shown  # Lightning's own list
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80

    folder = run_folder("baseline", 1)
    results = json.loads((folder / "metrics.json").read_text())
    assert results["evaluation"]["pixel_frame"] == "native"
    assert results["evaluation"]["size_bins"]["rest"] == [4096, None]
    assert results["evaluation"]["dropped_by_data"]["between label times"] > 0
    in_bins = sum(results.get(f"num_{name}", 0) for name in ("tiny", "small", "rest"))
    assert in_bins >= results["num_boxes"] > 0
    assert list(results["recordings"]) == ["test_day_0001"]
    assert results["recordings"]["test_day_0001"]["num_boxes"] == results["num_boxes"]
    assert results["confusion"]["score_threshold"] == 0.01
    rows = [sum(row) for row in results["confusion"]["counts"][:-1]]
    assert sum(rows) == results["num_boxes"]
    names = {"metrics.csv", "recordings.csv", "confusion.csv", "pr_curves.npz"}
    assert names <= {path.name for path in folder.iterdir()}
