"""The detector: recurrent backbone, feature pyramid and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etram_det.errors import UserError
from etram_det.models.backbone import STRIDES, PixelLSTM, RecurrentBackbone
from etram_det.models.fpn import PAFPN
from etram_det.models.head import HeadOutput, YOLOXHead
from etram_det.types import State


class Detector(nn.Module):
    """From event frames to predictions at all anchor points.

    The defaults are RVT base with one more scale, stride 4.

    Example:
        >>> import torch
        >>> from etram_det import Detector
        >>> detector = Detector(num_classes=3, embed_dim=8, dim_head=4).eval()
        >>> events = torch.zeros(2, 1, 20, 64, 64)  # [T, B, 2 * bins, H, W]
        >>> output, state = detector(events)
        >>> output.decode().shape  # [T * B, A, 5 + K]
        torch.Size([2, 340, 8])
        >>> output, state = detector(events, state)  # the next chunk

    Args:
        num_classes: classes ``K``.
        in_channels: channels of a frame, ``2 * bins``.
        embed_dim: channels of the first stage: 32 in RVT tiny, 48 in small, 64 in base.
        dim_multiplier: channels of the four stages, as multiples of ``embed_dim``.
        num_blocks: attention blocks of each stage.
        dim_head: channels of one attention head, which divide the channels of each stage: 32 in
            RVT tiny, 24 in small, 32 in base.
        mlp_ratio: hidden channels of the attention blocks' MLPs, as a multiple of their input.
        layer_scale_init: start value of the attention branches' factors.
        fpn_stages: stages that the pyramid joins, consecutive, the last one 4: ``[2, 3, 4]`` in
            RVT, ``[1, 2, 3, 4]`` adds stride 4 for small objects.
        fpn_depth: depth of the pyramid's blocks, in (0, 16]: 0.33 in RVT tiny and small, 0.67 in
            base.
        partition_split: attention windows along each side of the last stage, 1, 2 or 4: 2 in RVT,
            but 1 for Gen1. No weight depends on it.
        stem_norm_eps: what is added to the variance in the first normalisation, of the first
            stage's patches; above 0. RVT's 1e-5 brings patches with one noise event to the size of
            an edge.
        box_prior: width and height, in cells, of the boxes that an untrained head predicts, centred
            on their cells; RVT's boxes are one cell, centred on its corner, unless set.
        batch_norm_momentum: share of each training batch in the running statistics of batch
            normalisation, in (0, 1].
        gradient_checkpointing: compute attention again in the backward pass: less memory, for a
            longer step.

    Raises:
        UserError: if a number is out of its range, or ``dim_head`` does not divide the channels.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 20,
        embed_dim: int = 64,
        dim_multiplier: Sequence[int] = (1, 2, 4, 8),
        num_blocks: Sequence[int] = (1, 1, 1, 1),
        dim_head: int = 32,
        mlp_ratio: int = 4,
        layer_scale_init: float = 1e-5,
        fpn_stages: Sequence[int] = (1, 2, 3, 4),
        fpn_depth: float = 0.67,
        partition_split: int = 2,
        stem_norm_eps: float = 1e-5,
        box_prior: tuple[float, float] | None = None,
        batch_norm_momentum: float = 0.1,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stages = list(fpn_stages)
        if not stages or stages != list(range(stages[0], 5)) or stages[0] < 1:
            raise UserError(
                f"model.fpn_stages: must be consecutive stages that end with 4, got {stages}: "
                "use [2, 3, 4] (RVT) or [1, 2, 3, 4]"
            )
        if not 0 < fpn_depth <= 16:
            raise UserError(
                f"model.fpn_depth: must be above 0 and at most 16, got {fpn_depth}: use 0.33 (RVT "
                "tiny, small) or 0.67 (base)"
            )
        self.backbone = RecurrentBackbone(
            in_channels=in_channels,
            embed_dim=embed_dim,
            dim_multiplier=dim_multiplier,
            num_blocks=num_blocks,
            dim_head=dim_head,
            mlp_ratio=mlp_ratio,
            layer_scale_init=layer_scale_init,
            partition_split=partition_split,
            stem_norm_eps=stem_norm_eps,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.first_stage = stages[0] - 1
        dims = self.backbone.dims[self.first_stage :]
        self.fpn = PAFPN(dims=dims, depth=fpn_depth)
        self.head = YOLOXHead(
            dims=dims,
            strides=STRIDES[self.first_stage :],
            num_classes=num_classes,
            box_prior=box_prior,
        )
        if not 0 < batch_norm_momentum <= 1:
            raise UserError(
                f"model.batch_norm_momentum: must be in (0, 1], got {batch_norm_momentum}: use 0.1 "
                "(RVT), or less for small batches"
            )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = batch_norm_momentum
        self.to(memory_format=torch.channels_last)

    def forward(self, events: Tensor, state: State | None = None) -> tuple[HeadOutput, State]:
        """Predict for each frame of a chunk.

        Args:
            events: ``[T, B, 2 * bins, H, W]``, any numeric type.
            state: one (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` for zeros.

        Returns:
            Predictions for ``T * B`` frames, frame ``t * B + b`` at row ``t * B + b``, and the
            state after the last step.
        """
        features, state = self.features(events, state)
        return self.predict(features), state

    def features(self, events: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """Backbone features ``[T * B, C_s, h_s, w_s]`` of the pyramid's scales, and the state.

        Frames are zero-padded on the right and at the bottom, to multiples of 32 pixels times
        ``partition_split``.
        """
        multiple = self.backbone.size_multiple
        pad_x, pad_y = -events.shape[-1] % multiple, -events.shape[-2] % multiple
        if pad_x or pad_y:
            events = F.pad(events, (0, pad_x, 0, pad_y))
        features, state = self.backbone(events, state)
        return [x.flatten(0, 1) for x in features[self.first_stage :]], state

    def state_shapes(self, num_lanes: int, height: int, width: int) -> list[tuple[int, ...]]:
        """Shape ``[B, C, h, w]`` of each stage's hidden and cell state.

        Args:
            num_lanes: sequences in a batch, ``B``.
            height: of the frames in pixels, before padding.
            width: of the frames in pixels, before padding.
        """
        multiple = self.backbone.size_multiple
        height, width = (side + -side % multiple for side in (height, width))
        return [
            (num_lanes, dim, height // stride, width // stride)
            for dim, stride in zip(self.backbone.dims, STRIDES, strict=True)
        ]

    def compile_parts(self, backend: str = "inductor") -> None:
        """Compile each stage, each LSTM step, the pyramid and the head in place, one by one.

        A new number of frames or lanes compiles stages and LSTMs once more. Pyramid and head are
        compiled for any number of frames from the second one on, as the number of frames with
        labels changes from step to step.

        Args:
            backend: backend of ``torch.compile``.
        """
        # All stages share one code object. Its variants (training or evaluation, one frame or
        # several) exceed the default limit, beyond which PyTorch falls back to eager mode.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        # For the same reason, the second stage would seem to be the first one with all of its
        # sizes changed, and be compiled for any size.
        lstms = [part for part in self.modules() if isinstance(part, PixelLSTM)]
        for part in (*self.backbone.stages, *lstms):
            part.compile(backend=backend, dynamic=False)
        for part in (self.fpn, self.head):
            part.compile(backend=backend)

    def predict(self, features: Sequence[Tensor]) -> HeadOutput:
        """Pyramid and head on features ``[N, C_s, h_s, w_s]`` of any selection of frames."""
        return self.head(self.fpn(features))
