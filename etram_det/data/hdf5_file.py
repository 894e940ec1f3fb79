"""HDF5 files, opened with all filters and without locks.

h5py and hdf5plugin are imported when a file is opened, not with this module. New files are written
by ``etram_det.files.new_hdf5_file``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from etram_det.errors import UserError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(path: Path, remedy: str, chunk_cache_bytes: int | None = None) -> Iterator[h5py.File]:
    """Open a file to read it, whatever filter of camera makers, RVT or our own it has.

    Many network file systems refuse locks, so there are none.

    Args:
        path: the file.
        remedy: what to do about a damaged file, for the error.
        chunk_cache_bytes: for the chunks of each array; h5py's own number unless set.

    Raises:
        UserError: the file is missing or damaged, be it where it is read later on.
    """
    import h5py
    import hdf5plugin  # noqa: F401  registers the filters

    try:
        with h5py.File(path, rdcc_nbytes=chunk_cache_bytes, locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path}: cannot be read as HDF5 ({error}): {remedy}") from error
