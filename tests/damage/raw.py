"""Raw recordings whose HDF5 or boxes hold what they must not."""

import pickle

import h5py
import numpy as np

from damage.cases import Payload, case, cases, preprocess


def _events_file(folder):
    return h5py.File(folder / "raw" / "train" / "train_day_0001_td.h5", "r+")


@cases(x="x", y="y", p="p", t="t")
def column_missing(folder, name):
    with _events_file(folder) as file:
        del file[f"events/{name}"]
    return preprocess(folder)


COLUMNS = {
    "floats": np.linspace(0, 1, 600),
    "nan": np.full(600, np.nan),
    "text": np.array([b"abc"] * 600),
    "a table": np.zeros((600, 2), np.int64),
    "one number": np.int64(5),
    "nothing": np.empty(0, np.int64),
    "one too few": np.zeros(599, np.int64),
    "records": np.zeros(600, [("a", "<i8")]),
    "falling": np.arange(600, 0, -1),
    "negative": np.arange(-600, 0),
    "largest": np.full(600, 2**63 - 1),
    "unsigned": np.full(600, 2**64 - 1, np.uint64),
    "big endian": np.arange(600, dtype=">i8"),
}


@cases(**{f"{c} {n}": (c, v) for c in "tx" for n, v in COLUMNS.items()})
def column_of(folder, change):
    name, values = change
    with _events_file(folder) as file:
        del file[f"events/{name}"]
        file[f"events/{name}"] = values
    return preprocess(folder)


@cases(a_trillion=2**40, the_most=2**62)
def columns_that_claim(folder, length):
    with _events_file(folder) as file:
        for name in "xypt":
            del file[f"events/{name}"]
            file.create_dataset(f"events/{name}", (length,), np.int64, chunks=(2**16,))
    return preprocess(folder)


@case
def events_are_a_dataset(folder):
    with _events_file(folder) as file:
        del file["events"]
        file["events"] = np.zeros(5)
    return preprocess(folder)


@case
def events_are_a_broken_link(folder):
    with _events_file(folder) as file:
        del file["events/t"]
        file["events/t"] = h5py.SoftLink("/nowhere")
        file["events/x2"] = h5py.ExternalLink("other.h5", "/x")
    return preprocess(folder)


@cases(
    huge=2**40, negative=-5, zero=0, text="wide", nothing=np.empty(0), nan=np.nan, table=[[1], [2]]
)
def sensor_height(folder, value):
    with _events_file(folder) as file:
        del file["events/height"]
        file["events/height"] = value
    return preprocess(folder)


def _boxes(folder):
    return folder / "raw" / "train" / "train_day_0001_bbox.npy"


@cases(
    t_negative=("t", -(2**62)), t_largest=("t", 2**63 - 1), x_nan=("x", np.nan),
    x_infinite=("x", np.inf), w_negative=("w", -1e30), w_nan=("w", np.nan), h_huge=("h", 3e38),
    class_9=("class_id", 9), class_largest=("class_id", 2**32 - 1), y_huge=("y", -3e38),
)  # fmt: skip
def boxes_with(folder, change):
    boxes = np.load(_boxes(folder))
    boxes[change[0]] = change[1]
    np.save(_boxes(folder), boxes)
    return preprocess(folder)


FIELDS = [("t", "<i8"), *((n, "<f4") for n in "xywh"), ("class_id", "<u4")]
ARRAYS = {
    "plain": np.zeros(5),
    "of no dimension": np.zeros((), FIELDS),
    "of two dimensions": np.zeros((2, 3), FIELDS),
    "empty": np.zeros(0, FIELDS),
    "of text": np.array(["a", "b"]),
    "of dates": np.zeros(5, "datetime64[us]"),
    "without t": np.zeros(5, FIELDS[1:]),
    "t as text": np.zeros(5, [("t", "S8"), *FIELDS[1:]]),
    "t as floats": np.array([(np.nan, 1, 1, 5, 5, 0)] * 5, [("t", "<f8"), *FIELDS[1:]]),
    "class as floats": np.array([(9, 1, 1, 5, 5, np.nan)] * 5, [*FIELDS[:-1], ("class_id", "<f4")]),
    "x as rows": np.zeros(5, [("t", "<i8"), ("x", "<f4", 3), *FIELDS[2:]]),
    "x as complex": np.zeros(5, [("t", "<i8"), ("x", "<c8"), *FIELDS[2:]]),
    "nested": np.zeros(5, [("t", [("a", "<i8")]), *FIELDS[1:]]),
    "of a day and more": np.array([(10**12, 1, 1, 5, 5, 0)] * 5, FIELDS),
}  # fmt: skip


@cases(**ARRAYS)
def boxes_are(folder, array):
    np.save(_boxes(folder), array)
    return preprocess(folder)


@case
def boxes_are_pickled_code(folder):
    np.save(_boxes(folder), np.array([Payload()], dtype=object), allow_pickle=True)
    return preprocess(folder)


@case
def boxes_are_a_bare_pickle(folder):
    _boxes(folder).write_bytes(pickle.dumps(Payload()))
    return preprocess(folder)


@cases(many=2**45, wrapping=2**63, negative=-3)
def boxes_claim(folder, length):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({length},), }}".ljust(117)
    _boxes(folder).write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\n" + bytes(64))
    return preprocess(folder)


@case
def boxes_have_code_in_their_header(folder):
    header = "{'descr': __import__('os').system('touch $CANARY'), 'shape': (1,)}".ljust(117)
    _boxes(folder).write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode() + b"\n")
    return preprocess(folder)


@case
def boxes_are_a_folder(folder):
    _boxes(folder).unlink()
    _boxes(folder).mkdir()
    return preprocess(folder)
