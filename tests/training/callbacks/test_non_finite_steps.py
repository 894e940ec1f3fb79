"""Non-finite steps: what they leave untouched, what they leave behind, and when they end a run."""

import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from etram_det.errors import UserError
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from etram_det.training.module import DetectionModule
from etram_det.types import Batch, Labels

H, W, T, B = 64, 96, 2, 2
NAN, CLEAN = float("nan"), 1.0


def batch_of(value, step, lane=0):
    """Frames of random counts; those of one lane are multiplied by ``value``."""
    events = torch.randint(0, 3, (T, B, 20, H, W), generator=torch.Generator().manual_seed(step))
    events = events.float()
    events[:, lane] *= value
    boxes = [torch.tensor([[16.0, 16.0, 48.0, 48.0]])] * B
    return Batch(
        events=events,
        labels=Labels.stack([2, 3], boxes, [torch.tensor([1])] * B),
        reset=torch.full((B,), step == 0),
        lane=torch.arange(B),
        padded=torch.zeros(T, B, dtype=torch.bool),
        time_us=torch.tensor([[100_000], [150_000]]).expand(T, B) + 100_000 * step,
        recording=["street", "square"],
        scale=torch.ones(B, 2),
        stream=torch.ones(B, dtype=torch.bool),
    )


class Batches(torch.utils.data.Dataset):
    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, step):
        return batch_of(self.values[step], step)


class Watch(pl.Callback):
    """Weights, optimiser state, running statistics and lane states after each batch."""

    def __init__(self):
        self.after = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        optimizer = trainer.optimizers[0]
        self.after.append(
            {
                "weights": [p.detach().clone() for p in pl_module.detector.parameters()],
                "optimizer": [
                    value.clone() for state in optimizer.state.values() for value in state.values()
                ],
                "statistics": [each.clone() for each in pl_module.detector.buffers()],
                "states": [part.clone() for pair in pl_module.train_states.rows for part in pair],
            }
        )


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


def all_finite(tensors):
    return all(bool(each.isfinite().all()) for each in tensors)


def train(folder, values, most_in_a_row=10, callbacks=(), module=None, **settings):
    torch.manual_seed(0)
    if module is None:
        module = DetectionModule(
            class_names=("pedestrian", "car"), embed_dim=8, dim_head=4, fpn_depth=0.33,
            learning_rate=1e-3, schedule="constant",
        )  # fmt: skip
    bad_steps, watch = NonFiniteSteps(most_in_a_row), Watch()
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[bad_steps, watch, *callbacks], **settings,
    )  # fmt: skip
    loader = DataLoader(Batches(values), batch_size=None)
    return module, trainer, bad_steps, watch, lambda: trainer.fit(module, loader)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_bad_step_changes_nothing_and_the_next_one_trains(tmp_path, precision, caplog):
    caplog.set_level(logging.WARNING)
    values = [CLEAN, NAN, CLEAN]
    _, trainer, bad_steps, watch, fit = train(tmp_path, values, precision=precision)
    fit()
    before, bad, after = watch.after
    for name in ("weights", "optimizer", "statistics"):
        assert same(before[name], bad[name]), name
        assert not same(bad[name], after[name]), name
    for each in (before, bad, after):
        assert all_finite([*each["weights"], *each["statistics"], *each["states"]])
    # Lane 0 had the nan and starts anew; lane 1 goes on.
    assert all(not part[0].any() for part in bad["states"])
    assert all(part[1].any() for part in bad["states"])
    assert (bad_steps.num_skipped, bad_steps.num_in_a_row) == (1, 0)
    assert trainer.global_step == 3  # a skipped step counts
    assert trainer.callback_metrics["train/skipped_steps"] == 1
    first, last = caplog.messages
    assert first.startswith("step 1 is skipped (1 so far): loss not finite (loss nan")
    assert first.endswith("in street at 0.20 to 0.25 s, square at 0.20 to 0.25 s")
    assert last == "1 of 3 training steps were skipped, as they were not finite"


def test_finite_run_is_the_same_with_and_without(tmp_path):
    values = [CLEAN] * 3
    module, *_, fit = train(tmp_path, values)
    fit()
    without, trainer, *_, fit = train(tmp_path, values)
    trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, NonFiniteSteps)]
    fit()
    assert same(list(module.state_dict().values()), list(without.state_dict().values()))


def test_one_bad_batch_spoils_all_that_accumulate_with_it(tmp_path, caplog):
    values = [CLEAN, CLEAN, NAN, CLEAN, CLEAN, CLEAN]
    _, trainer, bad_steps, watch, fit = train(tmp_path, values, accumulate_grad_batches=2)
    fit()
    for name in ("weights", "optimizer", "statistics"):
        assert same(watch.after[1][name], watch.after[3][name]), name
        assert not same(watch.after[3][name], watch.after[5][name]), name
    assert bad_steps.num_skipped == 1
    assert trainer.global_step == 3
    assert all_finite(watch.after[3]["states"])
    # The state that the nan left made the second batch's loss nan as well.
    assert caplog.text.count("street") == 2


@pytest.mark.parametrize("algorithm", ["value", "norm"])
def test_skipped_step_has_nothing_to_clip(tmp_path, algorithm):
    clipping = {"gradient_clip_val": 1.0, "gradient_clip_algorithm": algorithm}
    _, _, bad_steps, watch, fit = train(tmp_path, [CLEAN, NAN, CLEAN], **clipping)
    fit()
    assert bad_steps.num_skipped == 1
    assert same(watch.after[0]["weights"], watch.after[1]["weights"])
    assert not same(watch.after[1]["weights"], watch.after[2]["weights"])


class NanGradient(pl.Callback):
    """A finite loss whose gradient is not, at some steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step in self.steps:
            next(pl_module.detector.parameters()).grad[0] = NAN


def test_bad_gradient_is_a_bad_step(tmp_path, caplog):
    _, _, bad_steps, watch, fit = train(tmp_path, [CLEAN] * 3, callbacks=[NanGradient({1})])
    fit()
    assert bad_steps.num_skipped == 1
    for name in ("weights", "optimizer"):
        assert same(watch.after[0][name], watch.after[1][name]), name
    assert all(part.any() for part in watch.after[1]["states"])
    assert "gradient or state not finite (loss " in caplog.text


def test_state_that_would_poison_the_next_step_is_caught_without_labels(tmp_path):
    class NoLabels(Batches):
        def __getitem__(self, step):
            batch = super().__getitem__(step)
            batch.labels = Labels.stack([], [], [])
            return batch

    module, trainer, bad_steps, watch, _ = train(tmp_path, [])
    trainer.fit(module, DataLoader(NoLabels([CLEAN, NAN, CLEAN]), batch_size=None))
    assert bad_steps.num_skipped == 1
    assert all_finite(watch.after[1]["states"])


def fp16_with_scale(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return scaler, MixedPrecision("16-mixed", "cpu", scaler)


def test_scaler_lowers_its_scale_for_its_own_skips_only(tmp_path):
    class TooMuch(pl.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 1:
                next(pl_module.detector.parameters()).grad[0] = float("inf")

    scaler, plugin = fp16_with_scale(16.0)
    values = [CLEAN, CLEAN, NAN, CLEAN]
    _, trainer, bad_steps, watch, fit = train(
        tmp_path, values, callbacks=[TooMuch()], plugins=[plugin]
    )
    fit()
    # Halved once, for the infinite gradient of a finite loss; the nan loss is no matter of scale.
    assert scaler.get_scale() == 8
    assert bad_steps.num_skipped == 1
    weights = [each["weights"] for each in watch.after]
    assert same(weights[0], weights[1])
    assert same(weights[1], weights[2])
    assert not same(weights[2], weights[3])
    assert all_finite(watch.after[3]["statistics"])


def test_many_in_a_row_end_the_run_with_a_report_and_their_batch(tmp_path):
    values = [CLEAN, NAN, CLEAN, NAN, NAN, NAN, CLEAN]
    _, trainer, bad_steps, watch, fit = train(tmp_path, values, most_in_a_row=3)
    with pytest.raises(UserError) as raised:
        fit()
    message = str(raised.value)
    assert raised.value.exit_code == 1
    assert "\n" not in message
    assert message.startswith(
        "non_finite_steps.most_in_a_row: 3 training steps in a row were not finite, step 5 the "
        "last: loss not finite (loss nan, box_loss "
    )
    assert "in street at 0.60 to 0.65 s, square at 0.60 to 0.65 s" in message
    path = tmp_path / "bad_batch_rank0.pt"
    assert str(path) in message
    kept = torch.load(path, weights_only=True)
    assert kept["step"] == 5
    [batch] = kept["batches"]
    assert batch["events"].isnan().any()
    assert batch["recording"] == ["street", "square"]
    assert batch["time_us"].tolist() == [[600_000] * 2, [650_000] * 2]
    assert batch["labels"]["boxes"].shape == (2, 1, 4)
    assert batch["loss_parts"]["loss"].isnan()
    assert (bad_steps.num_skipped, bad_steps.num_in_a_row) == (4, 3)
    assert len(watch.after) == 5


def test_report_stands_where_the_batch_cannot_be_written(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    *_, fit = train(tmp_path, [NAN], most_in_a_row=1)
    with pytest.raises(
        UserError, match=r"the batch is lost: .*rank0.pt: cannot be written \(No space left"
    ):
        fit()
    assert not list(tmp_path.iterdir())


def test_counts_go_on_after_a_resume():
    bad_steps = NonFiniteSteps()
    bad_steps.num_skipped, bad_steps.num_in_a_row = 7, 2
    resumed = NonFiniteSteps()
    resumed.load_state_dict(bad_steps.state_dict())
    assert (resumed.num_skipped, resumed.num_in_a_row) == (7, 2)


def test_number_must_be_positive():
    with pytest.raises(
        UserError, match=r"non_finite_steps.most_in_a_row: must be at least 1, got 0"
    ):
        NonFiniteSteps(0)


def test_steps_are_read_now_and_then_where_none_is_logged():
    bad_steps = NonFiniteSteps()
    trainer = SimpleNamespace(
        log_every_n_steps=0, global_step=0, precision_plugin=SimpleNamespace(scaler=None)
    )
    looks = dict.fromkeys((1, 499, 500), False)
    for number in looks:
        bad_steps._steps = [None] * number
        looks[number] = bad_steps._is_due(trainer, torch.device("cuda"))
    assert looks == {1: False, 499: False, 500: True}
    bad_steps._steps = [None]
    assert bad_steps._is_due(trainer, torch.device("cpu"))
    trainer.log_every_n_steps = 4
    due = []
    for trainer.global_step in range(8):
        due.append(bad_steps._is_due(trainer, torch.device("cuda")))
    assert due == [False, False, False, True] * 2


def read_late(monkeypatch):
    """As on an accelerator: the host looks at the steps that are logged, with a checkpoint and at
    the end alone."""
    judge = NonFiniteSteps._judge

    def late(self, may_end=False):
        is_due = not may_end or self._steps[-1].number % 4 == 3
        return is_due and judge(self, may_end)

    monkeypatch.setattr(NonFiniteSteps, "_judge", late)


def test_what_is_read_late_was_skipped_at_once(tmp_path, caplog, monkeypatch):
    read_late(monkeypatch)
    values = [CLEAN, NAN, CLEAN, CLEAN, CLEAN, NAN]
    _, trainer, bad_steps, watch, fit = train(tmp_path, values)
    fit()
    for name in ("weights", "optimizer", "statistics"):
        assert same(watch.after[0][name], watch.after[1][name]), name
        assert not same(watch.after[1][name], watch.after[2][name]), name
    # Counted on the device at once, reported at step 3 and at the end.
    assert trainer.callback_metrics["train/skipped_steps"] == 2
    reports = [text.partition(":")[0] for text in caplog.messages if text.startswith("step ")]
    assert reports == [
        "step 1 is skipped (1 so far)",
        "step 5 is skipped (2 so far)",
    ]
    assert (bad_steps.num_skipped, bad_steps.num_in_a_row) == (2, 1)


@pytest.mark.parametrize(("values", "ends"), [([CLEAN] + [NAN] * 3, True), ([NAN] * 3, False)])
def test_a_run_that_has_recovered_is_not_ended_late(tmp_path, monkeypatch, values, ends):
    read_late(monkeypatch)
    _, _, bad_steps, watch, fit = train(tmp_path, [*values, CLEAN, CLEAN], most_in_a_row=3)
    if ends:
        with pytest.raises(UserError, match="3 training steps in a row .* step 3 the last"):
            fit()
        [batch] = torch.load(tmp_path / "bad_batch_rank0.pt", weights_only=True)["batches"]
        assert batch["time_us"][0].tolist() == [400_000] * 2
    else:
        fit()
        assert (bad_steps.num_skipped, bad_steps.num_in_a_row) == (3, 0)
