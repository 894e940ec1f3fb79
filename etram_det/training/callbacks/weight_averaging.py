"""An exponential moving average of the weights that does not hold on to the first ones."""

from __future__ import annotations

from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from etram_det.errors import UserError


class RampedWeightAveraging(WeightAveraging):
    """Evaluate and keep the moving average of weights and batch-norm statistics.

    After step ``n`` the past has the weight ``min(decay, (1 + n) / (10 + n))``: a constant decay of
    0.999 would leave two thirds of the initial weights in the average after 400 steps. The ramp is
    that of TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``.

    Args:
        decay: weight of the past after the ramp, in [0, 1).

    Raises:
        UserError: if ``decay`` is out of its range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(
                f"trainer.callbacks: decay must be in [0, 1), got {decay}: set 0.999, or less for "
                "short runs"
            )

        def average(averaged: Tensor, current: Tensor, num_averaged: Tensor | int) -> Tensor:
            """The new average ``[*]`` of one parameter or buffer."""
            ramp = (1 + num_averaged) / (10 + num_averaged)
            past = ramp.clamp(max=decay) if isinstance(ramp, Tensor) else min(ramp, decay)
            return averaged * past + current * (1 - past)

        super().__init__(use_buffers=True, avg_fn=average)
