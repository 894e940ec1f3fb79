"""Checkpoints of small detectors for data sets of two, three and eight classes."""

import shutil
from pathlib import Path

import torch

from etram_det.checkpoint.file import write_checkpoint
from etram_det.models.detector import Detector
from support.paths import REFERENCE, ROOT

GEN1 = ("car", "pedestrian")
THREE = ("pedestrian", "two wheeler", "car")
EIGHT = ("pedestrian", "car", "bicycle", "bus", "motorbike", "truck", "tram", "wheelchair")
SIZES = {"embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33, "layer_scale_init": 0.5}


def make(class_names, seed=0, **sizes):
    torch.manual_seed(seed)
    detector = Detector(num_classes=len(class_names), **(SIZES | sizes)).eval()
    for name, tensor in detector.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return detector


def save(detector, class_names, path="old.ckpt", **settings):
    tensors = {f"detector.{name}": tensor for name, tensor in detector.state_dict().items()}
    names = {"class_names": list(class_names), "dim_head": 4}
    write_checkpoint(Path(path), {"state_dict": tensors, "hyper_parameters": {**names, **settings}})
    return path


def small_run(tmp_path, *flags):
    root = tmp_path / "data"
    if not root.exists():
        shutil.copytree(REFERENCE / "raw_etram", root)
    sizes = ["--model.embed_dim", "8", "--model.dim_head", "4", "--model.fpn_depth", "0.33"]
    return [
        *("--config", str(ROOT / "configs" / "baseline.yaml"), *sizes, "--data.root", str(root)),
        *("--data.input_size", "[90, 160]", "--data.num_workers", "0", "--data.train_lanes", "2"),
        *("--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"),
        *("--trainer.num_sanity_val_steps", "0", "--trainer.accelerator", "cpu"),
        *("--model.learning_rate", "1.0e-12", "--model.schedule", "constant", *flags),
    ]
