"""Two processes train and evaluate together through the real command line."""

import faulthandler
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch
from raw_files import boxes_at, random_events, write_raw

from etram_det.cli import lightning_cli

ROOT = Path(__file__).parent.parent
BASE = [
    "--config",
    str(ROOT / "configs" / "size_aware.yaml"),
    *("--model.embed_dim", "8", "--model.dim_head", "4", "--model.fpn_depth", "0.33"),
    *("--model.max_detections", "20"),
    *("--data.num_workers", "0", "--data.train_lanes", "2", "--data.num_steps", "2"),
    *("--data.input_size", "[48, 64]"),
    *("--trainer.max_epochs", "1", "--trainer.max_steps", "-1"),
    *("--trainer.check_val_every_n_epoch", "1", "--trainer.val_check_interval", "1.0"),
    *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "1"),
    *("--trainer.accelerator", "cpu"),
]
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


def work(rank, num_processes, port, folder, arguments):
    """One process of a run; leaves its metrics and weights beside the run."""
    faulthandler.dump_traceback_later(120, exit=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    if num_processes > 1:
        # As torchrun and SLURM do it: each process is told who it is.
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE=str(num_processes),
            NODE_RANK="0",
            LOCAL_RANK=str(rank),
        )
        arguments = [*arguments, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    cli = lightning_cli(arguments)
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    outcome = {
        "metrics": metrics,
        "steps": cli.trainer.global_step,
        "weights": cli.model.detector.state_dict(),
        "num_frames": cli.model.metric.result.figures()["num_frames"],
    }
    torch.save(outcome, folder / f"rank{rank}.pt")


def run_in_processes(num_processes, folder, arguments, timeout_s=240):
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, num_processes, port, folder, arguments))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout_s)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0] * num_processes
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(num_processes)]


@pytest.mark.slow
def test_two_processes_train_validate_and_save_as_one(root, tmp_path):
    arguments = [*BASE, "--data.root", str(root)]
    first, second = run_in_processes(2, tmp_path / "two", ["fit", *arguments])
    # Uneven recordings, even steps: 18, 6 and 10 frames in chunks of 2 make 17 chunks, for one
    # streaming lane on each process.
    assert first["steps"] == second["steps"] == 9
    for name, value in first["weights"].items():
        assert value.equal(second["weights"][name]), name
    shared = {name for name in first["metrics"] if name.startswith("val/")}
    assert {"val/AP", "val/AP50"} <= shared
    for name in shared:
        assert first["metrics"][name] == second["metrics"][name]
    # All 8 + 2 + 3 labelled frames, on both.
    assert first["num_frames"] == second["num_frames"] == 13

    [checkpoint] = (tmp_path / "two").rglob("last.ckpt")
    alone = [*arguments, "--ckpt_path", str(checkpoint)]
    [single] = run_in_processes(1, tmp_path / "one", ["validate", *alone])
    pair = run_in_processes(2, tmp_path / "pair", ["validate", *alone])
    assert single["num_frames"] == 13
    for name in shared:
        assert pair[0]["metrics"][name] == pytest.approx(single["metrics"][name], abs=1e-6)
        assert pair[1]["metrics"][name] == pair[0]["metrics"][name]
        # What was logged while training is the checkpoint's own figure.
        assert first["metrics"][name] == pytest.approx(single["metrics"][name], abs=1e-6)
