"""Checkpoints to hand on: small, with the facts of their run, and as good as the whole ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import etram_det
from etram_det.checkpoint import published
from etram_det.checkpoint.file import read_checkpoint
from etram_det.cli.commands import run
from etram_det.cli.resume import SHIPPED
from etram_det.cli.trained_settings import trained_settings
from etram_det.data.labels import ETRAM_CLASSES
from etram_det.data.representation import FrameSettings
from etram_det.inference.streaming_detector import StreamingDetector, read_detector
from support.random_checkpoint import know_simulation_only, write_random_checkpoint
from support.tiny_runs import RUN, SETTINGS, run_to_its_end, said, steps

SHIPPED_FILE = Path(etram_det.__file__).parent / SHIPPED


@pytest.mark.gate
def test_a_run_is_published_with_its_facts_and_without_its_folders(tiny_folder, capsys):
    root = ["--data.root", str(tiny_folder / "data")]
    assert run_to_its_end([*SETTINGS, *steps(2, validation=2), *root]) == 0, said()[-3000:]
    whole = read_checkpoint(RUN / "checkpoints" / "last.ckpt")
    assert run(["checkpoint", str(whole.path), "--publish", "small.ckpt", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    small = read_checkpoint("small.ckpt")
    assert facts["file"] == "small.ckpt"
    assert facts["step"] == whole.step == 2
    assert facts["resumes"] is False
    assert facts["knows_simulation_only"] is False
    assert facts["validation"]["step"] == 2
    assert facts["validation"]["results"]["AP"] == whole.validation["results"]["AP"]
    data = facts["provenance"]["data"]["train"]
    assert data == whole.provenance["data"]["train"]
    assert str(tiny_folder / "data") in json.dumps(dict(whole.provenance))
    left_out = {key: value for key, value in small.content.items() if key != "state_dict"}
    assert str(tiny_folder) not in json.dumps(left_out)
    assert facts["provenance"]["config"]["data"]["root"] == "data"
    assert Path("small.ckpt").stat().st_size < Path(whole.path).stat().st_size / 3
    assert read_detector("small.ckpt").frame_settings == read_detector(whole.path).frame_settings
    # A new training may start from it, and an evaluation read it.
    for setting in ("--model.init_from", "--ckpt_path"):
        start = [setting, "small.ckpt", "--trainer.logger.name", "next"]
        assert run_to_its_end([*SETTINGS, *steps(1), *root, *start]) == 0, said()[-3000:]
    assert "the checkpoint holds weights only: training starts from them at step 0" in said()
    few = ["--data.root", "data", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    few += ["--results.report", "false"]
    warning = "trained on simulated traffic only, and val_day_0000 is a real recording"
    assert run_to_its_end(["validate", "--ckpt_path", "small.ckpt", *few]) == 0, said()[-3000:]
    assert warning not in said()
    know_simulation_only("small.ckpt")
    assert run_to_its_end(["validate", "--ckpt_path", "small.ckpt", *few]) == 0, said()[-3000:]
    assert said().count(warning) == 1


def test_weights_are_in_half_precision_and_computed_in_single(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_random_checkpoint(Path("a.ckpt"), FrameSettings(input_size=(48, 64)))
    assert run(["checkpoint", "a.ckpt", "--publish", "b.ckpt"]) == 0
    for tensor in read_checkpoint("b.ckpt").detector_tensors.values():
        if tensor.is_floating_point():
            assert tensor.dtype == (torch.float16 if tensor.ndim > 1 else torch.float32)
    ours, theirs = (read_detector(name).detector.state_dict() for name in ("b.ckpt", "a.ckpt"))
    for tensor, expected in zip(ours.values(), theirs.values(), strict=True):
        assert tensor.dtype == expected.dtype
        torch.testing.assert_close(tensor, expected, rtol=1e-3, atol=1e-7)


def test_what_cannot_be_published_is_reported_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    write_random_checkpoint(Path("a.ckpt"))
    assert run(["checkpoint", "a.ckpt", "--publish", "b.onnx"]) == 2
    assert "publish: must be a file named .ckpt, got b.onnx: use --publish X.ckpt" in (
        capfd.readouterr().err
    )
    assert run(["checkpoint", "a.ckpt", "--publish", "./a.ckpt"]) == 2
    assert "publish: must be another file than the checkpoint itself, got a.ckpt: use" in (
        capfd.readouterr().err
    )
    monkeypatch.setattr(published, "MOST_BYTES", 100_000)
    assert run(["checkpoint", "a.ckpt", "--publish", "b.ckpt"]) == 2
    message = capfd.readouterr().err
    assert "publish: weights must be of 0.1 MB at most, got 0." in message
    assert message.endswith("use a smaller network, such as model.embed_dim 16\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(
    not SHIPPED_FILE.is_file(), reason=f"{SHIPPED} is not part of this installation yet"
)
def test_the_packages_own_checkpoint():
    """Small, trained on simulated traffic alone, and described by what it was measured at."""
    assert SHIPPED_FILE.stat().st_size <= published.MOST_BYTES + 200_000
    checkpoint = read_checkpoint(SHIPPED_FILE)
    assert tuple(checkpoint.class_names) == ETRAM_CLASSES
    assert checkpoint.knows_simulation_only
    # What `validate --ckpt_path package` simulates, as no folder of the training is a user's.
    data = checkpoint.provenance["config"]["data"]
    assert data["root"] is None
    assert (data["simulation"]["height"], data["simulation"]["val"]) == (360, 20)
    assert trained_settings(checkpoint, {"data.root", "data.input_size"})["data"]["root"] is None
    assert checkpoint.step > 1000
    results = checkpoint.validation["results"]
    low, high = results["intervals"]["AP"]
    assert 0 < low < results["AP"] < high < 1
    facts = json.dumps({k: v for k, v in checkpoint.content.items() if k != "state_dict"})
    assert not any(folder in facts for folder in ("/home/", "/root/", "/tmp/", "/work/"))
    detector = StreamingDetector(SHIPPED_FILE, sensor_size=(720, 1280), device="cpu")
    height, width = detector.frame_settings.input_size
    assert len(detector.detect_frame(np.zeros((20, height, width), np.uint8))) < 20
