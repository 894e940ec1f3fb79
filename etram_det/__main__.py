"""``python -m etram_det``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from etram_det.cli.commands import run

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_SMALL = 2**17  # bytes: glibc's own threshold, which otherwise rises with what is freed


def main() -> None:
    """Run the command line and leave with its exit code."""
    # Loading processes share the cores with PyTorch's threads, which would by default wait for
    # each other by spinning. It must be set before PyTorch loads its OpenMP library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if sys.argv[1:2] == ["simulate"]:
        # Otherwise its threads keep more than they use.
        set_malloc({_M_MMAP_THRESHOLD: _SMALL, _M_TRIM_THRESHOLD: _SMALL, _M_ARENA_MAX: 1})
    else:
        keep_freed_memory()
    code = run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left needs no traceback at Ctrl-C
    sys.exit(code)


def keep_freed_memory() -> None:
    """Let glibc use large blocks again, which it would hand back to the system each time.

    Getting them back, page by page, took a fifth of a training step on a CPU.
    """
    set_malloc({_M_MMAP_THRESHOLD: 2**30, _M_TRIM_THRESHOLD: 2**31 - 1})


def set_malloc(settings: dict[int, int]) -> None:
    """Set parameters of glibc's malloc, as its manual has them; other C libraries have none."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    for parameter, value in settings.items():
        mallopt(parameter, value)


if __name__ == "__main__":
    main()
