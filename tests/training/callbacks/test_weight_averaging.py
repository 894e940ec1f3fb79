"""The moving average of the weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from etram_det.errors import UserError
from etram_det.training.callbacks.weight_averaging import RampedWeightAveraging


def averages(num_steps, decay):
    """The average of a weight and a buffer that are ``n`` after step ``n``, after each step."""
    module = nn.BatchNorm1d(1)
    averaged = AveragedModel(module, **_settings_of(RampedWeightAveraging(decay)))
    found = []
    for step in range(num_steps):
        with torch.no_grad():
            module.weight.fill_(float(step))
            module.running_mean.fill_(float(step))
            module.num_batches_tracked.fill_(step)
        averaged.update_parameters(module)
        found.append(averaged.module.weight.item())
        assert averaged.module.running_mean.item() == pytest.approx(found[-1], abs=1e-4)
    return found


def _settings_of(callback):
    """What the callback makes its average with."""
    return {"use_buffers": callback._use_buffers, **callback._kwargs}


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_past_counts_more_and_more(decay):
    expected = [0.0]  # the first step is taken as it is
    for step in range(1, 400):
        past = min(decay, (1 + step) / (10 + step))
        expected.append(past * expected[-1] + (1 - past) * step)
    assert averages(400, decay) == pytest.approx(expected, rel=1e-4)


def test_a_short_run_forgets_its_first_weights():
    kept = 1.0
    for step in range(1, 400):
        kept *= min(0.999, (1 + step) / (10 + step))
    assert kept < 1e-10
    assert 350 < averages(400, 0.999)[-1] < 399


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UserError, match=r"^trainer.callbacks: decay must be in \[0, 1\), got"):
        RampedWeightAveraging(decay)
