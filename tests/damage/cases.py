"""The corpus of damaged and hostile files: each case is damage to sound files, and a command."""

import os
import shutil
from pathlib import Path

from etram_det.cli.commands import run
from support.paths import ROOT
from support.raw_files import boxes_at, random_events, write_raw

RVT_CHECKPOINT = ROOT / "tests" / "reference" / "rvt_reference.ckpt"
SIZE = ["--frames.input_size", "[24, 32]"]
FIT = [
    "fit",
    "--config",
    str(ROOT / "configs" / "size_aware.yaml"),
    "--model.embed_dim=8",
    "--model.dim_head=4",
    "--model.fpn_depth=0.33",
    "--data.num_workers=0",
    "--data.train_lanes=2",
    "--data.num_steps=1",
    "--data.input_size=[24, 32]",
    "--trainer.max_steps=1",
    "--trainer.val_check_interval=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
    "--results.report=false",
    "--results.video_s=0",
]
CASES = {}  # name -> what damages a copy of the sound files and returns the command line


class Sound:
    """Sound files, made once, and copied for each case.

    ``raw``, ``rvt`` and ``sparse`` are the same recording in three layouts, ``run.ckpt`` is a
    checkpoint of two steps on it.
    """

    def __init__(self, folder):
        self.folder = folder / "sound"
        raw = self.folder / "raw"
        for split, seed in (("train", 0), ("val", 1)):
            name = f"{split}_day_0001"
            boxes = boxes_at(range(100_000, 400_001, 100_000), class_id=seed)
            write_raw(
                raw / split, name, random_events(600, 0.45, seed=seed), boxes, chunks=(256,),
                compression="gzip",
            )  # fmt: skip
        for layout in ("rvt", "sparse"):
            arguments = ["--root", str(raw), "--output", str(self.folder / layout)]
            nearest = ["--frames.downsample", "nearest"] if layout == "rvt" else []
            command = ["preprocess", *arguments, "--format", layout, "--workers", "1"]
            assert run([*command, *SIZE, *nearest]) == 0
        logger = ["--trainer.logger.init_args.save_dir", str(self.folder / "runs")]
        assert run([*FIT, "--data.root", str(raw), *logger]) == 0
        [last] = self.folder.rglob("last.ckpt")
        shutil.move(last, self.folder / "run.ckpt")
        shutil.copy(RVT_CHECKPOINT, self.folder / "rvt.ckpt")
        for rest in ("runs", "rvt/manifest.json", "sparse/manifest.json"):
            path = self.folder / rest
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def case(function):
    CASES[function.__name__] = function
    return function


def cases(**variants):
    """The same damage in several ways: ``function(folder, variant)``."""

    def add(function):
        for name, variant in variants.items():
            CASES[f"{function.__name__}: {name}"] = lambda folder, v=variant: function(folder, v)
        return function

    return add


def preprocess(folder, layout="raw"):
    nearest = ["--frames.downsample", "nearest"] if layout == "rvt" else []
    output = ["--output", str(folder / "output"), "--workers", "1"]
    return ["preprocess", "--root", str(folder / layout), *output, *SIZE, *nearest]


def import_rvt(folder):
    output = ["--output", str(folder / "imported.ckpt"), "--dim-head", "8"]
    return ["import-rvt", "--checkpoint", str(folder / "rvt.ckpt"), *output]


def fit(folder, *flags):
    logger = ["--trainer.logger.init_args.save_dir", str(folder / "runs")]
    return [*FIT, "--data.root", str(folder / "raw"), *logger, *flags]


def validate(folder):
    command = fit(folder, "--ckpt_path", str(folder / "run.ckpt"))
    return ["validate", *command[1:]]


class Payload:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path(os.environ["CANARY"]),)
