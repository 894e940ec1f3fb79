"""When checkpoints are written, what ends a run with one, and what they hold."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from etram_det import files
from etram_det.checkpoint.file import read_checkpoint
from etram_det.cli import commands
from etram_det.cli.lightning import lightning_cli
from etram_det.errors import UserError
from etram_det.training.callbacks.run_checkpoint import RunCheckpoint, requeue_job
from etram_det.training.module import DetectionModule
from support.tiny_runs import (
    RUN,
    SHORT,
    assert_same,
    at_the_training_step,
    outcome,
    run_to_its_end,
    said,
    send,
    steps,
    stop_after,
    unbroken,
)

pytestmark = pytest.mark.usefixtures("tiny_folder")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_ends_a_run_with_a_checkpoint(number, short_outcome):
    ask = partial(at_the_training_step, 3, partial(send, number))
    assert run_to_its_end(SHORT, ask) == 128 + number
    text = said()
    path = RUN / "checkpoints" / "last.ckpt"
    stopped = f"etram_det: stopped by {number.name} after 3 steps: checkpoint {path}"
    assert f"{stopped}; use --resume auto to go on\n" in text
    assert "Traceback" not in text
    assert text.count("Ctrl-C again ends at once") == (number == signal.SIGINT)
    # What follows goes on there without --resume, too.
    assert run_to_its_end([*SHORT, "--resume", "never", "--ckpt_path", "last"]) == 0
    assert_same(outcome(), short_outcome)


def send_to_all(number):
    os.killpg(0, number)


def in_a_group(before):
    """Make a job of its own of a process and those that it starts, then do the rest."""
    os.setpgrp()
    before()


def test_a_second_ctrl_c_ends_at_once():
    def twice():
        send(signal.SIGINT)
        send(signal.SIGINT)

    assert run_to_its_end(SHORT, partial(at_the_training_step, 4, twice)) == 1
    assert said().endswith("\netram_det: error: interrupted\n")
    assert "Traceback" not in said()
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt").step == 2  # of before


@pytest.mark.gate
@pytest.mark.parametrize(("sanity_steps", "done"), [("1", 0), ("0", 5)])
def test_ctrl_c_in_a_validation_leaves_a_checkpoint(sanity_steps, done):
    flags = ["--trainer.num_sanity_val_steps", sanity_steps, "--data.num_workers", "1"]
    ask = partial(on_the_validation_step, partial(send_to_all, signal.SIGINT))
    assert run_to_its_end([*SHORT, *flags], partial(in_a_group, ask)) == 128 + signal.SIGINT
    assert f"stopped by SIGINT after {done} steps: checkpoint" in said()
    assert "Traceback" not in said()
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt").step == done


@pytest.mark.gate
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ctrl_c_before_the_first_step_spares_processes_that_are_starting(context):
    def before():
        iterate = DataLoader.__iter__

        def and_interrupt(loader):
            batches = iterate(loader)
            send_to_all(signal.SIGINT)
            return batches

        DataLoader.__iter__ = and_interrupt

    flags = ["--data.num_workers", "2", "--data.multiprocessing_context", context]
    code = run_to_its_end([*SHORT, *flags], partial(in_a_group, before))
    assert code == 128 + signal.SIGINT, said()[-3000:]
    assert "stopped by SIGINT after 0 steps: checkpoint" in said()
    assert "Traceback" not in said()
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt").step == 0


def test_ctrl_c_in_an_evaluation_is_one_line():
    assert run_to_its_end([*SHORT, *steps(2, validation=2)]) == 0
    ask = partial(on_the_validation_step, partial(send_to_all, signal.SIGINT))
    flags = ["validate", "--ckpt_path", "last", "--data.num_workers", "2"]
    Path("output.txt").unlink()
    assert run_to_its_end(flags, partial(in_a_group, ask)) == 1
    assert said().endswith("\netram_det: error: interrupted\n")
    for words in ("Traceback", "KeyboardInterrupt", "killed by signal"):
        assert words not in said()


@pytest.mark.gate
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_job_leaves_the_loaders_to_the_run(number):
    def ask_all():
        os.setpgrp()
        at_the_training_step(3, lambda: os.killpg(0, number))

    flags = ["--data.num_workers", "2", "--trainer.max_steps", "6"]
    assert run_to_its_end([*SHORT, *flags], ask_all) == 128 + number
    assert f"stopped by {number.name} after 3 steps" in said()
    assert "killed by signal" not in said()


def fake_slurm(exit_code, folder):
    """What SLURM sets for a job of one process, and an ``scontrol`` that writes down its words."""
    (folder / "bin").mkdir()
    scontrol = folder / "bin" / "scontrol"
    scontrol.write_text(
        f'#!/bin/sh\necho "$@" > {folder}/asked\necho refused >&2\nexit {exit_code}\n'
    )
    scontrol.chmod(0o755)
    return {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        **{"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"},
    }


def on_the_validation_step(action):
    """Do something at each start of a validation step."""
    step = DetectionModule.validation_step

    def acting(module, *args):
        action()
        return step(module, *args)

    DetectionModule.validation_step = acting


@pytest.mark.slow
def test_slurm_requeues_a_job_that_goes_on_by_itself(short_outcome, tmp_path, monkeypatch):
    for name, value in fake_slurm(0, tmp_path).items():
        monkeypatch.setenv(name, value)
    arguments = SHORT[:-2]  # without --resume
    ask = partial(on_the_validation_step, partial(send, signal.SIGUSR1))
    assert run_to_its_end(arguments, ask) == 128 + signal.SIGUSR1
    assert "stopped by SIGUSR1 after 5 steps" in said()
    assert "last.ckpt; SLURM has requeued job 77" in said()
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # Lightning's own handler did not run as well
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_to_its_end(arguments) == 0
    assert_same(outcome(), short_outcome)


@pytest.mark.slow
def test_slurm_requeues_a_job_that_was_asked_to_end_in_the_sanity_check(tmp_path, monkeypatch):
    for name, value in fake_slurm(0, tmp_path).items():
        monkeypatch.setenv(name, value)
    arguments = [*SHORT[:-2], *steps(2, validation=2), "--trainer.num_sanity_val_steps", "1"]
    expected = unbroken(arguments)
    ask = partial(on_the_validation_step, partial(send, signal.SIGUSR1))
    assert run_to_its_end(arguments, ask) == 128 + signal.SIGUSR1
    assert "stopped by SIGUSR1 after 0 steps" in said()
    assert "last.ckpt; SLURM has requeued job 77" in said()
    assert not list(tmp_path.rglob("hpc_ckpt*"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_to_its_end(arguments) == 0
    assert_same(outcome()["parts"], expected["parts"])


def test_a_requeue_that_fails_is_told(tmp_path, monkeypatch):
    for name, value in fake_slurm(3, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert requeue_job() == "job 70_2 could not be requeued: scontrol: refused"
    assert (tmp_path / "asked").read_text() == "requeue 70_2\n"
    (tmp_path / "bin" / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "scontrol: No such file" in requeue_job()


def test_a_full_disk_leaves_the_checkpoint_before(short_outcome):
    def fill_the_disk():
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        at_the_training_step(4, lambda: setattr(files.os, "fsync", full))

    assert run_to_its_end(SHORT, fill_the_disk) == 1
    [line] = [line for line in said().splitlines() if "error:" in line]
    assert "last.ckpt: cannot be written (No space left on device): the one before it is" in line
    assert "Traceback" not in said()
    last = RUN / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last).step == 2
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt"]
    assert run_to_its_end(SHORT) == 0
    assert_same(outcome(), short_outcome)


@pytest.fixture
def small_disk(tiny_folder):
    """A disk of 6 MB, for runs that keep what they write there."""
    small = Path("small")
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", "small"]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(mount).returncode:
        pytest.skip("mounting is not allowed here")
    yield small
    subprocess.run(["umount", "small"], check=True)


def test_a_disk_that_is_really_full(small_disk):
    # One checkpoint of 4 MB fits, a second beside it does not.
    flags = ["--trainer.logger.save_dir", "small", "--resume", "never"]
    assert run_to_its_end([*SHORT, *flags]) == 1
    assert "cannot be written (No space left on device): the one before it is intact" in said()
    [last] = small_disk.rglob("*.ckpt")
    assert read_checkpoint(last).step == 2
    assert not list(small_disk.rglob("*.partial"))


def test_a_disk_that_is_full_from_the_start(small_disk):
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
        filler.write(bytes(10**7))
    assert run_to_its_end([*SHORT, "--trainer.logger.save_dir", "small"]) == 1
    [line] = [line for line in said().splitlines() if "error:" in line]
    # TensorBoard comes first: a thread of its own, whose error names no file.
    assert line == (
        "etram_det: error: small/size_aware/version_0: cannot be written, the disk is full (No "
        "space left on device): make room"
    )
    assert "Traceback" not in said()


def test_the_best_two_and_the_last():
    flags = [*steps(6, validation=2), "--checkpoint.save_top_k", "2"]
    assert run_to_its_end([*SHORT, *flags]) == 0
    names = sorted(path.name for path in (RUN / "checkpoints").iterdir())
    assert names == ["best-2.ckpt", "best-4.ckpt", "last.ckpt"]  # an equal one later is no better


@pytest.mark.parametrize("monitor", ["train/loss", "val/nope", "val/num_boxes"])
def test_the_best_are_chosen_by_a_metric_of_the_validation(monitor):
    assert run_to_its_end([*SHORT, "--checkpoint.monitor", monitor]) == 2
    [line] = [line for line in said().splitlines() if "error:" in line]
    expected = f"must be a precision or recall of the validation, got {monitor}: use val/AP, "
    assert f"checkpoint.monitor: {expected}" in line
    assert not Path("runs").exists()


def test_the_best_may_be_chosen_by_one_class():
    flags = [*steps(2, validation=2), "--checkpoint.monitor", "val/AP50_car_large"]
    assert run_to_its_end([*SHORT, *flags, "--model.size_bins.large", "[0, .inf]"]) == 0, said()


def test_the_last_one_is_written_by_minutes():
    rate = ["--checkpoint.every_n_steps", "null", "--checkpoint.every_n_minutes"]
    before_step_3 = partial(at_the_training_step, 3, partial(send, signal.SIGKILL))
    assert run_to_its_end([*SHORT, *rate, "1.0e-9"], before_step_3) == -signal.SIGKILL
    assert read_checkpoint(RUN / "checkpoints" / "last.ckpt").step == 2
    assert run_to_its_end([*SHORT, *rate, "0"]) == 2
    assert "checkpoint.every_n_minutes: must be above 0, got 0.0: set null" in said()


def test_a_damaged_state_is_reported_in_a_line():
    stop_after(2)
    last = RUN / "checkpoints" / "last.ckpt"
    checkpoint = read_checkpoint(last, mapped=False).content
    checkpoint["resume"]["processes"][0]["random"]["torch"] = checkpoint["resume"]["processes"]
    torch.save(checkpoint, last)
    assert run_to_its_end(SHORT) == 2
    [line] = [line for line in said().splitlines() if "error:" in line]
    assert (f"{last}: resume.processes.0.random.torch must be Tensor, got [{{'random': ") in line
    assert "the checkpoint is damaged: use another one, or copy it again" in line


def test_there_is_no_last_checkpoint_yet(monkeypatch):
    monkeypatch.setenv("SLURM_RESTART_COUNT", "")
    assert run_to_its_end([*SHORT[:-2], "--ckpt_path", "last"]) == 2
    assert (
        "ckpt_path: last must be last.ckpt of an earlier run, got none in runs/size_aware" in said()
    )
    assert not Path("runs").exists()


def test_checkpointing_can_be_turned_off():
    flags = ["--trainer.enable_checkpointing", "false", "--results.report", "true"]
    assert run_to_its_end([*SHORT, *steps(2, validation=2), *flags]) == 0
    assert not list(Path("runs").rglob("*.ckpt"))
    [page] = Path("runs").rglob("report.html")
    assert f"look:  {page}" in said()


def test_several_checkpoints_have_names_of_their_own():
    with pytest.raises(UserError, match=r"checkpoint.filename: must hold {step} where several"):
        RunCheckpoint(save_top_k=3, filename="best")
    assert RunCheckpoint(save_top_k=-1, filename="at-{step:06d}").filename == "at-{step:06d}"
    assert RunCheckpoint(save_top_k=1, filename="one").filename == "one"


def test_a_checkpoint_says_where_it_comes_from(capsys):
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "5"]) == 0
    last = RUN / "checkpoints" / "last.ckpt"
    facts = json.loads((RUN / "provenance.json").read_text())
    assert facts["seed"] == 1
    assert facts["config"]["data"]["train_lanes"] == 3
    [start] = facts["starts"]
    assert "--trainer.max_steps 5" in start["command"]
    assert {"torch", "pytorch-lightning", "python", "cuda", "etram_det"} <= start["versions"].keys()
    found = {each["name"]: each for each in facts["data"]["train"]["recordings"]}
    assert found["train_day_0000"]["frames"] == 18
    assert found["train_day_0000"]["boxes"] == 9
    file = Path("data/train/train_day_0000_td.h5")
    assert found["train_day_0000"]["bytes"] == file.stat().st_size

    shutil.move(str(last), "alone.ckpt")
    shutil.rmtree("runs")
    assert commands.run(["checkpoint", "--json", "alone.ckpt"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["provenance"] == facts
    assert printed["settings"]["embed_dim"] == 8
    assert not [name for name in printed["settings"] if name.startswith("_")]
    assert printed["step"] == printed["validation"]["step"] == 5
    assert printed["validation"]["results"]["num_frames"] == 6
    parameters = lightning_parameters()
    assert sum(printed["parameters"].values()) == sum(parameters.values())
    assert printed["parameters"]["head"] == parameters["head"]
    assert commands.run(["checkpoint", "alone.ckpt"]) == 0
    shown = capsys.readouterr().out
    for words in ("backbone stage 4", "model.embed_dim", "--trainer.max_steps 5", "pedestrian"):
        assert words in " ".join(shown.split())


def test_a_checkpoint_of_something_else_has_nothing_to_print(capfd):
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, "other.ckpt")
    assert commands.run(["checkpoint", "other.ckpt"]) == 2
    assert (
        "file: must be a checkpoint of this project, got other.ckpt: use " in capfd.readouterr().err
    )


def lightning_parameters():
    """Numbers in the detector's parameters, by part, counted in the network itself."""
    flags = [flag for flag in SHORT[1:-2]]
    detector = lightning_cli(["fit", *flags], run=False).model.detector
    return {
        name: sum(each.numel() for each in part.parameters())
        for name, part in detector.named_children()
    }
