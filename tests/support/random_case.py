"""Random predictions and boxes for tests of assignment and losses."""

import torch

from etram_det.models.head import HeadOutput


def random_case(num_frames=5, max_boxes=7, seed=0):
    """A head output over four scales of a 64x128 frame, and boxes in it."""
    generator = torch.Generator().manual_seed(seed)
    cells, strides = [], []
    for stride in (4, 8, 16, 32):
        y, x = torch.meshgrid(
            torch.arange(64 // stride), torch.arange(128 // stride), indexing="ij"
        )
        cells.append(torch.stack([x, y], dim=-1).flatten(0, 1).float())
        strides.append(torch.full((x.numel(),), float(stride)))
    cells, strides = torch.cat(cells), torch.cat(strides)
    num_points = len(strides)
    output = HeadOutput(
        torch.randn(num_frames, num_points, 4, generator=generator) * 0.5,
        torch.randn(num_frames, num_points, generator=generator) * 2,
        torch.randn(num_frames, num_points, 4, generator=generator) * 2,
        cells,
        strides,
        tuple((64 // stride, 128 // stride, stride) for stride in (4, 8, 16, 32)),
    )
    centre = torch.rand(num_frames, max_boxes, 2, generator=generator) * torch.tensor([128.0, 64])
    size = torch.rand(num_frames, max_boxes, 2, generator=generator) * 40 + 2
    classes = torch.randint(0, 4, (num_frames, max_boxes), generator=generator)
    counts = torch.arange(num_frames) % (max_boxes + 1)
    classes[torch.arange(max_boxes) >= counts[:, None]] = -1
    boxes = torch.cat([centre, size], dim=-1) * (classes >= 0)[..., None]
    return output, boxes, classes
