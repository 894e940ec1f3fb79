"""New HDF5 files on a disk that may be full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import h5py


class _GuardedFile:
    """A binary file that keeps the first error of writing, and goes on as if nothing had been.

    HDF5 cannot close a file whose writes fail: it crashes the process later on.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.seek, self.tell, self.readinto = file.seek, file.tell, file.readinto  # type: ignore[attr-defined]
        self.read, self.flush = file.read, file.flush  # h5py knows a file by its read

    def write(self, content: bytes) -> int:
        """Write all of ``content``, or note why not."""
        left = memoryview(content)
        try:
            while self.error is None and len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

    def truncate(self, size: int) -> int:
        """Set the file's size, or note why not."""
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def raise_error(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, self._file.name)


class HDF5FileToWrite(h5py.File):
    """A new HDF5 file; errors of writing are kept until :meth:`raise_error`."""

    def __init__(self, file: _GuardedFile) -> None:
        super().__init__(file, "w")
        self._guarded = file

    def raise_error(self) -> None:
        """Raise ``OSError`` if writing has failed: to be called now and then."""
        self._guarded.raise_error()


@contextmanager
def new_hdf5_file(path: Path) -> Iterator[HDF5FileToWrite]:
    """Write a new HDF5 file; leaving it raises ``OSError`` if any of it could not be written."""
    with path.open("w+b", buffering=0) as file:
        guarded = _GuardedFile(file)
        with HDF5FileToWrite(guarded) as hdf5_file:
            yield hdf5_file
        guarded.raise_error()
