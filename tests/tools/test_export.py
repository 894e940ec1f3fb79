"""`export`: an ONNX file that is compared with its checkpoint before it takes its name."""

import hashlib
import re
import shutil
import subprocess
import sys
import venv
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from etram_det.cli.commands import run
from etram_det.inference.exported_file import PREDICTIONS, STATE, read_exported
from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.inference.streaming_detector import StreamingDetector, read_detector
from etram_det.tools.export import check
from etram_det.tools.export.graph import IR_VERSION, OPSET
from support.exported import small_export as exported_as
from support.paths import ROOT
from support.random_checkpoint import know_simulation_only, write_random_checkpoint
from support.raw_files import random_events, write_raw


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def export(*flags):
    return run(["export", "--ckpt_path", "random.ckpt", "--output", "out/x.onnx", *flags])


@pytest.mark.gate
def test_a_checkpoint_becomes_a_file_that_says_what_it_is(capsys, caplog):
    checkpoint = write_random_checkpoint(Path("random.ckpt"))
    know_simulation_only(checkpoint)
    recording = write_raw(Path("data"), "night_1", random_events(6000, 0.52))
    flags = ["--recording", str(recording), "--input-size", "64", "96", "--score", "0.4"]
    assert export(*flags) == 0
    line = capsys.readouterr().out
    assert [each.name for each in caplog.records if each.name.startswith("onnx")] == []
    assert line.startswith("out/x.onnx: 1.")
    assert " MB, float32, frames of 64x96; differs from PyTorch by at most " in line
    assert line.endswith(f" on 11 windows of {recording}\n")
    assert float(line.split("at most ")[1].split()[0]) < 1e-4
    assert [path.name for path in Path("out").iterdir()] == ["x.onnx"]

    exported = read_exported("out/x.onnx")
    assert exported.input_size == exported.frame_settings.input_size == (64, 96)
    assert exported.fingerprint == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert exported.thresholds.score == 0.4
    assert exported.precision == "float32"
    assert exported.knows_simulation_only
    model = onnx.load("out/x.onnx")
    onnx.checker.check_model(model, full_check=True)
    # What ONNX Runtime 1.23 reads, the last one for Python 3.10.
    assert (OPSET, IR_VERSION) == (20, 10)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
    assert model.ir_version == 10
    shapes = {
        each.name: [side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert list(shapes) == ["events", *STATE, *PREDICTIONS, *(f"new_{name}" for name in STATE)]
    assert shapes["events"] == [1, 20, 64, 96]
    assert shapes["hidden_1"] == shapes["new_cell_1"] == [1, 8, 16, 32]  # of 64x128, padded
    assert shapes["boxes"] == [1, 680, 4]
    # Nothing of the folders in which it was made.
    content = Path("out/x.onnx").read_bytes()
    assert b"one_window" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}


_IN_THE_OLDEST_RUNTIME = """
import sys, numpy, onnxruntime
inputs = dict(numpy.load("inputs.npz"))
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
numpy.savez("outputs.npz", *session.run(None, inputs))
print(onnxruntime.__version__)
"""


@pytest.mark.slow
def test_the_oldest_runtime_computes_the_same():
    write_random_checkpoint(Path("random.ckpt"))
    recording = write_raw(Path("data"), "night_1", random_events(6000, 0.52))
    assert export("--recording", str(recording), "--input-size", "64", "96") == 0
    python = Path("venv/bin/python").absolute()
    venv.create("venv", symlinks=True)
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    installed = subprocess.run([*command, "onnxruntime==1.23.*"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"there is no package index: {installed.stderr.splitlines()[-1]}")
    session = onnxruntime.InferenceSession("out/x.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = {
        each.name: random.integers(0, 4, each.shape).astype(np.uint8)
        if each.name == "events"
        else random.normal(size=each.shape).astype(np.float32) / 10
        for each in session.get_inputs()
    }
    np.savez("inputs.npz", **inputs)
    command = [str(python), "-c", _IN_THE_OLDEST_RUNTIME, "out/x.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1.23.")
    with np.load("outputs.npz") as outputs:
        for name, ours in zip(outputs, session.run(None, inputs), strict=True):
            np.testing.assert_allclose(ours, outputs[name], rtol=1e-4, atol=1e-4)


def copy_export(exported, trained, path, **settings):
    """In place of an export."""
    return read_exported(shutil.copy(exported, path))


def test_what_differs_from_the_checkpoint_is_not_written(small_export, monkeypatch, capfd):
    shutil.copy(small_export[0], "random.ckpt")
    copied = partial(copy_export, small_export[1])
    monkeypatch.setattr("etram_det.tools.export.graph.export_detector", copied)
    recording = write_raw(Path("data"), "night_1", random_events(3000, 0.2))
    Path("out").mkdir()
    Path("out/x.onnx").write_text("of before")

    def keep(self, *_):
        self.state = None

    run_of = PyTorchEngine.run
    # A stream that forgets its state is another function.
    monkeypatch.setattr(check.PyTorchEngine, "run", lambda *a: (keep(*a), run_of(*a))[1])
    assert export("--recording", str(recording)) == 1
    error = capfd.readouterr().err
    assert "export: must agree with PyTorch to 0.0001, got differences of boxes " in error
    assert "on 4 windows of" in error
    assert [path.name for path in Path("out").iterdir()] == ["x.onnx"]
    assert Path("out/x.onnx").read_text() == "of before"


def test_differences_that_are_no_number_are_found():
    exact = check.Agreement(3, {"boxes": 0.0, "state": 1e-6})
    assert exact.largest == 1e-6
    assert np.nan_to_num(np.array([np.nan]), nan=np.inf).max() == np.inf


@pytest.mark.slow
def test_streams_of_a_dynamic_batch_are_their_own(tmp_path_factory):
    checkpoint, path = exported_as(tmp_path_factory, "dynamic", input_size=None, dynamic_batch=True)
    exported = read_exported(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    events = np.random.default_rng(0).integers(0, 9, (2, 3, 20, 64, 128), np.uint8)
    shapes = exported.state_shapes(64, 128, batch=3)
    state = [np.zeros(shape, np.float32) for shape in shapes]
    engine = PyTorchEngine(read_detector(checkpoint).detector)
    for frames in events:
        feeds = {"events": frames, **dict(zip(STATE, state, strict=True))}
        boxes, objectness, classes, *state = session.run(None, feeds)
        expected = engine(torch.from_numpy(frames)).numpy()
        np.testing.assert_allclose(objectness, expected[..., 4], rtol=0, atol=1e-5)
        np.testing.assert_allclose(classes, expected[..., 5:], rtol=0, atol=1e-5)
        sides = boxes[..., 2:] - boxes[..., :2]
        np.testing.assert_allclose(sides, expected[..., 2:4], rtol=1e-4, atol=1e-3)
    assert not np.allclose(objectness[0], objectness[1], atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ckpt_path", "random.ckpt"], "output: must be a file named .onnx, got None"),
        (["--output", "x.onnx"], "ckpt_path: must be a checkpoint, got none: use --ckpt_path"),
        (
            ["--ckpt_path", "random.ckpt", "--output", "x.pt"],
            "must be a file named .onnx, got x.pt",
        ),
        (["--ckpt_path", "a.ckpt", "--output", "x.onnx"], "ckpt_path: no file a.ckpt"),
        (
            ["--ckpt_path", "random.ckpt", "--output", "x.onnx", "--recording", "b.h5"],
            "b.h5: must be a file of events",
        ),
        (
            ["--ckpt_path", "random.ckpt", "--output", "x.onnx", "--score", "2"],
            "score: must be in [0, 1], got 2",
        ),
        (
            ["--ckpt_path", "random.ckpt", "--output", "x.onnx", "--max-detections", "0"],
            "max_detections: must be at least 1, got 0: set such a number",
        ),
    ],
)
def test_settings_that_do_not_fit_cost_a_line(capfd, flags, words):
    write_random_checkpoint(Path("random.ckpt"))
    assert run(["export", *flags]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not Path("x.onnx").exists()


def test_packages_that_are_missing_are_named(monkeypatch, capfd):
    write_random_checkpoint(Path("random.ckpt"))
    monkeypatch.setattr(
        "etram_det.tools.export.graph.find_spec",
        lambda name: None if name == "onnxscript" else find_spec(name),
    )
    assert export() == 2
    assert "got no onnxscript: use pip install 'etram-det[export]'" in capfd.readouterr().err


def test_the_example_of_the_manual_runs_with_onnx_runtime_alone(small_export, capsys):
    text = (ROOT / "docs" / "deploy.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) <= 21
    assert "etram_det" not in code
    shutil.copy(small_export[1], "best.onnx")
    frames = np.random.default_rng(0).integers(0, 9, (3, 1, 20, 45, 80), np.uint8)
    exec(code, {"frames": frames})
    printed = capsys.readouterr().out.splitlines()
    detector = StreamingDetector("best.onnx", device="cpu", runtime="onnxruntime")
    expected = [detector.detect_frame(frame[0]) for frame in frames]
    best = [f"{detector.class_names[each.classes[0]]} {each.scores[0]:.4f}" for each in expected]
    found = [f"{line.split()[0]} {float(line.split()[1]):.4f}" for line in printed]
    assert len(found) > 30
    # Each window's best box is in it, the next ones follow with falling scores.
    starts = [0]
    scores = [float(line.split()[1]) for line in printed]
    starts += [i for i in range(1, len(scores)) if scores[i] > scores[i - 1]]
    assert [found[i] for i in starts] == best


@pytest.mark.slow
def test_half_precision_and_simulated_traffic(capsys):
    write_random_checkpoint(Path("random.ckpt"))
    assert export("--half") == 0
    line = capsys.readouterr().out
    assert "float16, frames of 45x80; " in line
    assert "on 100 windows of simulated traffic" in line
    assert read_exported("out/x.onnx").precision == "float16"
