"""Faults injected into runs: each ends with one line and exit code 1, and the next start works."""

import errno
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from etram_det.cli.commands import run
from etram_det.cli.messages import (
    MessageHandler,
    in_one_line,
    is_for_user,
    message_and_code,
    quiet_writers,
)
from etram_det.data.datamodule import EventDataModule
from etram_det.data.raw import RawRecording
from etram_det.errors import UserError
from etram_det.models.detector import Detector
from etram_det.progress import shown_progress
from support.paths import ROOT
from support.raw_files import boxes_at, random_events, write_raw

FIT = ["fit", "--config", str(ROOT / "configs" / "size_aware.yaml")]
FIT += """
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --model.max_detections 20
    --data.root data --data.input_size [48,64]
    --data.num_workers 0 --data.train_lanes 2 --data.num_steps 2
    --trainer.max_steps 10 --trainer.val_check_interval 5
    --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1
    --trainer.accelerator cpu --trainer.enable_progress_bar false --checkpoint.every_n_steps 2
    --results.video_s 0 --results.report false
""".split()


@pytest.fixture(autouse=True)
def _data_in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    for split, lengths in (("train", (0.9, 0.5)), ("val", (0.4,))):
        for i, seconds in enumerate(lengths):
            times = range(100_000, int(seconds * 1e6) + 1, 100_000)
            events = random_events(int(4000 * seconds), seconds + 0.05, seed=i)
            boxes = boxes_at(list(times), class_id=i)
            write_raw(tmp_path / "data" / split, f"{split}_day_{i:04d}", events, boxes)


def the_line_of(capfd, code, expected_code=1):
    error = capfd.readouterr().err
    [line] = [line for line in error.splitlines() if "error:" in line]
    assert "Traceback" not in error
    assert code == expected_code
    return line


def recording(name="train_day_0001"):
    return Path("data") / "train" / f"{name}_td.h5"


def on_call(monkeypatch, owner, name, number, action):
    """Let ``action`` happen before the call of that number, counted from 1."""
    original = getattr(owner, name)
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, called)


def cut(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_file_cut_short_in_the_middle_of_an_epoch(capfd, monkeypatch):
    content = recording().read_bytes()
    with monkeypatch.context() as patches:
        on_call(patches, RawRecording, "frames", 5, lambda: cut(recording()))
        line = the_line_of(capfd, run(FIT))
    assert f"{recording()}: was cut short" in line
    recording().write_bytes(content)
    assert run([*FIT, "--resume", "auto"]) == 0


def test_file_cut_short_ends_the_run_from_a_loading_process_too(capfd, monkeypatch):
    with monkeypatch.context() as patches:
        on_call(patches, EventDataModule, "train_dataloader", 1, lambda: cut(recording()))
        line = the_line_of(capfd, run([*FIT, "--data.num_workers", "1"]))
    assert f"{recording()}: was cut short" in line


def test_read_error_of_the_disk(capfd, monkeypatch):
    def fail():
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patches:
        on_call(patches, h5py, "File", 16, fail)
        line = the_line_of(capfd, run(FIT))
    assert "_td.h5: cannot be read as HDF5 ([Errno 5] Input/output error)" in line
    assert run(FIT) == 0


def test_unreadable_recording_is_skipped_where_that_is_asked_for(capfd, monkeypatch, caplog):
    with monkeypatch.context() as patches:
        on_call(patches, RawRecording, "frames", 3, lambda: cut(recording()))
        assert run([*FIT, "--data.on_unreadable_recording", "skip"]) == 0
    skips = [message for message in caplog.messages if "data.on_unreadable_recording" in message]
    assert len(skips) == 2
    assert skips[0].startswith("data.on_unreadable_recording: train_day_0001 is skipped where it")
    assert f"{recording()}: was cut short" in skips[0]
    assert skips[1].startswith("data.on_unreadable_recording: chunks that could not be read: ")
    last = torch.load(next(Path("runs").rglob("last.ckpt")), weights_only=True)
    [count] = last["callbacks"]["BadRecordings"].values()
    assert f"{count} of train_day_0001" in skips[1]
    assert count >= 3


def test_a_run_ends_where_nothing_can_be_read_any_more(capfd, monkeypatch, caplog):
    def remove_all():
        for path in (Path("data") / "train").glob("*_td.h5"):
            path.unlink()

    flags = ["--data.on_unreadable_recording", "skip", "--trainer.max_steps", "30"]
    flags += ["--trainer.val_check_interval", "30"]
    with monkeypatch.context() as patches:
        on_call(patches, RawRecording, "frames", 5, remove_all)  # with the third batch
        line = the_line_of(capfd, run([*FIT, *flags]))
    assert "none of the 2 training recordings can be read any more" in line
    assert "data.on_unreadable_recording: " in line
    assert "train_day_0001_td.h5" in line
    last = torch.load(next(Path("runs").rglob("last.ckpt")), weights_only=True)
    assert last["global_step"] == 10  # two that were read and ten that were not, the last one not
    assert sum(last["callbacks"]["BadRecordings"].values()) == 2 * 8


def test_a_stretch_without_anything_read_does_not_end_a_run(capfd, monkeypatch):
    original = RawRecording.frames
    calls = iter(range(1000))

    def frames(self, start, stop):
        if next(calls) in range(4, 24):  # ten batches of two lanes
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self, start, stop)

    monkeypatch.setattr(RawRecording, "frames", frames)
    flags = ["--data.on_unreadable_recording", "skip", "--trainer.max_steps", "13"]
    assert run([*FIT, *flags, "--trainer.val_check_interval", "13"]) == 0


def test_evaluation_never_skips(capfd, monkeypatch):
    damaged = Path("data") / "val" / "val_day_0000_td.h5"
    with monkeypatch.context() as patches:
        on_call(patches, EventDataModule, "val_dataloader", 1, lambda: cut(damaged))
        line = the_line_of(capfd, run([*FIT, "--data.on_unreadable_recording", "skip"]))
    assert f"{damaged}: was cut short" in line


def skipping_batches(num_workers):
    data = EventDataModule(
        root="data", input_size=(48, 64), num_steps=2, train_lanes=2, num_workers=num_workers,
        on_unreadable_recording="skip",
    )  # fmt: skip
    data.setup("fit")
    content = recording().read_bytes()
    cut(recording())
    batches = list(data.train_dataloader())
    recording().write_bytes(content)
    return batches


def test_what_is_skipped_is_padding_and_does_not_depend_on_the_workers():
    alone, with_workers = skipping_batches(0), skipping_batches(2)
    faults = [batch.faults for batch in alone]
    assert [batch.faults for batch in with_workers] == faults
    assert any(faults)
    for batch, other in zip(alone, with_workers, strict=True):
        assert torch.equal(batch.events, other.events)
        for b, name in enumerate(batch.recording):
            is_bad = name == "train_day_0001"
            assert (b in batch.faults) == is_bad
            if is_bad:
                assert batch.reset[b]
                assert batch.padded[:, b].all()
                assert not batch.events[:, b].any()
                assert not (batch.labels.frame % 2 == b).any()


def test_full_disk_keeps_the_checkpoint_before_and_the_next_start_goes_on(capfd):
    assert run([*FIT, "--trainer.max_steps", "4"]) == 0
    [last] = Path("runs").rglob("last.ckpt")
    before = last.read_bytes()
    capfd.readouterr()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # of any one file
    try:
        line = the_line_of(capfd, run([*FIT, "--resume", "auto"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert "last.ckpt: cannot be written (File too large): the one before" in line
    assert last.read_bytes() == before
    assert not list(last.parent.glob("*.partial"))
    assert run([*FIT, "--resume", "auto"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 10


def nan_features(monkeypatch, steps):
    original = Detector.features
    calls = iter(range(1000))

    def features(self, events, state):
        features, state = original(self, events, state)
        factor = np.nan if self.training and next(calls) in steps else 1.0
        return [x * factor for x in features], [(h * factor, c * factor) for h, c in state]

    monkeypatch.setattr(Detector, "features", features)


@pytest.mark.gate
def test_nan_in_a_few_steps_is_skipped_and_in_many_ends_the_run(capfd, monkeypatch):
    with monkeypatch.context() as patches:
        nan_features(patches, {2, 3, 6})
        assert run(FIT) == 0
    [last] = Path("runs").rglob("last.ckpt")
    stored = torch.load(last, weights_only=True)
    assert stored["callbacks"]["BadSteps"] == {"num_skipped": 3, "num_in_a_row": 0}
    assert all(x.isfinite().all() for x in stored["state_dict"].values())
    capfd.readouterr()
    with monkeypatch.context() as patches:
        nan_features(patches, range(3, 1000))
        line = the_line_of(capfd, run([*FIT, "--non_finite_steps.most_in_a_row", "4"]))
    assert "4 training steps in a row were not finite, step 6 the last: " in line
    kept = Path("runs") / "size_aware" / "version_1" / "bad_batch_rank0.pt"
    assert str(kept) in line
    assert torch.load(kept, weights_only=True)["step"] == 6
    assert run(FIT) == 0


def test_killed_loading_process(capfd, monkeypatch):
    def kill():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    with monkeypatch.context() as patches:
        on_call(patches, EventDataModule, "transfer_batch_to_device", 3, kill)
        line = the_line_of(capfd, run([*FIT, "--data.num_workers", "1"]))
    assert "data.num_workers: a loading process was ended from outside" in line
    assert run([*FIT, "--data.num_workers", "1", "--resume", "auto"]) == 0


def fail_in_a_writer(error, monkeypatch, capfd):
    """What a thread of TensorBoard's shows when it fails."""
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)

    class Writer(threading.Thread):
        __module__ = "tensorboard.summary.writer.event_file_writer"

        def run(self):
            raise error

    with quiet_writers():
        writer = Writer()
        writer.start()
        writer.join()
    assert threading.excepthook is threading.__excepthook__
    return capfd.readouterr().err


def test_writing_threads_leave_the_error_of_the_disk_to_the_main_one(monkeypatch, capfd):
    assert fail_in_a_writer(OSError(errno.ENOSPC, "full"), monkeypatch, capfd) == ""
    assert "KeyError: 'x'" in fail_in_a_writer(KeyError("x"), monkeypatch, capfd)


def test_full_disk_memory_and_strangers_in_one_line():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/metrics.json")
    assert in_one_line(full).startswith("runs/metrics.json: cannot be written, the disk is full")
    no_name = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert in_one_line(no_name, "runs/a").startswith("runs/a: cannot be written, the disk is full")
    read_only = OSError(errno.EROFS, "Read-only file system", b"runs/a/events")
    assert in_one_line(read_only, "runs/a") == "runs/a/events: Read-only file system"
    assert in_one_line(OSError(errno.EIO, "Input/output error"), "runs/a") == "Input/output error"
    assert in_one_line(PermissionError(errno.EACCES, "Permission denied", "x")) == (
        "x: Permission denied"
    )
    assert in_one_line(MemoryError()).startswith("out of memory (MemoryError): lower data.train")
    full = torch.OutOfMemoryError("CUDA out of memory.")
    for command, remedy in (
        ("validate", "lower data.train_lanes, data.eval_lanes, data.num_steps or data.num_workers"),
        ("detect", "set a smaller input_size, precision bfloat16, or device cpu"),
        ("stats", "close other programs, or use fewer or smaller inputs at once"),
    ):
        line = f"out of memory (CUDA out of memory.): {remedy}"
        assert message_and_code(full, command) == (line, 1)
    assert in_one_line(RuntimeError("shape mismatch")) is None
    assert in_one_line(KeyError("a")) is None
    # Connections matter only where there is a process at their other end.
    assert in_one_line(RuntimeError("Connection closed by peer")) is None
    assert isinstance(UserError("x"), ValueError)
    assert in_one_line(UserError("x")) is None


def test_no_room_or_no_right_in_the_cache_in_one_line_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "cache" / "simulated-90x160-0123456789ab" / "train_day_0001_td.h5"
    assert in_one_line(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))) == (
        f"{file}: cannot be written, the disk is full (No space left on device): make room "
        "(python -m etram_det cache clear frees this project's cache), or set ETRAM_DET_CACHE to a "
        "folder with room"
    )
    assert in_one_line(PermissionError(errno.EACCES, "Permission denied", str(file))) == (
        f"{file}: Permission denied: set ETRAM_DET_CACHE to a folder that can be written"
    )
    (tmp_path / "cache").write_text("no folder")
    assert run(["fit", "--config", "quick"]) == 1


def test_one_process_logs_what_all_would_log_alike(monkeypatch):
    line, warning = (
        logging.LogRecord("etram_det.data", level, "", 0, "message", (), None)
        for level in (logging.INFO, logging.WARNING)
    )
    for rank, prints in ((0, True), (1, False)):
        monkeypatch.setattr(rank_zero_only, "rank", rank, raising=False)
        assert is_for_user(line) == prints
        assert is_for_user(warning)  # of a trouble of its own


def test_a_message_does_not_stand_in_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    handler = MessageHandler()
    with shown_progress("night_1") as progress:
        progress(1, 3)
        record = logging.LogRecord("etram_det", logging.WARNING, "", 0, "a cut file", (), None)
        handler.emit(record)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    lines = re.split(r"[\r\n]+", shown)
    assert "a cut file" in [line.strip() for line in lines]
    assert not any("a cut file" in line and "night_1" in line for line in lines)


def in_a_process_of_its_own(*arguments):
    """What a command prints where no library was set up before, output and errors together."""
    environment = {name: x for name, x in os.environ.items() if name != "MPLCONFIGDIR"}
    environment |= {"MPLCONFIGDIR": str(Path("matplotlib").resolve()), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "etram_det", *arguments],
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


@pytest.mark.slow
def test_fit_and_validate_print_nothing_that_misleads():
    bars = [each for each in FIT if each != "--trainer.enable_progress_bar"]
    bars.remove("false")
    shown = in_a_process_of_its_own(*bars)
    best = Path("runs/size_aware/version_0/checkpoints/best.ckpt")
    shown += in_a_process_of_its_own("validate", *bars[1:], "--ckpt_path", str(best))
    for noise in ("FLOPs", "fontManager", "font cache", "available:", "Restoring states"):
        assert noise not in shown
    # Each part of the network, and their sum, where Lightning's summary stood.
    parameters = dict(re.findall(r"│ (backbone stage \d|fpn|head|all) +│ +([\d,]+) │", shown))
    *parts, total = (int(number.replace(",", "")) for number in parameters.values())
    assert len(parts) == 6
    assert sum(parts) == total > 0
    lines = shown.splitlines()
    assert "`Trainer.fit` stopped: `max_steps=10` reached." in lines
    [place] = [line for line in lines if "best checkpoint" in line]
    assert place.startswith("best checkpoint (val/AP")
    assert any(line.startswith("report: runs/") for line in lines)


@pytest.mark.slow
def test_lightnings_summary_can_be_turned_off(capsys):
    assert run([*FIT, "--trainer.enable_model_summary", "false"]) == 0
    assert "backbone stage" not in capsys.readouterr().out
