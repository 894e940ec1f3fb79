"""Checkpoints: read safely, summarise, rename RVT's tensors."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etram_det.types import UserError

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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running code that it may hold.

    Raises:
        UserError: if the file is missing, cut short, no checkpoint, or holds more than tensors
            and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ckpt_path: no file {path}: give the path of a checkpoint (.ckpt)")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch names what it refused in "Unsupported global: GLOBAL <name> was not an allowed".
        refused = re.search(r"GLOBAL (\S+)", str(error))
        found = f"it holds {refused[1]}" if refused else "it is no checkpoint of PyTorch's"
        raise UserError(
            f"{path}: must hold only tensors and plain values, but {found}: not loaded, since "
            "that could run code"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: cannot be read as a checkpoint ({str(error).splitlines()[0]}): "
            "the file may be cut short; copy it again"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path}: must be a checkpoint with a state_dict, found none in it")
    return checkpoint


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


def rename_rvt(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an RVT checkpoint under this project's names.

    Args:
        state_dict: tensors of an official RVT, eTraM-fork or four-scale-fork checkpoint, with
            keys ``mdl.backbone.…``, ``mdl.fpn.…``, ``mdl.yolox_head.…``.

    Returns:
        The same tensors, those of the LSTM's 1x1 convolution as matrices ``[4C, 2C]``.
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
        renamed[key] = tensor[:, :, 0, 0] if key.endswith("lstm.weight") else tensor
    return renamed
