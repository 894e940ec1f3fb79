"""A run folder of version 0.1.0 is still read, evaluated, reported and gone on from."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from etram_det.checkpoint.file import Checkpoint, parameters_by_part, read_checkpoint
from etram_det.cli import commands
from etram_det.inference.streaming_detector import read_detector
from etram_det.training.callbacks import exact_resume
from etram_det.training.callbacks.non_finite_steps import NonFiniteSteps
from etram_det.training.optimizer import OneCycle
from support.paths import REFERENCE
from support.tiny_runs import RUN, SHORT

LAST = RUN / "checkpoints" / "last.ckpt"
NETWORK = ["--model.embed_dim", "4", "--model.fpn_stages", "[3,4]", "--pictures.number", "0"]
FIT = [*SHORT[:-2], *NETWORK]

pytestmark = pytest.mark.usefixtures("tiny_folder")


@pytest.fixture(autouse=True)
def _old_run(tiny_folder):
    shutil.copytree(REFERENCE / "run_0.1.0", RUN)


def test_checkpoint_shows_its_facts(capsys):
    assert commands.run(["checkpoint", "--json", str(LAST)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["epoch"], facts["resumes"]) == (12, 1, True)
    assert facts["best"]["metric"] == "val/AP"
    assert facts["validation"]["step"] == 10
    assert facts["provenance"] == json.loads((RUN / "provenance.json").read_text())
    assert commands.run(["checkpoint", str(LAST)]) == 0
    assert "backbone stage 4" in capsys.readouterr().out


def test_typed_parts():
    checkpoint = read_checkpoint(LAST)
    assert checkpoint.class_names[:2] == ["pedestrian", "car"]
    assert "_instantiator" not in checkpoint.settings
    assert checkpoint.frame_settings["input_size"] == (48, 64)
    assert checkpoint.config["data"]["train_lanes"] == 3
    assert checkpoint.has_optimizer
    assert checkpoint.has_training_state
    assert len(checkpoint.resume["processes"]) == 1
    assert checkpoint.fit_loop["epoch_loop.batch_progress"]["current"]["ready"] == 3
    assert sum(parameters_by_part(checkpoint.detector_tensors).values()) == sum(
        tensor.numel()
        for name, tensor in checkpoint.detector_tensors.items()
        if "running" not in name and "num_batches" not in name
    )


def test_tensors_stay_in_the_file_and_survive_its_replacement():
    checkpoint = read_checkpoint(LAST)
    plain = torch.load(LAST, weights_only=True)["state_dict"]
    Path("other").write_bytes(b"something else")
    Path("other").replace(LAST)
    assert all(tensor.equal(plain[name]) for name, tensor in checkpoint.tensors.items())


def test_files_of_before_pytorch_1_6_are_read():
    content = read_checkpoint(LAST, mapped=False).content
    torch.save(content, "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint("old.ckpt").step == 12


def test_weights_alone_make_a_checkpoint_too():
    tensors = read_checkpoint(LAST).detector_tensors
    made = Checkpoint.of_weights(tensors, {"class_names": ["a"]})
    assert made.detector_tensors.keys() == tensors.keys()
    assert made.class_names == ["a"]
    assert made.has_training_state
    assert not made.has_optimizer
    assert (made.best, made.validation, made.resume, made.fit_loop) == (None,) * 4


def test_read_detector():
    trained = read_detector(LAST)
    assert trained.frame_settings.input_size == (48, 64)
    assert trained.knows_frames
    assert len(trained.class_names) == 8


def test_validate_and_report(capsys):
    assert commands.run(["validate", *FIT[1:], "--ckpt_path", str(LAST)]) == 0
    assert commands.run(["report", str(RUN)]) == 0
    assert (RUN / "report.html").is_file()


@pytest.mark.parametrize("resume", [["--ckpt_path", str(LAST)], ["--resume", "auto"]])
def test_fit_goes_on_to_step_14_with_its_counts(resume, caplog):
    before = read_checkpoint(LAST, mapped=False).content
    before["callbacks"]["BadSteps"] = {"num_skipped": 3, "num_in_a_row": 1}
    before["callbacks"]["BadRecordings"] = {"train_day_0001": 2}
    torch.save(before, LAST)
    flags = ["--trainer.max_steps", "14", "--trainer.val_check_interval", "5", *resume]
    assert commands.run([*FIT, *flags]) == 0
    assert "cannot go on exactly" not in caplog.text
    assert [path.name for path in RUN.parent.iterdir()] == ["version_0"]
    after = read_checkpoint(LAST).content
    assert after["global_step"] == 14
    assert after["EventDataModule"]["step"] == 5
    assert after["callbacks"]["BadSteps"] == {"num_skipped": 3, "num_in_a_row": 0}
    assert after["callbacks"]["BadRecordings"] == {"train_day_0001": 2}
    starts = json.loads((RUN / "provenance.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 12]
    assert read_checkpoint(LAST).best["value"] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("error", [AttributeError, RuntimeError])
@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (NonFiniteSteps, "load_state_dict"),
        (exact_resume, "_restore"),
        (OneCycle, "load_state_dict"),
    ],
)
def test_a_fault_of_the_program_is_not_taken_for_damage(owner, method, error, monkeypatch):
    def fail(*_, **__):
        raise error("a fault of the program")

    monkeypatch.setattr(owner, method, fail)
    with pytest.raises(error, match="a fault of the program"):
        commands.run([*FIT, "--trainer.max_steps", "13", "--ckpt_path", str(LAST)])


# The settings have names there that the command line must go on to accept.
def test_its_configuration_is_accepted():
    flags = ["--trainer.max_steps", "13", "--resume", "auto"]
    assert commands.run(["fit", "--config", str(RUN / "config.yaml"), *flags]) == 0
    assert read_checkpoint(LAST).step == 13
