"""The recurrent MaxViT backbone of RVT, computed for all time steps of a chunk at once.

Only the LSTM at the end of a stage looks back in time. Down-sampling and attention of step ``t``
need nothing from step ``t - 1`` of their own stage, so each stage runs them on all ``T * B`` frames
together, then its LSTM along ``T``, and passes all ``T`` outputs to the next stage. This is the
same function as RVT's step-by-step order, with a fraction of the kernel launches.

Source: Gehrig and Scaramuzza, "Recurrent Vision Transformers for Object Detection with Event
Cameras", CVPR 2023; Tu et al., "MaxViT", ECCV 2022.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from etram_det.errors import UserError
from etram_det.types import State

# Stage 1 looks at patches of 4x4 pixels; each later stage halves the resolution.
STRIDES = (4, 8, 16, 32)
_NORM_EPS = 1e-5  # PyTorch's default
_MAX_SIZE = 4096  # of channels, blocks and multiples: a larger one is a typing error


class LayerScale(nn.Module):
    """Learned factor for each channel of a residual branch; all start from ``init``."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[*, C]`` channel by channel."""
        return x * self.gamma


class PixelLinear(nn.Linear):
    """Linear layer on the channels of ``[cells, pixels, C]``.

    In float32 on a CPU it runs as oneDNN's 1x1 convolution, which fuses the bias and was measured
    to be twice as fast as the matrix product that PyTorch uses for linear layers there. Other
    runtimes choose for themselves: what is exported is the matrix product.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[F, P, C_in]`` to ``[F, P, C_out]``: ``P`` pixels of each of ``F`` cells."""
        in_float32 = self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if x.device.type != "cpu" or not in_float32 or torch.compiler.is_exporting():
            return super().forward(x)
        pixels = x[:, :, None].permute(0, 3, 1, 2)  # [cells, C, pixels, 1], channels last
        x = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return x.permute(0, 2, 3, 1).squeeze(2)


class PartitionAttention(nn.Module):
    """Transformer block whose attention is confined to the cells of a window or grid partition.

    Args:
        dim: channels ``C``, a multiple of ``dim_head``.
        grid: attend over a grid of far-apart pixels instead of a window of adjacent ones.
        first_norm: normalise the input; false where the stage's down-sampling has just done so.

    The other arguments are those of :class:`~etram_det.models.detector.Detector`.
    """

    def __init__(
        self,
        *,
        dim: int,
        dim_head: int,
        grid: bool,
        mlp_ratio: int = 4,
        layer_scale_init: float = 1e-5,
        first_norm: bool = True,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.num_heads = dim // dim_head
        self.norm1 = nn.LayerNorm(dim) if first_norm else nn.Identity()
        self.qkv = PixelLinear(dim, 3 * dim)
        self.projection = PixelLinear(dim, dim)
        self.scale1 = LayerScale(dim, layer_scale_init)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            PixelLinear(dim, mlp_ratio * dim), nn.GELU(), PixelLinear(mlp_ratio * dim, dim)
        )
        self.scale2 = LayerScale(dim, layer_scale_init)

    def forward(self, x: Tensor, partition: tuple[int, int]) -> Tensor:
        """Attend in ``F`` frames ``[F, h, w, C]`` within each cell of the partition.

        A cell has ``(p, q)`` pixels in y and x, which divide ``h`` and ``w``.
        """
        frames, h, w, dim = x.shape
        p, q = partition
        # A window is p*q adjacent pixels; a grid cell is p*q pixels h/p and w/q apart.
        cells, order = (frames, h // p, p, w // q, q, dim), (0, 1, 3, 2, 4, 5)
        back = order
        if self.grid:
            cells, order = (frames, p, h // p, q, w // q, dim), (0, 2, 4, 1, 3, 5)
            back = (0, 3, 1, 4, 2, 5)
        # All but the attention itself is pixelwise, so one re-ordering in and one out suffice.
        x = x.view(cells).permute(order).reshape(-1, p * q, dim)
        x = x + self.scale1(self._attention(self.norm1(x)))
        x = x + self.scale2(self.mlp(self.norm2(x)))
        split = (frames, h // p, w // q, p, q, dim)
        return x.view(split).permute(back).reshape(frames, h, w, dim)

    def _attention(self, x: Tensor) -> Tensor:
        # Each head has a contiguous [q | k | v] block of the projection's channels, as in RVT.
        qkv = self.qkv(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=-1)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.projection(x.transpose(1, 2).flatten(2))


class PixelLSTM(nn.Module):
    """One LSTM shared by all pixels; gates in the order forget, input, output, cell.

    The state and the arithmetic on it stay in float32 under autocast.

    Args:
        dim: channels ``C`` of input, hidden and cell state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        linear = nn.Linear(2 * dim, 4 * dim)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(
        self, inputs: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next hidden and cell state ``[B, h, w, C]``.

        ``inputs`` ``[B, h, w, 4 * C]`` are the input's part of the gates; ``weight`` ``[4 * C, C]``
        is the part of the weights that belongs to the hidden state.
        """
        gates = inputs + F.linear(hidden, weight)
        sigmoid_gates, cell_gate = gates.split((3 * self.dim, self.dim), dim=-1)
        forget_gate, input_gate, output_gate = sigmoid_gates.float().sigmoid().chunk(3, dim=-1)
        cell = forget_gate * cell + input_gate * cell_gate.float().tanh()
        return output_gate * cell.tanh(), cell

    def scan(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run over all steps of ``x`` ``[T, B, h, w, C]`` from a state ``[B, h, w, C]`` each.

        Returns:
            Hidden states ``[T, B, h, w, C]``, and hidden and cell state after the last step.
        """
        # Neither a compiled nor an exported graph has a call into oneDNN's LSTM.
        in_graph = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        by_library = x.device.type == "cpu" and not in_graph
        scan = self._scan_on_cpu if by_library else self._scan_in_steps
        return scan(x, hidden, cell)

    def _scan_in_steps(
        self, x: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Converted and split once for the whole chunk, not by autocast in each step.
        dtype = self.weight.dtype  # a stream's other weights may be half precision
        if not x.is_meta and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        of_input, of_hidden = self.weight.to(dtype).split(self.dim, dim=1)
        # The input's part of the gates does not depend on time: one product for the whole chunk.
        inputs = F.linear(x.to(dtype), of_input, self.bias.to(dtype))
        outputs = []
        for step in inputs.unbind(0):
            hidden, cell = self(step, hidden, cell, of_hidden)
            outputs.append(hidden)
        return torch.stack(outputs), hidden, cell

    def _scan_on_cpu(
        self, x: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same by oneDNN's LSTM, with pixels as its batch: a third of the time in inference."""
        by_gate = self.weight.unflatten(0, (4, self.dim)), self.bias.unflatten(0, (4, self.dim))
        # oneDNN orders the gates input, forget, cell, output.
        weight, bias = (gates[[1, 0, 3, 2]].flatten(0, 1).float() for gates in by_gate)
        from_input, from_hidden = (part.contiguous() for part in weight.split(self.dim, dim=1))
        weights = [from_input, from_hidden, bias, torch.zeros_like(bias)]
        state = [part.float().reshape(1, -1, self.dim) for part in (hidden, cell)]
        with torch.autocast("cpu", enabled=False):
            outputs, *state = torch.lstm(
                x.float().flatten(1, 3),
                state,
                weights,
                has_biases=True,
                num_layers=1,
                dropout=0.0,
                train=torch.is_grad_enabled(),
                bidirectional=False,
                batch_first=False,
            )
        hidden, cell = (part.view(x.shape[1:]) for part in state)
        return outputs.view(x.shape), hidden, cell


class Stage(nn.Module):
    """Down-sampling convolution, window and grid attention on all frames, then the LSTM.

    Args:
        in_dim: channels of the stage's input.
        dim: channels ``C`` of the stage.
        stride: down-sampling factor; the kernel is ``2 * stride - 1`` wide, so patches overlap.
        num_blocks: pairs of window and grid attention.
        norm_eps: of the normalisation behind the convolution.

    The other arguments are those of :class:`~etram_det.models.detector.Detector`.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        dim: int,
        stride: int,
        num_blocks: int,
        dim_head: int,
        mlp_ratio: int,
        layer_scale_init: float,
        norm_eps: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        kernel = 2 * stride - 1
        self.downsample = nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.attention = nn.ModuleList(
            PartitionAttention(
                dim=dim,
                dim_head=dim_head,
                grid=grid,
                mlp_ratio=mlp_ratio,
                layer_scale_init=layer_scale_init,
                first_norm=grid or block > 0,
            )
            for block in range(num_blocks)
            for grid in (False, True)
        )
        self.lstm = PixelLSTM(dim)

    def forward(self, x: Tensor, partition: tuple[int, int]) -> Tensor:
        """Features ``[F, h, w, C]`` before the LSTM of frames ``[F, C_in, H_in, W_in]``.

        The frames may have any numeric type; ``partition`` is an attention cell's size in pixels.
        """
        # One pass converts type and layout of the uint8 events, whose counts any type can hold. On
        # a CPU, straight to bfloat16 is slower.
        device, dtype = x.device.type, self.downsample.weight.dtype
        if device == "cpu":
            x = x.to(torch.float32, memory_format=torch.channels_last)
        elif device != "meta" and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        x = x.to(dtype, memory_format=torch.channels_last)
        x = self.norm(self.downsample(x).permute(0, 2, 3, 1))
        for attention in self.attention:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(attention, x, partition, use_reentrant=False)
            else:
                x = attention(x, partition)
        return x

    def run(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None, partition: tuple[int, int]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Features ``[T, B, C, h, w]`` of a chunk ``[T, B, C_in, H_in, W_in]``, and the new state.

        ``state`` is the hidden and cell state ``[B, C, h, w]`` before the chunk; None for zeros.
        """
        steps, lanes = x.shape[:2]
        x = self(x.flatten(0, 1), partition).unflatten(0, (steps, lanes))
        if state is None:
            hidden = cell = x.new_zeros(x.shape[1:], dtype=torch.float32)
        else:
            hidden, cell = (part.permute(0, 2, 3, 1) for part in state)
        x, hidden, cell = self.lstm.scan(x, hidden, cell)
        return x.permute(0, 1, 4, 2, 3), (hidden.permute(0, 3, 1, 2), cell.permute(0, 3, 1, 2))


class RecurrentBackbone(nn.Module):
    """Four recurrent MaxViT stages at strides 4, 8, 16 and 32.

    Its arguments and errors are those of :class:`~etram_det.models.detector.Detector`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        embed_dim: int,
        dim_multiplier: Sequence[int],
        num_blocks: Sequence[int],
        dim_head: int,
        mlp_ratio: int,
        layer_scale_init: float,
        partition_split: int,
        stem_norm_eps: float,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        if partition_split not in (1, 2, 4):
            raise UserError(
                f"model.partition_split: must be 1, 2 or 4, got {partition_split}: use 1 for Gen1, "
                "2 for 1 Mpx and eTraM"
            )
        for name, values in (("dim_multiplier", dim_multiplier), ("num_blocks", num_blocks)):
            if len(values) != 4 or not all(0 < value <= _MAX_SIZE for value in values):
                raise UserError(
                    f"model.{name}: must be four numbers from 1 to {_MAX_SIZE}, got "
                    f"{list(values)}: set one for each stage"
                )
        sizes = {"embed_dim": embed_dim, "dim_head": dim_head, "mlp_ratio": mlp_ratio}
        for name, value in sizes.items():
            if not 0 < value <= _MAX_SIZE:
                raise UserError(f"model.{name}: must be from 1 to {_MAX_SIZE}, got {value}")
        # Sides of frames must be multiples of this, so that the partition divides every stage.
        self.size_multiple = STRIDES[-1] * partition_split
        self.dims = tuple(embed_dim * multiplier for multiplier in dim_multiplier)
        for dim in self.dims:
            if dim % dim_head:
                raise UserError(
                    f"model.dim_head: must divide the channels of each stage {self.dims}, got "
                    f"{dim_head}: use a divisor of model.embed_dim ({embed_dim})"
                )
        if not stem_norm_eps > 0:
            raise UserError(
                f"model.stem_norm_eps: must be above 0, got {stem_norm_eps}: use 1.0e-5 (RVT) or "
                "0.01"
            )
        self.stages = nn.ModuleList(
            Stage(
                in_dim=in_channels if i == 0 else self.dims[i - 1],
                dim=dim,
                stride=STRIDES[0] if i == 0 else 2,
                num_blocks=num_blocks[i],
                dim_head=dim_head,
                mlp_ratio=mlp_ratio,
                layer_scale_init=layer_scale_init,
                norm_eps=stem_norm_eps if i == 0 else _NORM_EPS,
                gradient_checkpointing=gradient_checkpointing,
            )
            for i, dim in enumerate(self.dims)
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """Features of all stages for one chunk.

        Args:
            x: ``[T, B, C, H, W]`` frames of any numeric type, ``H`` and ``W`` multiples of
                ``size_multiple``.
            state: one (hidden, cell) pair ``[B, C, h, w]`` for each stage; ``None`` for zeros.

        Returns:
            Features ``[T, B, C_s, H / stride_s, W / stride_s]`` of each stage, and the state
            after the last step.
        """
        partition = (x.shape[-2] // self.size_multiple, x.shape[-1] // self.size_multiple)
        features, new_state = [], []
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            x, stage_state = stage.run(x, None if state is None else state[i], partition)
            features.append(x)
            new_state.append(stage_state)
        return features, new_state
