"""From the head's decoded output to detections: thresholds and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torchvision import ops

from etram_det.types import Detections

# Candidates of a frame that enter the suppression, best first: the time of the suppression grows
# with their square, and no frame has as many road users.
_MOST_CANDIDATES = 3000
# Candidates of all frames in one suppression on a GPU, which needs the square of it in bits.
_MOST_AT_ONCE = 2**15
_FARTHEST_PX = 2**16  # coordinates of boxes that are predicted beyond the frame


@dataclass
class Candidates:
    """Boxes of ``N`` frames before the suppression, ``P`` of each, best score first.

    Attributes:
        boxes: ``[N, P, 4]`` float32, ``xyxy`` in pixels.
        objectness: ``[N, P]`` float32.
        class_confidence: ``[N, P]`` float32.
        classes: ``[N, P]`` int64.
        scores: ``[N, P]`` float32, objectness times class confidence.
        number: ``[N]`` int64, how many of each frame reach the threshold; may be on the host
            already.
    """

    boxes: Tensor
    objectness: Tensor
    class_confidence: Tensor
    classes: Tensor
    scores: Tensor
    number: Tensor


def decode_detections(
    decoded: Tensor,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int = 300,
    *,
    frame_size: tuple[int, ...] | None = None,
    every_class: bool = False,
    class_agnostic: bool = False,
) -> list[Detections]:
    """Detections of each frame from the head's decoded output, on the host.

    By default as YOLOX and RVT do it: a box takes its most likely class and may reach beyond the
    frame. Boxes with ``objectness * class`` below the threshold are dropped, the best 3,000 of a
    frame are suppressed class by class.

    Args:
        decoded: ``[N, A, 5 + K]``: cx, cy, w, h in pixels, objectness, class probabilities.
        score_threshold: least ``objectness * class``, in [0, 1].
        nms_threshold: IoU in [0, 1] above which the lower-scored box of one class goes.
        max_detections: boxes kept of each frame, best first.
        frame_size: height and width to which boxes are cut before the suppression, as labels are;
            what lies outside is dropped. Unset: boxes stay as predicted.
        every_class: a box counts once for each class that reaches the threshold, not for its most
            likely one alone.
        class_agnostic: suppress boxes whatever their classes, which leaves one of each object.

    Returns:
        One :class:`~etram_det.types.Detections` for each of the ``N`` frames.
    """
    candidates = best_candidates(
        decoded, score_threshold, frame_size=frame_size, every_class=every_class
    )
    return suppressed(candidates, nms_threshold, max_detections, class_agnostic)


def best_candidates(
    decoded: Tensor,
    score_threshold: float,
    *,
    frame_size: tuple[int, ...] | None = None,
    every_class: bool = False,
) -> Candidates:
    """The best boxes of decoded frames ``[N, A, 5 + K]``, without waiting for the device.

    Arguments are those of :func:`decode_detections`.
    """
    boxes = ops.box_convert(decoded[..., :4].float(), "cxcywh", "xyxy")
    objectness = decoded[..., 4].float()
    confidence = decoded[..., 5:].float()
    best = None
    if not every_class:
        confidence, best = confidence.max(dim=-1, keepdim=True)
    scores = objectness[..., None] * confidence  # [N, A, K or 1]
    counts = scores >= score_threshold
    if frame_size is not None:
        boxes = ops.clip_boxes_to_image(boxes, (frame_size[0], frame_size[1]))
        counts = counts & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1, keepdim=True)
    scores, num_columns = torch.where(counts, scores, -1.0).flatten(1), scores.shape[-1]
    scores, place = scores.topk(min(_MOST_CANDIDATES, scores.shape[1]))
    anchor = place // num_columns
    return Candidates(
        boxes.gather(1, anchor[..., None].expand(-1, -1, 4)),
        objectness.gather(1, anchor),
        confidence.flatten(1).gather(1, place),
        place % num_columns if best is None else best[..., 0].gather(1, anchor),
        scores,
        counts.flatten(1).sum(dim=1).clamp(max=scores.shape[1]),
    )


def suppressed(
    candidates: Candidates,
    nms_threshold: float,
    max_detections: int,
    class_agnostic: bool = False,
) -> list[Detections]:
    """Detections of each frame on the host, after the suppression of all frames at once.

    The host waits here for what the suppression has kept. Arguments are those of
    :func:`decode_detections`.
    """
    numbers = candidates.number.tolist()
    if not numbers:
        return []
    frame = torch.arange(len(numbers), device=candidates.boxes.device)
    columns = (
        frame[:, None].expand_as(candidates.classes),
        candidates.boxes,
        candidates.objectness,
        candidates.class_confidence,
        candidates.classes,
        candidates.scores,
    )
    *found, scores = (torch.cat([x[i, :n] for i, n in enumerate(numbers)]) for x in columns)
    boxes, scores = found[1].double(), scores.double()
    # Of one frame, and of one class where that counts.
    group = found[0] if class_agnostic else found[4] * len(numbers) + found[0]
    keep, most = (_keep_on_gpu, _MOST_AT_ONCE) if boxes.is_cuda else (ops.batched_nms, len(boxes))
    kept = torch.cat(
        [
            start + keep(boxes[start:end], scores[start:end], group[start:end], nms_threshold)
            for start, end in _spans(numbers, most)
        ]
    )
    frame, *found = on_host([x[kept] for x in found])
    order = frame.argsort(stable=True)  # each frame's best first, as the suppression has it
    ends = frame.bincount(minlength=len(numbers)).cumsum(0).tolist()
    rows = [order[a:b][:max_detections] for a, b in pairwise([0, *ends])]
    return [Detections(*(x[of_frame] for x in found)) for of_frame in rows]


def _spans(numbers: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Start and end of whole frames of so many candidates, up to ``most`` where a frame allows."""
    ends = [0]
    total = 0
    for number in numbers:
        if total > ends[-1] and total + number - ends[-1] > most:
            ends.append(total)
        total += number
    return list(pairwise([*ends, total]))


def _keep_on_gpu(boxes: Tensor, scores: Tensor, group: Tensor, nms_threshold: float) -> Tensor:
    """As ``batched_nms``, which launches and waits once for each group where these are many.

    All of them lie side by side instead, in float64, which has the digits for that.
    """
    boxes = boxes.clamp(-_FARTHEST_PX, _FARTHEST_PX)
    return ops.nms(boxes + (group * 3 * _FARTHEST_PX)[:, None], scores, nms_threshold)


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors ``[*]`` of any types, in one copy from their device to the host, which waits."""
    if all(each.device.type == "cpu" for each in tensors):
        return list(tensors)
    # The widest types first, so that each part lies where its type may.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [tensors[i].contiguous().flatten().view(torch.uint8) for i in order]
    copied = torch.cat(parts).cpu().split([part.numel() for part in parts])
    of = dict(zip(order, copied, strict=True))
    return [of[i].view(each.dtype).view(each.shape) for i, each in enumerate(tensors)]
