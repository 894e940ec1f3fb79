"""Checkpoints of RVT and its eTraM fork under this project's names.

The fork's checkpoints differ in their classes only. Where it has a fourth scale, the additional
layers continue the numbering downwards: ``reduce_conv2``, ``C3_p2``, ``bu_conv3``, ``C3_n2``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from etram_det.checkpoint.contents import require_same_tensors
from etram_det.checkpoint.file import Checkpoint
from etram_det.errors import UserError
from etram_det.models.detector import Detector

# Mentioned beside the weights in what RVT's training writes: under the PyTorch that RVT wants,
# the state of the schedule holds one of its methods, and with it schedule and optimiser; forks
# keep their OmegaConf settings as well. None of it is needed.
IGNORED_GLOBALS = (
    "builtins.dict",
    "builtins.getattr",
    "torch.optim.adamw.AdamW",
    "torch.optim.lr_scheduler.OneCycleLR",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode",
    "typing.Any",
)
# Channels of an attention head in RVT's presets tiny, small and base, by their embed_dim.
DIM_HEAD_OF = {32: 32, 48: 24, 64: 32}

# RVT's and YOLOX's layer names -> ours; the pyramid's follow in `_fpn_names`.
_RENAMES = (
    (r"^mdl\.", ""),
    (r"downsample_cf2cl\.conv", "downsample"),
    (r"downsample_cf2cl\.norm", "norm"),
    (r"self_attn\.qkv", "qkv"),
    (r"self_attn\.proj", "projection"),
    (r"\bls([12])\b", r"scale\1"),
    (r"mlp\.net\.0\.0", "mlp.0"),
    (r"mlp\.net\.2", "mlp.2"),
    (r"lstm\.conv1x1", "lstm"),
    (r"\bbn\b", "norm"),
    (r"^yolox_head\.", "head."),
    (r"cls_convs", "class_branches"),
    (r"reg_convs", "box_branches"),
    (r"cls_preds", "class_outputs"),
    (r"reg_preds", "box_outputs"),
    (r"obj_preds", "objectness_outputs"),
    (r"(C3_[np]\d)\.conv1", r"\1.process"),
    (r"(C3_[np]\d)\.conv2", r"\1.bypass"),
    (r"(C3_[np]\d)\.conv3", r"\1.merge"),
    (r"(C3_[np]\d)\.m\.(\d+)\.conv1", r"\1.bottlenecks.\2.0"),
    (r"(C3_[np]\d)\.m\.(\d+)\.conv2", r"\1.bottlenecks.\2.1"),
)
# Options of RVT that its published checkpoints do not use: tensor name, option.
_UNSUPPORTED = (
    (r"mask_token", "masked tokens (backbone.enable_masking)"),
    (r"conv3x3_dws", "a depthwise convolution in the LSTM (backbone.stage.lstm.dws_conv)"),
    (r"mlp\.net\.0\.proj", "gated MLPs (backbone.stage.attention.mlp_gated)"),
    (r"self_attn\.mha", "PyTorch's own attention (backbone.stage.attention.use_torch_mha)"),
    (r"\b[dp]conv\b", "depthwise convolutions in pyramid or head (depthwise)"),
)


def rename_rvt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an RVT checkpoint under this project's names, in the same order.

    Args:
        state_dict: tensors of an official RVT, eTraM-fork or four-scale-fork checkpoint, with
            keys ``mdl.backbone.…``, ``mdl.fpn.…``, ``mdl.yolox_head.…``. Those of the LSTM's 1x1
            convolution become matrices ``[4C, 2C]``.
    """
    num_scales = len({m[1] for key in state_dict if (m := re.search(r"\bstems\.(\d+)", key))})
    fpn = _fpn_names(num_scales)
    renamed = {}
    for key, tensor in state_dict.items():
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)
        if block := re.search(r"att_blocks\.(\d+)\.att_(window|grid)", key):
            index = 2 * int(block[1]) + (block[2] == "grid")
            key = key.replace(block[0], f"attention.{index}")
        if key.startswith("fpn."):
            layer = key.split(".")[1]
            key = key.replace(f"fpn.{layer}.", f"fpn.{fpn.get(layer, layer)}.")
        is_convolution = key.endswith("lstm.weight") and tensor.shape[2:] == (1, 1)
        renamed[key] = tensor[:, :, 0, 0] if is_convolution else tensor
    return renamed


def _fpn_names(num_scales: int) -> dict[str, str]:
    """RVT's pyramid layers -> ours; the fork's fourth scale continues the numbering downwards."""
    last = num_scales - 2  # index of the join of the two coarsest scales
    names = {"lateral_conv0": f"reduce.{last}"}
    for step in range(num_scales - 1):
        join = last - step
        if step:
            names[f"reduce_conv{step}"] = f"reduce.{join}"
        names[f"C3_p{4 - step}"] = f"merge_down.{join}"
        names[f"bu_conv{step + 1}"] = f"downsample.{join}"
        names[f"C3_n{4 - step}"] = f"merge_up.{join}"
    return names


def require_rvt(state_dict: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors ``[*]`` that, by name, are not RVT's detector's, or of options not here.

    Raises:
        UserError: naming the ``source`` file, the tensor and the reason.
    """
    if any(name.startswith("detector.") for name in state_dict):
        raise UserError(f"{source}: is this project's own already: give it to --ckpt_path as it is")
    parts = ("mdl.backbone.stages.", "mdl.fpn.", "mdl.yolox_head.")
    for part in parts:
        if not any(name.startswith(part) for name in state_dict):
            raise UserError(
                f"{source}: must hold the tensors of RVT's detector, {', '.join(parts)}…, got "
                f"none of {part}…, but {next(iter(state_dict))}"
            )
    for name in state_dict:
        for pattern, option in _UNSUPPORTED:
            if re.search(pattern, name):
                raise UserError(f"{source}: holds {name}: {option} are not part of this network")


def architecture_of(tensors: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """Sizes of a network, read off its tensors.

    Args:
        tensors: an RVT network's tensors under this project's names, as from
            :func:`rename_rvt`: convolutions ``[C_out, C_in, k, k]``, matrices ``[C_out, C_in]``.
        source: the file, for messages.

    Returns:
        Arguments of :class:`~etram_det.models.detector.Detector`, but for ``dim_head`` and
        ``partition_split``, on which no shape depends.

    Raises:
        UserError: if a tensor that shows a size is missing or has no sensible shape.
    """

    def shape(name: str, num_dims: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != num_dims:
            found = tuple(tensors[name].shape) if name in tensors else "none"
            raise UserError(
                f"{source}: needs the tensor {name} (so named here) with {num_dims} dimensions, "
                f"got {found}: it is incomplete or of another network"
            )
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        return len({m[1] for name in tensors if (m := re.match(pattern, name))})

    convolutions = [shape(f"backbone.stages.{i}.downsample.weight", 4) for i in range(4)]
    dims, in_channels = [each[0] for each in convolutions], convolutions[0][1]
    hidden = shape("backbone.stages.0.attention.0.mlp.0.weight", 2)[0]
    shape("head.stems.0.conv.weight", 4)
    num_scales = count(r"head\.stems\.(\d+)")
    embed_dim = math.gcd(*dims)
    if num_scales > 4 or hidden % dims[0] or in_channels % 2:
        raise UserError(
            f"{source}: must have 1 to 4 scales, MLPs that are a multiple of {dims[0]} channels "
            f"wide and two polarities, got {num_scales} scales, MLPs of {hidden} and "
            f"{in_channels} input channels"
        )
    return {
        "num_classes": shape("head.class_outputs.0.weight", 4)[0],
        "in_channels": in_channels,
        "embed_dim": embed_dim,
        "dim_multiplier": [dim // embed_dim for dim in dims],
        "num_blocks": [
            count(rf"backbone\.stages\.{i}\.attention\.(\d+)\.qkv") // 2 for i in range(4)
        ],
        "mlp_ratio": hidden // dims[0],
        "fpn_stages": list(range(5 - num_scales, 5)),
        "fpn_depth": round(count(r"fpn\.merge_down\.0\.bottlenecks\.(\d+)") / 3, 2),
    }


def checkpoint_from_rvt(
    state_dict: Mapping[str, Tensor],
    architecture: Mapping[str, Any],
    class_names: Sequence[str],
    source: str,
) -> Checkpoint:
    """A checkpoint of this project with the weights of an RVT network.

    Args:
        state_dict: the tensors, under RVT's names and in RVT's shapes, LSTMs ``[4C, 2C, 1, 1]``.
        architecture: arguments of :class:`~etram_det.models.detector.Detector`.
        class_names: name of each class, in the order of the ids.
        source: the file, for messages.

    Returns:
        What Lightning takes as ``ckpt_path``; without optimiser state, so that ``fit`` starts with
        a fresh one.

    Raises:
        UserError: if a tensor is missing, one too many, of another shape, or not finite.
    """
    tensors = rename_rvt(state_dict)
    with torch.device("meta"):
        required = Detector(**architecture).state_dict()
    require_same_tensors(tensors, required, source, dict(zip(tensors, state_dict, strict=True)))
    for name, tensor in state_dict.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"{source}: {name} must hold finite numbers, got nan or infinite ones: its "
                "training may have failed by then: use an earlier checkpoint"
            )
    settings = {name: value for name, value in architecture.items() if name != "num_classes"}
    # Clones: a view would drag the whole of RVT's file along.
    own = {name: tensors[name].to(required[name].dtype).clone() for name in required}
    return Checkpoint.of_weights(own, {"class_names": list(class_names), **settings})
