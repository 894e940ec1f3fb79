"""A checkpoint of random weights that give many different detections."""

from dataclasses import asdict
from pathlib import Path

import torch

from etram_det.checkpoint.file import Checkpoint, write_checkpoint
from etram_det.data.labels import ETRAM_CLASSES
from etram_det.data.representation import FrameSettings
from etram_det.models.detector import Detector

FRAMES = FrameSettings(input_size=(45, 80), sensor_size=(90, 160))
ARCHITECTURE = {"embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33, "layer_scale_init": 1.0}


def write_random_checkpoint(path: Path, frames: FrameSettings | None = FRAMES, seed: int = 0):
    """Write a checkpoint of eight classes; ``frames`` None for one without frame settings."""
    torch.manual_seed(seed)
    detector = Detector(num_classes=len(ETRAM_CLASSES), **ARCHITECTURE)
    for name, parameter in detector.head.named_parameters():
        if "outputs" in name and name.endswith("weight"):
            torch.nn.init.normal_(parameter, std=1000)  # of features of 0.001
        elif "outputs" in name:
            torch.nn.init.zeros_(parameter)
    settings = {"class_names": list(ETRAM_CLASSES), "in_channels": 20, **ARCHITECTURE}
    checkpoint = Checkpoint.of_weights(detector.state_dict(), settings).content
    if frames is not None:
        of_data = {f"data.{name}": value for name, value in asdict(frames).items()}
        checkpoint["EventDataModule"] = {"settings": of_data}
    write_checkpoint(path, checkpoint)
    return path


def know_simulation_only(path):
    """Let a checkpoint have seen simulated traffic alone."""
    content = torch.load(path, weights_only=True)
    facts = [{"frames": 1, "labelled": 1, "boxes": 1, "bytes": 1, "simulator_version": 3}]
    content["provenance"] = {"data": {"train": {"recordings": facts, "digest": "0" * 64}}}
    torch.save(content, path)
