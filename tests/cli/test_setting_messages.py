"""Mistakes in settings: each ends with one line that names the setting."""

import logging
from pathlib import Path

import pytest

from etram_det.cli.commands import run
from etram_det.cli.messages import with_nearest_setting
from etram_det.data.labels import ETRAM_CLASSES
from support.paths import ROOT
from support.random_checkpoint import write_random_checkpoint

RAW = str(ROOT / "tests" / "reference" / "raw_etram")
KNOWN = ["data.root", "data.num_steps", "model.embed_dim", "trainer.max_steps", "seed_everything"]
SETTINGS = ["--config", str(ROOT / "configs" / "size_aware.yaml"), "--data.root", RAW]
SETTINGS += """
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33
    --data.num_workers 0 --data.train_lanes 2 --data.input_size [90,160]
    --trainer.accelerator cpu --trainer.enable_progress_bar false
    --trainer.limit_val_batches 0 --trainer.num_sanity_val_steps 0
""".split()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def the_line(arguments, capfd, command="fit"):
    """What the command line ends with, and nothing beside it."""
    capfd.readouterr()
    assert run([command, *SETTINGS, *arguments]) == 2
    error = capfd.readouterr().err
    assert not Path("runs").exists()
    [line] = [line for line in error.splitlines() if line and not line.startswith("Seed set")]
    return line.removeprefix("etram_det: error: ")


@pytest.mark.parametrize(
    ("message", "nearest"),
    [
        ("Subcommand 'fit' does not accept option 'data.num_step'", "data.num_steps"),
        ("Group 'model' does not accept option 'embed_dims'", "model.embed_dim"),
        ("unrecognized arguments: --max_steps 7", "trainer.max_steps"),
        ("unrecognized arguments: --data.num_step=7", "data.num_steps"),
        ("Option 'seed' is not accepted", None),
        ("unrecognized arguments: --data.nonsense=7", None),
        ("expected one argument", None),
    ],
)
def test_the_nearest_setting_stands_behind_the_message(message, nearest):
    suggestion = f": the nearest setting is {nearest}" if nearest else ""
    assert with_nearest_setting(message, KNOWN) == message + suggestion


def test_a_message_of_several_lines_becomes_one():
    assert with_nearest_setting("Parser key:\n  - Expected\n    an int") == (
        "Parser key: - Expected an int"
    )


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--model.embed_dim", "many"],
            "model.embed_dim: must be a whole number, got many: give one",
        ),
        (
            ["--model.schedule", "steep"],
            "model.schedule: must be one of linear, cosine, constant, got steep: use one of these",
        ),
        (
            ["--model.loss.size_aware_weight", "many"],
            "model.loss.size_aware_weight: must be a number, got many: give one",
        ),
        (
            ["--model.loss", "nowhere.Loss"],
            "model.loss: nowhere.Loss cannot be used (No module named 'nowhere'): correct it, or "
            "name another class",
        ),
        (
            ["--data.input_size", "360"],
            "data.input_size: must be a list, got 360: write it in brackets, with commas: [A, B]",
        ),
        (["--data.nonsense", "7"], "unrecognized arguments: --data.nonsense 7"),
        (
            ["--data.simulation.heigth", "7"],
            "unrecognized arguments: --data.simulation.heigth 7: the nearest setting is "
            "data.simulation.height",
        ),
        (
            ["--data.class_names", "etram3"],
            "model.class_groups.VH: must be ids or names out of 0 pedestrian, 1 vehicle, "
            "2 micro-mobility, got ['car', 'bus', 'truck', 'tram']: set such, or "
            "no groups by --model.class_groups null",
        ),
        (
            ["--trainer.max_steps", "-1"],
            "trainer.max_steps: must be a number of steps for model.schedule linear, got -1: "
            "set trainer.max_steps or trainer.max_epochs, or model.schedule to constant",
        ),
        (
            ["--trainer.max_steps", "0"],
            "trainer.max_steps: must be at least 1 for fit, got 0: set a number of steps, or use "
            "validate",
        ),
        (
            ["--trainer.val_check_interval", "0"],
            "trainer.val_check_interval: must be above 0, got 0: set a number of steps, or a "
            "share of an epoch",
        ),
        (
            ["--trainer.gradient_clip_val", "-1"],
            "trainer.gradient_clip_val: must be at least 0, got -1: raise it",
        ),
        (["--model.weight_decay", "-1"], "model.weight_decay: must be in [0, inf), got -1.0"),
        (["--model.score_threshold", "7"], "model.score_threshold: must be in [0, 1], got 7.0"),
        (
            ["--model.forget_every", "20", "--trainer.max_steps", "9"],
            "model.forget_every: must divide data.num_steps, 5, got 20: set 1 or 5",
        ),
        (["--model.nms_threshold", "-1"], "model.nms_threshold: must be in [0, 1], got -1.0"),
        (
            ["--data.sampling", "often"],
            "data.sampling: must be one of stream, random, mixed, got often: use one of these",
        ),
        (
            ["--data.multiprocessing_context", "often"],
            "data.multiprocessing_context: must be one of fork, spawn, forkserver, got often: use",
        ),
        (
            ["--model.assignment", "SizeAwareSimOTA", "--model.assignment.similarity", "giou"],
            "model.assignment.similarity: must be one of max, nwd, iou, blend, got giou: use one",
        ),
        (
            ["--config", "nwd", "--model.loss.box.second.scale", "0"],
            "model.loss: scale of NWDLoss: must be a positive number of pixels, got 0.0: use 12.8",
        ),
        (["--model.max_detections", "0"], "model.max_detections: must be in [1, inf), got 0"),
        (["--model.learning_rate", "0"], "model.learning_rate: must be in (0, 100), got 0.0"),
        (
            ["--data.input_size", "[0, 0]"],
            "data.input_size: must be height and width in pixels, got (0, 0): set both to at "
            "least 1, such as [360, 640]",
        ),
    ],
)
def test_settings_that_do_not_fit_are_reported_in_one_line(flags, line, capfd):
    assert the_line(flags, capfd).startswith(line)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "data: {num_step: 3}\n",
            "Subcommand 'fit' does not accept option 'data.num_step': the nearest setting is "
            "data.num_steps",
        ),
        (
            "model: {embed_dim: many}\n",
            "mine.yaml: model.embed_dim: must be a whole number, got many: give one",
        ),
    ],
)
def test_mistakes_in_a_file_are_reported_with_its_name(content, line, capfd):
    Path("mine.yaml").write_text(content)
    assert the_line(["--config", "mine.yaml"], capfd).startswith(line)


@pytest.mark.parametrize("content", ["", "# data:\n#   bins: 5\n"])
def test_a_file_of_nothing_but_comments_holds_no_settings(content, capfd):
    Path("mine.yaml").write_text(content)
    few_steps = ["--trainer.max_steps", "1", "--config", "mine.yaml"]
    assert run(["fit", *SETTINGS, *few_steps]) == 0


@pytest.mark.parametrize("flags", [[], ["--model.init_from", "random.ckpt"]])
@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_random_weights_are_not_evaluated(command, flags, capfd):
    line = f"ckpt_path: must be set for {command}, got nothing: use --ckpt_path FILE"
    assert the_line(flags, capfd, command).startswith(line)


@pytest.mark.parametrize("groups", [[], ["--model.class_groups", "null"]])
def test_a_checkpoint_of_other_classes_is_reported_first(groups, capfd):
    path = str(write_random_checkpoint(Path("random.ckpt")))
    flags = ["--ckpt_path", path, "--data.class_names", "etram3", *groups]
    assert the_line(flags, capfd, "validate") == (
        f"data.class_names: must be the checkpoint's {list(ETRAM_CLASSES)}, got "
        "['pedestrian', 'vehicle', 'micro-mobility']: set data.class_names to the classes that "
        "the checkpoint was trained on, or use another checkpoint"
    )


def test_a_run_that_is_done_says_so(caplog, capfd):
    caplog.set_level(logging.INFO)
    assert run(["fit", *SETTINGS, "--trainer.max_steps", "2"]) == 0
    last = "runs/size_aware/version_0/checkpoints/last.ckpt"
    line = (
        "ckpt_path: the checkpoint is at step 2 already and trainer.max_steps is {}, so nothing is "
        "left to train: raise trainer.max_steps to go on"
    )
    for max_steps in (2, 1):
        caplog.clear()
        flags = ["--trainer.max_steps", str(max_steps), "--ckpt_path", last]
        assert run(["fit", *SETTINGS, *flags]) == 0
        assert line.format(max_steps) in caplog.messages
    caplog.clear()
    assert run(["fit", *SETTINGS, "--trainer.max_steps", "3", "--ckpt_path", last]) == 0
    assert "already" not in caplog.text
