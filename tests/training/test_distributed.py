"""Two processes train and evaluate together through the real command line."""

import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from etram_det.data.raw import RawRecording
from etram_det.models.detector import Detector
from etram_det.training.module import DetectionModule
from support.camera_files import evt3
from support.processes import BASE, run_in_processes
from support.raw_files import boxes_at, random_events, write_raw

# Seconds of each recording: two processes get shares that differ.
TRAIN, VAL = (0.9, 0.3, 0.5), (0.8, 0.2, 0.3)


@pytest.fixture
def root(tmp_path):
    for split, lengths in (("train", TRAIN), ("val", VAL)):
        for i, seconds in enumerate(lengths):
            times = range(100_000, int(seconds * 1e6) + 1, 100_000)
            boxes = boxes_at(list(times), class_id=i, x=6.0 + 4 * i)
            events = random_events(int(4000 * seconds), seconds + 0.05, seed=i)
            write_raw(tmp_path / "data" / split, f"{split}_day_{i:04d}", events, boxes)
    return tmp_path / "data"


def nan_on_the_second(rank):
    """Two training steps on one process have features that are no numbers."""
    original = Detector.features
    calls = iter(range(1000))

    def features(self, events, state):
        features, state = original(self, events, state)
        is_bad = self.training and next(calls) in (3, 4) and rank == 1
        return [x * float("nan") for x in features] if is_bad else features, state

    Detector.features = features


def fail_to_read(rank):
    """One process cannot read its fourth chunk."""
    original = RawRecording.frames
    calls = iter(range(1000))

    def frames(self, start, stop):
        if rank == 1 and next(calls) == 7:
            raise OSError(5, "Input/output error")
        return original(self, start, stop)

    RawRecording.frames = frames


@pytest.mark.gate
def test_two_processes_train_validate_and_save_as_one(root, tmp_path):
    arguments = ["fit", *BASE, "--data.root", str(root)]
    first, second = run_in_processes(2, tmp_path / "two", arguments)
    # Uneven recordings, even steps: 18, 6 and 10 frames in chunks of 2 make 17 chunks, for one
    # streaming lane on each process.
    assert first["steps"] == second["steps"] == 9
    for name, value in first["weights"].items():
        assert value.equal(second["weights"][name]), name
    shared = figures_of(first)
    assert {"val/AP", "val/AP50"} <= shared.keys()
    assert figures_of(second) == shared
    # All 8 + 2 + 3 labelled frames, on both.
    assert first["num_frames"] == second["num_frames"] == 13
    [last] = (tmp_path / "two").rglob("last.ckpt")
    kept = torch.load(last, weights_only=True)
    assert kept["global_step"] == 9
    assert len(kept["resume"]["processes"]) == 2
    for name, value in first["weights"].items():
        assert value.equal(kept["state_dict"][f"detector.{name}"]), name


def figures_of(outcome):
    return {name: value for name, value in outcome["metrics"].items() if name.startswith("val/")}


@pytest.mark.slow
def test_any_number_of_processes_finds_the_same_figures(root, tmp_path):
    arguments = [*BASE, "--data.root", str(root)]
    first, _ = run_in_processes(2, tmp_path / "two", ["fit", *arguments])
    [checkpoint] = (tmp_path / "two").rglob("last.ckpt")
    alone = [*arguments, "--ckpt_path", str(checkpoint)]
    [single] = run_in_processes(1, tmp_path / "one", ["validate", *alone])
    pair = run_in_processes(2, tmp_path / "pair", ["validate", *alone])
    assert single["num_frames"] == 13
    for name in figures_of(first):
        assert pair[0]["metrics"][name] == pytest.approx(single["metrics"][name], abs=1e-6)
        assert pair[1]["metrics"][name] == pair[0]["metrics"][name]
        # What was logged while training is the checkpoint's own metric.
        assert first["metrics"][name] == pytest.approx(single["metrics"][name], abs=1e-6)


@pytest.mark.slow
def test_all_processes_skip_what_is_not_finite_on_one(root, tmp_path):
    arguments = ["fit", *BASE, "--data.root", str(root)]
    first, second = run_in_processes(2, tmp_path / "nan", arguments, nan_on_the_second)
    assert first["steps"] == second["steps"] == 9
    for outcome in (first, second):
        assert outcome["metrics"]["train/skipped_steps"] == 2
        assert all(value.isfinite().all() for value in outcome["weights"].values())
    for name, value in first["weights"].items():
        assert value.equal(second["weights"][name]), name


@pytest.mark.slow
def test_one_that_cannot_read_ends_the_others(root, tmp_path):
    arguments = ["fit", *BASE, "--data.root", str(root)]
    first, second = run_in_processes(2, tmp_path / "read", arguments, fail_to_read, code=1)
    assert "_td.h5: [Errno 5] Input/output error" in second
    assert "etram_det: error: another process of the run is gone" in first
    assert "Traceback" not in first + second


def compile_without_code(rank):
    """Graphs and their gradients are made, but run as they are: code would take a minute."""

    def noted(graph, inputs):
        Path(f"compiled{rank}").touch()
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    DetectionModule.compile_step = partialmethod(DetectionModule.compile_step, backend=noted)


@pytest.mark.slow
def test_two_processes_learn_from_a_compiled_step(root, tmp_path):
    arguments = ["fit", *BASE, "--data.root", str(root)]
    eager, _ = run_in_processes(2, tmp_path / "eager", arguments)
    arguments += ["--model.compile", "step"]
    first, second = run_in_processes(2, tmp_path / "compiled", arguments, compile_without_code)
    assert len(list((tmp_path / "compiled").glob("compiled[01]"))) == 2
    assert first["steps"] == eager["steps"] == 9
    differences = []
    for name, value in first["weights"].items():
        assert value.equal(second["weights"][name]), name
        differences.append((value - eager["weights"][name]).abs().flatten().double())
    # Adam may turn where a gradient is next to zero; all else is rounding.
    assert torch.cat(differences).mean() < 3e-6  # a step moves weights by up to 1e-4


class AsOne:
    """Batch normalisation over both processes, as devices do it; notes its rounds and warnings."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, rank):
        """Let each forward pass in training wait for the other process's."""
        forward, rounds, shown = torch.nn.BatchNorm2d.forward, self.folder / "rounds", []

        def synchronised(module, x):
            if not module.training:
                return forward(module, x)
            numbers = torch.tensor([float(module.num_features), x.shape[0]])
            distributed.all_reduce(numbers)
            assert numbers[0] == 2 * module.num_features  # the same layer on both
            with Path(f"{rounds}{rank}.txt").open("a") as file:
                file.write(f"{x.shape[0]}\n")
            return forward(module, x)

        def note(message, *_, **__):
            shown.append(str(message))
            (self.folder / f"warnings{rank}.txt").write_text("\n".join(shown))

        torch.nn.BatchNorm2d.forward = synchronised
        warnings.showwarning = note
        warnings.warn("one to be seen", stacklevel=1)


@pytest.mark.parametrize("accumulated", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_without_labels_takes_part_in_batch_normalisation(tmp_path, accumulated):
    for split in ("train", "val"):
        for i in range(2):
            # The second recording, and so the second process, has its one label late.
            times = [400_000] if i else [100_000, 200_000, 300_000, 400_000]
            events = random_events(2000, 0.45, seed=i)
            write_raw(tmp_path / "data" / split, f"{split}_{i}", events, boxes_at(times))
    arguments = ["fit", *BASE, "--data.root", str(tmp_path / "data"), "--data.sampling", "stream"]
    arguments += ["--data.train_lanes", "1", "--trainer.accumulate_grad_batches", str(accumulated)]
    first, second = run_in_processes(2, tmp_path / "run", arguments, AsOne(tmp_path))
    assert first["steps"] == second["steps"] == 4 // accumulated
    for name, value in first["weights"].items():
        if "running" not in name:
            assert value.equal(second["weights"][name]), name
    rounds = [(tmp_path / f"rounds{rank}.txt").read_text() for rank in (0, 1)]
    assert rounds[0] == rounds[1]  # each step one frame, labelled or not
    assert {*rounds[0].split()} == {"1"}
    shown = [(tmp_path / f"warnings{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    assert [[line for line in lines if "sync_dist" in line] for lines in shown] == [[], []]
    assert all("one to be seen" in lines for lines in shown)


def wait_for(condition, timeout_s, what):
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def child_of(process):
    numbers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {int(n): Path(f"/proc/{n}/cmdline").read_text() for n in numbers}
    return next((n for n, text in commands.items() if "etram_det" in text), None)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_killed_process_ends_the_other(root, tmp_path, killed):
    command = [
        *(sys.executable, "-m", "etram_det", "fit", *BASE, "--data.root", str(root)),
        *("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "-1"),
        *("--trainer.max_steps", "100000", "--checkpoint.every_n_steps", "1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    errors = tmp_path / "errors.txt"
    with errors.open("w") as file:
        first = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            wait_for(lambda: list(tmp_path.rglob("last.ckpt")), 900, "no step")
            second = wait_for(lambda: child_of(first), 900, "no second process")
            os.kill((first.pid, second)[killed], signal.SIGKILL)
            code = first.wait(900)
            wait_for(lambda: not Path(f"/proc/{second}").exists(), 900, "still there")
        finally:
            os.killpg(first.pid, signal.SIGKILL) if first.poll() is None else None
    lines = [line for line in errors.read_text().splitlines() if "error:" in line]
    assert "Traceback" not in errors.read_text()
    if killed and code == -signal.SIGKILL:
        assert not lines  # Lightning's observer of its child processes was faster than the backend
        return
    assert code == (-signal.SIGKILL, 1)[killed]
    assert len(lines) == 1
    assert lines[0].startswith("etram_det: error: another process of the run is gone")


class Slowly:
    """Work that both processes would do at once if none waited for the other."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, rank):
        """Note in a file what this process makes, and take a while for it."""
        from etram_det.data import camera_files, time_index
        from etram_det.simulator import dataset

        for owner, name in (
            (dataset, "simulate"),
            (camera_files, "_decode_into"),
            (time_index.TimeIndex, "build"),
        ):
            original = getattr(owner, name)

            def noted(*args, what=name, original=original, **kwargs):
                with (self.folder / f"{what}.txt").open("a") as file:
                    file.write(f"{rank}\n")
                time.sleep(0.3)
                return original(*args, **kwargs)

            setattr(owner, name, staticmethod(noted) if owner is time_index.TimeIndex else noted)


def made_by(folder, what):
    return (folder / f"{what}.txt").read_text().split()


SIMULATION = """
    --data.simulation.height 96 --data.simulation.width 128 --data.simulation.train 2
    --data.simulation.val 2 --data.simulation.test 0 --data.simulation.seconds 0.5
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["camera files", "simulated"])
def test_on_an_empty_cache_one_process_makes_and_the_other_waits(source, tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    arguments = ["fit", *BASE, *SIMULATION]
    if source == "camera files":
        for split in ("train", "val"):
            folder = tmp_path / "data" / split
            folder.mkdir(parents=True)
            for i in range(2):
                events = random_events(3000, 0.55, seed=i)
                (folder / f"{split}_{i}.raw").write_bytes(evt3(events))
                np.save(folder / f"{split}_{i}_bbox.npy", boxes_at([100_000, 200_000, 300_000]))
        arguments += ["--data.root", str(tmp_path / "data")]
    one, two = run_in_processes(2, tmp_path / "run", arguments, Slowly(tmp_path))
    if source == "camera files":
        assert len(made_by(tmp_path, "_decode_into")) == 4
    else:
        assert len(made_by(tmp_path, "simulate")) == 1
    assert len(made_by(tmp_path, "build")) == 4
    assert one["steps"] == two["steps"] > 0
    for name, weights in one["weights"].items():
        torch.testing.assert_close(weights, two["weights"][name], rtol=0, atol=0)
