"""Memory that ``detect`` has no use for any more is returned to the system, on Linux."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_M_MMAP_THRESHOLD = -3  # of mallopt
_SMAPS = Path("/proc/self/smaps")
_CODE = re.compile(r"(\w+)-(\w+) r-[x-]p \S+ \S+ \S+ +/.*\.so[.\d]*$")  # never written to


def return_large_blocks() -> None:
    """Have glibc return blocks of the size of a frame when they are freed.

    Otherwise it keeps them, in pieces, once one was freed: 25 MB with OpenVINO.
    """
    with suppress(AttributeError, OSError, TypeError):  # of other systems and C libraries
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 128 * 1024)  # its own default


def return_unused() -> None:
    """Return what glibc holds of freed memory, and the pages of libraries' code.

    Code is in the files of the libraries, and comes back page by page where it runs again. Most of
    it ran at the start only, as numba's compiler and the readers of network files: 100 MB.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        for start, stop in _code():
            library.madvise(
                ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_DONTNEED
            )


def _code() -> Iterator[tuple[int, int]]:
    """Addresses of the mapped parts of libraries that are as in their files."""
    place = None
    for line in _SMAPS.read_text().splitlines():
        if found := _CODE.match(line):
            place = int(found[1], 16), int(found[2], 16)
        elif place and line.split() == ["Anonymous:", "0", "kB"]:
            yield place
            place = None
        elif line[0].islower() or line[0].isdigit():  # another mapping
            place = None
