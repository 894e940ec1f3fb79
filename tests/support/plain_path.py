"""The plain path that the fast one is equal to, and measured against.

What most code does: time step by time step through all stages, channels first, and assignment
image by image and box by box. It runs on the fast detector's own weights.
"""

from contextlib import contextmanager

import torch
from torch.nn import functional as F

from etram_det.models import assign
from etram_det.models.assign import Assignment
from etram_det.tools.bench.inputs import autocast
from etram_det.tools.bench.train import TrainingStep


def plain_features(detector, events, state=None):
    """The same as ``detector.features``, one time step after the other; weights channels first."""
    backbone = detector.backbone
    multiple = backbone.size_multiple
    x = F.pad(events.float(), (0, -events.shape[-1] % multiple, 0, -events.shape[-2] % multiple))
    partition = (x.shape[-2] // multiple, x.shape[-1] // multiple)
    steps = []
    for step in x:
        features = []
        new_state = []
        for i, stage in enumerate(backbone.stages):
            before = None if state is None else state[i]
            step, after = _plain_stage(stage, step, before, partition)
            features.append(step)
            new_state.append(after)
        state = new_state
        steps.append(features[detector.first_stage :])
    return [torch.cat(scale) for scale in zip(*steps, strict=True)], state


def _plain_stage(stage, x, state, partition):
    """One stage over one step ``[B, C_in, H_in, W_in]``."""
    x = stage.norm(stage.downsample(x).permute(0, 2, 3, 1))
    for block in stage.attention:
        x = _plain_attention(block, x, partition)
    x = x.permute(0, 3, 1, 2).contiguous()
    if state is None:
        state = (torch.zeros_like(x, dtype=torch.float32),) * 2
    hidden, cell = state
    weight = stage.lstm.weight[:, :, None, None]
    gates = F.conv2d(torch.cat([x, hidden], dim=1), weight, stage.lstm.bias).float()
    forget_gate, input_gate, output_gate, cell_gate = gates.chunk(4, dim=1)
    cell = forget_gate.sigmoid() * cell + input_gate.sigmoid() * cell_gate.tanh()
    hidden = output_gate.sigmoid() * cell.tanh()
    return hidden, (hidden, cell)


def _plain_attention(block, x, partition):
    """Window or grid attention of features ``[B, h, w, C]``."""
    lanes, h, w, dim = x.shape
    p, q = partition
    if block.grid:
        cells = x.view(lanes, p, h // p, q, w // q, dim).permute(0, 2, 4, 1, 3, 5)
    else:
        cells = x.view(lanes, h // p, p, w // q, q, dim).permute(0, 1, 3, 2, 4, 5)
    x = cells.reshape(-1, p * q, dim)
    qkv = F.linear(block.norm1(x), block.qkv.weight, block.qkv.bias)
    heads = qkv.unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(*heads.chunk(3, dim=-1)).transpose(1, 2).flatten(2)
    x = x + block.scale1(F.linear(attended, block.projection.weight, block.projection.bias))
    first, activation, second = block.mlp
    hidden = activation(F.linear(block.norm2(x), first.weight, first.bias))
    x = x + block.scale2(F.linear(hidden, second.weight, second.bias))
    x = x.view(lanes, h // p, w // q, p, q, dim)
    x = x.permute(0, 3, 1, 4, 2, 5) if block.grid else x.permute(0, 1, 3, 2, 4, 5)
    return x.reshape(lanes, h, w, dim)


@torch.no_grad()
def plain_simota(output, boxes_cxcywh, classes, rules=None):
    """The same as ``simota``, image by image."""
    foreground = torch.zeros_like(output.objectness, dtype=torch.bool)
    box_index = torch.zeros_like(foreground, dtype=torch.int64)
    iou = torch.zeros_like(foreground, dtype=torch.float32)
    predicted = output.boxes_cxcywh()
    for i in range(len(classes)):
        valid = (classes[i] >= 0).nonzero().squeeze(1)
        if len(valid):
            points, index, overlaps = _assign_image(
                output, predicted[i], boxes_cxcywh[i, valid], classes[i, valid], i
            )
            foreground[i, points] = True
            box_index[i, points] = valid[index]
            iou[i, points] = overlaps
    # As many slots as the fullest frame has foreground points.
    most = int(foreground.sum(dim=1).max()) if len(foreground) else 0
    used, anchor = foreground.to(torch.uint8).topk(most)
    box, fit = box_index.gather(1, anchor), iou.gather(1, anchor)
    return Assignment(anchor, used > 0, box, fit, foreground.shape[1])


def _assign_image(output, predicted, boxes, classes, i):
    """Foreground points ``[P]`` of image ``i``, the box of each and their overlap."""
    reach = 1.5 * output.strides[:, None]
    points = (output.cells + 0.5) * output.strides[:, None]
    near = torch.stack([((points - box[:2]).abs() < reach).all(dim=1) for box in boxes])
    candidates = near.any(dim=0).nonzero().squeeze(1)
    near, predicted = near[:, candidates], predicted[candidates]
    iou = torch.stack([_iou(box, predicted) for box in boxes])
    objectness = output.objectness[i, candidates].float().sigmoid()
    scores = (output.classes[i, candidates].float().sigmoid() * objectness[:, None]).sqrt()
    one_hot = F.one_hot(classes, scores.shape[1]).float()
    with torch.autocast(scores.device.type, enabled=False):
        entropies = [
            F.binary_cross_entropy(scores, wanted.expand_as(scores), reduction="none").sum(dim=1)
            for wanted in one_hot
        ]
    cost = torch.stack(entropies) - 3 * torch.log(iou + 1e-8) + 1e6 * ~near
    matched = torch.zeros_like(near)
    for box, overlaps in enumerate(iou):
        count = max(int(overlaps.topk(min(10, len(overlaps))).values.sum()), 1)
        matched[box, cost[box].topk(count, largest=False).indices] = True
    contested = matched.sum(dim=0) > 1
    winner = cost.argmin(dim=0)
    matched[:, contested] = False
    matched[winner[contested], contested.nonzero().squeeze(1)] = True
    taken = matched.any(dim=0).nonzero().squeeze(1)
    index = matched[:, taken].int().argmax(dim=0)
    return candidates[taken], index, iou[index, taken]


def _iou(box_cxcywh, others_cxcywh):
    """IoU ``[P]`` of a box ``[4]`` with boxes ``[P, 4]``."""
    a, b = box_cxcywh, others_cxcywh
    low = torch.maximum(a[:2] - a[2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:2] + a[2:] / 2, b[:, :2] + b[:, 2:] / 2)
    overlap = (high - low).clamp(min=0).prod(dim=1)
    return overlap / (a[2:].prod() + b[:, 2:].prod(dim=1) - overlap)


@contextmanager
def assignment_by(function):
    """Let the training loss assign by another function."""
    kept = assign.simota
    assign.simota = function
    try:
        yield
    finally:
        assign.simota = kept


class PlainTrainingStep(TrainingStep):
    """A training step on the plain path."""

    def __init__(self, settings, precision):
        super().__init__(settings, precision)
        self.detector.to(memory_format=torch.contiguous_format)

    def __call__(self, events, labels):
        with assignment_by(plain_simota):
            return super().__call__(events, labels)

    def features(self, events, state):
        return plain_features(self.detector, events, state)


class PlainStream:
    """Inference on the plain path, window by window."""

    def __init__(self, settings, precision):
        self._detector = settings.detector().eval()
        self._detector.to(memory_format=torch.contiguous_format)
        self._settings, self._precision, self._state = settings, precision, None

    @torch.no_grad()
    def __call__(self, events):
        with autocast(self._settings.device, self._precision):
            features, self._state = plain_features(self._detector, events[None], self._state)
            return self._detector.predict(features).decode()
