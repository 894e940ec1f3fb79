"""Each run has one folder, whatever its loggers, and everything finds it."""

import csv
import shutil
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import yaml
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from etram_det.checkpoint.file import read_checkpoint
from etram_det.cli.commands import run
from etram_det.cli.resume import folder_of_runs
from etram_det.training.run_folder import RunPlace, RunTrainer, place_of_evaluation
from support.tiny_runs import RUN, SETTINGS, steps

FIT = [*SETTINGS, *steps(2, validation=2), "--pictures.number", "0"]
LOGGERS = "pytorch_lightning.loggers"
TENSORBOARD, CSV, WANDB = (
    {"class_path": f"{LOGGERS}.{name}", "init_args": settings}
    for name, settings in (
        ("TensorBoardLogger", {"save_dir": "runs", "name": "size_aware"}),
        ("CSVLogger", {"save_dir": "runs"}),
        ("WandbLogger", {"save_dir": "runs", "project": "tiny"}),
    )
)
CHOICES = {
    "none": False,
    "csv": {"class_path": CSV["class_path"]},  # with the name that the configuration has
    "wandb": {"class_path": WANDB["class_path"]},
    "wandb, csv, tensorboard": [WANDB, CSV, TENSORBOARD],
}


@pytest.fixture(autouse=True)
def _tiny(tiny_folder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "wandb")),
        pytest.param("wandb, csv, tensorboard", marks=pytest.mark.gate),
    ],
)
def test_all_of_a_run_is_in_one_folder_that_no_later_run_writes_to(choice, capsys):
    if "wandb" in choice:
        pytest.importorskip("wandb")
    Path("loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": CHOICES[choice]}}))
    fit = [*FIT, "--config", "loggers.yaml"]
    assert run(fit) == 0
    runs = RUN.parent
    first = files_of(runs / "version_0")
    expected = {"config.yaml", "provenance.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"}
    assert expected | {"metrics.json", "recordings.csv", "pr_curves.npz"} <= first.keys()
    if "csv" in choice:
        assert b"val/AP" in first["metrics.csv"]
        assert b"AP," in first["evaluation.csv"]
    assert any("events.out" in name for name in first) == ("tensorboard" in choice)

    if "wandb" in choice:
        sys.modules["wandb"].finish()  # which a program does at its end
    assert run([*fit, "--model.learning_rate", "1.0e-3"]) == 0
    assert files_of(runs / "version_0") == first
    assert [path.name for path in sorted(runs.iterdir())] == ["version_0", "version_1"]
    assert {path.name for path in Path().iterdir()} <= {"data", "runs", "loggers.yaml", "wandb"}

    # The run is found again, and goes on where it is.
    how = ["--resume", "auto"] if choice in ("none", "csv") else ["--ckpt_path", "last"]
    assert run([*fit, "--trainer.max_steps", "4", *how]) == 0
    assert [path.name for path in sorted(runs.iterdir())] == ["version_0", "version_1"]
    # The newest one, or the newest one of the same settings.
    gone_on = runs / ("version_0" if choice in ("none", "csv") else "version_1")
    assert read_checkpoint(gone_on / "checkpoints" / "last.ckpt").step == 4
    if "csv" in choice:
        with (gone_on / "metrics.csv").open() as file:
            rows = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
        assert rows == [0, 1, 2, 3]
    capsys.readouterr()
    assert run(["report", str(gone_on)]) == 0
    assert capsys.readouterr().out == f"report: {gone_on / 'report.html'}\n"


B3, MINE = "a/b/version_3", ("s/mine", None)


@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        (TENSORBOARD, ("runs/size_aware", None)),
        ([WANDB, TENSORBOARD], ("runs/size_aware", None)),
        ([CSV, TENSORBOARD], ("runs/lightning_logs", None)),
        (CSV | {"init_args": {"save_dir": "a", "name": "", "version": "x"}}, ("a", "a/x")),
        (CSV | {"init_args": {"save_dir": "a", "name": "b", "version": 3}}, ("a/b", B3)),
        (WANDB | {"init_args": {"save_dir": ".", "name": "mine", "version": "3"}}, MINE),
        (WANDB, ("s/before", None)),
        (False, ("s/before", None)),
        (True, ("s/before", None)),
    ],
)  # fmt: skip
def test_the_folder_of_runs_follows_the_loggers(logger, folder):
    runs, version = folder_of_runs(
        {"trainer": {"logger": logger}}, {"save_dir": "s", "name": "before"}
    )
    assert (str(runs), version and str(version)) == folder
    trainer = {"logger": False, "default_root_dir": "elsewhere"}
    assert folder_of_runs({"trainer": trainer})[0] == Path("elsewhere/lightning_logs")


def test_numbers_go_up_and_are_given_once():
    for name in ("version_3", "version_10", "version_x"):
        (Path("runs") / name).mkdir(parents=True)
    Path("runs/version_11").write_text("a file")
    assert RunPlace(Path("runs")).make() == Path("runs/version_12")
    assert RunPlace(Path("runs")).make() == Path("runs/version_13")
    assert [RunPlace(Path("a"), "test", first="test").make().name for _ in range(3)] == [
        "test",
        "test_1",
        "test_2",
    ]
    place = RunPlace(Path("runs"), folder=Path("runs/version_3"))
    assert place.make() == place.make() == Path("runs/version_3")


def test_curves_of_evaluations_lie_apart_from_those_of_trainings():
    runs = Path("runs/mine")
    (runs / "version_3").mkdir(parents=True)
    inside = place_of_evaluation("test", runs / "version_3", runs)
    assert (inside.parent, inside.events) == (
        runs / "version_3",
        Path("runs/evaluations/mine/version_3"),
    )
    trainer = RunTrainer(
        logger=[TensorBoardLogger("runs", "mine"), CSVLogger("runs", "mine")],
        accelerator="cpu",
        enable_progress_bar=False,
    )
    trainer.place = place_of_evaluation("test", runs / "version_3", runs)
    assert trainer.log_dir == "runs/mine/version_3/test"
    assert [str(each.log_dir) for each in trainer.loggers] == [
        "runs/evaluations/mine/version_3/test",
        "runs/mine/version_3/test",
    ]
    # A run elsewhere keeps them; a checkpoint in no run has no other place.
    Path("elsewhere/version_0").mkdir(parents=True)
    assert place_of_evaluation("test", Path("elsewhere/version_0"), runs).events is None
    alone = place_of_evaluation("predict", None, runs)
    assert alone.make() == Path("runs/evaluations/predict")


def test_a_home_is_found_in_names_of_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    logger = TensorBoardLogger("~/runs", name="$HOME_OF_RUNS")
    monkeypatch.setenv("HOME_OF_RUNS", "mine")
    settings = {"save_dir": "~/runs", "name": "mine"}
    runs, _ = folder_of_runs({"trainer": {"logger": TENSORBOARD | {"init_args": settings}}})
    trainer = RunTrainer(logger=logger, accelerator="cpu", enable_progress_bar=False)
    trainer.place = RunPlace(runs)
    assert trainer.log_dir == logger.log_dir == str(tmp_path / "runs" / "mine" / "version_0")


def test_loggers_write_into_the_run_folder_unless_they_have_another_place():
    settings = {"TB": ("a/b", TensorBoardLogger), "CSV": ("a", CSVLogger)}
    loggers = [kind(folder) for folder, kind in settings.values()]
    loggers += [CSVLogger("a", name="own"), CSVLogger("a", version=4), TensorBoardLogger("", "a")]
    trainer = RunTrainer(logger=loggers, accelerator="cpu", enable_progress_bar=False)
    trainer.place = RunPlace(Path("a/run"))
    folder = Path(trainer.log_dir)
    assert folder == Path("a/run/version_0")
    assert [Path(each.log_dir) for each in loggers] == [
        Path("a/b/lightning_logs/version_0"),
        folder,
        Path("a/own/version_0"),
        Path("a/lightning_logs/version_4"),
        Path("a/version_0"),
    ]
    assert trainer.checkpoint_callback.dirpath == str(folder / "checkpoints")
    assert trainer.log_dir == str(folder)
    plain = RunTrainer(logger=CSVLogger("c"), accelerator="cpu", enable_progress_bar=False)
    assert Path(plain.log_dir) == Path("c/lightning_logs/version_0")
    assert isinstance(plain, pl.Trainer)


def test_a_second_checkpoint_callback_and_early_stopping_leave_ours_alone(capsys):
    callbacks = [
        {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {"every_n_train_steps": 1, "save_top_k": -1, "save_last": True},
        },
        {
            "class_path": "pytorch_lightning.callbacks.EarlyStopping",
            "init_args": {"monitor": "val/AR", "mode": "max", "patience": 1, "min_delta": 1.0},
        },
    ]
    Path("mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    flags = ["--config", "mine.yaml", "--trainer.max_steps", "12"]
    assert run([*FIT, *flags]) == 0
    best = RUN / "checkpoints" / "best.ckpt"
    lines = capsys.readouterr().out.splitlines()
    [line] = [each for each in lines if each.startswith("best checkpoint (val/AP ")]
    assert line.endswith(f": {best}")
    names = {path.name for path in best.parent.iterdir()}
    assert {"best.ckpt", "last.ckpt", "epoch=0-step=1.ckpt", "epoch=0-step=3.ckpt"} <= names
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt").step == 4  # EarlyStopping's end
    assert read_checkpoint(best).best["metric"] == "val/AP"


@pytest.mark.gate
def test_a_training_without_a_validation_split_needs_none(capsys, caplog):
    shutil.copytree("data/train", "alone/train")
    flags = ["--data.root", "alone", "--trainer.limit_val_batches", "0", "--trainer.max_steps", "3"]
    assert run([*FIT, *flags, "--trainer.num_sanity_val_steps", "2"]) == 0
    assert [path.name for path in (RUN / "checkpoints").iterdir()] == ["last.ckpt"]
    last = RUN / "checkpoints" / "last.ckpt"
    assert f"\nlast checkpoint: {last}\n" in capsys.readouterr().out
    # It goes on, exactly, with a validation as without one.
    assert run([*FIT, *flags, "--trainer.max_steps", "4", "--resume", "auto"]) == 0
    assert read_checkpoint(last).step == 4
    Path("alone/val").symlink_to(Path("data/val").resolve())
    flags += ["--trainer.limit_val_batches", "1.0", "--trainer.max_steps", "6"]
    assert run([*FIT, *flags, "--resume", "auto"]) == 0
    assert "cannot go on exactly" not in caplog.text
    assert "do not compare" not in caplog.text
    assert (RUN / "checkpoints" / "best.ckpt").is_file()
    assert run([*FIT, "--data.root", "alone"]) == 0
    Path("alone/val").unlink()
    assert run([*FIT, "--data.root", "alone"]) == 2
