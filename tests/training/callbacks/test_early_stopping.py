"""A training whose metric has stopped improving ends, also where it was stopped in between."""

import signal
from functools import partial

import pytest
import torch
import yaml

from etram_det.cli.commands import run
from etram_det.errors import UserError
from etram_det.training.callbacks.early_stopping import RunEarlyStopping
from support.tiny_runs import (
    RUN,
    SETTINGS,
    assert_same,
    at_the_training_step,
    outcome,
    run_to_its_end,
    said,
    send,
    steps,
    unbroken,
)

# No improvement is great enough: after the first validation, two more end the run at step 9 of 40.
ENDS = [
    *SETTINGS, *steps(40, validation=3), "--resume", "auto", "--data.class_balance", "1",
    "--early_stopping.patience", "2", "--early_stopping.min_delta", "1",
]  # fmt: skip


def last_step():
    return torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.slow
def test_it_ends_where_it_says_and_a_stopped_run_ends_there_too(tiny_folder):
    expected = unbroken(ENDS)
    ask = partial(at_the_training_step, 8, partial(send, signal.SIGTERM))
    assert run_to_its_end(ENDS, ask) == 128 + signal.SIGTERM, said()[-3000:]
    assert last_step() == 8
    assert run_to_its_end(ENDS) == 0, said()[-3000:]
    assert last_step() == 9
    message = "early_stopping: val/AP has not improved on 0.000 in 2 validations: "
    assert said().count(f"{message}training ends here") == 2
    assert_same(outcome(), expected)
    written = yaml.safe_load((RUN / "config.yaml").read_text())["early_stopping"]
    assert (written["patience"], written["min_delta"]) == (2, 1.0)

    # Once more: nothing is left to train, until there is more patience.
    assert run_to_its_end(ENDS) == 0, said()[-3000:]
    assert f"{message}raise early_stopping.patience to go on" in said()
    assert last_step() == 9
    assert run_to_its_end([*ENDS, "--early_stopping.patience", "3"]) == 0, said()[-3000:]
    assert last_step() == 12


def test_it_is_off_unless_set():
    assert not RunEarlyStopping().is_on
    assert RunEarlyStopping(patience=1).is_on


def test_it_is_refused_where_nothing_is_validated(tiny_folder, capfd):
    """It would never end the training, and not say so."""
    none = ["--trainer.limit_val_batches", "0", "--early_stopping.patience", "2"]
    assert run([*SETTINGS, *none]) == 2
    assert (
        "early_stopping.patience: must be null without validations, which "
        "trainer.limit_val_batches 0 switches off: unset one of them"
    ) in " ".join(capfd.readouterr().err.split())
    assert not RUN.exists()


def test_a_least_improvement_without_patience_is_said_to_have_no_effect(caplog):
    RunEarlyStopping(min_delta=0.1)
    assert "early_stopping.min_delta: without effect, as patience is not set" in caplog.text


def test_it_counts_validations_without_improvement_and_nan_is_none():
    callback = RunEarlyStopping(patience=3, min_delta=0.02)
    decisions = [
        callback._evaluate_stopping_criteria(torch.tensor(value))[0]
        for value in (0.1, 0.11, float("nan"), 0.13, 0.14, 0.14, 0.14)
    ]
    # 0.11 is no improvement by 0.02, 0.13 is one.
    assert decisions == [False] * 6 + [True]
    assert (callback.wait_count, round(callback.best_score.item(), 3)) == (3, 0.13)
    resumed = RunEarlyStopping(patience=5, min_delta=0.02)
    resumed.load_state_dict(callback.state_dict())
    assert (resumed.wait_count, resumed.patience) == (3, 5)


@pytest.mark.parametrize("given", [[], ["--early_stopping.patience", "2"]])
def test_a_metric_without_labels_ends_the_run_at_its_first_validation(tiny_folder, given):
    none = ["--checkpoint.monitor", "val/AP_wheelchair"]
    assert run_to_its_end([*SETTINGS, *steps(4, validation=2), *none, *given]) == 1
    message = (
        "checkpoint.monitor: must be a metric of labels that the validation has, got "
        "val/AP_wheelchair: use val/AP, or other recordings for the validation"
    )
    assert said().splitlines()[-1] == f"etram_det: error: {message}"
    assert last_step() == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"patience": 0}, "early_stopping.patience: must be at least 1, got 0: set null for none"),
        ({"min_delta": -0.1}, "early_stopping.min_delta: must be at least 0, got -0.1: raise it"),
        ({"min_delta": float("nan")}, "early_stopping.min_delta: must be at least 0, got nan"),
    ],
)
def test_settings_out_of_range_are_named(given, message):
    with pytest.raises(UserError, match=message):
        RunEarlyStopping(**given)


def test_it_is_in_help_and_in_the_printed_settings(capsys):
    with pytest.raises(SystemExit):
        run(["fit", "--help"])
    assert "--early_stopping.patience PATIENCE" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(["fit", "--early-stopping.patience", "4", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["early_stopping"] == {
        "patience": 4, "min_delta": 0.0,
    }  # fmt: skip
