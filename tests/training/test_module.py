"""The LightningModule: lane states, steps, schedule."""

import math

import pytest
import pytorch_lightning as pl
import torch

from etram_det.errors import UserError
from etram_det.models.losses import SizeAwareLossWrapper, YOLOXLoss
from etram_det.training.lanes import LaneStates
from etram_det.training.module import DetectionModule
from etram_det.types import Batch, Labels


def small_module(**settings):
    torch.manual_seed(0)
    settings = {
        "class_names": ("pedestrian", "car"),
        "embed_dim": 8,
        "dim_head": 4,
        "fpn_depth": 0.33,
        "layer_scale_init": 1.0,
    } | settings
    return DetectionModule(**settings)


def batch_of(events, reset, lane=None, labels=None):
    steps, lanes = events.shape[:2]
    nothing = Labels.stack([], [], [])
    return Batch(
        events=events,
        labels=nothing if labels is None else labels,
        reset=torch.tensor(reset),
        lane=torch.arange(lanes) if lane is None else torch.tensor(lane),
        padded=torch.zeros(steps, lanes, dtype=torch.bool),
        time_us=torch.arange(steps)[:, None].expand(steps, lanes) * 50_000,
        recording=["val_day_0001"] * lanes,
        scale=torch.full((lanes, 2), 2.0),
        stream=torch.ones(lanes, dtype=torch.bool),
    )


def some_events(steps, lanes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, lanes, 20, 64, 64)
    return torch.randint(0, 5, shape, generator=generator, dtype=torch.uint8)


def coarsest(module, batch):
    with torch.no_grad():
        features = module._features(batch, module.eval_states)
    return features[-1].unflatten(0, batch.events.shape[:2])


def test_state_is_carried_from_chunk_to_chunk():
    events = some_events(6, 2)
    module = small_module().eval()
    whole = coarsest(module, batch_of(events, [True, True]))
    module.eval_states.clear()
    chunks = [
        coarsest(module, batch_of(events[:4], [True, True])),
        coarsest(module, batch_of(events[4:], [False, False])),
    ]
    torch.testing.assert_close(torch.cat(chunks), whole, rtol=0, atol=1e-5)


def test_reset_of_one_lane_changes_no_other():
    first, second = some_events(2, 3), some_events(2, 3, seed=1)
    outcomes = []
    for reset in ([False, False, False], [False, True, False]):
        module = small_module().eval()
        coarsest(module, batch_of(first, [True] * 3))
        outcomes.append(coarsest(module, batch_of(second, reset)))
    carried, reset_one = outcomes
    assert carried[:, 0].equal(reset_one[:, 0])
    assert carried[:, 2].equal(reset_one[:, 2])
    assert not carried[:, 1].allclose(reset_one[:, 1])
    # The lane that was reset is as good as new.
    alone = coarsest(small_module().eval(), batch_of(second[:, 1:2], [True]))
    torch.testing.assert_close(reset_one[:, 1:2], alone, rtol=0, atol=1e-5)


def test_lanes_that_left_keep_the_others_in_their_rows():
    first, second = some_events(2, 3), some_events(2, 3, seed=1)
    module = small_module().eval()
    coarsest(module, batch_of(first, [True] * 3))
    all_lanes = coarsest(module, batch_of(second, [False] * 3))
    module = small_module().eval()
    coarsest(module, batch_of(first, [True] * 3))
    remaining = coarsest(module, batch_of(second[:, [0, 2]], [False] * 2, lane=[0, 2]))
    torch.testing.assert_close(remaining, all_lanes[:, [0, 2]], rtol=0, atol=1e-5)


def test_a_reset_lane_forgets_even_what_is_not_finite():
    states = LaneStates()
    broken = torch.full((2, 4, 2, 2), torch.nan)
    states.update(torch.arange(2), [(broken, broken)])
    [(hidden, cell)] = states.get(torch.arange(2), torch.tensor([True, False]))
    assert hidden[0].eq(0).all()
    assert cell[0].eq(0).all()
    assert hidden[1].isnan().all()


def test_states_carry_no_gradient():
    module = small_module()
    module._features(batch_of(some_events(2, 1), [True]), module.train_states)
    assert all(not h.requires_grad and not c.requires_grad for h, c in module.train_states.rows)


def test_a_chunk_without_labels_costs_nothing_and_keeps_all_gradients():
    module = small_module()
    loss = module.training_step(batch_of(some_events(2, 2), [True, True]), 0)
    loss.backward()
    assert loss == 0
    assert all(p.grad is not None and p.grad.eq(0).all() for p in module.detector.parameters())


@pytest.mark.parametrize(("kept", "counted"), [(300, 100), (100, 100), (20, 20)])
def test_of_the_detections_kept_a_hundred_count(kept, counted):
    assert small_module(max_detections=kept).metric.settings.max_detections == counted


@pytest.mark.parametrize("loss", [YOLOXLoss, SizeAwareLossWrapper])
def test_frames_labelled_to_show_nothing_lower_the_objectness(loss):
    module = small_module(loss=loss())
    module.log = module.log_dict = lambda *_, **__: None
    labels = Labels.stack([1, 2], [torch.empty(0, 4)] * 2, [torch.empty(0, dtype=torch.int64)] * 2)
    batch = batch_of(some_events(2, 2), [True, True], labels=labels)
    optimizer = torch.optim.SGD(module.parameters(), 1e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        module.train_states.clear()
        losses.append(module.training_step(batch, 0))
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2] > 0
    assert module.loss_parts["box_loss"] == module.loss_parts["class_loss"] == 0


def test_only_labelled_frames_reach_neck_and_head():
    module = small_module()
    seen = []
    module.detector.fpn.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].shape[0]))
    labels = Labels.stack([3], [torch.tensor([[8.0, 8, 40, 40]])], [torch.tensor([1])])
    batch = batch_of(some_events(3, 2), [True, True], labels=labels)
    module.log = module.log_dict = lambda *_, **__: None
    assert module.training_step(batch, 0).isfinite()
    assert seen == [1]


def test_predictions_stand_frame_by_frame():
    module = small_module(score_threshold=0.0, max_detections=5).eval()
    events = some_events(2, 2)
    with torch.no_grad():
        found = module.predict_step(batch_of(events, [True, True]), 0)
        module.eval_states.clear()
        alone = module.predict_step(batch_of(events[:, 1:], [True]), 0)
    assert len(found) == 4
    for step in range(2):
        torch.testing.assert_close(found[step * 2 + 1].boxes, alone[step].boxes)


class Steps(pl.Trainer):
    """A trainer that knows its number of steps without data."""

    estimated_stepping_batches = 1000


def rates(**settings):
    module = small_module(**settings)
    module.trainer = Steps(max_steps=1000, accelerator="cpu", logger=False)
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    values = []
    for _ in range(1000):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(values) < 1000 else None
    return values


def test_learning_rate_rises_and_falls_as_in_rvt():
    values = rates(learning_rate=2e-4, div_factor=20.0)
    assert values[0] == pytest.approx(2e-4 / 20)
    assert max(values) == pytest.approx(2e-4)
    assert values.index(max(values)) == 4  # 0.5 % of the steps, counted from 0
    assert values[-1] == pytest.approx(2e-4 / 10000)
    assert values[502] == pytest.approx((values[4] + values[-1]) / 2, rel=0.01)


def test_cosine_schedule_stays_above_the_line_at_first():
    linear, cosine = rates(learning_rate=1.0), rates(learning_rate=1.0, schedule="cosine")
    assert cosine[250] > linear[250]
    assert cosine[750] < linear[750]
    assert cosine[-1] == pytest.approx(linear[-1])


@pytest.mark.parametrize(("lanes", "accumulate"), [(6, 1), (2, 4), (8, 1)])
def test_learning_rate_follows_the_effective_batch(lanes, accumulate):
    module = small_module(train_lanes=lanes, schedule="constant")
    module.trainer = Steps(accelerator="cpu", logger=False, accumulate_grad_batches=accumulate)
    [group] = module.configure_optimizers().param_groups
    assert group["lr"] == pytest.approx(2e-4 * math.sqrt(lanes * accumulate / 8))


def test_checkpoint_of_other_classes_is_refused_with_both_lists():
    module = small_module()
    checkpoint = {"hyper_parameters": {"class_names": ("car", "pedestrian")}, "state_dict": {}}
    with pytest.raises(UserError, match=r"\['car', 'pedestrian'\].*\['pedestrian', 'car'\]"):
        module.on_load_checkpoint(checkpoint)
    names = {"class_names": ["pedestrian", "car"]}
    module.on_load_checkpoint({"hyper_parameters": names, "state_dict": module.state_dict()})


def test_checkpoint_of_another_network_is_refused_by_its_tensors():
    module = small_module()
    for change, message in (
        (lambda tensors: tensors.popitem(), r"lacks detector\.head"),
        (lambda tensors: tensors.update({"detector.new": torch.zeros(1)}), r"holds detector\.new"),
        (
            lambda tensors: tensors.update({"detector.fpn.reduce.0.conv.weight": torch.zeros(1)}),
            r"fpn\.reduce\.0\.conv\.weight must have the shape \(8, 16, 1, 1\), got \(1,\)",
        ),
    ):
        tensors = dict(module.state_dict())
        change(tensors)
        with pytest.raises(UserError, match=message):
            module.on_load_checkpoint({"state_dict": tensors})


def test_weight_decay_leaves_biases_norms_and_layer_scales_alone():
    module = small_module(weight_decay=0.01, learning_rate=0.1, schedule="constant")
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, max_steps=1)
    optimizer = module.configure_optimizers()
    for parameter in module.detector.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: x.clone() for name, x in module.detector.state_dict().items()}
    optimizer.step()
    for name, parameter in module.detector.named_parameters():
        factor = 1 - 0.1 * 0.01 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
    names = [name for name, x in module.detector.named_parameters() if x.ndim <= 1]
    assert len(names) > 50
    assert any(name.endswith("gamma") for name in names)
    assert all(
        name.endswith(("bias", "gamma", "norm.weight", "norm1.weight", "norm2.weight"))
        for name in names
    )
    # A run of an earlier version goes on with its one group.
    module._num_groups = 1
    assert len(module.configure_optimizers().param_groups) == 1
    # Without decay there is one group.
    plain = small_module(schedule="constant")
    plain.trainer = module.trainer
    assert len(plain.configure_optimizers().param_groups) == 1


@pytest.mark.parametrize("every", [1, 2, 5])
def test_the_state_can_be_forgotten_to_show_what_it_is_worth(every):
    events = some_events(5, 2)
    module = small_module(forget_every=every).eval()
    reset = [True, True]
    with torch.no_grad():
        found = module._evaluated_features(batch_of(events, reset))
        parts = []
        for part in events.split(every):
            module.eval_states.clear()
            parts.append(module._features(batch_of(part, reset), module.eval_states)[-1])
    torch.testing.assert_close(found[-1], torch.cat(parts))
    if every < 5:
        module.eval_states.clear()
        carried = coarsest(module, batch_of(events, reset)).flatten(0, 1)
        assert (found[-1] - carried)[: 2 * every].abs().max() < 1e-5
        assert (found[-1] - carried)[2 * every :].abs().max() > 1e-3
