"""Evaluations follow the checkpoint, keep their results beside its run, and find it by a word."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from etram_det.checkpoint.file import read_checkpoint
from etram_det.cli.commands import run
from etram_det.cli.lightning import lightning_cli
from etram_det.cli.resume import named_checkpoint, run_folder_of, shipped_checkpoint
from etram_det.cli.trained_settings import trained_settings
from etram_det.errors import UserError
from support.random_checkpoint import write_random_checkpoint

SIMULATED = {"height": 96, "width": 160, "train": 1, "val": 1, "test": 0, "seconds": 0.6}
FIT = ["fit", "--config", "size_aware"]
FIT += [f"--data.simulation.{name}={value}" for name, value in SIMULATED.items()]
FIT += """
    --data.input_size [48,80] --data.num_steps 3 --data.num_workers 0 --data.train_lanes 2
    --data.filters [min_side_5] --data.interval_ms 50 --data.bins 4
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --model.learning_rate 3.0e-3
    --model.score_threshold 0 --model.max_detections 20 --model.nms_threshold 0.6
    --trainer.max_steps 3 --trainer.val_check_interval 3 --trainer.num_sanity_val_steps 0
    --trainer.accelerator cpu --trainer.enable_progress_bar false --pictures.number 0
    --results.video_s 0 --results.report false
""".split()
FIT += ["--model.class_groups", "{all: [car, bus]}"]
FIT += ["--model.size_bins", "{a: [0, 400], b: [400, .inf]}"]
RUN = Path("runs/size_aware/version_0")
LAST = str(RUN / "checkpoints" / "last.ckpt")
QUIET = ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with one run on simulated traffic, the traffic, and what the run detected last."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ETRAM_DET_CACHE", str(folder / "cache"))
        cli = lightning_cli(FIT)
    return folder, cli.model.metric.result.frames.detections


@pytest.fixture(scope="module")
def trained(fitted):
    return fitted[0]


@pytest.fixture
def folder(trained, tmp_path, monkeypatch, caplog):
    """A copy of it, to work in."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "runs", "runs")
    monkeypatch.setenv("ETRAM_DET_CACHE", str(trained / "cache"))
    caplog.set_level(logging.INFO)
    return tmp_path


def metrics_of(folder):
    results = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in results.items() if not isinstance(value, dict)}


@pytest.mark.parametrize("files", [["--config", "size_aware"], []])
def test_the_checkpoint_alone_gives_the_metrics_of_its_training(
    files, folder, fitted, caplog, capsys
):
    cache, expected = fitted[0] / "cache", metrics_of(RUN)
    made = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    capsys.readouterr()
    cli = lightning_cli(["validate", *files, "--ckpt_path", LAST, *QUIET])
    assert metrics_of(RUN / "validate") == pytest.approx(expected, abs=1e-6)
    # A network of three steps finds nothing, but its detections are the same.
    found = cli.model.metric.result.frames.detections
    assert len(found) == len(fitted[1]) >= 20 * expected["num_frames"] > 0
    for name in ("boxes", "scores", "classes", "frame"):
        ours, theirs = getattr(found, name), getattr(fitted[1], name)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6), name
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == made
    [line] = [each for each in caplog.messages if "settings that follow the checkpoint" in each]
    for words in ("data.input_size [48, 80]", "data.simulation.height 96", "data.bins 4"):
        assert words in line
    assert "model.nms_threshold 0.6" in line
    assert not [each for each in caplog.messages if "as given" in each]
    # Beside the run that they belong to, which keeps what it had.
    assert f"report: {RUN}/validate/report.html" in capsys.readouterr().out
    assert metrics_of(RUN) == expected
    # Its curves are kept apart from those of trainings.
    evaluations = Path("runs/evaluations")
    assert sorted(Path("runs").iterdir()) == [evaluations, Path("runs/size_aware")]
    assert list((evaluations / RUN.relative_to("runs") / "validate").glob("events.out*"))
    assert not list((RUN / "validate").glob("events.out*"))
    assert not list((RUN / "validate").glob("checkpoints/*"))


@pytest.mark.gate
def test_evaluations_are_numbered_and_the_newest_one_is_reported(folder, capsys):
    validate = ["validate", "--ckpt_path", "last", *QUIET, "--results.pictures", "0"]
    validate += ["--results.report", "false"]  # a page of several is written below
    assert run(validate) == 0
    assert run([*validate, "--trainer.logger", "false"]) == 0
    assert run([*validate, "--trainer.logger", "CSVLogger"]) == 0
    for name in ("validate", "validate_1", "validate_2"):
        assert metrics_of(RUN / name) == pytest.approx(metrics_of(RUN), abs=1e-6)
        config = yaml.safe_load((RUN / name / "config.yaml").read_text())
        assert config["data"]["input_size"] == [48, 80]
    assert list((RUN / "validate_2").glob("*.csv"))
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    capsys.readouterr()
    assert run(["report", str(RUN)]) == 0
    assert capsys.readouterr().out == f"report of {RUN}/validate_2: {RUN}/report.html\n"
    page = (RUN / "report.html").read_text()
    assert "size_aware/version_0/validate_2" in page
    # A folder of one evaluation is that evaluation's.
    assert run(["report", str(RUN / "validate"), str(RUN / "validate_1")]) == 0
    assert "size_aware/version_0/validate_1" in Path("report.html").read_text()


def test_what_is_given_goes_over_the_checkpoint_and_is_named(folder, caplog):
    Path("mine.yaml").write_text("data: {window_ms: 25, filters: []}\n")
    flags = ["--config", "mine.yaml", "--data.input_size", "[24, 40]", "--model.protocol=prophesee"]
    assert run(["validate", *flags, "--ckpt_path", LAST, *QUIET]) == 0
    given = [each for each in caplog.messages if "as given" in each]
    assert given == [
        "data.input_size: [24, 40] as given, the checkpoint was trained with [48, 80]; "
        "data.window_ms: 25 as given, the checkpoint was trained with 50; "
        "data.filters: [] as given, the checkpoint was trained with ['min_side_5']; "
        "model.protocol: prophesee as given, the checkpoint was trained with full"
    ]
    results = json.loads((RUN / "validate" / "metrics.json").read_text())
    assert results["run"]["input_size"] == [24, 40]
    assert results["evaluation"]["protocol"] == "prophesee"
    config = yaml.safe_load((RUN / "validate" / "config.yaml").read_text())
    assert config["data"]["interval_ms"] == 50


def test_what_is_given_as_it_was_trained_is_not_named(folder, caplog):
    assert run(["validate", *FIT[1:], "--ckpt_path", LAST, "--results.pictures", "0"]) == 0
    assert not [each for each in caplog.messages if "as given" in each or "that follow" in each]


def with_root(root, **others):
    checkpoint = read_checkpoint(LAST, mapped=False)
    checkpoint.provenance["config"]["data"].update(root=root, **others)
    torch.save(checkpoint.content, LAST)
    return checkpoint


@pytest.mark.gate
def test_the_folder_of_recordings_follows_while_it_is_there(folder, trained, caplog, capfd):
    [recording] = (trained / "cache").rglob("val/*_td.h5")
    root = str(recording.parent.parent)
    with_root(root)
    assert run(["validate", "--ckpt_path", LAST, *QUIET]) == 0
    results = json.loads((RUN / "validate" / "metrics.json").read_text())
    assert results["run"]["data"] == root
    assert metrics_of(RUN / "validate") == pytest.approx(metrics_of(RUN), abs=1e-6)
    with_root("gone", subset="names.txt", time_unit="ms")
    assert run(["validate", "--ckpt_path", LAST, *QUIET]) == 2
    assert (
        "data.root: must be a folder of recordings, got none: that of the checkpoint's training, "
        "gone, is not there: set data.root"
    ) in capfd.readouterr().err
    # What belongs to other files than those that are given stays with them.
    assert run(["validate", "--ckpt_path", LAST, "--data.root", root, *QUIET]) == 0
    line = f"data.root: {root} as given, the checkpoint was trained with gone"
    assert line in caplog.messages
    assert metrics_of(RUN / "validate_1") == pytest.approx(metrics_of(RUN), abs=1e-6)


def test_a_checkpoint_without_its_run_says_what_is_used_instead(folder, trained, caplog):
    checkpoint = read_checkpoint(LAST, mapped=False)
    known = ["data.bins", "data.root", "model.max_detections", "data.simulation.height"]
    known += ["trainer.precision", "trainer.max_steps", "data.train_lanes", "data.seed"]
    whole = trained_settings(checkpoint, known)
    assert whole["trainer"] == {"precision": "32-true"}
    assert whole["data"] == {"root": None, "simulation": {"height": 96}, "bins": 4}
    del checkpoint.content["provenance"]
    part = trained_settings(checkpoint, known)
    assert part == {"data": {"bins": 4}, "model": {"max_detections": 20}, "trainer": {}}

    write_random_checkpoint(Path("imported.ckpt"), frames=None)
    flags = [each for each in FIT if each.startswith("--data.simulation")]
    flags += ["--data.input_size", "[48, 80]", "--results.pictures", "0"]
    assert run(["validate", "--ckpt_path", "imported.ckpt", *flags, *QUIET]) == 0
    assert (
        "ckpt_path: holds no settings of frames and labels: using those of the configuration "
        "(input_size [48, 80], window_ms 50, …)"
    ) in caplog.messages
    assert (
        Path("runs/evaluations/validate") / "metrics.json"
    ).is_file()  # it has no run of its own


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bins": "many"}, "must hold settings that are possible, got "),
        ({"bins": torch.zeros(1)}, "its settings must be plain values, got others ("),
    ],
)
def test_settings_that_are_damaged_are_refused_in_a_line(values, words, folder, capfd):
    with_root(None, **values)
    assert run(["validate", "--ckpt_path", LAST, *QUIET]) == 2
    [line] = [each for each in capfd.readouterr().err.splitlines() if "error:" in each]
    assert f"{LAST}: {words}" in line
    assert "the checkpoint is damaged" in line


def test_last_and_best_are_those_of_the_newest_run_wherever_one_is_taken(
    folder, trained, caplog, capfd
):
    other = Path("runs/other/version_3/checkpoints/last.ckpt")
    other.parent.mkdir(parents=True)
    shutil.copy2(LAST, other)
    best = RUN / "checkpoints" / "best.ckpt"
    assert named_checkpoint("best", "file") == str(best)
    assert named_checkpoint("last", "file", Path("runs/size_aware")) == LAST
    assert named_checkpoint("other.ckpt", "file") == "other.ckpt"
    assert named_checkpoint("package", "file") == str(shipped_checkpoint())
    other.write_bytes(other.read_bytes())  # newer now
    assert named_checkpoint("last", "file") == str(other)
    several = other.with_name("best-5.ckpt")
    several.write_bytes(b"")
    with pytest.raises(UserError, match=r"best.ckpt of the newest run, got best-5.ckpt in runs/o"):
        named_checkpoint("best", "file")
    several.unlink()

    assert run(["checkpoint", "best", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["file"] == str(best)
    [recording] = (trained / "cache").rglob("val/*_td.h5")
    assert run(["detect", str(recording), "--ckpt_path", "best", "--video", "false"]) == 0
    caplog.clear()
    assert run([*FIT, "--trainer.max_steps", "1", "--model.init_from", "best"]) == 0
    assert f"model.init_from: {best}" in caplog.messages
    caplog.clear()
    # The run that began there, not the one that the word stands for now.
    again = ["--trainer.max_steps", "2", "--model.init_from", "best", "--resume", "auto"]
    assert run([*FIT, *again]) == 0
    last = RUN.with_name("version_1") / "checkpoints" / "last.ckpt"
    assert f"resume: going on from {last}, after 1 steps" in caplog.messages
    caplog.clear()
    # It began at a best.ckpt, so not at the newest last.ckpt.
    other = [*again[:-3], "last", *again[-2:]]
    assert run([*FIT, *other]) == 0
    assert any("no last.ckpt of these settings yet" in each for each in caplog.messages)


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        (["validate", "--ckpt_path", "last"], "ckpt_path"),
        (["detect", "-", "--ckpt_path", "last"], "ckpt_path"),
        (["checkpoint", "last"], "file"),
        (["fit", "--model.init_from", "last"], "model.init_from"),
    ],
)
def test_no_run_to_take_it_from_is_an_error_in_a_line(
    command, setting, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    assert run(command) == 2
    assert capfd.readouterr().err.strip() == (
        f"etram_det: error: {setting}: last must be last.ckpt of an earlier run, got none in runs: "
        "set it to the path of a checkpoint"
    )


def test_run_folders_are_told_from_other_folders(folder):
    assert run_folder_of(LAST) == RUN
    assert run_folder_of(Path(LAST).resolve()) == RUN
    Path("checkpoints").mkdir()
    shutil.copy(LAST, "checkpoints/last.ckpt")
    assert run_folder_of("checkpoints/last.ckpt") is None
    shutil.copy(LAST, RUN / "last.ckpt")
    assert run_folder_of(RUN / "last.ckpt") is None
