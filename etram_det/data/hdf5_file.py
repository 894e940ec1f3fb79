"""HDF5 files, opened with all filters and without locks.

h5py and hdf5plugin are imported when a file is opened, not with this module. New files are written
by ``etram_det.files.new_hdf5_file``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etram_det.errors import UserError

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_hdf5(
    path: Path, remedy: str, chunk_cache_bytes: int | None = None, even_cut: bool = False
) -> Iterator[h5py.File]:
    """Open a file to read it, whatever filter of camera makers, RVT or our own it has.

    Many network file systems refuse locks, so there are none.

    Args:
        path: the file.
        remedy: what to do about a damaged file, for the error.
        chunk_cache_bytes: for the chunks of each array; h5py's own number unless set.
        even_cut: whether to open a file that was cut, too: what lies behind its end reads as zeros.

    Raises:
        UserError: the file is missing or damaged, be it where it is read later on.
    """
    import h5py
    import hdf5plugin  # noqa: F401  registers the filters

    try:
        with ExitStack() as opened:
            try:
                file = h5py.File(path, rdcc_nbytes=chunk_cache_bytes, locking=False)
            except OSError as error:
                full_size = re.search(r"truncated file.*stored_eof = (\d+)", str(error))
                if full_size is None or not even_cut:
                    raise
                padded = opened.enter_context(_PaddedFile(path, int(full_size[1])))
                file = h5py.File(padded, "r", rdcc_nbytes=chunk_cache_bytes)
            yield opened.enter_context(file)
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises for damaged files
        raise UserError(f"{path}: cannot be read as HDF5 ({error}): {remedy}") from error


class _PaddedFile(io.RawIOBase):
    """A file that was cut, with zeros in place of what is missing: HDF5 opens no shorter one."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._size, self._place = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._place)
        num_read = self._file.readinto(view) or 0
        view[num_read:] = bytes(len(view) - num_read)
        self._place += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()
