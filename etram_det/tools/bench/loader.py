"""What loading processes hand over: bytes of a batch, and batches in a second, in either form."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from etram_det.data.chunks import Chunk, collate
from etram_det.data.datamodule import EventDataModule
from etram_det.data.recording import Recording
from etram_det.tools.bench.measure import Section, add_variants, measure
from etram_det.types import Batch

_STEPS, _LANES = 5, 2
_WORKERS = (0, 2, 4)


def bench_loader(
    folder: Path, open_recordings: Callable[[Path], Sequence[Recording]], repeats: int
) -> Section:
    """Pass through the training batches, augmented, in sparse and in dense form.

    Args:
        folder: split folder of a cache, in which copies of its one recording are made, so that a
            pass is long enough.
        open_recordings: opens the recordings of a cache.
        repeats: passes of each variant.
    """
    [recording] = folder.iterdir()
    for copy in range(3):
        shutil.copytree(recording, folder / f"{recording.name}_{copy}")
    recordings = open_recordings(folder.parent)
    size = recordings[0].input_size
    section = Section(
        f"Loader: batches of {_LANES} lanes, T={_STEPS}, {size[0]}x{size[1]}, on their device"
    )
    # More processes than cores are asked for, so that machines compare.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for num_workers in _WORKERS:
        data = EventDataModule(
            root=str(folder.parent),
            input_size=size,
            num_steps=_STEPS,
            train_lanes=_LANES,
            num_workers=num_workers,
        )
        data.recordings["train"] = list(recordings)
        sparse, dense = data.train_dataloader(), data.train_dataloader()
        dense.collate_fn = partial(_dense, num_steps=_STEPS)
        if num_workers == 0:
            travels = sum(batch.sparse_events.buffer.nbytes for batch in sparse) / len(sparse)
            whole = next(iter(dense)).events.nbytes
            section.add("dense batch", whole / 1e6, "MB")
            section.add("sparse batch", travels / 1e6, "MB", f"{whole / travels:.1f} times fewer")
        runs = {
            f"{form}, {num_workers} workers": partial(_pass, loader, device)
            for form, loader in (("dense", dense), ("sparse", sparse))
        }
        times = measure(runs, repeats, device, section, warm_up=1)
        by_batch = {name: [x / len(sparse) for x in values] for name, values in times.items()}
        add_variants(section, by_batch, "batches/s")
    return section


def _dense(chunks: Sequence[Chunk], num_steps: int) -> Batch:
    """The batch as it would travel without its sparse form."""
    return collate(chunks, num_steps).to("cpu")


def _pass(loader: Any, device: torch.device) -> None:
    for batch in loader:
        batch.to(device, non_blocking=True)
