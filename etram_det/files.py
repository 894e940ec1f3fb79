"""Atomic writes of files and folders, and the cache folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

UNFINISHED = ".partial"
CACHE_VARIABLE = "ETRAM_DET_CACHE"


def cache_folder() -> Path:
    """The user's cache folder: ``$ETRAM_DET_CACHE``, or else the system's usual one."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("etram_det"))


@contextmanager
def replacing(path: Path, writer: str = "") -> Iterator[Path]:
    """Write a file atomically: beside ``path``, then moved into place once it is on the disk.

    Whatever stops the writing leaves ``path`` as it was. What a killed process leaves beside it
    goes with the next writing of the same file.

    Args:
        path: file to write, new or not; its folder is made if need be.
        writer: name of the process among those that may write the same file at the same time.

    Yields:
        The file to write.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{writer and f'.{writer}'}{UNFINISHED}")
    try:
        yield unfinished
        move_into_place(unfinished, path)
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
