"""Stored frames, RVT's and our own, that hold what they must not."""

import json
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np

from damage.bytes import RVT_FRAMES
from damage.cases import Payload, case, cases, preprocess
from damage.raw import FIELDS

RVT = Path("rvt/train/train_day_0001")
NUMBERS = {
    "text": np.array(["a"] * 8),
    "a table": np.zeros((4, 2), np.int64),
    "one number": np.int64(3),
    "falling": np.arange(8, 0, -1),
    "nan": np.full(8, np.nan),
    "fractions": np.arange(8) + 0.5,
    "largest": np.full(8, 2**63 - 1),
    "far beyond": np.arange(8) * 10**9,
    "negative": np.arange(-8, 0),
    "nothing": np.empty(0, np.int64),
    "records": np.zeros(8, FIELDS),
}


@cases(**NUMBERS)
def rvt_timestamps(folder, values):
    np.save(folder / RVT / RVT_FRAMES / "timestamps_us.npy", values)
    return preprocess(folder, "rvt")


@cases(**NUMBERS)
def rvt_label_frames(folder, values):
    np.save(folder / RVT / RVT_FRAMES / "objframe_idx_2_repr_idx.npy", values)
    return preprocess(folder, "rvt")


@cases(**NUMBERS)
def rvt_first_boxes(folder, values):
    path = folder / RVT / "labels_v2" / "labels.npz"
    boxes = np.load(path)["labels"]
    np.savez(path, labels=boxes, objframe_idx_2_label_idx=values)
    return preprocess(folder, "rvt")


@case
def rvt_labels_are_pickled_code(folder):
    path = folder / RVT / "labels_v2" / "labels.npz"
    np.savez(path, labels=np.array([Payload()], object), objframe_idx_2_label_idx=np.zeros(1, int))
    return preprocess(folder, "rvt")


@case
def rvt_labels_are_no_arrays(folder):
    with zipfile.ZipFile(folder / RVT / "labels_v2" / "labels.npz", "w") as archive:
        archive.writestr("labels.npy", b"nothing")
        archive.writestr("../../evil.npy", b"nothing")
    return preprocess(folder, "rvt")


@cases(
    floats=((8, 20, 24, 32), np.float32), flat=((8,), np.uint8), narrow=((8, 3, 24, 32), np.uint8),
    small=((8, 20, 1, 1), np.uint8), none=((0, 20, 24, 32), np.uint8),
    a_trillion=((2**40, 20, 24, 32), np.uint8),
)  # fmt: skip
def rvt_frames(folder, change):
    [path] = (folder / RVT / RVT_FRAMES).glob("*.h5")
    with h5py.File(path, "w") as file:
        chunks = tuple(min(8, side) for side in change[0])
        file.create_dataset("data", *change, chunks=chunks if all(chunks) else None)
    return preprocess(folder, "rvt")


@case
def rvt_frames_are_a_group(folder):
    [path] = (folder / RVT / RVT_FRAMES).glob("*.h5")
    with h5py.File(path, "w") as file:
        file.create_group("data")
    return preprocess(folder, "rvt")


def _sparse_file(folder):
    return h5py.File(folder / "sparse" / "train" / "train_day_0001" / "sparse_frames.h5", "r+")


@cases(
    shape_huge=("shape", [2**20, 2**20, 2**20]), shape_negative=("shape", [-20, 24, 32]),
    shape_short=("shape", [20]), shape_text=("shape", "wide"), bits_many=("count_bits", 400),
    bits_negative=("count_bits", -3), bits_text=("count_bits", "four"),
    version=("version", 99), settings=("settings", []), sensor=("sensor_size", ["a", None]),
    sensor_zero=("sensor_size", [0, 0]), dropped=("dropped", {"boxes: x": "many"}),
    events=("events", 7), shape_nested=("shape", [[20], [24], [32]]),
)  # fmt: skip
def sparse_about(folder, change):
    with _sparse_file(folder) as file:
        about = json.loads(file.attrs["about"])
        about[change[0]] = change[1]
        text = json.dumps(about)
        file.attrs["about"], file.attrs["about_crc32"] = text, zlib.crc32(text.encode())
    return preprocess(folder, "sparse")


@cases(list="[]", number="7", text="{", nested="[" * 100_000, infinite='{"version": Infinity}')
def sparse_about_is(folder, text):
    with _sparse_file(folder) as file:
        del file.attrs["about"]
        file.attrs.create("about_crc32", zlib.crc32(text.encode()))
        file.attrs["about"] = text if len(text) < 50_000 else text[:50_000]
        file.attrs["about_crc32"] = zlib.crc32(str(file.attrs["about"]).encode())
    return preprocess(folder, "sparse")


SPARSE_DATASETS = ("entries", "first_entry", "frame_end_us", "label_frame", "label_boxes")


@cases(**{name: name for name in SPARSE_DATASETS})
def sparse_lacks(folder, name):
    with _sparse_file(folder) as file:
        del file[name]
    return preprocess(folder, "sparse")


@cases(**{f"{d} {n}": (d, v) for d in SPARSE_DATASETS for n, v in {
    "as text": np.array([b"a"] * 9), "falling": np.arange(9, 0, -1), "a table": np.zeros((9, 2)),
    "one number": np.int64(3),
}.items()})  # fmt: skip
def sparse_dataset(folder, change):
    with _sparse_file(folder) as file:
        del file[change[0]]
        file[change[0]] = change[1]
    return preprocess(folder, "sparse")


@case
def sparse_entries_lie_beyond_their_frame(folder):
    with _sparse_file(folder) as file:
        length = len(file["entries"])
        del file["entries"]
        file["entries"] = np.full(length, 2**16 - 1, np.uint16)
    return preprocess(folder, "sparse")
