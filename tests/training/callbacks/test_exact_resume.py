"""A run that is killed and resumed ends as the one that never stopped, to the last bit."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributed

from etram_det import files
from etram_det.checkpoint.file import read_checkpoint
from etram_det.training.callbacks.exact_resume import ExactResume
from etram_det.training.callbacks.run_checkpoint import AtomicCheckpointIO
from etram_det.training.module import DetectionModule
from support.tiny_runs import (
    RUN,
    SETTINGS,
    SHORT,
    assert_same,
    at_the_training_step,
    outcome,
    run_to_its_end,
    said,
    send,
    start,
    steps,
    stop_after,
    unbroken,
)

pytestmark = pytest.mark.usefixtures("tiny_folder")


def kill_myself_at(owner, name, calls, before_it=True):
    """Replace a function by one that kills its process at one of its calls."""
    function, count = getattr(owner, name), [0]

    def lethal(*args, **kwargs):
        count[0] += 1
        if count[0] == calls and before_it:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if count[0] == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, lethal)


@pytest.mark.gate
def test_killed_in_a_step_a_validation_and_a_checkpoint(short_outcome):
    kills = [
        (DetectionModule, "backward", 8),  # in step 8, after the checkpoint of step 6
        (DetectionModule, "validation_step", 4),  # in that of step 10, after that of step 5
        (files, "_synchronise", 2),  # with all of a checkpoint written, and not in its place
    ]
    for workers, (owner, name, calls) in enumerate(kills):
        flags = [*SHORT, "--data.num_workers", str(workers)]
        code = run_to_its_end(flags, lambda at=(owner, name, calls): kill_myself_at(*at))
        assert code == -signal.SIGKILL, Path("output.txt").read_text()[-3000:]
    assert run_to_its_end(SHORT) == 0
    assert_same(outcome(), short_outcome)


def follow(phase, entered, wanted, calls):
    """Let a process print what it is doing, and when it enters a phase for the nth time."""
    places = {
        "step": (DetectionModule, "training_step"),
        "gradient": (DetectionModule, "backward"),
        "validation": (DetectionModule, "validation_step"),
        "checkpoint": (AtomicCheckpointIO, "save_checkpoint"),
    }
    counts = dict.fromkeys(places, 0)

    def followed(name, function):
        def inner(*args, **kwargs):
            before, phase.value = phase.value, PHASES.index(name)
            counts[name] += 1
            if name == wanted and counts[name] == calls:
                entered.set()
            result = function(*args, **kwargs)
            phase.value = before
            return result

        return inner

    for name, (owner, method) in places.items():
        setattr(owner, method, followed(name, getattr(owner, method)))


PHASES = ("between", "step", "gradient", "validation", "checkpoint")


@pytest.mark.slow
def test_killed_at_twenty_random_moments():
    arguments = [*SETTINGS, *steps(60, validation=5), "--resume", "auto"]
    expected = unbroken(arguments)
    assert expected["metrics"]["AP"] > 0
    chance = random.Random(8)
    wanted = ["validation"] * 5 + ["step"] * 5 + ["gradient"] * 4 + ["checkpoint"] * 6
    chance.shuffle(wanted)
    moments = []
    context = multiprocessing.get_context("fork")
    for kill, name in enumerate(wanted):
        phase, entered = context.Value("i", 0), context.Event()
        calls = chance.randint(1, 7) if name in ("step", "gradient") else chance.randint(1, 2)
        workers = ["--data.num_workers", str(kill % 3)]
        process = start(
            [*arguments, *workers], lambda at=(phase, entered, name, calls): follow(*at)
        )
        assert entered.wait(900), said()[-3000:]
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        moments.append(PHASES[phase.value])
    assert {"step", "validation", "checkpoint"} <= set(moments)
    assert run_to_its_end(arguments) == 0
    assert_same(outcome(), expected)
    [facts] = RUN.parent.rglob("provenance.json")
    starts = json.loads(facts.read_text())["starts"]
    print("killed in", moments, "resumed at", [each["step"] for each in starts])  # noqa: T201


def nan_in_batches(*numbers):
    """Let the losses of some batches of the run be no numbers, counted from 0."""
    step = DetectionModule.training_step

    def poisoned(module, batch, index):
        loss = step(module, batch, index)
        return loss * float("nan") if index in numbers else loss

    DetectionModule.training_step = poisoned


@pytest.mark.slow
def test_a_bad_step_that_was_stopped_between_its_batches_is_undone_as_a_whole():
    flags = [*SHORT, "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "4"]
    elsewhere = ["--trainer.logger.save_dir", "unbroken"]
    # The second step is bad in its first batch, the third in its second.
    poison = partial(nan_in_batches, 2, 5)
    assert run_to_its_end([*flags, *elsewhere], poison) == 0
    expected = outcome(Path("unbroken"))

    def stop_after_batches(number):
        poison()
        at_the_training_step(number, partial(send, signal.SIGTERM))

    for number, finite in ((3, False), (2, True)):  # in the middle of both
        stopped = partial(stop_after_batches, number)
        assert run_to_its_end(flags, stopped) == 128 + signal.SIGTERM, said()[-3000:]
        kept = read_checkpoint(RUN / "checkpoints" / "last.ckpt").resume["processes"][0]
        [loss] = kept["unfinished_step"]["losses"]
        assert loss.isfinite() == finite
    assert run_to_its_end(flags, poison) == 0
    assert "2 of 4 training steps were skipped" in said()
    assert_same(outcome()["parts"], expected["parts"])  # curves have nan, which equals nothing


def run_two_processes(arguments, stopped_by=None):
    """Exit codes of two processes that train together; one may be asked to end in step 3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def prepare(rank):
        ranks = {"NODE_RANK": "0", "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, **ranks)
        if rank == stopped_by:
            at_the_training_step(3, partial(send, signal.SIGTERM))

    flags = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    processes = [start([*arguments, *flags], partial(prepare, rank)) for rank in (0, 1)]
    for process in processes:
        process.join(900)
    return [process.exitcode for process in processes]


def test_states_of_several_processes_travel_from_host_to_host_to_the_first(monkeypatch):
    sent = []

    def gather(own, processes, group):
        sent.append(group)
        if processes is not None:
            processes[:] = [own, {"lanes": "of the second"}]

    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(distributed, "new_group", lambda backend: f"group of {backend}")
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather_object", gather)
    resume = ExactResume()
    resume.setup(SimpleNamespace(world_size=2), None, "fit")
    for rank, number in ((0, 2), (1, 1)):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        assert len(resume._gathered({"lanes": "own"})) == number
    assert sent == ["group of gloo"] * 2


@pytest.mark.slow
def test_two_processes_go_on_exactly_when_one_of_them_is_stopped():
    elsewhere = ["--trainer.logger.save_dir", "unbroken"]
    assert run_two_processes([*SHORT, *elsewhere]) == [0, 0], said()[-3000:]
    expected = outcome(Path("unbroken"))
    assert run_two_processes(SHORT, stopped_by=1) == [128 + signal.SIGTERM] * 2, said()[-3000:]
    assert run_two_processes(SHORT) == [0, 0], said()[-3000:]
    assert_same(outcome(), expected)


@pytest.mark.gate
def test_what_makes_an_exact_resume_impossible_is_told():
    stop_after(4)
    Path("some.txt").write_text("train_day_0002\nval_day_0000\n")
    changes = [
        *("--data.train_lanes", "4", "--data.sampling", "stream", "--seed_everything", "5"),
        *("--data.subset", "some.txt", "--data.num_steps", "3", "--trainer.max_steps", "6"),
    ]
    last = ["--resume", "never", "--ckpt_path", str(RUN / "checkpoints" / "last.ckpt")]
    assert run_to_its_end([*SHORT, *last, *changes]) == 0, said()
    [line] = [line for line in said().splitlines() if "cannot go on exactly" in line]
    assert line == (
        "ckpt_path: training cannot go on exactly where the checkpoint stopped, its epoch starts "
        "anew: data.num_steps was 2 and is 3; data.sampling was mixed and is stream; data.seed was "
        "1 and is 5; data.train_lanes was 3 and is 4; 2 of the training recordings are gone "
        "(train_day_0000, train_day_0001)"
    )
    # Two steps more, and each a step of Lightning's counters.
    assert [step for step, _ in outcome()["scalars"]["train/loss"]] == [0, 1, 2, 3, 4, 5]


@pytest.mark.gate
def test_another_class_of_one_box_and_a_validation_recording_that_is_gone_are_told(tiny_data):
    stop_after(4)
    Path("data").unlink()
    shutil.copytree(tiny_data, "data")
    labels = Path("data/train/train_day_0001_bbox.npy")
    boxes = np.load(labels)
    boxes["class_id"][0] = 5
    np.save(labels, boxes)
    for path in Path("data/val").glob("val_day_0001*"):
        path.unlink()
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "5"]) == 0, said()
    plan, metrics = [line for line in said().splitlines() if "recordings is" in line]
    assert metrics == (
        "ckpt_path: metrics do not compare with those before the checkpoint, the best one "
        "included: 1 of the validation recordings is gone (val_day_0001)"
    )
    assert plan == (
        "ckpt_path: training cannot go on exactly where the checkpoint stopped, its epoch starts "
        "anew: 1 of the training recordings is with other labels (train_day_0001)"
    )


@pytest.mark.gate
def test_a_checkpoint_without_box_checksums_and_validation_still_resumes(short_outcome):
    stop_after(4)
    last = RUN / "checkpoints" / "last.ckpt"
    checkpoint = read_checkpoint(last, mapped=False).content
    place = checkpoint["EventDataModule"]
    del place["validation"]
    place["recordings"] = {name: facts[:3] for name, facts in place["recordings"].items()}
    del checkpoint["resume"]["processes"][0]["unfinished_step"]
    torch.save(checkpoint, last)
    assert run_to_its_end(SHORT) == 0
    assert_same(outcome(), short_outcome)


@pytest.mark.gate
def test_resume_auto_tells_what_it_passes_over():
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "1"]) == 0
    # How to meet bad recordings does not show in the result; ckpt_path is for a new run.
    flags = ["--data.on_unreadable_recording", "skip", "--trainer.max_steps", "2"]
    flags += ["--ckpt_path", str(RUN / "checkpoints" / "best.ckpt")]
    assert run_to_its_end([*SHORT, *flags]) == 0
    last = RUN / "checkpoints" / "last.ckpt"
    assert (
        f"going on from {last}, after 1 steps, not from ckpt_path {RUN}/checkpoints/best.ckpt: a "
        "new run would start there"
    ) in said()
    other = ["--model.weight_decay", "0.1", "--trainer.max_steps", "1"]
    assert run_to_its_end([*SHORT, *other]) == 0
    assert (
        "no last.ckpt of these settings yet: a new run starts; in "
        f"{last}, model.weight_decay was 0.0 and is 0.1"
    ) in said()
    last.write_bytes(last.read_bytes()[:-1000])
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "1"]) == 0
    assert f"resume: passed over: {last}: cannot be read as a checkpoint" in said()


def test_the_rate_that_the_optimiser_keeps_is_told():
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "1"]) == 0
    flags = ["--trainer.max_steps", "2", "--model.learning_rate", "1.0e-5", "--resume", "never"]
    assert run_to_its_end([*SHORT, *flags, "--ckpt_path", "last"]) == 0
    assert (
        "ckpt_path: model.learning_rate: the optimiser goes on with the checkpoint's; a new "
        "training from its weights, by model.init_from, takes the new one"
    ) in said()


@pytest.mark.gate
def test_resume_auto_takes_a_run_of_the_same_settings_and_may_make_it_longer():
    assert run_to_its_end([*SHORT, "--trainer.max_steps", "2"]) == 0
    assert "no last.ckpt of these settings yet" in said()
    other = ["--model.weight_decay", "0.1"]
    assert run_to_its_end([*SHORT, *other, "--trainer.max_steps", "1"]) == 0
    assert sorted(path.name for path in RUN.parent.iterdir()) == ["version_0", "version_1"]
    longer = ["--data.num_workers", "1", "--trainer.max_steps", "5"]
    assert run_to_its_end([*SHORT, *longer]) == 0
    assert "going on from runs/size_aware/version_0/checkpoints/last.ckpt, after 2 steps" in said()
    assert "settings changed since then: trainer.max_steps was 2 and is 5" in said()
    assert len(list(RUN.parent.iterdir())) == 2
    rates = dict(outcome(RUN)["scalars"]["train/learning_rate"])
    assert sorted(rates) == list(range(5))
    assert rates[4] == pytest.approx(3e-3 / 10000, rel=1e-5)
