"""Decoupled, anchor-free YOLOX head.

Source: Ge et al., "YOLOX: Exceeding YOLO Series in 2021".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from etram_det.errors import UserError
from etram_det.models.fpn import ConvBlock

_PRIOR = 0.01  # initial probability of objectness and of each class


@dataclass
class HeadOutput:
    """Raw predictions at all anchor points of all scales, finest scale first.

    Attributes:
        offsets: ``[N, A, 4]`` centre relative to the anchor point's cell, and log size, in units
            of the stride.
        objectness: ``[N, A]`` logits.
        classes: ``[N, A, K]`` logits.
        cells: ``[A, 2]`` column and row of each anchor point in its scale.
        strides: ``[A]`` pixels of a cell's side.
        scales: rows, columns and pixels of a cell's side, for each scale.
    """

    offsets: Tensor
    objectness: Tensor
    classes: Tensor
    cells: Tensor
    strides: Tensor
    scales: tuple[tuple[int, int, int], ...]

    def of_frames(self, start: int, stop: int) -> HeadOutput:
        """Predictions of the frames from ``start`` to ``stop`` (not included)."""
        of_frames = {
            name: getattr(self, name)[start:stop] for name in ("offsets", "objectness", "classes")
        }
        return replace(self, **of_frames)

    def boxes_cxcywh(self, anchor: Tensor | None = None, used: Tensor | None = None) -> Tensor:
        """Predicted boxes in pixels, float32: exp overflows in half precision.

        Args:
            anchor: ``[N, P]`` int64, points of each frame; all ``A`` of them unless given.
            used: ``[N, P]`` bool, false where the cell is to stand for the prediction, which has no
                gradient then: that of an overflow is nan, whatever its factor.

        Returns:
            ``[N, A, 4]``, or ``[N, P, 4]`` of those points.
        """
        offsets, cells, strides = self.offsets, self.cells, self.strides[:, None]
        if anchor is not None:
            offsets = offsets.gather(1, anchor[..., None].expand(-1, -1, 4))
            cells, strides = cells[anchor], strides[anchor]
        if used is not None:
            offsets = torch.where(used[..., None], offsets, 0.0)
        offsets = offsets.float()
        centre = (offsets[..., :2] + cells) * strides
        return torch.cat([centre, offsets[..., 2:].exp() * strides], dim=-1)

    def decode(self) -> Tensor:
        """``[N, A, 5 + K]``: cx, cy, w, h in pixels, objectness and class probabilities."""
        objectness = self.objectness.float().sigmoid()[..., None]
        classes = self.classes.float().sigmoid()
        return torch.cat([self.boxes_cxcywh(), objectness, classes], dim=-1)


class YOLOXHead(nn.Module):
    """Two branches for each scale: classes on one, box and objectness on the other.

    Args:
        dims: channels of each scale, finest first. The branches have a quarter of the last.
        strides: pixels of a cell's side at each scale.
        num_classes: classes ``K``.
        box_prior: width and height of the first predicted boxes in cells, centred on them; one
            cell, centred on its corner, unless set.

    Raises:
        UserError: if ``box_prior`` is not two positive numbers.
    """

    def __init__(
        self,
        *,
        dims: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        box_prior: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        width = dims[-1] // 4
        self.strides = tuple(strides)
        self.stems = nn.ModuleList(ConvBlock(dim, width, 1) for dim in dims)
        self.class_branches = nn.ModuleList(self._branch(width) for _ in dims)
        self.box_branches = nn.ModuleList(self._branch(width) for _ in dims)
        self.class_outputs = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in dims)
        self.box_outputs = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in dims)
        self.objectness_outputs = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in dims)
        for output in (*self.class_outputs, *self.objectness_outputs):
            nn.init.constant_(output.bias, -math.log((1 - _PRIOR) / _PRIOR))
        if box_prior is not None:
            if len(box_prior) != 2 or min(box_prior) <= 0:
                raise UserError(
                    "model.box_prior: must be a width and a height above 0 in cells, got "
                    f"{list(box_prior)}: set [3.0, 2.5], or null for one cell"
                )
            offsets = torch.tensor([0.5, 0.5, *(math.log(side) for side in box_prior)])
            for output in self.box_outputs:
                output.get_parameter("bias").data.copy_(offsets)

    @staticmethod
    def _branch(width: int) -> nn.Sequential:
        return nn.Sequential(ConvBlock(width, width, 3), ConvBlock(width, width, 3))

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Predict at every cell of ``S`` scales ``[N, C_s, h_s, w_s]``, finest first."""
        offsets, objectness, classes, cells, strides, scales = [], [], [], [], [], []
        for i, (x, stride) in enumerate(zip(features, self.strides, strict=True)):
            x = self.stems[i](x)
            box = self.box_branches[i](x)
            offsets.append(self._flatten(self.box_outputs[i](box)))
            objectness.append(self._flatten(self.objectness_outputs[i](box))[..., 0])
            classes.append(self._flatten(self.class_outputs[i](self.class_branches[i](x))))
            h, w = x.shape[-2:]
            row, column = torch.meshgrid(
                torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij"
            )
            cells.append(torch.stack([column, row], dim=-1).flatten(0, 1).float())
            strides.append(torch.full((h * w,), float(stride), device=x.device))
            scales.append((h, w, stride))
        return HeadOutput(
            torch.cat(offsets, dim=1),
            torch.cat(objectness, dim=1),
            torch.cat(classes, dim=1),
            torch.cat(cells),
            torch.cat(strides),
            tuple(scales),
        )

    @staticmethod
    def _flatten(x: Tensor) -> Tensor:
        """``[N, C, h, w]`` to ``[N, h * w, C]``, row by row."""
        return x.flatten(2).transpose(1, 2)
