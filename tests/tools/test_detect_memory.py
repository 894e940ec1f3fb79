"""Memory of `detect` with an exported file: what is returned, and the bound for small computers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from etram_det.data.representation import FrameSettings
from etram_det.tools.detect.memory import _CODE
from support import random_checkpoint
from support.camera_files import evt3
from support.exported import small_export
from support.raw_files import random_events

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
MOST_MB = 400


WATCHED = """
import atexit
from pathlib import Path
from etram_det.__main__ import main
atexit.register(lambda: print(Path("/proc/self/status").read_text()))
main()
"""


def output_of(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_code_is_returned_and_runs_again():
    """numba's compiler leaves, compiles another function all the same, and data stay."""
    code = """
import numba, numpy, re
from pathlib import Path
from etram_det.tools.detect.memory import return_unused
def resident_mb():
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
add = numba.njit(lambda x: x + 1)
data = numpy.arange(10**6)
assert add(1) == 2
before = resident_mb()
return_unused()
print(before - resident_mb())
assert add(1) == 2 and add(1.5) == 2.5 and data.sum() == 499999500000
"""
    assert float(output_of(code)) > 40


def test_only_code_and_constants_of_libraries_are_returned():
    mapped = "7f00-7f10 {} 00000000 08:01 42    /usr/lib/{}"
    for kind, name, is_code in (
        ("r-xp", "libLLVM.so", True),
        ("r--p", "libc.so.6", True),
        ("rw-p", "libc.so.6", False),  # its variables
        ("r--s", "libc.so.6", False),
        ("r--p", "recording.h5", False),  # events that are mapped
    ):
        assert bool(_CODE.match(mapped.format(kind, name))) == is_code
    assert not _CODE.match("7f00-7f10 r-xp 00000000 00:00 0    [vdso]")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_preset_tiny_stays_below_the_bound_with_its_video(
    runtime, cache, tmp_path, tmp_path_factory, monkeypatch
):
    """A camera file that is decoded first, in 384x640, by kernels that are compiled or stored."""
    pytest.importorskip(runtime)
    tiny = {"embed_dim": 32, "dim_head": 32, "fpn_depth": 0.33, "layer_scale_init": 1.0}
    monkeypatch.setattr(random_checkpoint, "ARCHITECTURE", tiny)
    size = (384, 640)
    _, exported = small_export(
        tmp_path_factory, "tiny", FrameSettings(input_size=size), input_size=size
    )
    events = random_events(200_000, 0.5, size=(720, 1280))
    camera = tmp_path / "camera.raw"
    camera.write_bytes(evt3(events, b"% format EVT3;height=720;width=1280\n% end\n"))
    own = {"ETRAM_DET_CACHE": str(tmp_path / "cache")}
    if cache == "cold":
        own["NUMBA_CACHE_DIR"] = str(tmp_path / "numba")
    flags = ["--ckpt_path", exported, "--runtime", runtime, "--output", tmp_path / "out"]
    output = output_of(WATCHED, "detect", camera, *flags, **own)
    peak_mb = int(re.search(r"VmHWM:\s+(\d+) kB", output)[1]) * 1024 / 1e6
    assert (tmp_path / "out" / "camera.mp4").stat().st_size > 10_000
    assert peak_mb < MOST_MB
