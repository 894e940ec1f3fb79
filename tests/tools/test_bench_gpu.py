"""``bench gpu``: every part runs, on a bare machine too, and goes on where it was."""

import json
import re
import subprocess
import sys
import weakref
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from etram_det.cli.commands import run
from etram_det.models.detector import Detector
from etram_det.tools.bench import gpu, gpu_cases
from etram_det.tools.bench.measure import Section
from etram_det.tools.bench.module_step import COMPILED, GraphedStep, ModuleStep, made_up_batch
from etram_det.training.devices import why_no_cuda
from etram_det.training.lanes import LaneStates
from support.paths import ROOT

CPU = torch.device("cpu")
PARTS = ["eager", "compiled", "graph", "stream", "loader", "profile"]
NOT_THERE = ("hdf5plugin", "eventcv", "jsonargparse", "platformdirs", "optuna")


def test_a_recorded_step_keeps_the_memory_that_it_replays_on(monkeypatch):
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, Mock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())

    class Step:
        def __init__(self):
            self.module = SimpleNamespace(train_states=LaneStates())

        def __call__(self, batch):
            self.module.train_states.rows = [(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))]
            return torch.tensor(0.0)

    batch = SimpleNamespace(events=SimpleNamespace(device=torch.device("cuda")))
    step = Step()
    states = step.module.train_states
    kept = weakref.ref(step)
    step = GraphedStep(step, batch)
    recorded = [weakref.ref(part) for part in states.rows[0]]
    states.clear()
    assert kept() is not None
    assert all(each() is not None for each in recorded)


def test_the_reason_of_a_compiler_is_named():
    section = Section("Training step")
    with section.part("step"):
        raise RuntimeError(
            "An exception occurred in a subprocess:\n\nName=triton_red_fused_sum_193\nTraceback "
            "(most recent call last):\n  File x, line 1\nRuntimeError: PassManager::run failed\n\n"
            "Set TORCHDYNAMO_VERBOSE=1 for the internal stack trace\n"
        )
    assert section.failures["step"] == (
        "An exception occurred in a subprocess: RuntimeError: PassManager::run failed"
    )


@pytest.mark.slow
def test_all_parts_run_without_what_reads_recordings_and_settings(tmp_path):
    code = f"""
import sys
for name in {NOT_THERE}:
    sys.modules[name] = None
from etram_det.__main__ import main
from etram_det.training.devices import why_no_cuda
sys.argv = ["etram_det", "bench", "gpu", "--output", "out", "--device", "cpu", "--tiny"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    stored = json.loads((tmp_path / "out" / "gpu.json").read_text())
    found = {part: [*of_part.values()] for part, of_part in stored["parts"].items()}
    assert set(found) == {*PARTS} - {"compiled"}
    assert {part for part in found if any(each["failures"] for each in found[part])} == {"graph"}
    [graph] = found["graph"]
    assert list(graph["failures"].values()) == ["a CUDA graph needs a CUDA device"]
    [eager] = found["eager"]
    step, memory = eager["measurements"]
    assert step["name"] == "eager, 1 lanes, bf16-mixed"
    assert step["value"] > 0
    assert "of the floor's rate" in step["note"]
    assert memory["name"] == "  peak memory, eager, 1 lanes, bf16-mixed"
    # Lists of the counts of two frames [20, 64, 64], which 100,000 events fill.
    megabytes = [
        float(each["note"].split(", ")[1].removesuffix(" MB a batch"))
        for section in found["loader"]
        for each in section["measurements"]
        if "alone" in each["name"]
    ]
    assert megabytes == [0.23, 0.23]
    [costs] = found["profile"]
    total, *largest = [each["value"] for each in costs["measurements"]]
    assert len(largest) == 3
    assert total > largest[0] >= largest[1] >= largest[2] > 0


@pytest.mark.gate
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_the_tests_of_a_device_load_where_they_run_and_say_why_they_do_not(tmp_path):
    code = f"""
import sys
for name in {NOT_THERE}:
    if name != "platformdirs":  # which pytest takes for a plugin
        sys.modules[name] = None
import pytest
flags = ["-n", "0", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider"]
sys.exit(pytest.main([*flags, {str(ROOT)!r}]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert f"needs a CUDA device: {why_no_cuda()}" in done.stdout
    assert re.search(r"\n\d+ skipped, \d+ deselected in", done.stdout), done.stdout


@pytest.fixture
def counted(monkeypatch):
    """Parts whose cases do nothing but count their calls."""
    calls = []

    def case(name):
        calls.append(name)
        section = Section(f"of {name[0]}")
        section.add(name, 1.0, "ms")
        return section

    known = {
        part: {name: (lambda name=part[0] + name: case(name)) for name in "abc"}
        for part in ("eager", "stream")
    }
    monkeypatch.setattr(gpu, "cases", lambda sizes: known)
    return calls


def bench_gpu(folder, *flags):
    return run(["bench", "gpu", "--output", str(folder), "--device", "cpu", *flags])


def test_parts_are_chosen_and_go_on_where_they_were(tmp_path, counted, capsys):
    assert bench_gpu(tmp_path, "--parts", "stream", "--minutes", "0") == 0
    assert counted == []
    assert "stream: 3 cases left: run the same command again" in capsys.readouterr().out
    assert bench_gpu(tmp_path, "--parts", "stream") == 0
    assert counted == ["sa", "sb", "sc"]
    stored = json.loads((tmp_path / "gpu.json").read_text())
    del stored["parts"]["stream"]["b"]
    (tmp_path / "gpu.json").write_text(json.dumps(stored))
    assert bench_gpu(tmp_path, "--parts", "stream,eager") == 0
    assert counted[3:] == ["sb", "ea", "eb", "ec"]
    out = capsys.readouterr().out
    assert "left" not in out
    # Once by each command: all cases of a title are in one table.
    assert [line.strip() for line in out.splitlines()].count("of s") == 2
    assert bench_gpu(tmp_path) == 0
    assert len(counted) == 7


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parts", "train"], "parts: must be among eager, stream, got train: use these"),
        ([], "the following arguments are required: --output"),
        (["--output", "x", "--lanes", "3"], "bench gpu: unrecognized arguments: --lanes 3"),
    ],
)
def test_arguments_that_do_not_fit_end_in_one_line(flags, message, tmp_path, counted, capsys):
    output = ["--output", str(tmp_path)] if flags[:1] == ["--parts"] else []
    assert run(["bench", "gpu", "--device", "cpu", *output, *flags]) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error


def test_measurements_of_another_machine_are_not_mixed(tmp_path, counted, capsys):
    assert bench_gpu(tmp_path) == 0
    stored = json.loads((tmp_path / "gpu.json").read_text())
    stored["machine"] |= {"accelerator": "H100", "date": "2026-11-26 10:00"}
    for content, message in (
        (json.dumps(stored), "got those of H100 on 2026-11-26 10:00: use another folder"),
        ("[]", "must hold measurements of bench gpu, got others (TypeError): use another folder"),
    ):
        (tmp_path / "gpu.json").write_text(content)
        assert bench_gpu(tmp_path) == 2
        assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_no_device_is_one_line(tmp_path, capsys):
    assert run(["bench", "gpu", "--output", str(tmp_path)]) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        f"etram_det: error: device: must be a CUDA device, got none ({why_no_cuda()}): use bench "
        "train --device cpu, or --device cpu --tiny to see what would run"
    )


def test_compiled_cases_compile_the_module(monkeypatch):
    compiled = []
    monkeypatch.setattr(Detector, "compile_parts", lambda detector: compiled.append(detector))
    sizes = replace(gpu_cases.sizes_on(CPU, tiny=True), compiled=("stages",))
    known = gpu_cases.cases(sizes)
    assert list(known["compiled"]) == ["stages, 1 lanes, bf16-mixed"]
    section = known["compiled"]["stages, 1 lanes, bf16-mixed"]()
    assert not section.failures
    assert section.measurements[0].name == "stages, 1 lanes, bf16-mixed"
    assert len(compiled) == 1
    assert list(known["profile"]) == ["none", "stages"]
    assert "stages" in COMPILED


def test_full_sizes_are_those_that_are_asked_for():
    sizes = gpu_cases.sizes_on(CPU, tiny=False)
    settings = sizes.settings
    assert (settings.preset, settings.steps, settings.input_size) == ("base", 5, (384, 640))
    assert {*sizes.lanes} == {6, 12, 24}
    known = gpu_cases.cases(sizes)
    assert list(known) == PARTS
    assert len(known["eager"]) == len(known["graph"]) == 6
    assert len(known["compiled"]) == 6 * len(COMPILED)
    assert list(known["loader"]) == ["0 workers", "2 workers", "4 workers"]


def test_a_step_of_the_module_learns():
    sizes = gpu_cases.sizes_on(CPU, tiny=True)
    settings = sizes.of_training(2, "32-true")
    batch, step = made_up_batch(settings), ModuleStep(settings, "32-true")
    losses = [float(step(batch)) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(p.grad is None for p in step.module.parameters())
