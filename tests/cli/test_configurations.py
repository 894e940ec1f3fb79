"""The loss variants: what they differ in, what they train with, and what their checkpoints hold."""

import json
import logging
import re
from inspect import signature
from pathlib import Path
from pydoc import locate

import pytest
import torch
import yaml

from etram_det.cli.commands import run
from etram_det.cli.flags import RENAMED
from etram_det.cli.lightning import EtramCLI, lightning_cli
from etram_det.models.box_losses import BlendedBoxLoss
from etram_det.models.class_losses import BCELoss, FocalLoss
from etram_det.models.losses import SizeAwareLossWrapper, YOLOXLoss
from support.paths import REFERENCE, ROOT
from support.random_checkpoint import write_random_checkpoint

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RAW = REFERENCE / "raw_etram"
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
    "small_objects",
    "rvt",
)
SMALL = ["--data.root", str(RAW)]
SMALL += """
    --data.input_size [90,160] --data.num_workers 0 --data.train_lanes 2
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --model.schedule constant
    --trainer.max_steps 2 --trainer.val_check_interval 2
    --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1 --trainer.accelerator cpu
    --results.video_s 0 --results.report false
""".split()


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


def resolved(*arguments):
    """All settings of ``fit`` by their dotted names, as ``--print_config`` shows them."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(EtramCLI, "instantiate_classes", lambda cli: None)
        cli = lightning_cli(["fit", *arguments], run=False)
    text = cli.parser.dump(cli.config, skip_unset=False, skip_validation=True, format="json")
    return dict(by_dotted_name(json.loads(text)))


def by_dotted_name(value, prefix=""):
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from by_dotted_name(each, f"{prefix}.{name}".removeprefix("."))
    else:
        yield prefix, value


def with_new_names(settings):
    for old, new in RENAMED.items():
        settings = {name.replace(old, new): value for name, value in settings.items()}
    return settings


def test_all_configurations_resolve_to_the_stored_settings():
    stored = json.loads((REFERENCE / "resolved_configurations.json").read_text())
    assert len(stored) == 48
    for names, differences in stored.items():
        files = [word for name in names.split("+") for word in ("--config", name)]
        expected = stored["baseline"] | differences
        expected = {name: value for name, value in expected.items() if value != "<absent>"}
        assert resolved(*files) == with_new_names(expected), names


def test_baseline_holds_every_setting_with_its_meaning():
    text = (ROOT / "configs" / "baseline.yaml").read_text()
    written = dict(by_dotted_name(yaml.safe_load(text)))
    missing = {
        name
        for name in resolved()
        if name not in written and not name.startswith(("trainer.", "model.loss."))
    }
    assert not missing
    for line in text.splitlines():
        # The names of class groups and of the logger's settings speak for themselves.
        if line.strip() and not re.match(r" *#| {4}\w+: \[|data:$|model:$| {6}name| {6}def", line):
            assert " # " in line or re.match(r"  logger:| {4}(class_path|init_args)", line), line


def test_other_configurations_hold_their_differences_only():
    stored = json.loads((REFERENCE / "resolved_configurations.json").read_text())
    for path in CONFIGS:
        text = path.read_text()
        assert f"--config {path.stem}" in text
        if path.stem in VARIANTS[1:]:
            assert len(text.splitlines()) <= 28, path
            written = dict(by_dotted_name(yaml.safe_load(text)))
            assert written["trainer.logger.init_args.name"] == path.stem
            of_losses = ("model.loss.", "model.fpn_st", "trainer.logger.")
            if path.stem not in ("small_objects", "rvt"):
                assert all(name.startswith(of_losses) for name in written)
        if path.stem not in ("baseline", "preset_base", "input_640x360"):
            assert changes_a_stored_setting(path.stem, stored), path


def changes_a_stored_setting(name, stored):
    """Whether stored settings with a configuration differ from those without it."""
    stacks = [names.split("+") for names in stored]
    return any(
        stored["+".join(stack)] != stored["+".join(others)]
        for stack in stacks
        if name in stack
        for others in [[each for each in stack if each != name] or ["baseline"]]
        if others in stacks
    )


def test_another_loss_has_its_own_defaults():
    loss = resolved("--model.loss", "etram_det.models.losses.SizeAwareLossWrapper")
    own = signature(SizeAwareLossWrapper).parameters
    for name, parameter in own.items():
        value = loss[f"model.loss.init_args.{name}"]
        assert value == (list(parameter.default) if name == "weighted_terms" else parameter.default)
    Path("mine.yaml").write_text("model:\n  loss:\n    class_path: SizeAwareLossWrapper\n")
    by_name = resolved("--config", "mine.yaml")
    assert locate(by_name.pop("model.loss.class_path")) is SizeAwareLossWrapper
    del loss["model.loss.class_path"]
    assert by_name == loss


def test_numbers_and_shares_stay_what_they_are(capsys):
    flags = ["--trainer.limit_val_batches", "1", "--trainer.limit_train_batches", "1.0"]
    with pytest.raises(SystemExit):
        run(["fit", *flags, "--print_config"])
    shown = capsys.readouterr().out
    assert "limit_val_batches: 1\n" in shown
    assert "limit_train_batches: 1.0\n" in shown


def test_the_configuration_of_an_older_run_still_resolves_to_the_same(capsys):
    path = REFERENCE / "run_0.1.0" / "config.yaml"  # with the old names
    with pytest.raises(SystemExit):
        run(["fit", "--config", str(path), "--print_config"])
    now, before = (
        dict(by_dotted_name(yaml.safe_load(text)))
        for text in (capsys.readouterr().out, path.read_text())
    )
    # Settings that are newer than the run have the baseline's values.
    older, baseline = with_new_names(before), resolved()
    newer = {name: baseline[name] for name in now.keys() - older.keys()}
    assert all(
        name.startswith(("data.", "early_stopping.", "model.", "results.")) for name in newer
    )
    assert now == older | newer


def test_files_go_over_the_baseline_and_flags_over_files():
    Path("mine.yaml").write_text("data: {bins: 7}\ntrainer: {max_steps: 7}\n")
    settings = resolved("--trainer.max_steps", "9", "--config", "mine.yaml", "--data.bins", "8")
    assert settings["trainer.max_steps"] == 9  # wherever the flag stands
    assert settings["data.bins"] == 8
    assert settings["trainer.val_check_interval"] == 5000  # of the baseline; Lightning's is 1.0
    assert settings["model.weight_decay"] == 0.0


def test_a_checkpoint_brings_its_network_over_all_settings(caplog):
    path = str(write_random_checkpoint(Path("random.ckpt")))  # of 8 channels
    for flags, given in (([], False), (["--model.embed_dim", "16"], True)):
        caplog.clear()
        with pytest.MonkeyPatch.context() as patches, caplog.at_level(logging.INFO):
            patches.setattr(EtramCLI, "instantiate_classes", lambda cli: None)
            patches.setattr(EtramCLI, "_run_subcommand", lambda cli, command: None)
            cli = lightning_cli(["validate", "--ckpt_path", path, *flags])
        assert cli.config.validate.model.embed_dim == 8
        # What only the baseline has is no wish of the user's.
        line = "model.embed_dim follows the checkpoint: 8 (the configuration has 16)"
        assert [each for each in caplog.messages if "follows" in each] == [line] * given


def test_an_older_checkpoint_keeps_the_epsilon_that_it_was_trained_with():
    path = str(write_random_checkpoint(Path("random.ckpt")))
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"].pop("stem_norm_eps", None)
    torch.save(content, path)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(EtramCLI, "instantiate_classes", lambda cli: None)
        patches.setattr(EtramCLI, "_run_subcommand", lambda cli, command: None)
        cli = lightning_cli(["validate", "--config", "small_objects", "--ckpt_path", path])
    assert cli.config.validate.model.stem_norm_eps == 1e-5


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
        ("--model.motion_bins", "{a: [0, 9], b: [4, 20]}", ["motion_bins.b", "4"]),
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_baseline_checkpoint_serves_an_adaptive_run():
    assert run(["fit", *config_of("baseline"), *SMALL]) == 0
    last = str(run_folder("baseline") / "checkpoints" / "last.ckpt")
    adaptive = [*config_of("size_aware_adaptive"), *SMALL, "--ckpt_path", last]
    assert run(["validate", *adaptive]) == 0
    assert run(["fit", *adaptive, "--trainer.max_steps", "4"]) == 0
    assert state_of("size_aware_adaptive")["loss.size_weight.adapted"]


@pytest.mark.gate
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
    assert "boxes between the label times that data.interval_ms selects" in shown
    assert "score at least 0.01" in shown
    assert "test/AP50" not in shown  # Lightning's own list
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80

    folder = run_folder("baseline") / "test"
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
