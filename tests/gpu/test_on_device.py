"""What only a CUDA device can show: ``pytest -n 0 -s -m gpu``, some minutes on one device.

Each test also runs on the CPU, in a tiny form, so that the default tests have executed its code.
"""

import gc
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.models.detector import Detector
from etram_det.models.losses import YOLOXLoss
from etram_det.models.postprocessing import decode_detections
from etram_det.tools.bench import gpu_cases
from etram_det.tools.bench.inputs import autocast
from etram_det.tools.bench.measure import Section, add_variants, measure
from etram_det.tools.bench.module_step import COMPILED, GraphedStep, ModuleStep, made_up_batch
from etram_det.training.callbacks.exact_resume import ExactResume
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from support import rvt
from support.plain_path import PlainTrainingStep
from support.ranks import trained_by_two

# Largest error of a feature or state, as a share of the largest value.
TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 0.05, "16-mixed": 0.01}


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where a test runs, in exact float32 arithmetic and with a fresh compiler."""
    if request.param == "cuda":
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
    yield torch.device(request.param)
    torch.compiler.reset()
    if request.param == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def sizes_on(device):
    """Base on the device, tiny on the CPU."""
    return gpu_cases.sizes_on(device, tiny=device.type == "cpu")


def assert_near(actual, expected, share):
    error = float((actual.float().cpu() - expected).abs().max() / expected.abs().max())
    assert error < share, f"{error:.2g} of the largest value"


def reference_detector(device, compiled):
    detector = rvt.detector().to(device)
    if compiled:
        detector.compile_parts("inductor" if device.type == "cuda" else "eager")
    return detector


@torch.no_grad()
@pytest.mark.parametrize(
    ("device", "precision", "compiled"),
    [
        *(("cpu", "32-true", False), ("cpu", "bf16-mixed", False)),
        *(
            pytest.param("cuda", precision, compiled, marks=pytest.mark.gpu)
            for precision in TOLERANCES
            for compiled in (False, True)
        ),
    ],
    indirect=["device"],
)
def test_features_states_and_predictions_equal_rvt(device, precision, compiled):
    reference, detector = rvt.arrays(), reference_detector(device, compiled)
    events = F.pad(reference["events"], (0, 4, 0, 8)).to(device)
    with autocast(device, precision):
        features, state = detector.backbone(events)
        decoded = detector.predict([x.flatten(0, 1) for x in features[1:]]).decode()
    share = TOLERANCES[precision]
    for i in range(4):
        assert_near(features[i], reference[f"feature_stage{i + 1}"], share)
        assert_near(state[i][0], reference[f"state_h{i + 1}"], share)
        assert_near(state[i][1], reference[f"state_c{i + 1}"], share)
        assert state[i][0].dtype == state[i][1].dtype == torch.float32
    assert_near(decoded, reference["decoded"], share)
    if precision == "32-true":
        for i, found in enumerate(decode_detections(decoded, 0.1, 0.45)):
            assert len(found) == len(reference[f"det_conf0.1_{i}"])


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_the_loss_equals_rvt(device, precision):
    detector = rvt.detector().train().to(device)
    features = [rvt.arrays()[f"train_fpn_out{i}"].to(device) for i in range(3)]
    boxes, classes = (x.to(device) for x in rvt.labels())
    with autocast(device, precision):
        losses = YOLOXLoss()(detector.head(features), boxes, classes)
    assert losses["loss"].dtype == torch.float32
    tolerance = 1e-4 if precision == "32-true" else 0.05
    expected = float(rvt.arrays()["loss_loss"])
    assert losses["loss"].item() == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("device", "mode"),
    [
        pytest.param("cpu", "stages", marks=pytest.mark.slow),
        *(pytest.param("cuda", mode, marks=pytest.mark.gpu) for mode in (*COMPILED, "graph")),
    ],
    indirect=["device"],
)
def test_compiled_steps_learn_as_eager_ones(device, mode, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setattr(Detector.compile_parts, "__defaults__", ("eager",))
    settings = replace(gpu_cases.sizes_on(device, tiny=True).settings, lanes=2)
    batch = made_up_batch(settings)
    eager = ModuleStep(settings, "32-true")
    other = ModuleStep(settings, "32-true", "none" if mode == "graph" else mode)
    number = 6
    if mode == "graph":
        for _ in range(3):  # that the graph's warm-up takes
            eager(batch)
        other, number = GraphedStep(other, batch), 3
    ours, theirs = [], []
    for _ in range(number):
        ours.append(float(other(batch)))
        theirs.append(float(eager(batch)))
    print(f"\n{mode}: {ours}, eager: {theirs}")
    assert ours == pytest.approx(theirs, rel=1e-3)


def recording_with_resets(device, size, number=9):
    """Windows of three recordings, and whether each starts one."""
    generator = torch.Generator().manual_seed(0)
    events = torch.randint(0, 5, (number, 1, 20, *size), generator=generator, dtype=torch.uint8)
    return [(i in (0, 4, 6), each.to(device)) for i, each in enumerate(events)]


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stream_with_resets_equals_each_recording_alone(device, precision):
    torch.manual_seed(0)
    detector = Detector(num_classes=3, embed_dim=16, dim_head=8, layer_scale_init=1.0).eval()
    detector.to(device)
    stream = PyTorchEngine(detector, precision)  # a CUDA graph where there is CUDA
    plain = PyTorchEngine(detector, precision, cuda_graph=False)
    assert stream._cuda_graph == (device.type == "cuda")
    for is_first, events in recording_with_resets(device, (64, 96)):
        if is_first:
            stream.reset()
            plain.state = None
        torch.testing.assert_close(stream(events), plain(events), rtol=1e-4, atol=1e-4)


def test_no_step_waits_for_the_device(device):
    sizes = sizes_on(device)
    settings = replace(sizes.settings, lanes=2)
    for precision in sizes.precisions:
        batch, step = made_up_batch(settings), ModuleStep(settings, precision)
        step(batch)  # libraries choose their algorithms
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        losses = [step(batch) for _ in range(2)]
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
        assert all(loss.isfinite() and loss.device.type == device.type for loss in losses)


def held_bytes(device):
    """Memory of all tensors that are alive."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    alive = [each for each in gc.get_objects() if type(each) in kinds and not each.is_meta]
    return sum(
        {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in alive}.values()
    )


def test_memory_is_flat(device):
    settings = replace(gpu_cases.sizes_on(device, tiny=True).settings, lanes=2)
    first, last = (50, 500) if device.type == "cuda" else (2, 6)
    batch, step = made_up_batch(settings), ModuleStep(settings, "bf16-mixed")
    held = {}
    for number in range(1, last + 1):
        step(batch)
        if number in (first, last):
            held[number] = held_bytes(device)
    # Less than a frame, let alone a batch.
    assert held[last] - held[first] < batch.events[0, 0].nbytes


class Batches(torch.utils.data.Dataset):
    """Batches that differ, some of them without labels."""

    def __init__(self, settings):
        self.batch = made_up_batch(settings).to("cpu")

    def __len__(self):
        return 8

    def __getitem__(self, index):
        batch = replace(self.batch, events=self.batch.events.roll(index, dims=-1))
        if index == 3:
            none = {name: x[:0] for name, x in vars(batch.labels).items() if x is not None}
            batch = replace(batch, labels=replace(batch.labels, **none))
        return batch


class Plan(torch.utils.data.Sampler):
    """Batches from one on, of an epoch that is as long as ever."""

    def __init__(self, start):
        self.start = start

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(range(self.start, 8))


class Data(pl.LightningDataModule):
    """Batches of a plan that a resumed run goes on in."""

    resumes_exactly = True

    def __init__(self, settings):
        super().__init__()
        self.settings, self.start = settings, 0
        self.train_lanes, self.input_size = settings.lanes, settings.input_size

    def train_dataloader(self):
        plan = Plan(self.start)
        return torch.utils.data.DataLoader(Batches(self.settings), batch_size=None, sampler=plan)


def fitted(device, settings, folder, steps, start=0, checkpoint=None):
    """A module after so many steps, from a checkpoint if there is one."""
    module = ModuleStep(settings, "32-true").module
    del module.log, module.log_dict
    module.hparams["schedule"] = "constant"
    data = Data(settings)
    data.start = start
    trainer = pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[NonFiniteSteps(), ExactResume()],
        default_root_dir=folder,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer, module


@pytest.mark.filterwarnings("ignore")
def test_training_resumes_to_the_last_bit(device, tmp_path):
    settings = replace(gpu_cases.sizes_on(device, tiny=True).settings, lanes=2)
    _, expected = fitted(device, settings, tmp_path, 6)
    trainer, _ = fitted(device, settings, tmp_path, 4)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.manual_seed(7)
    _, resumed = fitted(device, settings, tmp_path, 6, 4, str(tmp_path / "last.ckpt"))
    assert resumed.trainer.global_step == expected.trainer.global_step == 6
    for name, value in expected.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name
    for one, other in zip(resumed.train_states.rows, expected.train_states.rows, strict=True):
        assert one[0].equal(other[0])
        assert one[1].equal(other[1])


@pytest.mark.parametrize(
    "where",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_two_ranks_learn_as_one(where, tmp_path):
    if where == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, got {torch.cuda.device_count()}")
    first, second = trained_by_two(where, tmp_path)
    assert first["steps"] == second["steps"] == 4
    for name, value in first["weights"].items():
        assert value.isfinite().all(), name
        if where == "cuda" or "running" not in name:  # synchronised batch-norm is for devices
            assert value.equal(second["weights"][name]), name
    assert len(first["processes"]) == 2
    assert len(second["processes"]) == 1


@pytest.mark.parametrize(
    ("device", "mode", "aim"),
    [
        ("cpu", "none", 0.0),
        pytest.param("cuda", "none", 1.5, marks=pytest.mark.gpu),
        pytest.param("cuda", "step", 2.5, marks=pytest.mark.gpu),  # bench gpu has all modes
    ],
    indirect=["device"],
)
def test_speed_against_the_plain_path(device, mode, aim):
    sizes = sizes_on(device)
    precision = sizes.precisions[0]
    settings = sizes.of_training(sizes.lanes[0], precision)
    section, batch = Section("Training step"), made_up_batch(settings)
    events, labels = batch.events, batch.labels
    plain, ours = PlainTrainingStep(settings, precision), ModuleStep(settings, precision, mode)
    name = "eager" if mode == "none" else f"compiled {mode}"
    runs = {
        f"plain path, {precision}": lambda: plain(events, labels),
        f"{name}, {precision}": lambda: ours(batch),
    }
    times = measure(runs, settings.repeats, device, section, warm_up=3)
    assert not section.failures
    add_variants(section, times, "steps/s")
    print(f"\n{settings.frame}, T={settings.steps}, {settings.lanes} lanes (aim: {aim} times)")
    for found in section.measurements:
        print(f"{found.name}: {found.value:.1f} ms, {found.note}")
    plain_ms, ours_ms = [found.value for found in section.measurements]
    assert device.type == "cpu" or ours_ms < plain_ms


def test_speed_of_the_stream_and_the_loader(device):
    sizes = sizes_on(device)
    known = gpu_cases.cases(replace(sizes, streams=("none",), workers=sizes.workers[-1:]))
    print()
    for part in ("stream", "loader"):
        for run in known[part].values():
            section = run()
            assert not section.failures
            print(section.title)
            for found in section.measurements:
                print(f"  {found.name}: {found.value:.3g} {found.unit}  {found.note}")
