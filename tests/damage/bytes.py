"""Bytes of any file that go wrong: cut, flipped, overwritten."""

from pathlib import Path

import numpy as np

from damage.cases import CASES, import_rvt, preprocess, validate


def cut(share):
    return lambda content, rng: content[: int(share * len(content))]


def flip(num_bits, within=None):
    def change(content, rng):
        changed = bytearray(content)
        for place in rng.integers(0, min(within or len(changed), len(changed)), num_bits):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)

    return change


def overwrite(length, zeros):
    def change(content, rng):
        start = int(rng.integers(0, max(len(content) - length, 1)))
        block = bytes(length) if zeros else rng.bytes(length)
        return (content[:start] + block + content[start + length :])[: len(content)]

    return change


WAYS = {
    "empty": cut(0),
    "cut to a byte": lambda content, rng: content[:1],
    "cut to a third": cut(0.33),
    "cut to nine tenths": cut(0.9),
    "one bit of the head": flip(1, 64),
    "bits of the head": flip(4, 256),
    "more bits of the head": flip(8, 1024),
    "bits anywhere": flip(16),
    "many bits": flip(400),
    "zeros": overwrite(512, True),
    "noise": overwrite(512, False),
    "noise at the start": lambda content, rng: rng.bytes(64) + content[64:],
    "more behind": lambda content, rng: content + rng.bytes(4096),
}
RVT_FRAMES = "event_representations_v2/stacked_histogram_dt=50_nbins=10"
FILES = {
    "raw/train/train_day_0001_td.h5": preprocess,
    "raw/train/train_day_0001_bbox.npy": preprocess,
    "sparse/train/train_day_0001/sparse_frames.h5": lambda f: preprocess(f, "sparse"),
    f"rvt/train/train_day_0001/{RVT_FRAMES}/event_representations_ds2_nearest.h5": (
        lambda f: preprocess(f, "rvt")
    ),
    f"rvt/train/train_day_0001/{RVT_FRAMES}/timestamps_us.npy": lambda f: preprocess(f, "rvt"),
    f"rvt/train/train_day_0001/{RVT_FRAMES}/objframe_idx_2_repr_idx.npy": (
        lambda f: preprocess(f, "rvt")
    ),
    "rvt/train/train_day_0001/labels_v2/labels.npz": lambda f: preprocess(f, "rvt"),
    "rvt.ckpt": import_rvt,
    "run.ckpt": validate,
}


def _damage_bytes(name, command, change, seed):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes(), np.random.default_rng(seed)))
        return command(folder)

    return damage


for file_number, (file_name, file_command) in enumerate(FILES.items()):
    for way_number, (way, way_change) in enumerate(WAYS.items()):
        CASES[f"{Path(file_name).name}: {way}"] = _damage_bytes(
            file_name, file_command, way_change, 100 * file_number + way_number
        )
