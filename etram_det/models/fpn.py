"""Path-aggregation feature pyramid for any run of stages.

Source: Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018, in the form
that YOLOX gives it (Ge et al., 2021): cross-stage partial blocks after each merge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvBlock(nn.Sequential):
    """Convolution without bias, batch normalisation and SiLU.

    Args:
        in_dim: channels of the input.
        out_dim: channels of the output.
        kernel_size: side of the kernel, odd; the input is padded to keep its size.
        stride: down-sampling factor.
    """

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, kernel_size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(out_dim)
        self.activation = nn.SiLU()

    def fold(self) -> None:
        """Fold the normalisation into the convolution, in evaluation mode: one pass less."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv, self.norm), nn.Identity()


class CSPBlock(nn.Module):
    """Cross-stage partial block: half the channels pass through bottlenecks, half go around them.

    Source: Wang et al., "CSPNet", CVPR Workshops 2020.

    Args:
        in_dim: channels of the input.
        out_dim: channels of the output.
        num_bottlenecks: 1x1-3x3 pairs on the processed half; no shortcuts.
    """

    def __init__(self, in_dim: int, out_dim: int, num_bottlenecks: int) -> None:
        super().__init__()
        half = out_dim // 2
        self.process = ConvBlock(in_dim, half, 1)
        self.bypass = ConvBlock(in_dim, half, 1)
        self.bottlenecks = nn.Sequential(
            *(
                nn.Sequential(ConvBlock(half, half, 1), ConvBlock(half, half, 3))
                for _ in range(num_bottlenecks)
            )
        )
        self.merge = ConvBlock(2 * half, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C_in, h, w]`` to ``[N, C_out, h, w]``."""
        return self.merge(torch.cat([self.bottlenecks(self.process(x)), self.bypass(x)], dim=1))


class PAFPN(nn.Module):
    """Fuse the scales along a top-down path, then along a bottom-up path.

    Args:
        dims: channels of each scale ``S``, finest first; each scale has half the resolution of
            the one before.
        depth: scales the number of bottlenecks in each block, 3 at depth 1.
    """

    def __init__(self, *, dims: Sequence[int], depth: float = 0.33) -> None:
        super().__init__()
        num_bottlenecks = round(3 * depth)
        pairs = list(zip(dims[:-1], dims[1:], strict=True))
        # Entry i of each list joins scale i and the coarser scale i + 1. The first two lists form
        # the top-down path, the last two the bottom-up path.
        self.reduce = nn.ModuleList(ConvBlock(coarse, fine, 1) for fine, coarse in pairs)
        self.merge_down = nn.ModuleList(
            CSPBlock(2 * fine, fine, num_bottlenecks) for fine, _ in pairs
        )
        self.downsample = nn.ModuleList(ConvBlock(fine, fine, 3, stride=2) for fine, _ in pairs)
        self.merge_up = nn.ModuleList(
            CSPBlock(2 * fine, coarse, num_bottlenecks) for fine, coarse in pairs
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Fuse ``S`` scales ``[N, C_s, h_s, w_s]``, finest first; the results have their shapes."""
        x = features[-1]
        reduced: list[Tensor] = []
        for i in reversed(range(len(self.reduce))):
            x = self.reduce[i](x)
            reduced.insert(0, x)
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.merge_down[i](torch.cat([x, features[i]], dim=1))
        outputs = [x]
        for i, lateral in enumerate(reduced):
            x = torch.cat([self.downsample[i](x), lateral], dim=1)
            x = self.merge_up[i](x)
            outputs.append(x)
        return outputs
