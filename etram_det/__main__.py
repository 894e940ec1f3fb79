"""``python -m etram_det``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from etram_det.cli.commands import run

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def main() -> None:
    """Run the command line and leave with its exit code."""
    # Loading processes share the cores with PyTorch's threads, which would by default wait for
    # each other by spinning. It must be set before PyTorch loads its OpenMP library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    code = run(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what is left needs no traceback at Ctrl-C
    sys.exit(code)


def keep_freed_memory() -> None:
    """Let glibc use large blocks again, which it would hand back to the system each time.

    Getting them back, page by page, took a fifth of a training step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


if __name__ == "__main__":
    main()
