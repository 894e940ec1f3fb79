"""Memory of a training process over a long time."""

import os
from pathlib import Path

import pytest

from etram_det.training.module import DetectionModule
from support.tiny_runs import SETTINGS, run_to_its_end, said, steps

pytestmark = [pytest.mark.usefixtures("tiny_folder"), pytest.mark.slow]


def note_memory():
    """Have the resident memory written down after every 50th step, in MB."""
    pages_in_mb = os.sysconf("SC_PAGE_SIZE") / 1e6

    def note(module, outputs, batch, batch_idx):
        if module.global_step % 50 == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * pages_in_mb
            with open("memory.txt", "a") as file:
                file.write(f"{module.global_step} {resident}\n")

    DetectionModule.on_train_batch_end = note


@pytest.mark.timeout(7500)
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_memory_is_flat_over_2000_steps_and_three_validations():
    few = ["--trainer.log_every_n_steps", "10", "--checkpoint.every_n_steps", "200"]
    arguments = [*SETTINGS, *steps(2000, validation=600), *few]
    assert run_to_its_end(arguments, note_memory, timeout_s=7200) == 0, said()[-3000:]
    lines = [line.split() for line in Path("memory.txt").read_text().splitlines()]
    resident = {int(step): float(megabytes) for step, megabytes in lines}
    # From after the first validation, when all has been allocated once. The allocator keeps or
    # gives back some 10 MB after each validation; one frame kept per step would be 80 MB.
    growth = resident[2000] - resident[700]
    print({step: round(resident[step], 1) for step in (50, 500, 700, 1000, 1300, 1600, 2000)})  # noqa: T201
    assert growth < 16
