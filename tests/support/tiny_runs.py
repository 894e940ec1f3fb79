"""Runs of seconds through the real command line, in processes that can be killed."""

import json
import logging
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from etram_det.cli import commands
from etram_det.training.module import DetectionModule
from support.paths import ROOT
from support.raw_files import boxes_at, random_events, write_raw

SETTINGS = ["fit", "--config", str(ROOT / "configs" / "size_aware.yaml")]
SETTINGS += """
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --model.max_detections 20
    --data.num_workers 0 --data.train_lanes 3 --data.num_steps 2
    --data.input_size [48,64] --data.root data
    --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1
    --trainer.accelerator cpu --trainer.enable_progress_bar false
    --model.learning_rate 3.0e-3 --model.score_threshold 0 --checkpoint.every_n_steps 2
    --results.video_s 0 --results.report false
""".split()
RUN = Path("runs/size_aware/version_0")
# Seconds of each recording: lanes reach their ends at different steps; an epoch has 9 steps.
TRAIN, VAL = (0.9, 0.3, 0.5), (0.4, 0.2)


def write_data(root):
    for split, lengths in (("train", TRAIN), ("val", VAL)):
        for i, seconds in enumerate(lengths):
            times = list(range(100_000, int(seconds * 1e6) + 1, 100_000))
            boxes = boxes_at(times, class_id=i, x=6.0 + 4 * i)
            events = random_events(int(4000 * seconds), seconds + 0.05, seed=i)
            write_raw(root / split, f"{split}_day_{i:04d}", events, boxes)


def steps(number, validation=15):
    return ["--trainer.max_steps", str(number), "--trainer.val_check_interval", str(validation)]


SHORT = [*SETTINGS, *steps(12, validation=5), "--resume", "auto"]


def start(arguments, before=None):
    """A process that runs a command, after ``before()`` has prepared it."""

    def work():
        torch.set_num_threads(1)
        with open("output.txt", "a", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.stdout = sys.stderr = output
            for name in ("", "pytorch_lightning"):
                logging.getLogger(name).handlers = []  # pytest's, and those of the old stream
            if before is not None:
                before()
            code = commands.run(arguments)
        os._exit(code)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def run_to_its_end(arguments, before=None, timeout_s=500):
    process = start(arguments, before)
    try:
        process.join(timeout_s)
        return process.exitcode
    finally:
        process.kill()


def said():
    return Path("output.txt").read_text()


def outcome(runs=RUN.parent):
    """Everything that the newest run leaves and that a resumed run must leave as well."""
    run = max(path.parent.parent for path in runs.rglob("last.ckpt"))
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    metrics = json.loads((run / "metrics.json").read_text())
    curves = EventAccumulator(str(run), size_guidance={"scalars": 0})
    curves.Reload()
    # A step that was logged before and after a kill counts once; it must have the same value.
    scalars = {
        tag: sorted({(each.step, each.value) for each in curves.Scalars(tag)})
        for tag in curves.Tags()["scalars"]
        if tag != "hp_metric" and not tag.endswith("_per_second")  # no two runs take the same time
    }
    [kept] = (v for k, v in checkpoint["callbacks"].items() if k.startswith("RunCheckpoint"))
    return {
        "parts": {
            key: checkpoint[key]
            for key in ("state_dict", "optimizer_states", "lr_schedulers", "resume", "loops")
        },
        "best": (kept["best_model_score"], Path(kept["best_model_path"]).name),
        "best_weights": torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)[
            "state_dict"
        ],
        "metrics": {key: value for key, value in metrics.items() if key != "run"},
        "scalars": scalars,
    }


def assert_same(ours, theirs, path=""):
    assert type(ours) is type(theirs), path
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), path
        for key in ours:
            assert_same(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), path
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(one, other, f"{path}[{i}]")
    elif isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, path
        assert ours.equal(theirs), path
    else:
        assert ours == theirs, path


def unbroken(arguments):
    """What an uninterrupted run leaves, in a folder of its own."""
    elsewhere = ["--trainer.logger.save_dir", "unbroken"]
    assert run_to_its_end([*arguments, *elsewhere]) == 0, Path("output.txt").read_text()[-3000:]
    return outcome(Path("unbroken"))


def at_the_training_step(number, action):
    """Do something at the start of one of the steps."""
    step, calls = DetectionModule.training_step, []

    def acting(module, *args):
        calls.append(args)
        if len(calls) == number:
            action()
        return step(module, *args)

    DetectionModule.training_step = acting


def send(number):
    os.kill(os.getpid(), number)


def stop_after(number, *flags):
    """Run the short run up to a step and stop it there."""
    ask = partial(at_the_training_step, number, partial(send, signal.SIGTERM))
    assert run_to_its_end([*SHORT, *flags], ask) == 128 + signal.SIGTERM, said()[-3000:]
