"""Every runtime finds what PyTorch finds, and what cannot be run is named in a line."""

import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from etram_det.cli.commands import run
from etram_det.data.labels import LabelSettings
from etram_det.data.layouts import find_recordings
from etram_det.errors import UserError
from etram_det.inference import engine, exported_file
from etram_det.inference.engine import engine_for
from etram_det.inference.exported_file import read_exported
from etram_det.inference.streaming_detector import StreamingDetector, open_detector, read_detector
from etram_det.simulator.dataset import SimulationSettings, simulate
from support.camera_files import evt3
from support.exported import small_export as exported_as
from support.paths import ROOT
from support.random_checkpoint import write_random_checkpoint
from support.raw_files import random_events, write_raw
from support.runtimes import average_precision, detections_of_all

RUNTIMES = ("onnxruntime", "openvino")


def frames(num=5, height=45, width=80):
    return np.random.default_rng(0).integers(0, 9, (num, 20, height, width), np.uint8)


def require_same(found, expected):
    assert len(found) == len(expected)
    assert np.array_equal(found.classes, expected.classes)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_stream_is_that_of_pytorch(small_export, runtime):
    checkpoint, exported = small_export
    ours = StreamingDetector(checkpoint, device="cpu")
    theirs = StreamingDetector(exported, device="cpu", runtime=runtime)
    assert theirs.class_names == ours.class_names
    assert theirs.frame_settings == ours.frame_settings
    for _ in range(2):
        first = [(ours.detect_frame(frame), theirs.detect_frame(frame)) for frame in frames()]
        for expected, found in first:
            assert len(expected) > 100
            require_same(found, expected)
        # The state matters, and is forgotten.
        again = theirs.detect_frame(frames()[0])
        assert not np.array_equal(again.scores, first[0][1].scores)
        ours.reset()
        theirs.reset()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_frames_of_any_size_and_their_padding(tmp_path_factory, runtime):
    checkpoint, exported = exported_as(
        tmp_path_factory, "dynamic", input_size=None, dynamic_batch=True
    )
    ours = StreamingDetector(checkpoint, device="cpu")
    theirs = StreamingDetector(exported, device="cpu", runtime=runtime)
    for size in ((45, 80), (128, 64), (45, 80)):
        for frame in frames(2, *size):
            expected = ours.detect_frame(frame)
            assert len(expected) > 50
            require_same(theirs.detect_frame(frame), expected)


def test_bfloat16_finds_about_the_same(small_export):
    from openvino import Core

    checkpoint, exported = small_export
    if "BF16" not in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(UserError, match="precision: must be float32 on this processor"):
            StreamingDetector(exported, precision="bfloat16")
        return
    found = [
        StreamingDetector(exported, score_threshold=0, precision=precision).detect_frame(
            frames()[0]
        )
        for precision in ("float32", "bfloat16")
    ]
    np.testing.assert_allclose(found[0].scores[:20], found[1].scores[:20], rtol=0, atol=0.05)
    assert not np.array_equal(found[0].scores, found[1].scores)


def test_thresholds_are_those_of_the_file_unless_given(small_export, tmp_path):
    _, exported = small_export
    assert StreamingDetector(exported, device="cpu").score_threshold == 0.3
    model = onnx.load(exported)
    for entry in model.metadata_props:
        if entry.key == "thresholds":
            entry.value = '{"score": 0.32, "nms": 0.6, "max_detections": 7}'
    onnx.save(model, tmp_path / "other.onnx")
    detector = StreamingDetector(tmp_path / "other.onnx", nms_threshold=0.5, device="cpu")
    assert (detector.score_threshold, detector.nms_threshold) == (0.32, 0.5)
    found = detector.detect_frame(frames()[0])
    assert len(found) == 7
    assert found.scores.min() >= 0.32


def test_auto_takes_what_is_there_and_names_it(small_export, monkeypatch, caplog):
    checkpoint, exported = small_export
    installed = {"torch", *RUNTIMES}
    monkeypatch.setattr(engine, "find_spec", lambda name: name if name in installed else None)

    def chosen(path, **settings):
        caplog.clear()
        with caplog.at_level(logging.INFO, "etram_det"):
            StreamingDetector(path, device="cpu", **settings)
        [line] = [each.message for each in caplog.records if "runtime: " in each.message]
        return line

    assert chosen(checkpoint).startswith("runtime: PyTorch ")
    caplog.clear()
    StreamingDetector(checkpoint, device="cpu", runtime="pytorch")
    assert not caplog.records  # what was asked for needs no line
    assert chosen(exported).startswith("runtime: OpenVINO ")
    assert chosen(exported).endswith(" on cpu, float32")
    assert chosen(exported, runtime="onnxruntime").startswith("runtime: ONNX Runtime ")
    installed.remove("openvino")
    assert chosen(exported).startswith("runtime: ONNX Runtime ")
    with pytest.raises(UserError, match="runtime: must be installed, got openvino, which is not: "):
        chosen(exported, precision="bfloat16")
    with pytest.raises(UserError, match=r"pip install openvino, of the extra \[openvino\]"):
        chosen(exported, runtime="openvino")
    installed.remove("onnxruntime")
    with pytest.raises(UserError, match=r"got neither openvino nor onnxruntime: use pip install"):
        chosen(exported)
    installed.clear()
    with pytest.raises(UserError, match="got pytorch, which is not: use pip install torch$"):
        chosen(checkpoint)


def test_onnx_runtime_built_for_cuda_on_a_machine_without_it(small_export, monkeypatch, capfd):
    import onnxruntime

    made = onnxruntime.InferenceSession
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def raises(path, options, providers, **settings):
        if len(providers) == 2:
            raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
        return made(path, options, providers=providers, **settings)

    def leaves_it_out(path, options, providers, **settings):
        return made(path, options, providers=providers[-1:], **settings)

    expected = engine_for(read_exported(small_export[1]), "onnxruntime", "float32", "cpu")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    for session in (raises, leaves_it_out):
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        found = engine_for(read_exported(small_export[1]), "onnxruntime", "float32", "auto")
        assert found.name == expected.name
        expected.reset()
        assert np.array_equal(found.run(frames()[0]).boxes, expected.run(frames()[0]).boxes)
        with pytest.raises(UserError, match=r"^device: must be one that ONNX .* got cuda:1: inst"):
            engine_for(read_exported(small_export[1]), "onnxruntime", "float32", "cuda:1")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("which", "settings", "message"),
    [
        (0, {"runtime": "openvino"}, "runtime: must be auto or pytorch for a checkpoint, got open"),
        (1, {"runtime": "pytorch"}, "runtime: must be auto, onnxruntime or openvino for .*fixed"),
        (1, {"runtime": "onnxruntime", "device": "moon"}, "device: must be auto, cpu.* got moon"),
        (1, {"runtime": "openvino", "device": "moon"}, "device: must be auto, cpu.* got moon"),
        (
            1,
            {"runtime": "onnxruntime", "precision": "bfloat16"},
            "precision: must be float32 with ONNX Runtime, got bfloat16: use --runtime openvino",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(small_export, which, settings, message):
    with pytest.raises(UserError, match=message):
        StreamingDetector(small_export[which], **settings)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_another_size_than_exported_is_refused(small_export, runtime):
    _, exported = small_export
    message = (
        r"input_size: must be 45 80, for which .*fixed.onnx was exported, got 64 96: set "
        "input_size to the former, or use python -m etram_det export with --input-size 64 96, or "
        "dynamic"
    )
    trained = open_detector(exported)
    settings = replace(trained.frame_settings, input_size=(64, 96))
    with pytest.raises(UserError, match=message):
        StreamingDetector(exported, frame_settings=settings, runtime=runtime, device="cpu")
    detector = StreamingDetector(exported, runtime=runtime, device="cpu")
    with pytest.raises(UserError, match=message):
        detector.detect_frame(frames(1, 64, 96)[0])
    # A frame that was refused did not count.
    found = detector.detect_frame(frames()[0])
    again = StreamingDetector(exported, runtime=runtime, device="cpu").detect_frame(frames()[0])
    assert np.array_equal(found.boxes, again.boxes)


def damaged(kind, exported, folder):
    path = folder / "x.onnx"
    content = exported.read_bytes()
    if kind == "missing":
        return path
    if kind == "text":
        path.write_text("no network at all\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "of others":
        model = onnx.load(exported)
        del model.metadata_props[:]
        onnx.save(model, path)
    else:
        key, value = kind.split("=")
        model = onnx.load(exported)
        for entry in model.metadata_props:
            entry.value = value if entry.key == key else entry.value
        onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "ckpt_path: no file x.onnx: give the path of an exported detector"),
        ("text", "x.onnx: must be an ONNX file, got something else or one that is cut short"),
        ("empty", "x.onnx: must be an ONNX file, got something else or one that is cut short"),
        ("cut", "x.onnx: must be an ONNX file, got something else or one that is cut short"),
        ("of others", "got an ONNX file of another origin: use python -m etram_det export"),
        ("etram_det_format=99", "must be exported by this package in format 1, got format 99"),
        ("state=[]", "x.onnx: must hold what export writes of a detector, got damaged metadata"),
        ("class_names=[", "must hold what export writes of a detector, got damaged metadata"),
        ("frame_settings={}", "got damaged metadata (KeyError: 'input_size')"),
        ('thresholds={"score": 3}', "score: must be in [0, 1], got 3"),
    ],
)
def test_files_that_are_no_exported_detector_cost_a_line(
    small_export, tmp_path, monkeypatch, capfd, kind, words
):
    damaged(kind, small_export[1], tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("none.h5").touch()  # which is not read
    assert run(["detect", "none.h5", "--ckpt_path", "x.onnx"]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_that_a_runtime_cannot_read_costs_a_line(small_export, tmp_path, runtime):
    model = onnx.load(small_export[1])
    del model.graph.node[5:]
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(UserError, match=r"x.onnx: cannot be read by O.* \d.*: use another release"):
        StreamingDetector(tmp_path / "x.onnx", runtime=runtime, device="cpu")


def test_metadata_is_read_back_as_written(small_export):
    _, path = small_export
    exported = read_exported(path)
    assert (
        exported.metadata().items() >= {"version": exported.version, "fingerprint": "ab12"}.items()
    )
    assert exported.input_size == (45, 80)
    assert exported.size_multiple == 64
    assert exported.state == ((8, 4), (16, 8), (32, 16), (64, 32))
    assert exported.network["num_classes"] == 8
    assert exported.network["embed_dim"] == 8
    written = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert written == exported.metadata()
    assert exported_file.FORMAT == written["etram_det_format"]


@pytest.mark.slow
def test_average_precision_is_that_of_pytorch(small_export, tmp_path, monkeypatch):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    few = SimulationSettings(height=90, width=160, train=0, val=0, test=1, seconds=1)
    simulate(tmp_path / "set", few)
    checkpoint, exported = small_export
    trained = read_detector(checkpoint)
    settings, labels = replace(trained.frame_settings, sensor_size=None), LabelSettings()
    recordings = find_recordings(tmp_path / "set", "test", settings, labels)
    ours = engine_for(trained.detector, "pytorch", "float32", "cpu")
    # Weights are random: what PyTorch finds best is taken for the truth.
    truth = {
        (recording.name, i): (found.boxes[:40], found.classes[:40])
        for recording, i, found in detections_of_all(ours, recordings)
    }
    assert len(truth) > 5

    def average(*how):
        engine = engine_for(*how, "cpu")
        return average_precision(engine, recordings, trained.class_names, truth)

    expected = average(trained.detector, "pytorch", "float32")
    assert 0.3 < expected < 1
    source = read_exported(exported)
    for runtime in RUNTIMES:
        assert average(source, runtime, "float32") == pytest.approx(expected, abs=0.002)
    other = read_detector(write_random_checkpoint(tmp_path / "other.ckpt", seed=1))
    assert average(other.detector, "pytorch", "float32") < expected / 2


def requirements(text):
    """Requirements without comments, by line."""
    return {line.partition("#")[0].strip().strip('",') for line in text.splitlines()} - {""}


def test_what_an_exported_detector_needs_is_what_the_package_needs_but_pytorch():
    edge = requirements((ROOT / "requirements-edge.txt").read_text())
    project = (ROOT / "pyproject.toml").read_text()
    [needed] = re.findall(r"^dependencies = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    [openvino] = re.findall(r'^openvino = \["(.*)"\]', project, re.MULTILINE)
    assert edge - requirements(needed) == {openvino}
    left_out = {re.match("[a-z0-9-]+", line)[0] for line in requirements(needed) - edge}
    assert {name.replace("-", "_") for name in left_out} == {*LEFT_OUT} - {"lightning"}


LEFT_OUT = ("torch", "torchvision", "pytorch_lightning", "lightning", "lightning_utilities",
            "torchmetrics", "tensorboard", "jinja2", "matplotlib")  # fmt: skip
WITHOUT_TORCH = f"""
import sys
blocked = {LEFT_OUT}
for name in blocked:
    sys.modules[name] = None  # importing it raises
"""


@pytest.mark.gate
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_exported_detector_runs_without_pytorch(small_export, tmp_path, runtime):
    events = random_events(6000, 0.52)
    recording = write_raw(tmp_path, "night_1", events)
    (tmp_path / "a.raw").write_bytes(evt3(events))
    code = f"""{WITHOUT_TORCH}
import numpy as np
from etram_det import StreamingDetector
from etram_det.cli.commands import run
sys.argv = ["etram_det"]
flags = ["--ckpt_path", {str(small_export[1])!r}, "--device", "cpu", "--runtime", "{runtime}"]
assert run(["detect", {str(recording)!r}, *flags, "--sensor-size", "90", "160"]) == 0
sys.stdin = open("a.raw")
assert run(["detect", "-", *flags, "--sensor-size", "90", "160"]) == 0
live = ["live", "--replay", {str(recording)!r}, "--pace", "0.5", "--view", "--port", "0"]
assert run([*live, *flags, "--sensor-size", "90", "160"]) == 0
detector = StreamingDetector({str(small_export[1])!r}, runtime="{runtime}")
t = np.arange(90)
found = detector({{"x": t, "y": t, "p": t % 2, "t": t}})
assert found.boxes.shape[1] == 4 and len(found), found
loaded = [name for name in sys.modules if name.split(".")[0] in blocked and sys.modules[name]]
assert not loaded, loaded
"""
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert 0 < len(lines) <= 11 - lines[-1]["dropped"]
    without = np.load(tmp_path / "detections" / "night_1_bbox.npy")
    flags = ["--ckpt_path", str(small_export[0]), "--device", "cpu", "--video", "false"]
    flags += ["--output", str(tmp_path / "with"), "--sensor-size", "90", "160"]
    assert run(["detect", str(recording), *flags]) == 0
    expected = np.load(tmp_path / "with" / "night_1_bbox.npy")
    assert len(expected) > 100
    piped = np.load(tmp_path / "detections" / "stdin_bbox.npy")
    assert len(piped) > 100
    assert np.array_equal(without["class_id"], expected["class_id"])
    assert np.array_equal(without["t"], expected["t"])
    for name in ("x", "y", "w", "h"):
        np.testing.assert_allclose(without[name], expected[name], rtol=0, atol=2e-3)
    assert Path(tmp_path / "detections" / "night_1.mp4").is_file()


def test_a_signal_is_handled_after_another_thread_has_dropped_an_engine(small_export):
    code = f"""
import os, signal, threading
from pathlib import Path
from etram_det.inference.exported_file import read_exported
from etram_det.inference.openvino_engine import OpenVINOEngine
engines = [OpenVINOEngine(read_exported(Path({str(small_export[1])!r})))]
dropping = threading.Thread(target=engines.clear)
dropping.start()
dropping.join()
handled = []
signal.signal(signal.SIGINT, lambda *_: handled.append(1))
os.kill(os.getpid(), signal.SIGINT)
print(len(handled))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert done.stdout == "1\n"
