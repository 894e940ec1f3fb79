"""Assignment and loss of YOLOX, image by image: the oracle of the batched ones."""

import torch
from torch.nn import functional as F


def iou_matrix(a, b):
    """Plain IoU [M, A] of cxcywh boxes."""
    rows = []
    for box in a:
        low = torch.maximum(box[:2] - box[2:] / 2, b[:, :2] - b[:, 2:] / 2)
        high = torch.minimum(box[:2] + box[2:] / 2, b[:, :2] + b[:, 2:] / 2)
        size = (high - low).clamp(min=0)
        overlap = size[:, 0] * size[:, 1]
        rows.append(overlap / (box[2] * box[3] + b[:, 2] * b[:, 3] - overlap))
    return torch.stack(rows)


def assign_image(output, boxes, classes, index, similar=None, acts_on=(), least=None):
    """SimOTA of one image, box by box.

    ``similar`` of a true and a predicted box replaces the IoU in what ``acts_on`` names, and
    ``least`` gives the fewest points of a box.
    """
    predicted = output.boxes_cxcywh()[index].detach()
    points = (output.cells + 0.5) * output.strides[:, None]
    near = torch.stack(
        [((points - box[:2]).abs() < 1.5 * output.strides[:, None]).all(dim=1) for box in boxes]
    )
    candidates = near.any(dim=0).nonzero().squeeze(1)
    near, predicted = near[:, candidates], predicted[candidates]
    iou = iou_matrix(boxes, predicted)
    other = iou
    if similar is not None:
        other = torch.tensor([[similar(a.tolist(), b.tolist()) for b in predicted] for a in boxes])
    costly, counted, quality = (
        other if use in acts_on else iou for use in ("cost", "points", "quality")
    )
    scores = (
        output.classes[index, candidates].sigmoid()
        * output.objectness[index, candidates].sigmoid()[:, None]
    ).sqrt()
    cost = torch.stack(
        [
            F.binary_cross_entropy(
                scores, F.one_hot(c, scores.shape[1]).float().expand_as(scores), reduction="none"
            ).sum(dim=1)
            for c in classes
        ]
    )
    cost = (cost - 3 * torch.log(costly + 1e-8) + 1e6 * ~near).detach()
    matched = torch.zeros_like(cost, dtype=torch.bool)
    for m in range(len(boxes)):
        best = counted[m].topk(min(10, iou.shape[1])).values
        count = max(int(best.sum()), 1 if least is None else least(boxes[m].tolist()))
        matched[m, cost[m].sort(stable=True).indices[:count]] = True
    several = matched.sum(dim=0) > 1
    winner = cost.argmin(dim=0)
    matched[:, several] = False
    matched[winner[several], several.nonzero().squeeze(1)] = True
    foreground = matched.any(dim=0)
    box_index = matched.int().argmax(dim=0)[foreground]
    points = candidates[foreground]
    return points, box_index, quality[box_index, foreground.nonzero().squeeze(1)]


def plain_loss(output, boxes, classes):
    """YOLOX's loss, image by image."""
    box_loss = class_loss = 0.0
    target = torch.zeros_like(output.objectness)
    num_foreground = 0
    for i in range(len(boxes)):
        valid = classes[i] >= 0
        if not valid.any():
            continue
        points, index, iou = assign_image(output, boxes[i][valid], classes[i][valid], i)
        target[i, points] = 1
        num_foreground += len(points)
        predicted, truth = output.boxes_cxcywh()[i, points], boxes[i][valid][index]
        overlap = torch.stack(
            [iou_matrix(p[None], t[None])[0, 0] for p, t in zip(predicted, truth, strict=True)]
        )
        box_loss = box_loss + (1 - overlap**2).sum()
        one_hot = F.one_hot(classes[i][valid][index], output.classes.shape[-1])
        class_loss = class_loss + F.binary_cross_entropy_with_logits(
            output.classes[i, points], one_hot * iou[:, None], reduction="sum"
        )
    objectness_loss = F.binary_cross_entropy_with_logits(output.objectness, target, reduction="sum")
    return (5 * box_loss + objectness_loss + class_loss) / max(num_foreground, 1)
