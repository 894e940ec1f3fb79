"""``python -m etram_det cache``: what this project keeps in the user's cache, and removing it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock, Timeout
from rich.table import Table
from rich.text import Text

import etram_det
from etram_det.errors import UserError
from etram_det.files import UNFINISHED, cache_folder
from etram_det.progress import screen

# Folders of the cache that hold a file for each file of the user, and what these are.
FILES_OF = {
    "camera_files": "events decoded from camera files",
    "event_facts": "facts of event files",
    "time_index": "time indices of recordings",
}
_LOCKS = "locks"
_SET = re.compile(r"simulated-(\d+x\d+)-[0-9a-f]{12}")
# A file, an unfinished one of a writer, or a lock of an earlier release.
_FILE = re.compile(
    rf"([0-9a-f]{{32}}\.\w+)|\.([0-9a-f]{{32}}\.\w+?)(\.\w+)?({re.escape(UNFINISHED)}|\.lock)"
)
_MANIFEST = "simulation.json"  # of a simulated set
_MAX_SHOWN = 5  # files and folders of others
_WIDTH = 120  # of the table where it goes into a file or a pipe, in columns


@dataclass(frozen=True)
class Kept:
    """What can be removed at once.

    Attributes:
        what: it is, for people.
        place: its folder.
        paths: files and folders to remove.
        num_bytes: that they take.
        in_use: whether another process is making it now.
    """

    what: str
    place: Path
    paths: tuple[Path, ...]
    num_bytes: int
    in_use: bool = False


def cache_command(action: Literal["list", "clear"] = "list", yes: bool = False) -> None:
    """List what this project keeps in the user's cache (``cache``), or remove it (``cache clear``).

    All of it is made again when it is needed: simulated traffic, decoded camera files, indices,
    compiled kernels. What else lies in the folder stays.

    Args:
        action: ``list`` or ``clear``, as a word: ``cache clear``.
        yes: remove without a question.

    Raises:
        UserError: nobody is there to be asked, or a file cannot be removed.
    """
    contents = cache_contents()
    screen(width=_WIDTH).print(cache_table(contents))
    if others := unknown_in_cache():
        some = ", ".join(map(str, others[:_MAX_SHOWN])) + (", …" if others[_MAX_SHOWN:] else "")
        screen().out(f"not made by this project, so it stays: {some}")
    if action == "list":
        return
    removable = [each for each in contents if not each.in_use]
    for each in contents:
        if each.in_use:
            screen().out(f"kept, as another process is making it: {each.place}")
    if not removable:
        screen().out("nothing to remove")
        return
    if not yes and not _is_confirmed(sum(each.num_bytes for each in removable)):
        screen().out("nothing was removed")
        return
    for each in removable:
        _remove(each.paths)
        screen().out(f"freed {shown_size(each.num_bytes)}: {each.what}, {each.place}")


def cache_contents() -> list[Kept]:
    """What this project has made in the cache, and its compiled kernels."""
    return [each for each in (*_simulated_sets(), *_files(), _kernels()) if each.paths]


def unknown_in_cache() -> list[Path]:
    """Files and folders of the cache that this project has not made."""
    known = {path for each in cache_contents() for path in each.paths}
    folder = cache_folder()
    places = [folder, *(folder / name for name in FILES_OF)]
    parts = {*FILES_OF, _LOCKS}
    return sorted(
        path
        for place in places
        for path in (place.iterdir() if place.is_dir() else ())
        if path not in known and (path.name not in parts or path.is_symlink())
    )


def cache_table(contents: Iterable[Kept]) -> Table:
    """What is kept where, and how much room is left on its disk."""
    contents = list(contents)
    folder = cache_folder()
    total, free = (shown_size(n) for n in (sum(x.num_bytes for x in contents), free_bytes(folder)))
    title = Text(f"cache: {folder}, {total}; {free} free on its disk")
    table = Table(title=title, title_justify="left")
    for heading in ("what", "where", "size"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "size" else "left")
    for each in contents:
        state = ", in the making" if each.in_use else ""
        table.add_row(each.what + state, Text(str(each.place)), shown_size(each.num_bytes))
    return table


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not be there yet."""
    return shutil.disk_usage(_nearest_existing(folder)).free


def can_be_written(folder: Path) -> bool:
    """Whether files can be written to a folder, which need not be there yet."""
    nearest = _nearest_existing(folder)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _nearest_existing(path: Path) -> Path:
    """A path, or of the folders above it the nearest one that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _simulated_sets() -> Iterator[Kept]:
    """Sets of simulated traffic, whole and unfinished."""
    folder = cache_folder()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = re.sub(rf"^\.(.*)\.[0-9a-f]{{32}}{re.escape(UNFINISHED)}$", r"\1", path.name)
        found = _SET.fullmatch(name)
        is_whole = name == path.name
        if not found or path.is_symlink() or (is_whole and not (path / _MANIFEST).is_file()):
            continue
        what = f"{'' if is_whole else 'unfinished '}simulated traffic, {found[1]}"
        yield Kept(what, path, (path,), _bytes_of([path]), _is_locked(name))


def _files() -> Iterator[Kept]:
    """What is kept of the user's files, a kind each."""
    for name, what in FILES_OF.items():
        place = cache_folder() / name
        if place.is_symlink() or not place.is_dir():
            continue
        found = [(each, _FILE.fullmatch(each.name)) for each in sorted(place.iterdir())]
        paths = tuple(
            path
            for path, name in found
            if name and _is_file(path) and not _is_locked(name[1] or name[2])
        )
        yield Kept(what, place, paths, _bytes_of(paths))


def _kernels() -> Kept:
    """What numba has compiled of this package's kernels."""
    package = Path(etram_det.__file__).absolute().parent
    sources = {path.parent for path in package.rglob("*.py")}
    roots = [platformdirs.user_cache_path("numba")]
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        roots.append(Path(chosen))
    folders = [folder / "__pycache__" for folder in sources]
    folders += [root / numba_folder(folder) for root in roots for folder in sources]
    paths = sorted(x for folder in folders for x in folder.glob("*.nb[ic]") if _is_file(x))
    is_beside = not paths or paths[0].is_relative_to(package)
    place = package if is_beside else paths[0].parent.parent
    return Kept("compiled kernels", place, tuple(paths), _bytes_of(paths))


def numba_folder(sources: Path) -> str:
    """Name of the folder in which numba keeps what it compiles of a folder of sources.

    Args:
        sources: absolute path.
    """
    return f"{sources.name}_{hashlib.sha1(str(sources).encode()).hexdigest()}"


def _is_locked(name: str) -> bool:
    """Whether a process is making what has this name in the cache."""
    path = cache_folder() / _LOCKS / f"{name}.lock"
    if not path.is_file():
        return False
    with suppress(OSError, NotImplementedError):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
    return False


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _bytes_of(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        for part in path.rglob("*") if path.is_dir() else [path]:
            with suppress(FileNotFoundError):  # gone meanwhile
                total += part.lstat().st_size if not part.is_dir() else 0
    return total


def _is_confirmed(num_bytes: int) -> bool:
    if not sys.stdin.isatty():
        raise UserError(
            "cache clear: must be confirmed, got no terminal to ask in: use cache clear --yes"
        )
    answer = screen().input(f"Remove these, {shown_size(num_bytes)}? [y/N] ", markup=False)
    return answer.strip().lower() in ("y", "yes")


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"{error.filename}: cannot be removed ({error.strerror}): use an account that may "
                "write there",
                exit_code=1,
            ) from error


def shown_size(num_bytes: float) -> str:
    """Bytes for people: ``3.4 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.{0 if unit == 'bytes' else 1}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
