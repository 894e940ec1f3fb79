"""The command line as its users meet it: the shipped configurations, and mistakes."""

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from etram_det.cli.commands import run
from etram_det.cli.lightning import EtramCLI, lightning_cli
from support.paths import ROOT
from support.small_runs import PREPROCESSED, RAW, SMALL_RAW, TINY

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = [path for path in CONFIGS if path.read_text().startswith("# Overlay")]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def version(number=0, name="size_aware"):
    return Path("runs") / name / f"version_{number}"


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def instantiate(*arguments):
    return lightning_cli(["fit", *arguments], run=False)


def test_there_are_configurations():
    names = {path.stem for path in CONFIGS}
    assert {"baseline", "size_aware", "quick", "preset_tiny", "preset_small"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_instantiates(path):
    if path.stem == "log_wandb":
        pytest.importorskip("wandb")
    base = ["--config", str(ROOT / "configs" / "size_aware.yaml")] if path in OVERLAYS else []
    cli = instantiate(*base, "--config", str(path))
    assert isinstance(cli, EtramCLI)
    written = yaml.safe_load(path.read_text())
    for name, value in written.get("model", {}).items():
        if name not in ("loss", "assignment", "class_groups"):
            assert cli.model.hparams[name] == value


def leaves(mapping, prefix=""):
    for key, value in mapping.items():
        if (
            isinstance(value, dict)
            and "class_path" not in value
            and value
            and key != "class_groups"
        ):
            yield from leaves(value, f"{prefix}{key}.")
        elif prefix + key != "trainer.logger":
            yield f"{prefix}{key}".removesuffix("+")


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_every_key_of_the_configurations_is_documented(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        run(["fit", flag])
    assert stop.value.code == 0
    options = capsys.readouterr().out.split("\noptions:", 1)[1]
    entries = dict(
        re.findall(r"^  --([\w.]+)[ ,](.*?)(?=^  -|^\S|\Z)", options, re.DOTALL | re.MULTILINE)
    )
    keys = {key for path in CONFIGS for key in leaves(yaml.safe_load(path.read_text()) or {})}
    assert len(keys) > 100
    # Lightning's callbacks are among the settings that few use.
    kept = {"--help": {"trainer.callbacks"}, "--help-all": set()}[flag]
    for key in keys - {"trainer.logger.init_args.name"} - kept:
        # More than the type and the default that jsonargparse adds by itself.
        words = re.split(r"\((?:type|default):", entries[key])[0].split()
        assert len(words) > 3, f"{key} is not explained"


def test_print_config_shows_what_is_linked(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["fit", *SMALL_RAW, "--data.bins", "5", "--print_config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["bins"] == 5
    assert config["model"]["embed_dim"] == 8
    three_classes = ["--data.class_names", "etram3", "--model.class_groups", "null"]
    cli = instantiate(*SMALL_RAW, "--data.bins", "5", *three_classes)
    assert cli.model.hparams["in_channels"] == 10
    assert len(cli.model.class_names) == 3


def test_fit_validate_test_predict(capsys):
    assert run(["fit", *SMALL_RAW]) == 0
    shown = capsys.readouterr().out
    assert "protocol full" in shown
    assert "wheelchair" in shown
    trained = metrics_of(version(0))
    assert trained["num_frames"] == 6
    assert "AP" in trained
    assert "AP_car" not in trained  # the validation recording holds none

    best = str(version(0) / "checkpoints" / "best.ckpt")
    capsys.readouterr()
    assert run(["validate", *SMALL_RAW, "--ckpt_path", best]) == 0
    assert "─ val, after 4 steps ─" in capsys.readouterr().out
    again = metrics_of(version() / "validate")
    assert trained["run"]["step"] == again["run"]["step"] == 4
    # Not among the trainings in TensorBoard's list.
    run_folder = version().relative_to("runs")
    events = EventAccumulator(str(Path("runs") / "evaluations" / run_folder / "validate"))
    events.Reload()
    assert not list((version() / "validate").glob("events.out*"))
    tags = events.Tags()
    assert {event.step for tag in tags["scalars"] for event in events.Scalars(tag)} == {4}
    assert {event.step for tag in tags["tensors"] for event in events.Tensors(tag)} == {4}
    assert {event.step for tag in tags["images"] for event in events.Images(tag)} == {4}
    for name, value in trained.items():
        if not isinstance(value, dict):
            assert again[name] == pytest.approx(value, abs=1e-6)

    assert run(["test", *SMALL_RAW, "--ckpt_path", best]) == 0
    assert metrics_of(version() / "test")["num_frames"] == 5

    few = ["--model.max_detections", "3", "--model.score_threshold", "0"]
    capsys.readouterr()
    assert run(["predict", *SMALL_RAW, *few, "--ckpt_path", best]) == 0
    folder = version() / "predict" / "predictions"
    assert f"detections are in {folder}\n" in capsys.readouterr().out
    boxes = np.load(folder / "test_day_0001_bbox.npy")
    assert len(boxes) > 0
    _, counts = np.unique(boxes["t"], return_counts=True)
    assert (counts == 3).all()
    assert boxes["class_id"].max() < 8


@pytest.mark.gate
def test_a_checkpoint_brings_its_network_along(capsys):
    assert run(["fit", *SMALL_RAW]) == 0
    other = [*SMALL_RAW, "--model.embed_dim", "16"]
    checkpoint = str(version(0) / "checkpoints" / "last.ckpt")
    assert run(["validate", *other, "--ckpt_path", checkpoint]) == 0


@pytest.mark.slow
def test_one_seed_gives_one_result_with_any_number_of_workers():
    workers = [["--data.num_workers", str(number)] for number in (0, 0, 1, 3)]
    for number, extra in enumerate(workers):
        assert run(["fit", *SMALL_RAW, *extra]) == 0
        assert_same(weights_of(version(number)), weights_of(version(0)))
        assert metrics_of(version(number)) == metrics_of(version(0))
    assert run(["fit", *SMALL_RAW, "--seed_everything", "2"]) == 0
    with pytest.raises(AssertionError):
        assert_same(weights_of(version(4)), weights_of(version(0)))


@pytest.mark.slow
def test_weight_averaging_keeps_the_average():
    assert run(["fit", *SMALL_RAW]) == 0
    overlay = str(ROOT / "configs" / "weight_averaging.yaml")
    assert run(["fit", *SMALL_RAW, "--config", overlay]) == 0
    plain, averaged = weights_of(version(0)), weights_of(version(1))
    name = "detector.head.box_outputs.0.weight"
    # The average follows the weights after a few steps, and does not reach them.
    start = instantiate(*SMALL_RAW).model.state_dict()[name]
    assert 0 < (averaged[name] - start).norm() < (plain[name] - start).norm()


@pytest.mark.slow
def test_other_loggers_can_be_chosen():
    flags = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "elsewhere"]
    assert run(["fit", *SMALL_RAW, *flags]) == 0
    [written] = Path("elsewhere").rglob("metrics.csv")
    assert "val/AP50" in written.read_text()
    assert "AP50," in written.with_name("evaluation.csv").read_text()


@pytest.mark.slow
def test_the_progress_bar_can_be_turned_off(capsys):
    assert run(["fit", *SMALL_RAW, "--trainer.enable_progress_bar", "false"]) == 0
    shown = capsys.readouterr().out
    assert "it/s" not in shown
    assert "best checkpoint (val/AP" in shown


@pytest.mark.gate
@pytest.mark.parametrize("root", [RAW, PREPROCESSED], ids=["raw", "preprocessed"])
def test_fast_dev_run_on_both_layouts(root):
    settings = [*TINY, "--data.root", str(root), "--data.downsample", "nearest"]
    assert run(["fit", *settings, "--trainer.fast_dev_run", "true"]) == 0


def test_without_a_root_simulated_traffic_is_made_once(caplog):
    simulation = {"height": 96, "width": 160, "train": 1, "val": 1, "test": 0, "seconds": 0.6}
    flags = [f"--data.simulation.{key}={value}" for key, value in simulation.items()]
    settings = [*TINY, *flags, "--data.input_size", "[48, 80]", "--trainer.fast_dev_run", "true"]
    assert run(["fit", *settings]) == 0
    assert "data.root is not set: using simulated traffic" in caplog.text
    made = {path: path.stat().st_mtime_ns for path in Path("cache").rglob("*_td.h5")}
    assert len(made) == 2
    assert run(["fit", *settings]) == 0
    assert {path: path.stat().st_mtime_ns for path in Path("cache").rglob("*_td.h5")} == made


def copy_of_raw(tmp_path):
    return Path(shutil.copytree(RAW, tmp_path / "data"))


def rewrite_boxes(path, change):
    boxes = np.load(path)
    np.save(path, change(boxes))


def without_field(boxes):
    kept = [name for name in boxes.dtype.names if name != "class_id"]
    changed = np.zeros(len(boxes), dtype=[(name, boxes.dtype[name]) for name in kept])
    for name in kept:
        changed[name] = boxes[name]
    return changed


def beyond_classes(boxes):
    boxes["class_id"] = 9
    return boxes


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def drop_times(path):
    with h5py.File(path, "r+") as file:
        del file["events/t"]


# Name: (damage to a copy of the data, extra flags, what the one line must say)
MISTAKES = {
    "missing root": (None, ["--data.root", "nowhere"], ["data.root", "nowhere"]),
    "empty split": (
        lambda root: shutil.rmtree(root / "val"),
        [],
        ["val"],
    ),
    "no boxes": (
        lambda root: next(root.glob("train/*_bbox.npy")).unlink(),
        [],
        ["train_day_0001"],
    ),
    "truncated HDF5": (lambda root: truncate(next(root.glob("train/*_td.h5"))), [], ["_td.h5"]),
    "no events/t": (
        lambda root: drop_times(next(root.glob("train/*_td.h5"))),
        [],
        ["_td.h5", "events/t"],
    ),
    "box field": (
        lambda root: rewrite_boxes(next(root.glob("train/*_bbox.npy")), without_field),
        [],
        ["_bbox.npy", "class_id"],
    ),
    "class ids": (
        lambda root: rewrite_boxes(next(root.glob("train/*_bbox.npy")), beyond_classes),
        [],
        ["_bbox.npy", "9", "wheelchair"],
    ),
    "input size": (None, ["--data.input_size", "[0, 160]"], ["data.input_size", "0"]),
    "lanes": (None, ["--data.train_lanes", "0"], ["data.train_lanes", "0"]),
    "unknown key": (None, ["--model.embed_dims", "8"], ["embed_dims"]),
    "wrong type": (None, ["--model.embed_dim", "many"], ["embed_dim", "many"]),
    "network": (None, ["--model.dim_head", "5"], ["model.dim_head", "5"]),
    "stages": (None, ["--model.fpn_stages", "[1, 3]"], ["model.fpn_stages"]),
    "bins": (None, ["--model.size_bins", "{a: [9, 1]}"], ["size_bins"]),
    "group": (None, ["--model.class_groups", "{x: [cyclist]}"], ["class_groups", "cyclist"]),
    "checkpoint": (None, ["--ckpt_path", "none.ckpt"], ["none.ckpt"]),
    "word of Lightning's": (None, ["--ckpt_path", "hpc"], ["ckpt_path: no file hpc"]),
    "precision": (
        None,
        ["--trainer.precision", "bf16-true"],
        ["trainer.precision: must be one of 32-true, bf16-mixed, 16-mixed, got bf16-true"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_one_line_and_leave_nothing(mistake, tmp_path, capfd):
    damage, flags, words = MISTAKES[mistake]
    root = copy_of_raw(tmp_path)
    if damage is not None:
        damage(root)
    assert run(["fit", *SMALL_RAW, "--data.root", str(root), *flags]) == 2
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "Traceback" not in error
    for word in words:
        assert word in lines[0]
    assert not Path("runs").exists()


def test_unknown_key_in_a_file_names_the_key(capfd):
    Path("mine.yaml").write_text("model:\n  embed_dims: 8\n")
    assert run(["fit", *SMALL_RAW, "--config", "mine.yaml"]) == 2
    error = capfd.readouterr().err
    assert "embed_dims" in error
    assert "Traceback" not in error


def test_checkpoint_of_other_classes_is_refused(capfd):
    assert run(["fit", *SMALL_RAW]) == 0
    checkpoint = str(version(0) / "checkpoints" / "last.ckpt")
    names = "[a, b, c, d, e, f, g, h]"
    capfd.readouterr()
    flags = ["--data.class_names", names, "--model.class_groups", "null"]
    assert run(["validate", *SMALL_RAW, *flags, "--ckpt_path", checkpoint]) == 2
    error = capfd.readouterr().err
    assert "'wheelchair'" in error
    assert "'h'" in error
    assert "Traceback" not in error


def test_unknown_command(capfd):
    assert run(["train"]) == 2
    assert "fit, validate, test, predict" in capfd.readouterr().err


def test_overview_lists_every_command(capsys):
    assert run([]) == 0
    text = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "simulate"):
        assert f"  {command} " in text
