"""The columns of an HDF5 file of events, wherever they lie in it and however they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from etram_det.data.hdf5_file import open_hdf5
from etram_det.data.representation import POLARITIES
from etram_det.errors import UserError

if TYPE_CHECKING:
    import h5py

Size = tuple[int, int]

# Names of the columns, in lower case.
_NAMES = {
    "x": ("x", "xs"),
    "y": ("y", "ys"),
    "p": ("p", "ps", "pol", "polarity", "polarities"),
    "t": ("t", "ts", "time", "timestamp", "timestamps"),
}
_PLACES = ("events", "CD/events", "CD", "/")
_ECF = 36559  # number of Prophesee's filter
_CHUNK_CACHE = 16 * 2**20  # bytes a column: windows that share a chunk unpack it once
_PACKED = 100  # no real events shrink to less than a hundredth of their size
FIRST, LATEST = 2**12, 2**14  # events that are looked at, at the ends of a file


@dataclass(frozen=True)
class Column:
    """One column of the events, be it an array, a field of a table or a column of a matrix.

    Attributes:
        dataset: the array in the file.
        part: name of the field, or index of the column; None where the array is the column.
        name: of the column in the file, for messages.
        length: number of events in it, fewer than the array claims where the file is cut.
    """

    dataset: h5py.Dataset
    part: str | int | None
    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, events: slice) -> NDArray[Any]:
        """Values ``[E]`` of some events, in this machine's byte order."""
        events = slice(*events.indices(self.length))
        if self.part is None:
            values = self.dataset[events]
        elif isinstance(self.part, str):
            values = self.dataset.fields(self.part)[events]
        else:
            values = np.ascontiguousarray(self.dataset[events, self.part])
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        dtype = self.dataset.dtype
        return dtype[self.part] if isinstance(self.part, str) else dtype

    def whole(self, values: NDArray[Any], path: Path) -> NDArray[Any]:
        """Values ``[E]`` of the column as whole numbers.

        Raises:
            UserError: they are numbers with a fraction, or not finite.
        """
        if values.dtype.kind != "f":
            return values
        values = values.astype(np.float64)
        rounded = np.rint(values)
        wrong = ~(np.abs(rounded) < 2**31) | (rounded != values)
        if np.any(wrong):
            raise UserError(
                f"{path}: {self.name} must hold whole numbers, got {values[wrong.argmax()]:g}: "
                "write the file with such numbers"
            )
        return rounded.astype(np.int64)

    def ends(self) -> NDArray[Any]:
        """Values of the first and the last events, without those between."""
        if len(self) <= FIRST + LATEST:
            return self[:]
        return np.concatenate([self[:FIRST], self[-LATEST:]])


@contextmanager
def open_events(path: Path) -> Iterator[dict[str, Column]]:
    """The columns ``x``, ``y``, ``p`` and ``t`` of a file, checked; it is closed afterwards.

    Raises:
        UserError: the file is damaged, or has no such columns, or more than one set of them.
    """
    with open_hdf5(path, "fetch the file again", _CHUNK_CACHE, even_cut=True) as file:
        columns = _columns(file, path)
        for column in columns.values():
            _require_known_filters(column.dataset, path)
        lengths = {name: len(column) for name, column in columns.items()}
        least = min(lengths.values())
        if is_cut(file, path):
            if least == 0:
                lost = min(columns.values(), key=len)
                raise UserError(
                    f"{path}: was cut short, and nothing is left of {lost.name}: fetch the file "
                    "again"
                )
            columns = {name: replace(each, length=least) for name, each in columns.items()}
        elif least < max(lengths.values()):
            raise UserError(
                f"{path}: its columns must be equally long, got {lengths}: fetch it again"
            )
        if least == 0:
            raise UserError(f"{path}: must hold events, got none: take it out of the folder")
        yield columns


def _columns(file: h5py.File, path: Path) -> dict[str, Column]:
    """The one set of columns in a file."""
    found = {
        place: columns
        for place in _PLACES
        if (columns := _columns_at(file, place, path)) is not None
    }
    if len(found) > 1:
        raise UserError(
            f"{path}: must hold events in one place, got {' and '.join(found)}: keep one of them"
        )
    if not found and is_cut(file, path):
        raise UserError(
            f"{path}: was cut short, and not all columns are left: fetch the file again"
        )
    if not found:
        raise UserError(f"{path}: must hold events/x, y, p and t; {_lacking(file)}")
    (columns,) = found.values()
    return columns


def _columns_at(file: h5py.File, place: str, path: Path) -> dict[str, Column] | None:
    """The columns of a group, a table or a matrix; None where one of them is missing."""
    holder = file.get(place)
    if holder is None:
        return None
    prefix = "" if place == "/" else f"{place}/"
    if hasattr(holder, "keys"):
        arrays = {name: holder.get(name) for name in holder if is_array(holder.get(name))}
        places: dict[str, tuple[Any, str | int | None]] = {
            name: (array, None) for name, array in arrays.items()
        }
    elif holder.dtype.names:
        places = {name: (holder, name) for name in holder.dtype.names}
    elif holder.ndim == 2 and holder.shape[1] == 4:
        _require_known_filters(holder, path)
        places = {name: (holder, i) for name, i in _order_of(holder, place, path).items()}
    else:
        return None
    columns = {}
    for column, names in _NAMES.items():
        matching = [name for name in places if name.lower() in names]
        if not matching:
            return None
        if len(matching) > 1:
            raise UserError(
                f"{path}: must hold one column {column}, got {prefix}{matching[0]} and "
                f"{prefix}{matching[1]}: keep one of them"
            )
        dataset, part = places[matching[0]]
        length = _readable_length(dataset, path)
        columns[column] = Column(dataset, part, f"{prefix}{matching[0]}", length)
        _require_numbers(columns[column], path)
    return columns


def is_array(item: Any) -> bool:
    """Whether what a file holds under some name is an array."""
    return hasattr(item, "shape") and hasattr(item, "dtype")


def _lacking(file: h5py.File) -> str:
    """What is missing, what is there instead, and what to do."""
    group = file.get("events")
    is_group = hasattr(group, "keys")
    inside = group if is_group else file
    place = "events/" if is_group else ""
    missing = [
        f"{place or 'events/'}{column}"
        for column, names in _NAMES.items()
        if not any(name.lower() in names and is_array(inside.get(name)) for name in inside)
    ]
    found = ", ".join(f"{place}{each}" for each in inside) or f"{place or 'file'} empty"
    if not is_group and group is not None:
        shape = getattr(group, "shape", None)
        found = f"events {getattr(group, 'dtype', '')} {shape}"
    return (
        f"{missing[0]} is missing, got {found}: fetch the file again, or write it with such arrays"
    )


def _require_numbers(column: Column, path: Path) -> None:
    """Refuse what is no row of numbers, and what claims more than was ever written."""
    dataset, dtype = column.dataset, column.dtype
    num_axes = 2 if isinstance(column.part, int) else 1
    if dataset.ndim != num_axes or dtype.kind not in "iufb" or dtype.shape:
        raise UserError(
            f"{path}: {column.name} must be a row of numbers, got {dtype} {dataset.shape}: fetch "
            "the file again"
        )
    if dataset.nbytes <= _PACKED * path.stat().st_size:
        return  # counting the chunks of a long recording takes its time
    room = dataset.id.get_storage_size() // dataset.dtype.itemsize
    if dataset.chunks is not None:
        room = dataset.id.get_num_chunks() * dataset.chunks[0]
    if room < len(dataset):
        raise UserError(
            f"{path}: {column.name} must hold the {len(dataset)} events it claims, got room "
            f"for {room}: fetch the file again, which was not written to its end"
        )


def _order_of(matrix: h5py.Dataset, place: str, path: Path) -> dict[str, int]:
    """Index of each column of a matrix ``[N, 4]``: x before y, t ascends, p has two values."""
    length = _readable_length(matrix, path)
    if length == 0 and is_cut(matrix.file, path):
        raise UserError(
            f"{path}: was cut short, and nothing is left of {place}: fetch the file again"
        )
    rows = np.concatenate(
        [matrix[: min(FIRST, length)], matrix[max(length - LATEST, FIRST) : length]]
    )
    of_p = [i for i in range(4) if np.isin(rows[:, i], POLARITIES).all()]
    of_t = [
        i
        for i in range(4)
        if i not in of_p and len(rows) and np.mean(np.diff(rows[:, i].astype(np.float64)) < 0) < 0.1
    ]
    if len(of_p) != 1 or len(of_t) != 1:
        raise UserError(
            f"{path}: {place} {list(matrix.shape)} must have one column of timestamps that ascend "
            f"and one of polarities, got columns {of_t} and {of_p} that could be: write x, y, p "
            "and t as arrays events/x, events/y, events/p and events/t"
        )
    x, y = (i for i in range(4) if i not in (*of_p, *of_t))
    return {"x": x, "y": y, "p": of_p[0], "t": of_t[0]}


def _require_known_filters(dataset: h5py.Dataset, path: Path) -> None:
    import h5py

    properties = dataset.id.get_create_plist()
    for i in range(properties.get_nfilters()):
        code, _, _, title = properties.get_filter(i)
        if code == _ECF and not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{path}: Prophesee's HDF5, coded with its ECF filter, cannot be read: write it as "
                f"DAT with OpenEB's metavision_file_to_dat -i {path.name}"
            )
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{path}: HDF5 filter {code} ({title.decode(errors='replace')}) is not known "
                "here: write the file anew with h5repack -f GZIP=1"
            )


def is_there(item: Any, path: Path) -> bool:
    """Whether this is an array that lies on the disk as a whole."""
    if not is_array(item) or not is_cut(item.file, path):
        return is_array(item)
    start = item.id.get_offset()
    return start is None or start + item.nbytes <= path.stat().st_size


def is_cut(file: h5py.File, path: Path) -> bool:
    """Whether the file on disk ends before what was written into it."""
    return path.stat().st_size < file.id.get_filesize()


def _readable_length(dataset: h5py.Dataset, path: Path) -> int:
    """Number of leading rows that lie on the disk: all of them unless the file is cut."""
    length = int(dataset.shape[0]) if dataset.ndim else 0
    if not is_cut(dataset.file, path):
        return length
    size = path.stat().st_size
    if dataset.chunks is None:
        start = dataset.id.get_offset()
        row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:], dtype=np.int64))
        return 0 if start is None else min(max(size - start, 0) // row, length)
    lost = [
        chunk.chunk_offset[0]
        for chunk in map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks()))
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size
    ]
    return min([length, *lost])
