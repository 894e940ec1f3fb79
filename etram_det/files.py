"""Atomic writes of files and folders, new HDF5 files, and the cache folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import h5py

UNFINISHED = ".partial"
# Of each data set of a new file, which is written from start to end: a chunk must fit, or be
# written as a whole. From HDF5 2 on, 8 MB would be kept of each.
_CHUNK_CACHE_BYTES = 2**19
CACHE_VARIABLE = "ETRAM_DET_CACHE"


def cache_folder() -> Path:
    """The user's cache folder: ``$ETRAM_DET_CACHE``, or else the system's usual one."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    import platformdirs  # which a machine that only measures need not have

    return platformdirs.user_cache_path("etram_det")


def cached_file(folder: str, source: Path, made_with: str, suffix: str) -> Path:
    """The place in the cache of what is made of a file; another one once the file has changed.

    Args:
        folder: in the cache, for files of one kind.
        source: the file that it is made of.
        made_with: all else that it follows from.
        suffix: of its name.

    Raises:
        OSError: there is no such file.
    """
    status = source.stat()
    key = f"{source.resolve()}|{status.st_size}|{status.st_mtime_ns}|{made_with}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return cache_folder() / folder / f"{name}{suffix}"


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """Whether this process alone, of those on this machine, works on a file or folder meanwhile.

    Where no lock can be had, as on a disk that cannot be written, it is taken to be alone.
    """
    key = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with _locked(f"{path.name}_{key}", timeout_s=0) as is_alone:
        yield is_alone


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process after the other make what is kept at ``path``: the first does the work.

    Where no lock can be had, as on a disk that cannot be written, all go on at once.

    Args:
        path: file or folder of the cache.
    """
    with _locked(path.name, timeout_s=-1):
        yield


@contextmanager
def _locked(name: str, timeout_s: float) -> Iterator[bool]:
    """Hold a lock of this machine; false where another process holds it for longer (-1: waits)."""
    lock = FileLock(cache_folder() / "locks" / f"{name}.lock")
    is_alone = True
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout_s)
    except Timeout:
        is_alone = False
    except (OSError, NotImplementedError):
        pass
    try:
        yield is_alone
    finally:
        lock.release()


@contextmanager
def replacing(path: Path, writer: str = "", kept: bool = True) -> Iterator[Path]:
    """Write a file atomically: beside ``path``, then moved into place once it is on the disk.

    Whatever stops the writing leaves ``path`` as it was. What a killed process leaves beside it
    goes with the next writing of the same file.

    Args:
        path: file to write, new or not; its folder is made if need be.
        writer: name of the process among those that may write the same file at the same time.
        kept: whether it must outlive a power cut, for which it is waited; not so in a cache.

    Yields:
        The file to write.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{writer and f'.{writer}'}{UNFINISHED}")
    try:
        yield unfinished
        if kept:
            move_into_place(unfinished, path)
        else:
            os.replace(unfinished, path)
    except OSError as error:
        if error.filename == str(unfinished):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str, writer: str = "") -> None:
    """Write a text file in UTF-8 atomically, as ``replacing`` does.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path, writer) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def move_into_place(unfinished: Path, final: Path) -> None:
    """Give a written file or folder its final name once all of it is on the disk.

    Raises:
        OSError: the disk is full, say.
    """
    parts = unfinished.rglob("*") if unfinished.is_dir() else ()
    for path in (*parts, unfinished):
        _synchronise(path)
    if final.is_dir() and not any(final.iterdir()):
        final.rmdir()  # not every system replaces an empty folder
    os.replace(unfinished, final)
    _synchronise(final.parent)


def _synchronise(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows has no such thing for folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        left = memoryview(content)
        try:
            while self.error is None and len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            self.error = error
        return len(content)

    def truncate(self, size: int) -> int:
        try:
            if self.error is None:
                self._file.truncate(size)
        except OSError as error:
            self.error = error
        return size

    def raise_error(self) -> None:
        if self.error is not None:
            raise OSError(self.error.errno, self.error.strerror, self._file.name)


@contextmanager
def new_hdf5_file(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Write a new HDF5 file; leaving it raises ``OSError`` if any of it could not be written.

    Yields:
        The file, and a function that raises this error at once, to be called now and then.
    """
    import h5py

    with path.open("w+b", buffering=0) as file:
        guarded = _GuardedFile(file)
        with h5py.File(guarded, "w", rdcc_nbytes=_CHUNK_CACHE_BYTES) as hdf5_file:
            yield hdf5_file, guarded.raise_error
        guarded.raise_error()
