"""The bench measures what it is asked to and survives what it cannot do; the fast path is right."""

import copy
import json
import math
import os
import re
import time
from dataclasses import replace

import pytest
import torch

from etram_det.cli.commands import run
from etram_det.cli.flags import tool_arguments
from etram_det.cli.lightning import lightning_cli
from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.models.assign import simota
from etram_det.models.backbone import PixelLinear, PixelLSTM
from etram_det.models.detector import Detector
from etram_det.models.losses import YOLOXLoss
from etram_det.tools.bench import arithmetic
from etram_det.tools.bench.command import bench_command
from etram_det.tools.bench.inputs import BenchSettings, head_output, random_boxes
from etram_det.tools.bench.measure import Section, add_variants, measure, measurement_of
from etram_det.tools.import_rvt import import_rvt_command
from support.paths import REFERENCE, ROOT
from support.plain_path import assignment_by, plain_features, plain_simota

CPU = torch.device("cpu")
SETTINGS = BenchSettings(
    preset="tiny",
    input_size=(64, 64),
    lanes=2,
    steps=2,
    scales=4,
    precision=("32-true",),
    compile="none",
    gradient_checkpointing=False,
    repeats=2,
    device=CPU,
)


def small_detector(**settings):
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33}
    return Detector(**(sizes | {"layer_scale_init": 1.0} | settings))


def some_events(steps, lanes, height=64, width=128):
    generator = torch.Generator().manual_seed(0)
    shape = (steps, lanes, 20, height, width)
    return torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8)


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def gradients(detector, features_of, events):
    features, state = features_of(events)
    output = detector.predict(features)
    loss = output.offsets.sum() + output.objectness.sum() + output.classes.sum()
    (loss + sum(h.sum() + c.sum() for h, c in state)).backward()
    return [p.grad.clone() for p in detector.parameters()]


def test_plain_backbone_equals_the_fast_one_and_its_gradients():
    fast = small_detector()
    plain = copy.deepcopy(fast).to(memory_format=torch.contiguous_format)
    events = some_events(3, 2, height=60)
    features, state = fast.features(events)
    expected, expected_state = plain_features(plain, events)
    for ours, theirs in zip(features, expected, strict=True):
        assert_close(ours, theirs, 1e-5)
    for ours, theirs in zip(state, expected_state, strict=True):
        assert_close(ours, theirs, 1e-5)
    ours = gradients(fast, lambda x: fast.features(x, state), events)
    theirs = gradients(plain, lambda x: plain_features(plain, x, expected_state), events)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max() + 1))


def test_plain_assignment_equals_the_fast_one():
    output = head_output(4, (64, 128), CPU)
    boxes, classes = random_boxes(4, 6, (64, 128), CPU)
    classes[0], classes[1, 2:] = -1, -1
    ours, theirs = simota(output, boxes, classes), plain_simota(output, boxes, classes)
    assert ours.foreground.equal(theirs.foreground)
    assert ours.foreground.any(dim=1).tolist() == [False, True, True, True]
    assert ours.box_index[ours.foreground].equal(theirs.box_index[ours.foreground])
    assert_close(ours.quality, theirs.quality, 1e-6)


def test_the_loss_can_take_the_plain_assignment():
    output = head_output(2, (64, 64), CPU)
    boxes, classes = random_boxes(2, 3, (64, 64), CPU)
    calls = []

    def counted(*args):
        calls.append(args)
        return plain_simota(*args)

    expected = YOLOXLoss()(output, boxes, classes)["loss"]
    with assignment_by(counted):
        assert YOLOXLoss()(output, boxes, classes)["loss"] == pytest.approx(float(expected))
    YOLOXLoss()(output, boxes, classes)
    assert len(calls) == 1


def test_lstm_on_the_cpu_equals_the_steps_that_other_devices_take():
    torch.manual_seed(0)
    lstm = PixelLSTM(8)
    x = torch.randn(4, 2, 3, 5, 8, requires_grad=True)
    state = [torch.randn(2, 3, 5, 8) for _ in range(2)]
    outcomes = []
    for scan in (lstm.scan, lstm._scan_in_steps):
        outputs = scan(x, *state)
        grads = torch.autograd.grad(sum(o.sin().sum() for o in outputs), [x, *lstm.parameters()])
        outcomes.append((*outputs, *grads))
    for ours, expected in zip(*outcomes, strict=True):
        assert_close(ours, expected, 1e-5)


def test_linear_as_convolution_equals_the_product():
    torch.manual_seed(0)
    layer = PixelLinear(6, 10)
    x = torch.randn(5, 7, 6, requires_grad=True)
    outcomes = []
    for function in (layer, lambda y: torch.nn.functional.linear(y, layer.weight, layer.bias)):
        y = function(x)
        outcomes.append((y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])))
    for ours, expected in zip(*outcomes, strict=True):
        assert_close(ours, expected, 1e-5)


def test_gradient_checkpointing_changes_no_gradient():
    kept, again = small_detector(), small_detector(gradient_checkpointing=True)
    events = some_events(2, 1, width=64)
    ours, theirs = (gradients(each, each.features, events) for each in (kept, again))
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("scan", ["_scan_on_cpu", "_scan_in_steps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stream_equals_the_detector(monkeypatch, dtype, scan):
    monkeypatch.setattr(PixelLSTM, "scan", getattr(PixelLSTM, scan))  # of the CPU, of others
    detector = small_detector().eval()
    for module in detector.modules():  # statistics that folding must not lose
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    before = copy.deepcopy(detector.state_dict())
    events = some_events(4, 1)
    with torch.no_grad():
        expected = detector(events)[0].decode()
    stream = PyTorchEngine(detector, dtype)
    tolerance = 1e-3 if dtype == torch.float32 else 0.05
    for _ in range(2):
        found = torch.cat([stream(window) for window in events])
        assert_close(found[..., 4:], expected[..., 4:], tolerance)
        scale = expected[..., :4].abs().max()
        assert_close(found[..., :4] / scale, expected[..., :4] / scale, tolerance)
        assert all(part.dtype == torch.float32 for pair in stream.state for part in pair)
        stream.reset()
    assert all(before[name].equal(value) for name, value in detector.state_dict().items())


def numbers_of_graphs(backend):
    """Compiled and plain network side by side over changing numbers of steps and lanes."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = small_detector(fpn_stages=(2, 3, 4))
    compiled = copy.deepcopy(plain)
    compiled.compile_parts(backend)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    graphs = []
    sizes = [(2, 2, True), (3, 2, True), (1, 1, False), (2, 2, False), (3, 1, False)]
    for steps, lanes, training in [*sizes, *sizes]:
        events = some_events(steps, lanes, width=64)
        outcomes = []
        for detector in (plain.train(training), compiled.train(training)):
            with torch.set_grad_enabled(training):
                _, state = detector.features(events)
                state = [(hidden.detach(), cell.detach()) for hidden, cell in state]
                features, _ = detector.features(events, state)
                outcomes.append([*features, detector.predict(features).decode()])
            if training:
                outcomes[-1][-1].mean().backward()
        for ours, expected in zip(*outcomes, strict=True):
            assert_close(ours, expected, 1e-4 * float(expected.detach().abs().max() + 1))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for a, b in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    return graphs


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_parts_survive_other_numbers_of_steps_and_lanes(backend):
    graphs = numbers_of_graphs(backend)
    assert graphs == sorted(graphs)
    # Sizes that were met are not compiled again.
    assert graphs[-1] == graphs[4]


@pytest.mark.slow
def test_training_in_bfloat16_stays_finite(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = lightning_cli(
        [
            "fit",
            f"--config={ROOT / 'configs' / 'size_aware.yaml'}",
            f"--data.root={REFERENCE / 'raw_etram'}",
            "--data.input_size=[90, 160]",
            "--data.num_workers=0",
            "--data.train_lanes=2",
            "--model.embed_dim=8",
            "--model.dim_head=4",
            "--trainer.max_steps=6",
            "--trainer.val_check_interval=6",
            "--trainer.num_sanity_val_steps=0",
            "--trainer.log_every_n_steps=1",
            "--trainer.accelerator=cpu",
            "--trainer.precision=bf16-mixed",
        ]
    )
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert cli.trainer.global_step == 6
    assert metrics["train/loss"] > 0
    assert all(map(math.isfinite, metrics.values()))
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in cli.model.parameters())
    for hidden, cell in cli.model.train_states.rows:
        assert hidden.dtype == cell.dtype == torch.float32
        assert hidden.isfinite().all()
        assert cell.isfinite().all()


def test_stages_are_compiled_for_the_sizes_that_they_have():
    """All stages share one code object, so the second looks like the first of any size."""
    torch._dynamo.reset()
    symbolic = []

    def backend(graph, inputs):
        sides = [side for x in inputs if isinstance(x, torch.Tensor) for side in x.shape[2:]]
        symbolic.extend(isinstance(each, torch.SymInt) for each in [*sides, *inputs])
        return graph.forward

    detector = small_detector()
    detector.compile_parts(backend)
    with torch.no_grad():
        detector.features(some_events(2, 1, width=64))
    assert len(symbolic) > 40
    assert not any(symbolic)


def test_copies_of_a_compiled_detector_are_their_own():
    detector = small_detector()
    detector.compile_parts("eager")
    other = copy.deepcopy(detector)
    for parameter in other.parameters():
        parameter.data.zero_()
    with torch.no_grad():
        features, _ = other.features(some_events(1, 1, width=64))
    assert all(x.eq(0).all() for x in features)


def test_counted_arithmetic_is_that_of_rvt_tiny():
    work = arithmetic.count(replace(SETTINGS, input_size=(384, 640), scales=3))
    assert (work.backbone.forward + work.rest.forward) / 1e9 == pytest.approx(8.2, abs=0.05)
    assert work.parameter_bytes / 4e6 == pytest.approx(4.4, abs=0.06)
    assert 2.5 < work.backbone.training / work.backbone.forward < 3.1
    assert work.activation_bytes > 100e6


def test_median_quartiles_and_tail():
    step = measurement_of("step", [0.001 * n for n in range(1, 102)])
    assert (step.value, step.low, step.high) == pytest.approx((51, 26, 76))
    assert step.p95 == pytest.approx(96)
    assert measurement_of("once", [0.5]).value == 500


def test_variants_are_compared_with_the_first_and_the_fastest_of_each_precision_is_kept():
    section = Section("s")
    times = {"eager, 32-true": [0.2], "compiled, 32-true": [0.1], "eager, bf16-mixed": [0.4]}
    fastest = add_variants(section, times, "steps/s")
    assert {precision: best.name for precision, best in fastest.items()} == {
        "32-true": "compiled, 32-true",
        "bf16-mixed": "eager, bf16-mixed",
    }
    assert [each.note for each in section.measurements] == [
        "5 steps/s",
        "10 steps/s, 2.00 times the rate of eager, 32-true",
        "2.5 steps/s, 0.50 times the rate of eager, 32-true",
    ]


def test_variants_take_turns_and_a_failure_costs_one_line():
    order, section = [], Section("s")

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    runs = {"a": lambda: order.append("a"), "broken": fail, "b": lambda: time.sleep(0.001)}
    runs["b"] = lambda: order.append("b")
    times = measure(runs, 3, CPU, section, warm_up=1)
    assert order == ["a", "b", "a", "b", "a", "b", "a", "b"]
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert list(section.failures) == ["broken"]
    assert section.failures["broken"].startswith("out of memory")


TINY_BYTES = 4 * sum(
    each.numel()
    for each in Detector(num_classes=8, embed_dim=32, dim_head=32, fpn_depth=0.33).parameters()
)
SMALL = ["--input_size", "[64, 64]", "--repeats", "2", "--lanes", "1", "--steps", "2"]


def report(tmp_path, *arguments):
    path = tmp_path / "reports" / "bench.json"
    assert run(["bench", *arguments, "--output", str(path)]) == 0
    assert os.listdir(path.parent) == ["bench.json"]
    return json.loads(path.read_text())


def names_of(section):
    return [each["name"].strip() for each in section["measurements"]]


def test_bench_train(tmp_path, capsys):
    found = report(tmp_path, "train", *SMALL, "--growth", "false")
    assert found["machine"]["packages"]["torch"] == torch.__version__.split("+")[0]
    [section] = found["sections"]
    assert section["failures"] == {}
    names = names_of(section)
    for precision in ("32-true", "bf16-mixed"):
        for what in ("eager", "backbone", "neck", "head", "assignment", "loss"):
            assert f"{what}, {precision}" in names
        for what in ("backward", "optimiser", "peak memory", "large products", "floor"):
            assert f"{what}, {precision}" in names
    shown = capsys.readouterr().out
    assert "steps/s" in shown
    notes = {each["name"]: each["note"] for each in section["measurements"]}
    assert "times the rate of eager, 32-true" in notes["eager, bf16-mixed"]


@pytest.mark.slow
def test_bench_sizes_counts_memory_and_times_what_fits(tmp_path, monkeypatch):
    from etram_det.tools.bench import sizes

    assert sizes._PRESETS == ("tiny", "small", "base")
    monkeypatch.setattr(sizes, "_PRESETS", ("tiny",))
    monkeypatch.setattr(sizes, "_SIZES", ((64, 64), (64, 128)))
    needed = 4 * TINY_BYTES + 40e6  # for the smaller frames of tiny alone, by half
    monkeypatch.setattr(sizes, "_memory_bytes", lambda device: needed / sizes._USABLE)
    given = ["--lanes", "1", "--steps", "5", "--repeats", "1"]
    given += ["--precision", "32-true", "bf16-mixed"]
    [tiny] = report(tmp_path, "sizes", "--scales", "4", *given)["sections"]
    values = {each["name"]: each["value"] for each in tiny["measurements"]}
    assert values["parameters"] == pytest.approx(TINY_BYTES / 4e6)
    assert values["weights, gradients, optimiser"] == pytest.approx(4 * TINY_BYTES / 1e6)
    lane, wide = (values[f"{name}: a lane in training"] for name in ("64x64", "128x64"))
    assert 1.9 < wide / lane < 2.1
    assert values["64x64: the same, gradient checkpointing"] < 0.75 * lane
    assert values["64x64: training step"] > values["64x64: window, 32-true"] > 0
    assert values["128x64: window, bf16-mixed"] > 0
    failure = tiny["failures"]["128x64: training step"]
    assert failure == f"not tried, as it takes {(4 * TINY_BYTES / 1e9 + wide / 1e3):.1f} GB"
    assert tiny["title"].startswith("tiny, 4 scales, T=5, 1 lanes, 32-true")


def test_a_device_that_is_missing_is_refused(capfd, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["bench", "stream", *SMALL, "--device", "cuda"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("etram_det: error: device: must be cpu or auto here, got cuda (")
    assert line.endswith(": set cpu")


def test_bench_stream_prints_its_measurements(tmp_path, capsys):
    found = report(tmp_path, "stream", *SMALL, "--device", "cpu", "--precision", "[32-true]")
    [section] = found["sections"]
    names = names_of(section)
    for what in ("eager", "representation", "backbone", "neck and head", "NMS"):
        assert f"{what}, 32-true" in names
    shown = capsys.readouterr().out
    assert "windows/s" in shown
    [headings] = [line for line in shown.splitlines() if "what " in line and "┃" in line]
    assert "" not in [each.strip() for each in headings.strip("┃").split("┃")]


@pytest.mark.gate
def test_bench_stream_compares_runtimes_and_says_what_of_the_floor_each_reaches(
    small_export, tmp_path
):
    """Of an exported detector, and with its checkpoint, whose export is not made anew."""
    checkpoint, exported = map(str, small_export)
    options = ["--repeats", "2", "--device", "cpu", "--precision", "32-true", "bf16-mixed"]
    [section] = report(tmp_path, "stream", "--ckpt_path", exported, *options)["sections"]
    notes = {each["name"]: each["note"] for each in section["measurements"]}
    for name in ("ONNX Runtime, 32-true", "OpenVINO, 32-true"):
        assert re.search(r"windows/s.*, \d+% of the arithmetic's rate$", notes[name])
    reason = "precision: must be float32 with ONNX Runtime, got bfloat16: use --runtime openvino"
    assert section["failures"]["ONNX Runtime, bf16-mixed"] == reason
    assert section["title"].endswith(": 8 channels, 45x80")
    one = options[:-1]  # precision is enough
    [section] = report(tmp_path, "stream", "--ckpt_path", checkpoint, *one)["sections"]
    assert {"eager, 32-true", "floor, 32-true"} <= {*names_of(section)}
    assert "ONNX Runtime, 32-true" not in names_of(section)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["train", "--ckpt_path", "x.onnx"], "ckpt_path: must be left out of train, got x.onnx"),
        (["stream", "--runtimes", "tensorrt"], "runtimes"),
        (
            ["stream", "--ckpt_path", "{}", "--runtimes", "pytorch"],
            "runtimes: must be onnxruntime or openvino for an exported detector, got pytorch",
        ),
    ],
)
def test_runtimes_that_cannot_be_compared_cost_a_line(small_export, capfd, flags, words):
    assert run(["bench", *(flag.format(small_export[1]) for flag in flags)]) == 2
    error = capfd.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_variant_that_cannot_be_measured_leaves_the_others(tmp_path, monkeypatch):
    def compile_parts(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nbacktrace")

    monkeypatch.setattr(Detector, "compile_parts", compile_parts)
    options = ["--precision", "[32-true]", "--compile", "stages"]
    [section] = report(tmp_path, "train", *SMALL, *options)["sections"]
    reason = "DefaultCPUAllocator: can't allocate memory"
    assert section["failures"] == {"compiled, 32-true": reason}
    assert "eager, 32-true" in names_of(section)


def test_bench_assign_and_metric(tmp_path):
    [section] = report(tmp_path, "assign", "--repeats", "1")["sections"]
    assert names_of(section) == ["SimOTA", "SizeAwareSimOTA"]
    pytest.importorskip("faster_coco_eval")
    [section] = report(tmp_path, "metric", "--repeats", "1", "--frames", "100")["sections"]
    [_, theirs] = section["measurements"][:2]
    assert float(theirs["note"].split("AP differs by ")[1]) < 1e-3


@pytest.mark.slow
def test_bench_data(tmp_path):
    kernel, reading, loader, memory = report(tmp_path, "data", "--repeats", "1")["sections"]
    assert not kernel["failures"]
    assert not reading["failures"]
    assert len(reading["measurements"]) == 3
    assert not loader["failures"]
    dense, sparse, *times = loader["measurements"]
    assert dense["value"] == pytest.approx(2 * 5 * 20 * 360 * 640 / 1e6)
    assert dense["value"] / sparse["value"] > 5  # at 100,000 events a window
    assert [each["name"] for each in times] == [
        f"{form}, {number} workers" for number in (0, 2, 4) for form in ("dense", "sparse")
    ]
    assert not memory["failures"]


def test_one_precision_will_do():
    given = tool_arguments(["train", "--precision", "32-true"], bench_command)
    assert given == ["train", "--precision", '["32-true"]']
    names = tool_arguments(["--class-names", "gen1"], import_rvt_command)
    assert names == ["--class_names", "gen1"]


@pytest.mark.parametrize(
    ("flag", "value", "word"),
    [
        ("--lanes", "0", "lanes"),
        ("--precision", "[]", "precision"),
        ("--preset", "huge", "preset"),
        ("--input_size", "[0, 64]", "input_size"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(flag, value, word, capfd):
    assert run(["bench", "assign", flag, value]) == 2
    error = capfd.readouterr().err
    assert word in error
    assert error.count("\n") == 1
