"""Facts of this machine and what is installed on it: versions, devices, codecs, runtimes."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from etram_det import __version__
from etram_det.tools.cache import free_bytes, shown_size
from etram_det.tools.doctor.needs import ALL, is_installed

# Distributions, by the modules that have another name.
_DISTRIBUTIONS = {
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python"),
    "edgefirst.tracker": ("edgefirst-tracker",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino"),
    "yaml": ("pyyaml",),
}
_OPTIONAL = (
    *("onnx", "onnxruntime", "onnxscript", "openvino", "optuna", "edgefirst.tracker"),
    *("neuromorphic_drivers", "wandb", "imageio_ffmpeg"),
)
_FILTERS = {"gzip": 1, "szip": 4, "lzf": 32000, "blosc": 32001, "lz4": 32004, "bitshuffle": 32008}
_FILTERS |= {"zstd": 32015, "blosc2": 32026, "bzip2": 307}
_H264 = re.compile(r"^ V\S* (\S*(?:264|h264)\S*)", re.MULTILINE)  # in ffmpeg's list of encoders
_HANGS_S = 20
# What importing or asking a library raises that is damaged, or does not suit the others.
_DAMAGE = (ImportError, OSError, RuntimeError, ValueError, TypeError, AttributeError)
Row = tuple[str, str]


def broken_modules() -> dict[str, str]:
    """What of the package's dependencies is installed but cannot be imported, and why."""
    found = {}
    for module in ALL:
        if not is_installed(module):
            continue
        try:
            importlib.import_module(module)
        except _DAMAGE as error:
            found[module] = _in_short(error)
    return found


def versions(broken: dict[str, str]) -> Iterator[Row]:
    """Python, this package, and what it stands on."""
    yield "etram_det", f"{__version__}, in {Path(__file__).parents[2]}"
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for module in ALL:
        words = _version_of(module) or "not installed"
        yield (
            module,
            f"{words}, cannot be imported: {broken[module]}" if module in broken else words,
        )
    for module in _OPTIONAL:
        yield module, _version_of(module) or "not installed (optional)"


def devices(broken: dict[str, str]) -> Iterator[Row]:
    """Processors and accelerators with their memory."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "CPU", f"{_processor()}, {usable} usable cores"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield "memory", shown_size(memory)
    shared = Path("/dev/shm")
    if shared.is_dir():
        yield "shared memory, for loading processes", f"{shown_size(free_bytes(shared))} free"
    if "torch" in broken or not is_installed("torch"):
        return
    import torch

    from etram_det.models.arithmetic import lacks_bfloat16
    from etram_det.training.devices import why_no_cuda

    if (reason := why_no_cuda()) is not None:
        yield "CUDA", f"none: {reason}"
    for i in range(torch.cuda.device_count() if reason is None else 0):
        found = torch.cuda.get_device_properties(i)
        precision = "16-mixed" if lacks_bfloat16(torch.device("cuda", i)) else "bf16-mixed"
        of_device = shown_size(found.total_memory)
        yield f"cuda:{i}", f"{found.name}, {of_device}; --trainer.precision {precision}"


def codecs(broken: dict[str, str]) -> Iterator[Row]:
    """Filters of HDF5 files, and encoders of videos."""
    if not {"h5py", "hdf5plugin"} & {*broken} and all(map(is_installed, ("h5py", "hdf5plugin"))):
        import h5py
        import hdf5plugin  # noqa: F401  registers the filters

        there = [name for name, number in _FILTERS.items() if h5py.h5z.filter_avail(number)]
        yield "HDF5 filters", ", ".join(there)
        if lacking := sorted(_FILTERS.keys() - {*there}):
            yield "HDF5 filters that are missing", ", ".join(lacking)
    for name, program in ffmpeg_programs():
        yield name, program and ffmpeg_in_words(program) or "not found"
    if "cv2" not in broken and is_installed("cv2"):
        yield "videos of detect", video_codec()


def ffmpeg_programs() -> Iterator[tuple[str, str | None]]:
    """The programs that may encode videos: that on the path, and that of imageio-ffmpeg."""
    yield "ffmpeg on the path", shutil.which("ffmpeg")
    if is_installed("imageio_ffmpeg"):
        try:
            program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        except (ImportError, OSError, RuntimeError):
            program = None
        yield "ffmpeg of imageio-ffmpeg", program


def ffmpeg_in_words(program: str) -> str:
    """Path of an ffmpeg, its version, and its encoders of H.264."""
    about = _output_of(program, "-version")
    number = re.search(r"version (\S+)", about)
    if not number:
        return f"{program}, which does not start: install another one"
    found = _H264.findall(_output_of(program, "-hide_banner", "-encoders"))
    encoders = ", ".join(found) or "none for H.264: install a build with libx264"
    return f"{program}, version {number[1]}; encoders: {encoders}"


def video_codec() -> str:
    """The codec of a video that is written here and now."""
    import cv2
    import numpy as np

    from etram_det.drawing.video import VideoWriter
    from etram_det.errors import UserError

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "try.mp4"
        try:
            writer = VideoWriter(path, (64, 64), 20.0)
            writer.add(np.zeros((64, 64, 3), np.uint8))
            writer.finish()
        except UserError as error:
            return str(error)
        reader = cv2.VideoCapture(str(path))
        code = int(reader.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin1").lower()
        reader.release()
    if code in ("avc1", "h264"):
        return "H.264, which browsers play"
    return (
        f"{code}, which browsers do not play: install ffmpeg with libx264, or use pip install "
        "'etram-det[video]'"
    )


def runtimes() -> Iterator[Row]:
    """What runs exported detectors, and on which devices."""
    for module, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
        if not is_installed(module):
            yield name, "not installed (optional)"
            continue
        try:
            found = importlib.import_module(module)
            places = (
                found.get_available_providers()
                if module == "onnxruntime"
                else found.Core().available_devices
            )
        except _DAMAGE as error:
            yield name, f"cannot be used: {_in_short(error)}"
            continue
        yield name, f"{_version_of(module)}; {', '.join(places)}"


def _in_short(error: Exception) -> str:
    """First line of an error's message, or its name where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _version_of(module: str) -> str | None:
    if not is_installed(module):
        return None
    names = _DISTRIBUTIONS.get(module, (module.replace("_", "-"),))
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of unknown version"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_HANGS_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace")
