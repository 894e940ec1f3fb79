"""What doctor finds out, on machines that lack something."""

import importlib
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from etram_det.cli.commands import LIGHTNING_COMMANDS, TOOLS, run
from etram_det.tools.doctor import facts, needs
from support.paths import ROOT

FFMPEG = """#!/bin/sh
case "$1" in
  -version) echo "ffmpeg version 7.1 Copyright" ;;
  *) printf 'Encoders:\\n V....D {}     the encoder\\n A....D aac\\n' ;;
esac
"""


@pytest.fixture
def lacking(monkeypatch):
    """Let some modules be missing."""

    def lack(*names):
        there = needs.is_installed
        for module in (needs, facts):
            monkeypatch.setattr(module, "is_installed", lambda x: x not in names and there(x))

    return lack


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def report(capsys):
    code = run(["doctor", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_all_is_shown_in_tables(capsys):
    assert run(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in ("versions", "devices", "codecs", "runtimes", "disks", "cache: ", "commands"):
        assert re.search(rf"^{words}", shown, re.MULTILINE)
    for name in (*LIGHTNING_COMMANDS, *TOOLS):
        assert re.search(rf"^│ {name} +│ works", shown, re.MULTILINE), name
    assert torch.__version__.split("+")[0] in shown


def test_json_holds_the_same(capsys, tmp_path):
    code, found = report(capsys)
    assert code == 0
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"gzip", "blosc", "zstd"} <= {*found["codecs"]["HDF5 filters"].split(", ")}
    assert f"{len(os.sched_getaffinity(0))} usable cores" in found["devices"]["CPU"]
    assert "CPUExecutionProvider" in found["runtimes"]["ONNX Runtime"]
    assert found["commands"]["fit"] == {
        "works": True, "missing": [], "remedy": "pip install etram-det",
    }  # fmt: skip
    assert str(tmp_path / "cache") in found["disks"]["cache"]


def test_what_is_missing_is_named_with_its_remedy(lacking, capsys):
    extras = ("optuna", "openvino", "onnxruntime", "edgefirst.tracker", "wandb")
    lacking(*extras, "neuromorphic_drivers")
    code, found = report(capsys)
    assert code == 0  # what only extras bring
    missing = {name: each["missing"] for name, each in found["commands"].items() if each["missing"]}
    assert missing == {
        "export": ["onnxruntime"],
        "sweep": ["optuna"],
        "detect, live: an exported file (.onnx)": ["openvino", "onnxruntime"],
        "detect --track": ["edgefirst.tracker"],
        "live, with a camera": ["neuromorphic_drivers"],
        "fit --config log_wandb": ["wandb"],
    }
    assert found["commands"]["sweep"]["remedy"] == "pip install 'etram-det[sweep]'"
    assert found["runtimes"]["OpenVINO"] == "not installed (optional)"


def test_one_runtime_is_enough(lacking):
    lacking("openvino")
    [use] = [each for each in needs.uses() if ".onnx" in each.name]
    assert use.missing() == []


def test_without_pytorch_exported_detectors_run(lacking, capsys):
    lacking("torch", "torchvision", "pytorch_lightning")
    code, found = report(capsys)
    assert code == 1
    works = {name for name, each in found["commands"].items() if each["works"]}
    assert works >= {"cache", "detect", "doctor", "live", "detect, live: an exported file (.onnx)"}
    assert not works & {"fit", "validate", "detect, live: a checkpoint (.ckpt)"}


def test_a_damaged_library_is_named(monkeypatch, capsys):
    load = importlib.import_module

    def break_one(name, *rest):
        if name == "hdf5plugin":
            raise OSError("libhdf5.so: undefined symbol\nand more")
        return load(name, *rest)

    monkeypatch.setattr(facts.importlib, "import_module", break_one)
    code, found = report(capsys)
    assert code == 1
    assert found["versions"]["hdf5plugin"].endswith(
        ", cannot be imported: libhdf5.so: undefined symbol"
    )
    assert found["commands"]["detect"]["missing"] == ["hdf5plugin"]
    assert "HDF5 filters" not in found["codecs"]


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("libx264", "version 7.1; encoders: libx264"),
        ("h264_nvenc", "version 7.1; encoders: h264_nvenc"),
        ("mpeg4", "version 7.1; encoders: none for H.264: install a build with libx264"),
    ],
)
def test_an_ffmpeg_on_the_path_is_asked_for_its_encoders(encoder, words, tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(FFMPEG.format(encoder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert dict(facts.codecs({}))["ffmpeg on the path"] == f"{program}, {words}"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert dict(facts.codecs({}))["ffmpeg on the path"] == (
        f"{program}, which does not start: install another one"
    )


def test_little_room_is_pointed_out(monkeypatch, capsys):
    monkeypatch.setattr("etram_det.tools.doctor.command.free_bytes", lambda folder: int(1e9))
    _, found = report(capsys)
    assert found["disks"]["cache"].startswith("1.0 GB free, ")
    assert found["disks"]["cache"].endswith(
        ": little: use cache clear, or set ETRAM_DET_CACHE to a folder with room"
    )


def test_a_cache_that_cannot_be_written_is_pointed_out(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / folder))
        _, found = report(capsys)
        assert found["disks"]["cache"].endswith(
            f"{tmp_path / folder}: cannot be written: set ETRAM_DET_CACHE to a folder that can"
        )
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "not" / "there"))
    _, found = report(capsys)
    assert "written" not in found["disks"]["cache"]


def test_the_needs_are_those_of_the_project():
    names = {"cv2": "opencv-python-headless", "yaml": "pyyaml", "pytorch_lightning": None}
    names["edgefirst.tracker"] = "edgefirst-tracker"

    def dist(module):
        return names.get(module) or module.replace("_", "-")

    text = (ROOT / "pyproject.toml").read_text()
    base = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
    listed = set(re.findall(r'^    "([\w-]+)', base, re.MULTILINE))
    assert {dist(each) for each in needs.ALL} == listed - {"lightning-utilities"}
    edge = (ROOT / "requirements-edge.txt").read_text()
    listed = set(re.findall(r"^([\w-]+)[\[>]", edge, re.MULTILINE)) - {"openvino"}
    assert {dist(each) for each in needs.WITHOUT_TORCH} == listed
    extras = dict(re.findall(r"^(\w+) = \[(.*?)\]$", text, re.MULTILINE))
    for remedy, modules in needs._EXTRAS.values():
        extra = extras[re.search(r"\[(\w+)\]", remedy)[1]]
        assert all(f'"{dist(each)}>=' in extra for each in modules)


def test_it_runs_where_there_is_no_pytorch(tmp_path):
    """With the modules of requirements-edge.txt alone."""
    code = f"""
import sys
for name in {sorted({*needs.ALL} - {*needs.WITHOUT_TORCH})}:
    sys.modules[name] = None
from etram_det.cli.commands import run
for command in (["cache"], ["detect", "--help"], ["live", "--help"]):
    try:
        run(command)
    except SystemExit:
        pass
sys.exit(run(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert re.search(r"^│ fit +│ needs .*torch", done.stdout, re.MULTILINE)
    assert re.search(r"^│ detect +│ works", done.stdout, re.MULTILINE)
