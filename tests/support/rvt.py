"""The reference detector and its arrays, under this project's names."""

from functools import cache

import numpy as np
import torch

from etram_det.checkpoint.file import read_checkpoint
from etram_det.checkpoint.rvt import rename_rvt
from etram_det.models.detector import Detector
from etram_det.models.head import HeadOutput
from support.paths import REFERENCE


@cache
def arrays():
    with np.load(REFERENCE / "rvt_reference.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def detector() -> Detector:
    sizes = {"embed_dim": 8, "dim_head": 4, "fpn_stages": (2, 3, 4), "fpn_depth": 0.33}
    model = Detector(num_classes=8, **sizes)
    state_dict = read_checkpoint(REFERENCE / "rvt_reference.ckpt").tensors
    model.load_state_dict(rename_rvt(state_dict))
    return model.eval()


def training_output(requires_grad: bool = False) -> HeadOutput:
    """Head in training mode on the reference's own pyramid outputs."""
    features = [arrays()[f"train_fpn_out{i}"].clone() for i in range(3)]
    for x in features:
        x.requires_grad_(requires_grad)
    return detector().train().head(features)


def labels():
    """Boxes [6, 6, 4] cxcywh and classes [6, 6], -1 where padded."""
    rows = arrays()["labels_yolox"].float()
    classes = rows[..., 0].long().masked_fill((rows == 0).all(dim=-1), -1)
    return rows[..., 1:], classes
