"""``python -m etram_det``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    # Loading processes share the cores with PyTorch's threads, which would by default wait for
    # each other by spinning. It must be set before PyTorch loads its OpenMP library.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from etram_det.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
