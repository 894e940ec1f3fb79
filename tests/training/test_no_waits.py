"""Nothing in a step waits for the device: shown with tensors that claim to be on one.

The host may wait, and does, in these places only:

- ``DetectionModule.on_fit_start``: what follows the labels' sizes, once;
- ``NonFiniteSteps._judge``: what was skipped, at the steps that are logged, with a checkpoint and
  at the end; likewise Lightning's loggers and the progress bar, at the steps that are logged;
- Lightning's ``_ResultMetric.to``: a new metric goes to the device, at its first step;
- ``DetectionModule._evaluate`` and ``_suppressed``, in each batch of an evaluation: for the number
  of candidates, with the labels; in torchvision's NMS; and for what is left;
- ``ExactResume``: as a checkpoint is written and restored; ``RunCheckpoint``: where it is written;
- ``GradScaler``, which ``16-mixed`` needs, and PyTorch's ``AveragedModel``, each step.
"""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultMetric
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from etram_det.data.augment import Augmentation
from etram_det.data.chunks import ChunkDataset, collate
from etram_det.data.streaming import ChunkRequest
from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.models.losses import SizeAwareLossWrapper, YOLOXLoss
from etram_det.models.size_aware_assign import SizeAwareSimOTA
from etram_det.training.callbacks.exact_resume import _restore
from etram_det.training.callbacks.loggers import OptimisationMonitor
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from etram_det.training.callbacks.progress_bar import RunProgressBar
from etram_det.training.callbacks.recording_faults import DroppedEvents, UnreadableRecordings
from etram_det.training.module import DetectionModule
from etram_det.types import Batch, Detections, Labels
from support.fake_device import CUDA, FakeStrategy, NoWaits, Waits, fake_cuda, to_fake_device
from support.fake_recording import FakeRecording

H, W, T, B = 64, 128, 2, 2
FRAMES = 5  # of a chunk that comes from a loader
BFLOAT16 = torch.bfloat16


def on_device(*shape, dtype=torch.float32, device=CUDA):
    return torch.zeros(shape, dtype=dtype, device=device)


def batch_of(num_labelled, lanes=B, faults=None):
    """A batch on the device, as it arrives there, without what could not be read."""
    whole = {"dtype": torch.int64}
    labels = Labels(
        on_device(num_labelled, **whole),
        on_device(num_labelled, 3, 4),
        on_device(num_labelled, 3, **whole),
    )
    return Batch(
        events=on_device(T, lanes, 20, H, W, dtype=torch.uint8),
        labels=labels,
        reset=on_device(lanes, dtype=torch.bool),
        lane=on_device(lanes, **whole),
        padded=on_device(T, lanes, dtype=torch.bool),
        time_us=on_device(T, lanes, **whole),
        recording=["street", "square"][:lanes],
        scale=on_device(lanes, 2),
        stream=on_device(lanes, dtype=torch.bool),
        faults=faults or {},
    )


class Batches:
    """A loader of batches with so many labelled frames each, a lane unread where there are none."""

    def __init__(self, *num_labelled):
        self.num_labelled = num_labelled

    def __iter__(self):
        lost = {0: "street_td.h5: must be an HDF5 file"}
        return (batch_of(n, faults=None if n else lost) for n in self.num_labelled)


class Watch(pl.Callback):
    """Looks from the arrival of the first batch to the end of the last step."""

    def __init__(self, guard):
        self.guard = guard
        guard.is_on = False

    def on_train_batch_start(self, *_):
        self.guard.is_on = True

    def on_train_epoch_end(self, *_):
        self.guard.is_on = False


def small_module(mode, **settings):
    torch.manual_seed(0)
    module = DetectionModule(
        class_names=("pedestrian", "car"), embed_dim=8, dim_head=4, fpn_depth=0.33,
        schedule="constant", **settings,
    )  # fmt: skip
    module.on_fit_start = lambda: None
    return to_fake_device(module, mode)


def judged_nothing(self, may_end=False):
    self._steps.clear()
    return False


def fit(mode, module, batches, *callbacks, **settings):
    """Let Lightning train on the device; returns what the guard has seen."""
    guard = NoWaits()
    callbacks = [
        *callbacks, Watch(guard), NonFiniteSteps(), OptimisationMonitor(), RunProgressBar(),
        DroppedEvents(), UnreadableRecordings(),
    ]  # fmt: skip
    metric_to = guard.may_wait(_ResultMetric.to)
    with (
        patch.object(NonFiniteSteps, "_judge", judged_nothing),
        patch.object(_ResultMetric, "to", metric_to),
        mode,
        guard,
    ):
        trainer = pl.Trainer(
            strategy=FakeStrategy(), max_epochs=1, logger=False, enable_checkpointing=False,
            enable_model_summary=False, callbacks=callbacks, gradient_clip_val=1.0, **settings,
        )  # fmt: skip
        trainer.fit(module, batches)
    return trainer, guard


SIZE_AWARE = {
    "loss": SizeAwareLossWrapper(unit_mean=True, weighted_terms=("box", "objectness")),
    "assignment": SizeAwareSimOTA("blend", small_points=2),
}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize(
    ("precision", "settings", "accumulated"),
    [
        ("32-true", {}, 1),
        pytest.param("bf16-mixed", SIZE_AWARE, 2, marks=pytest.mark.gate),
    ],
)
def test_training_waits_for_nothing(precision, settings, accumulated):
    with fake_cuda() as mode:
        module = small_module(mode, **settings)
        batches = Batches(0, 2)  # labelled frames; none in the first
        trainer, guard = fit(
            mode, module, batches, precision=precision, accumulate_grad_batches=accumulated,
            gradient_clip_algorithm="norm" if accumulated > 1 else "value",
        )  # fmt: skip
    assert trainer.global_step == 2 // accumulated
    assert guard.num_operations > 1000
    # Activations are in the precision that was asked for, not what a missing device falls back to.
    assert guard.products == {torch.float32 if precision == "32-true" else BFLOAT16}
    assert all(p.device == CUDA for p in module.parameters())
    [optimizer] = trainer.optimizers
    assert optimizer.found_inf.device == CUDA
    assert len(optimizer.state) == len(list(module.detector.parameters()))
    assert all(x.device == CUDA for state in optimizer.state.values() for x in state.values())


def chunks_of(num_lanes):
    """Chunks of two streaming lanes and two random ones, each augmented in its own way."""
    drawn = (
        Augmentation((12, 16)),
        Augmentation((12, 16), flip=True, polarity_flip=True),
        Augmentation((12, 16), zoom=1.5, shift=(-3, -2)),
        Augmentation((12, 16), zoom=0.75, shift=(1, 2), adds_up=True),
    )
    recording = FakeRecording(1, 40, (12, 16))
    dataset = ChunkDataset([recording], FRAMES)
    requests = [ChunkRequest(0, 10, i > 1, i, None, i < 2) for i in range(4)]
    return [replace(dataset[each], augmentation=drawn[each.lane]) for each in requests[:num_lanes]]


@pytest.mark.parametrize("num_lanes", [1, 4], ids=["as they are", "augmented"])
def test_frames_become_dense_without_a_wait(num_lanes):
    batch = collate(chunks_of(num_lanes), FRAMES)
    events = batch.sparse_events
    with fake_cuda() as mode, mode:
        on_its_device = on_device(*events.buffer.shape, dtype=torch.uint8)
        arrived = replace(events, buffer=on_its_device)
        with NoWaits() as guard:
            frames = arrived.dense()
    assert guard.num_operations > 10
    assert (frames.shape, frames.device) == ((FRAMES, num_lanes, 4, 12, 16), CUDA)
    assert batch.stream.tolist() == [True, True, False, False][:num_lanes]


class Resume(pl.Callback):
    """Restores the state of an unfinished step, as a resumed run does."""

    def on_train_start(self, trainer, pl_module):
        """The first place in which the host may wait."""

        def kept(x):
            return torch.zeros_like(x, device="cpu")

        shapes = pl_module.detector.state_shapes(B, H, W)
        own = {
            "random": None,
            "lanes": [(on_device(*s, device="cpu"), on_device(*s, device="cpu")) for s in shapes],
            "gradients": {name: kept(p) for name, p in pl_module.named_parameters()},
            "unfinished_step": {
                "losses": [on_device(device="cpu")],
                "statistics": [kept(each) for each in pl_module.detector.buffers()],
            },
        }
        data = SimpleNamespace(train_lanes=B, input_size=(H, W))
        run = SimpleNamespace(callbacks=trainer.callbacks, datamodule=data)
        with patch("etram_det.training.callbacks.exact_resume._restore_random_states"):
            _restore(run, pl_module, own, "last.ckpt")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_resumed_run_waits_for_nothing():
    with fake_cuda() as mode:
        module = small_module(mode)
        trainer, guard = fit(mode, module, Batches(2, 2), Resume(), precision="bf16-mixed")
    assert trainer.global_step == 2
    assert guard.products == {BFLOAT16}
    assert all(x.device == CUDA for pair in module.train_states._rows for x in pair)


@pytest.mark.parametrize("protocol", ["full", "prophesee"])
def test_evaluation_waits_for_nothing_but_its_detections(protocol):
    candidates = []
    with fake_cuda() as mode, torch.no_grad():
        module = small_module(mode, protocol=protocol).eval()
        module._evaluate = lambda found, batch: candidates.append(found)
        module._suppressed = lambda found, *_: candidates.append(found)
        guard = NoWaits()
        with mode, guard, torch.autocast("cuda", BFLOAT16):
            module.validation_step(batch_of(3), 0)
            module.validation_step(batch_of(0), 1)
            module.validation_step(batch_of(1, lanes=1), 2)  # the other lane has run out
            module.predict_step(batch_of(2), 3)
        assert guard.products == {BFLOAT16}
    points = sum((H // s) * (W // s) for s in (4, 8, 16, 32))
    of_classes = points * 2 if protocol == "full" else points
    shapes = [tuple(each.scores.shape) for each in candidates]
    assert shapes == [(3, of_classes), (1, of_classes), (T * B, points)]
    assert all(each.boxes.device == CUDA for each in candidates)


def test_a_metric_on_the_device_keeps_its_frames_on_the_host():
    metric = SizeBinnedMAP(class_names=("pedestrian", "car"))
    metric._device = CUDA  # which is not there
    box, ids = torch.tensor([[10.0, 10.0, 26.0, 40.0]]), torch.tensor([0])
    found = Detections(box, torch.tensor([0.9]), torch.tensor([0.8]), ids)
    with NoWaits() as guard:
        metric.reset()
        arguments = ["day_1"], torch.tensor([100_000]), torch.ones(1, 2)
        metric.update([found], Labels.stack([0], [box], [ids]), *arguments)
    assert guard.num_operations > 10
    assert metric._collect().detections.scores.tolist() == [pytest.approx(0.72)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_stream_waits_for_nothing(dtype):
    engine = PyTorchEngine(DetectionModule(class_names=("car",), embed_dim=8, dim_head=4).detector,
                           dtype, cuda_graph=False)  # fmt: skip
    with fake_cuda() as mode:
        to_fake_device(engine.detector, mode)
        with mode, NoWaits() as guard:
            for _ in range(2):
                decoded = engine(on_device(1, 20, H, W, dtype=torch.uint8))
                assert decoded.device == CUDA
            engine.reset()
            engine(on_device(1, 20, H, W, dtype=torch.uint8))
    # The LSTMs stay in float32.
    assert guard.products == {torch.float32, getattr(torch, dtype)}


PLANTED = {
    "item": (lambda x: x * x.item(), DataDependentOutputException, "_local_scalar_dense"),
    "tensor on the host": (lambda x: x * torch.ones(1), RuntimeError, "at least two devices"),
    "copy to the device": (lambda x: x * torch.ones(1).to(x.device), Waits, "on cpu and cuda"),
    "copy to the host": (lambda x: x.cpu(), Waits, "on cpu and cuda"),
    "selection": (lambda x: x[None][x[None] > 0].sum(), Waits, "a mask as an index"),
    "places": (lambda x: x[None].nonzero().sum(), DynamicOutputShapeException, "nonzero"),
    "assignment by a mask": (
        lambda x: x[None].clone().index_put_((x[None] > 0,), x), Waits, "a mask as an index"
    ),
    "index on the host": (
        lambda x: x[None][torch.zeros(1, dtype=torch.int64)].sum(), Waits, "an index on cpu"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PLANTED)
def test_what_is_planted_in_the_loss_is_caught(what):
    change, error, message = PLANTED[what]

    class Planted(YOLOXLoss):
        def forward(self, *args):
            losses = super().forward(*args)
            return losses | {"loss": change(losses["loss"])}

    with fake_cuda() as mode:
        module = small_module(mode, loss=Planted())
        module.log_dict = lambda *_, **__: None
        with mode, NoWaits(), pytest.raises(error, match=message):
            module.training_step(batch_of(2), 0)
