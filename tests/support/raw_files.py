"""Raw recordings for tests, in eTraM's layout."""

from pathlib import Path

import h5py
import numpy as np

from etram_det.boxes import BOX_DTYPE


def random_events(num_events, seconds=1.0, size=(48, 64), seed=0):
    """Events with ascending timestamps, as a dictionary of columns."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(0, size[1], num_events).astype(np.uint16),
        "y": rng.integers(0, size[0], num_events).astype(np.uint16),
        "p": rng.integers(0, 2, num_events).astype(np.int16),
        "t": np.sort(rng.integers(0, int(seconds * 1e6), num_events)),
    }


def boxes_at(times, class_id=0, x=10.0, y=12.0, w=20.0, h=16.0):
    """One box at each time, in microseconds."""
    boxes = np.zeros(len(times), BOX_DTYPE)
    boxes["t"] = times
    for name, value in {"x": x, "y": y, "w": w, "h": h, "class_id": class_id}.items():
        boxes[name] = value
    return boxes


def write_raw(folder: Path, name, events, boxes=None, size=(48, 64), **compression):
    """Write ``<name>_td.h5`` and, where boxes are given, ``<name>_bbox.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_td.h5"
    with h5py.File(path, "w") as file:
        for column, values in events.items():
            file.create_dataset(f"events/{column}", data=values, **compression)
        if size is not None:
            file["events/height"], file["events/width"] = size
    if boxes is not None:
        np.save(folder / f"{name}_bbox.npy", boxes)
    return path
