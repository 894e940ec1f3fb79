"""Checkpoints are read without running code, written atomically, and trained on."""

import pickle
from pathlib import Path

import pytest
import torch

from etram_det.checkpoint.file import Checkpoint, read_checkpoint, write_checkpoint
from etram_det.cli.commands import run
from etram_det.errors import UserError
from etram_det.models.head import HeadOutput
from etram_det.models.losses import YOLOXLoss
from etram_det.training.module import DetectionModule
from support import rvt
from support.plain_loss import plain_loss
from support.small_checkpoints import EIGHT, make, save, small_run


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def test_nothing_is_left_of_a_write_that_failed(tmp_path, monkeypatch):
    def full(content, file):
        file.write(b"half")
        try:
            raise OSError(28, "No space left on device")
        finally:  # as PyTorch's writer does
            raise RuntimeError("unexpected pos 64 vs 4\nand a traceback")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(
        UserError, match=r"new\.ckpt: cannot be written \(No space left on device\)"
    ):
        write_checkpoint(tmp_path / "new.ckpt", {})
    assert list(tmp_path.iterdir()) == []


def test_what_comes_in_between_a_write_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def interrupted(content, file):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(RuntimeError, match="killed by signal"):
        write_checkpoint(tmp_path / "new.ckpt", {})
    assert list(tmp_path.iterdir()) == []


def test_a_written_checkpoint_replaces_the_old_one(tmp_path):
    path = tmp_path / "new" / "a.ckpt"
    for value in (1.0, 2.0):
        write_checkpoint(path, {"state_dict": {"x": torch.tensor(value)}})
    assert read_checkpoint(path).tensors["x"] == 2
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def last(version):
    return read_checkpoint(f"runs/baseline/version_{version}/checkpoints/last.ckpt").content


@pytest.mark.slow
def test_training_goes_on_from_imported_weights_with_a_fresh_optimiser(tmp_path, caplog):
    source = str(rvt.REFERENCE / "rvt_reference.ckpt")
    flags = ["--checkpoint", source, "--output", "rvt.ckpt", "--dim_head", "4"]
    assert run(["import-rvt", *flags]) == 0
    settings = small_run(tmp_path, "--ckpt_path", "rvt.ckpt")
    assert run(["fit", *settings]) == 0
    assert "holds weights only: training starts from them at step 0" in caplog.text
    tuned = last(0)
    assert tuned["global_step"] == 1
    assert tuned["hyper_parameters"]["fpn_stages"] == [2, 3, 4]
    for name, tensor in read_checkpoint("rvt.ckpt").tensors.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(tuned["state_dict"][name], tensor, rtol=0, atol=1e-9)
    for command in ("validate", "test", "predict"):
        assert run([command, *settings]) == 0


def test_a_checkpoint_of_other_bins_is_refused_before_a_run_is_made(tmp_path, capfd):
    settings = small_run(tmp_path, "--ckpt_path", "old.ckpt")
    frames = "data.bins, data.representation: must make frames of the checkpoint's 10 channels"
    other_shape = "downsample.weight must have the shape (8, 20, 7, 7), got (8, 10, 7, 7)"
    for stored, message in (({"in_channels": 10}, frames), ({}, other_shape)):
        save(make(EIGHT, in_channels=10), EIGHT, embed_dim=8, **stored)
        for command in ("validate", "fit"):
            assert run([command, *settings]) == 2
            error = capfd.readouterr().err
            assert message in error
            assert "Traceback" not in error
    assert not Path("runs").exists()


def test_a_module_loads_an_imported_checkpoint_by_itself():
    source = str(rvt.REFERENCE / "rvt_reference.ckpt")
    flags = ["--checkpoint", source, "--output", "rvt.ckpt", "--dim-head", "4"]
    assert run(["import-rvt", *flags]) == 0
    module = DetectionModule.load_from_checkpoint("rvt.ckpt", map_location="cpu")
    expected = rvt.detector().state_dict()
    assert all(x.equal(expected[name]) for name, x in module.detector.state_dict().items())


def test_gradient_to_the_pyramid_equals_the_plain_loss():
    boxes, classes = rvt.labels()
    gradients = []
    for loss in (plain_loss, lambda *args: YOLOXLoss()(*args)["loss"]):
        features = [rvt.arrays()[f"train_fpn_out{i}"].clone().requires_grad_() for i in range(3)]
        output: HeadOutput = rvt.detector().train().head(features)
        gradients.append(torch.autograd.grad(loss(output, boxes, classes), features))
    for plain, batched in zip(*gradients, strict=True):
        assert plain.abs().max() > 1e-3
        torch.testing.assert_close(batched, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            pickle.dumps({"state_dict": {"a": 1}}),
            "must be a checkpoint that PyTorch wrote, got a plain pickle, which may hold code: "
            "not loaded: set file to a .ckpt file",
        ),
        (
            b"not a checkpoint",
            "must be a checkpoint that PyTorch wrote, got something else: not loaded: set file "
            "to a .ckpt file",
        ),
        (
            b"hello",
            "cannot be read as a checkpoint (KeyError: 101): it may be cut short, or something "
            "else; copy it again or choose another file",
        ),
    ],
)
def test_files_of_other_kinds_are_reported_in_one_line(content, reason, capfd):
    Path("other.ckpt").write_bytes(content)
    assert run(["checkpoint", "other.ckpt"]) == 2
    assert capfd.readouterr().err.strip() == f"etram_det: error: other.ckpt: {reason}"


def test_an_exported_file_in_place_of_a_checkpoint_is_called_so(capfd):
    Path("best.onnx").write_bytes(b"\x08\x0a an exported file")
    assert run(["checkpoint", "best.onnx"]) == 2
    assert (
        "got an exported file, which detect, live and bench stream take" in capfd.readouterr().err
    )


@pytest.mark.parametrize(("versions", "known"), [((5, 4), True), ((5, 0), False)])
def test_a_training_from_python_is_known_by_the_recordings_of_its_plan(versions, known):
    """It has no provenance; ``detect`` warns of real recordings by this."""
    planned = {str(n): [12, 6, 1, 2, 300, version] for n, version in enumerate(versions)}
    content = {"EventDataModule": {"settings": {"data.bins": 10}, "recordings": planned}}
    assert Checkpoint(content).knows_simulation_only is known
