"""Runs of several processes through the real command line."""

import faulthandler
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch

from etram_det.cli.commands import run
from etram_det.cli.lightning import lightning_cli
from support.paths import ROOT

BASE = ["--config", str(ROOT / "configs" / "size_aware.yaml")]
BASE += """
    --model.embed_dim 8 --model.dim_head 4 --model.fpn_depth 0.33 --model.max_detections 20
    --data.num_workers 0 --data.train_lanes 2 --data.num_steps 2 --data.input_size [48,64]
    --trainer.max_epochs 1 --trainer.max_steps -1
    --trainer.check_val_every_n_epoch 1 --trainer.val_check_interval 1.0
    --trainer.num_sanity_val_steps 0 --trainer.log_every_n_steps 1 --trainer.accelerator cpu
    --results.video_s 0 --results.report false
""".split()


def forkserver():
    """Processes that are copies of one that has imported all: each starts in a moment."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["etram_det.cli.lightning"])
    return context


def work(environment, rank, num_processes, port, folder, arguments, fault, writes_errors):
    """One process of a run; leaves its metrics and weights beside the run."""
    os.environ.update(environment)  # what the server's was when it started
    faulthandler.dump_traceback_later(900, exit=True)
    os.chdir(folder)
    torch.set_num_threads(1)
    if fault is not None:
        fault(rank)
    if num_processes > 1:
        # As torchrun and SLURM do, set the rank of each process.
        os.environ.update(
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            WORLD_SIZE=str(num_processes),
            NODE_RANK="0",
            LOCAL_RANK=str(rank),
        )
        arguments = [*arguments, "--trainer.strategy", "ddp", "--trainer.devices", "2"]
    if writes_errors:
        with Path(f"rank{rank}.txt").open("w") as sys.stderr:
            code = run(arguments)
        sys.exit(code)
    cli = lightning_cli(arguments)
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    outcome = {
        "metrics": metrics,
        "steps": cli.trainer.global_step,
        "weights": cli.model.detector.state_dict(),
        "num_frames": cli.model.metric.result.flat_metrics()["num_frames"],
    }
    torch.save(outcome, folder / f"rank{rank}.pt")


def run_in_processes(num_processes, folder, arguments, fault=None, code=0, timeout_s=500):
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, environment = forkserver(), dict(os.environ)
    processes = [
        context.Process(
            target=work,
            args=(environment, rank, num_processes, port, folder, arguments, fault, code != 0),
        )
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout_s)
    finally:
        for process in processes:
            process.kill()
    assert [process.exitcode for process in processes] == [code] * num_processes
    if code:
        return [(folder / f"rank{rank}.txt").read_text() for rank in range(num_processes)]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(num_processes)]
