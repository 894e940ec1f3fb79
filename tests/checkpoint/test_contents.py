"""What a training writes is taken; each part that is something else is named, with a remedy."""

import copy

import pytest
import torch

from etram_det.checkpoint.contents import require_whole
from etram_det.checkpoint.file import read_checkpoint
from etram_det.errors import UserError
from support.paths import REFERENCE

LAST = REFERENCE / "run_0.1.0" / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def whole():
    return read_checkpoint(LAST, mapped=False).content


def put(*keys, value):
    """A change of one value, by its place; ``...`` stands for the first key."""

    def change(content):
        for key in keys[:-1]:
            content = content[next(iter(content)) if key is ... else key]
        content[keys[-1]] = value

    return change


def without(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


FIT = ("loops", "fit_loop")
RANDOM = ("resume", "processes", 0, "random")
DAMAGE = [
    (put("epoch", value="one"), "epoch must be a count, got 'one'"),
    (put("callbacks", value=5), "callbacks must be values by name, got 5"),
    (put("callbacks", value={"a": 3}), "callbacks.a must be values by name, got 3"),
    (
        put("callbacks", "BadSteps", "num_skipped", value=-1),
        "callbacks.BadSteps.num_skipped must be a count, got -1",
    ),
    (
        put("callbacks", "BadRecordings", value={"train_day_0000": "x"}),
        "callbacks.BadRecordings.train_day_0000 must be a count, got 'x'",
    ),
    (
        put("callbacks", "RunCheckpoint{'mode': 'max'}", value={"monitor": 3}),
        "callbacks.RunCheckpoint{'mode': 'max'}.monitor must be str, got 3",
    ),
    (
        without("callbacks", "ResultsWriter", "step"),
        "callbacks.ResultsWriter.step must be there, got None",
    ),
    (put("EventDataModule", "step", value=-3), "EventDataModule.step must be a count, got -3"),
    (
        put("EventDataModule", "recordings", value=[1]),
        "EventDataModule.recordings must be values by name, got [1]",
    ),
    (put("loops", value=[]), "loops must be values by name, got []"),
    (without("loops", "test_loop"), "loops.test_loop must be there, got None"),
    (
        put(*FIT, "epoch_progress", "total", "ready", value="x"),
        "loops.fit_loop.epoch_progress.total.ready must be a count, got 'x'",
    ),
    (
        put(*FIT, "epoch_loop.state_dict", "_batches_that_stepped", value=None),
        "loops.fit_loop.epoch_loop.state_dict._batches_that_stepped must be a count, got None",
    ),
    (put("lr_schedulers", value=3), "lr_schedulers must be a list, got 3"),
    (
        put("lr_schedulers", 0, "last_epoch", value="x"),
        "lr_schedulers.0.last_epoch must be int, got 'x'",
    ),
    (put("optimizer_states", value=[{}]), "optimizer_states.0.state must be there, got None"),
    (
        put("optimizer_states", 0, "param_groups", 0, "params", value=["a"]),
        "optimizer_states.0.param_groups.0.params.0 must be int, got 'a'",
    ),
    (
        put("hyper_parameters", "num_blocks", value=[[1], 1, 1, 1]),
        "hyper_parameters.num_blocks.0 must be int, got [1]",
    ),
    (
        put("optimizer_states", 0, "param_groups", 0, "lr", value="x"),
        "optimizer_states.0.param_groups.0.lr must be int or float or Tensor, got 'x'",
    ),
    (put("provenance", "config", value=1), "provenance.config must be values by name, got 1"),
    (
        put("provenance", "starts", 0, "git", value="main"),
        "provenance.starts.0.git must be values by name, got 'main'",
    ),
    (
        put("provenance", "data", "val", "recordings", 0, "boxes", value=None),
        "provenance.data.val.recordings.0.boxes must be int, got None",
    ),
    (put("resume", "processes", value=3), "resume.processes must be a list, got 3"),
    (
        put(*RANDOM, "python", value=(3, (1, 2), None)),
        "resume.processes.0.random.python.1 must be 625 words of 32 bits, got (1, 2)",
    ),
    (
        put(*RANDOM, "numpy", value=("MT19937", [0])),
        "resume.processes.0.random.numpy must be a list of 5, got ('MT19937', [0])",
    ),
    (
        put(*RANDOM, "torch", value=torch.zeros(3)),
        "resume.processes.0.random.torch must be 5056 bytes, got (3,)",
    ),
    (
        put("resume", "processes", 0, "lanes", value=[(torch.zeros(1),)]),
        "resume.processes.0.lanes.0 must be a list of 2, got",
    ),
    (
        put("resume", "processes", 0, "unfinished_step", value={"losses": 1}),
        "resume.processes.0.unfinished_step.losses must be a list, got 1",
    ),
]


def test_what_a_training_writes_is_taken(whole):
    assert require_whole(LAST, whole) is None


@pytest.mark.parametrize(("change", "message"), DAMAGE, ids=[words for _, words in DAMAGE])
def test_each_damaged_part_is_named(whole, change, message):
    content = copy.deepcopy(whole)
    change(content)
    with pytest.raises(UserError) as caught:
        require_whole(LAST, content)
    assert str(caught.value).startswith(f"{LAST}: {message}")
    assert str(caught.value).endswith(
        ": the checkpoint is damaged: use another one, or copy it again"
    )


def test_a_tensor_must_be_there_as_a_whole(whole):
    content = copy.deepcopy(whole)
    content["resume"]["processes"][0]["gradients"] = {"a": torch.zeros(()).expand(2**40)}
    with pytest.raises(UserError, match=r"gradients\.a must be Tensor, got \(1099511627776,\)"):
        require_whole(LAST, content)
