"""A training step compiled as one graph: the same losses and gradients, and few compilations."""

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

from etram_det.models import assign
from etram_det.models.losses import SizeAwareLossWrapper
from etram_det.models.size_aware_assign import SizeAwareSimOTA
from etram_det.training.module import DetectionModule
from etram_det.types import Batch, Labels

H, W, T, B = 64, 128, 2, 2
SIZE_AWARE = {
    "loss": SizeAwareLossWrapper(unit_mean=True),
    "assignment": SizeAwareSimOTA(small_points=2),
}


class Counted:
    """A backend of ``torch.compile`` that counts how often it compiles."""

    def __init__(self, name):
        self.compile = lookup_backend(name)
        self.times = 0

    def __call__(self, *args, **kwargs):
        self.times += 1
        return self.compile(*args, **kwargs)


def small_module(**settings):
    torch.manual_seed(0)
    module = DetectionModule(
        class_names=("pedestrian", "car"), embed_dim=8, dim_head=4, fpn_depth=0.33,
        layer_scale_init=1.0, box_prior=(3.0, 2.5), **settings,
    )  # fmt: skip
    module.log_dict = lambda *_, **__: None
    return module


def random_batch(step):
    """A chunk with one to four labelled frames of up to 20 boxes, every fifth one without any."""
    generator = torch.Generator().manual_seed(step)

    def draw(*shape):
        return torch.rand(shape, generator=generator)

    frames = sorted(torch.randperm(T * B, generator=generator)[: 1 + step % (T * B)].tolist())
    counts = [int(draw(1) * 21) * (step % 5 > 0) for _ in frames]
    sides = [4 + 40 * draw(n, 2) for n in counts]
    corners = [draw(n, 2) * torch.tensor([W, H]) for n in counts]
    boxes = [torch.cat([low, low + side], dim=1) for low, side in zip(corners, sides, strict=True)]
    return Batch(
        events=(draw(T, B, 20, H, W) * 3).to(torch.uint8),
        labels=Labels.stack(frames, boxes, [(2 * draw(n)).long() for n in counts]),
        reset=torch.tensor([step % 3 == 0, False]),
        lane=torch.arange(B),
        padded=torch.zeros(T, B, dtype=torch.bool),
        time_us=torch.zeros(T, B, dtype=torch.int64),
        recording=["street", "square"],
        scale=torch.ones(B, 2),
        stream=torch.ones(B, dtype=torch.bool),
    )


def assert_equal_along_a_training(backend, steps, settings):
    """Train eagerly; from each state take the same step compiled, and compare."""
    torch._dynamo.reset()
    eager, compiled = small_module(**settings), small_module(**settings)
    counted = Counted(backend)
    compiled.compile_step(counted, fullgraph=True)
    optimizer = torch.optim.AdamW(eager.parameters(), lr=1e-3)
    for step in steps:
        compiled.load_state_dict(eager.state_dict())
        compiled.train_states.rows = eager.train_states.rows
        batch = random_batch(step)
        for module in (eager, compiled):
            module.zero_grad()
            module.training_step(batch, step).backward()
        for name, value in eager.loss_parts.items():
            torch.testing.assert_close(compiled.loss_parts[name], value, rtol=1e-4, atol=1e-6)
        ours, theirs = (
            torch.cat([p.grad.flatten() for p in module.parameters()])
            for module in (eager, compiled)
        )
        assert (theirs - ours).norm() <= 1e-4 * ours.norm()
        assert (theirs - ours).abs().max() <= 1e-4 * ours.abs().max()
        for pair, other in zip(eager.train_states.rows, compiled.train_states.rows, strict=True):
            torch.testing.assert_close(pair, other, rtol=1e-4, atol=1e-5)
        optimizer.step()
    return counted.times


@pytest.mark.slow
def test_one_graph_computes_a_step_and_serves_other_labels():
    assert assert_equal_along_a_training("eager", range(1, 3), {}) == 1


@pytest.mark.slow
def test_one_graph_serves_all_labels():
    # One labelled frame alone is a graph of its own.
    assert assert_equal_along_a_training("eager", range(8), {}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, SIZE_AWARE], ids=["yolox", "size-aware"])
def test_compiled_code_computes_the_same(settings):
    assert assert_equal_along_a_training("inductor", range(20), settings) <= 3


@pytest.mark.slow
def test_crowded_chunks_are_compiled_too(monkeypatch):
    monkeypatch.setattr(assign, "_MOST_PAIRS", 4000)  # two frames of eight boxes at a time
    assert_equal_along_a_training("eager", range(1, 5), {})
