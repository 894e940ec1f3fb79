"""A detector in its form for streams, and as one function of a window and the state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from etram_det.models.detector import Detector
from etram_det.models.fpn import ConvBlock


def for_streams(detector: Detector, dtype: torch.dtype = torch.float32) -> Detector:
    """A copy for inference, its batch normalisation folded into the convolutions.

    Args:
        detector: as trained.
        dtype: of all weights but those of the LSTMs, whose state stays in float32.
    """
    detector = copy.deepcopy(detector).eval()
    for module in detector.modules():
        if isinstance(module, ConvBlock):
            module.fold()
    for name, parameter in detector.named_parameters():
        if ".lstm." not in name:
            parameter.data = parameter.data.to(dtype)
    return detector


class OneWindow(nn.Module):
    """One window of ``B`` streams with explicit state: what an exported detector computes.

    Args:
        detector: of :func:`for_streams`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self._dtype = next(detector.fpn.parameters()).dtype

    def forward(self, events: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Predict in the next window.

        Args:
            events: ``[B, C, H, W]``, any numeric type.
            *state: hidden, then cell state ``[B, C_s, h_s, w_s]`` of each stage; zeros at the
                start of a recording.

        Returns:
            Boxes ``[B, A, 4]`` ``xyxy`` in pixels, objectness ``[B, A]``, class probabilities
            ``[B, A, K]``, then the new state as ``state`` has it. All are float32.
        """
        before = list(zip(state[::2], state[1::2], strict=True))
        features, after = self.detector.features(events[None], before)
        output = self.detector.predict([x.to(self._dtype) for x in features])
        return (
            box_convert(output.boxes_cxcywh(), "cxcywh", "xyxy"),
            output.objectness.float().sigmoid(),
            output.classes.float().sigmoid(),
            *(part for pair in after for part in pair),
        )
