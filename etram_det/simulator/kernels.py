"""Compile the simulator's kernels before they are needed, in processes that end.

numba keeps most of the memory that a compilation takes: about 200 MB for all kernels. So other
processes compile them into numba's cache, part by part, and a process that simulates loads them.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numba
import numpy as np
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

from etram_det.simulator.effects import EFFECTS
from etram_det.simulator.event_camera import EventCamera
from etram_det.simulator.pixels import SensorSettings
from etram_det.simulator.rehearsal import Conditions
from etram_det.simulator.rendering import paint
from etram_det.simulator.scene import Scene

NUM_PARTS = 2


def compile_part(part: int) -> None:
    """Run the kernels up to a part: 1 draws a scene, 2 records it."""
    # So much rain that some of it falls past the few pixels.
    effects = {**dict.fromkeys(EFFECTS, 1.0), "rain": 10.0}
    conditions = Conditions(48, 64, 0.2, users=4.0, effects=effects)
    rng = np.random.default_rng(0)
    camera = EventCamera(Scene(rng, conditions), SensorSettings(), rng)
    if part > 1:
        camera.advance(200_000)
        camera.look()


def _mark() -> Path | None:
    """The file beside the compiled kernels that says that all are there, if these are kept."""
    stats = getattr(paint, "stats", None)  # none if compilation is switched off
    if stats is None or stats.cache_path is None:
        return None
    state = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        written = source.stat()  # by which numba, too, knows whether a file is the same
        state.update(f"{source.name} {written.st_mtime_ns} {written.st_size}".encode())
    versions = f"{numba.__version__} {sys.version} {get_host_cpu_name()}"
    state.update(f"{versions} {get_host_cpu_features().flatten()}".encode())
    return Path(stats.cache_path) / f"simulator-{state.hexdigest()[:12]}.compiled"


def compile_kernels() -> None:
    """Compile what is not compiled yet; where that fails, each kernel is compiled at its first use.

    This takes about 20 seconds, once for each version of the package, numba and Python.
    """
    mark = _mark()
    if mark is None or mark.exists() or not sys.executable:
        return
    # Where no process starts or no mark can be left, it is tried again at the next time, which
    # takes two seconds.
    with suppress(OSError, subprocess.CalledProcessError):
        for part in range(1, NUM_PARTS + 1):
            command = [sys.executable, "-m", __name__, str(part)]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


if __name__ == "__main__":
    compile_part(int(sys.argv[1]))
