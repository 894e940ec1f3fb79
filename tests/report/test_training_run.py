"""What a report reads of a training in its run folder."""

import json

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from etram_det.report.page import write_report
from etram_det.report.training_run import Curve, read_training
from support.small_evaluation import Tables, page_of, write_run

START = {
    "step": 0,
    "time": "2025-03-01T12:00:05+00:00",
    "command": "python -m etram_det fit --config size_aware",
    "git": {"commit": "0123456789abcdef", "dirty": True},
    "versions": {"etram_det": "0.1.0", "torch": "2.8.0", "device": "cpu"},
}
CONFIG = """
seed_everything: 7
model:
  embed_dim: 16
  fpn_stages: [1, 2, 3, 4]
  loss:
    class_path: etram_det.models.losses.SizeAwareLossWrapper
    init_args:
      weight_type: step
      box: null
  assignment: null
data: {train_lanes: 4, num_steps: 5, root: null}
trainer: {max_steps: 400, precision: 32-true, accumulate_grad_batches: 2}
"""


def write_provenance(folder, *starts):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps({"starts": list(starts)}))


def write_events(folder, scalars, **how):
    writer = SummaryWriter(folder, **how)
    for name, points in scalars.items():
        for step, value in points.items():
            writer.add_scalar(name, value, step)
    writer.add_histogram("watch/size_weight", np.ones(3), 1)
    writer.close()


def points_of(curve):
    return dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))


def test_curves_of_tensorboard(tmp_path):
    losses = {i: 10.0 - i for i in range(6)}
    write_events(tmp_path, {"train/loss": losses, "watch/box_loss": {0: 1.0}, "val/AP": {5: 0.25}})
    training = read_training(tmp_path)
    assert list(training.curves) == ["train/loss", "val/AP"]
    assert points_of(training.curves["train/loss"]) == losses
    assert training.last_step() == 6
    assert training.median("train/loss") == 7.5
    assert training.median("train/frames_per_second") is None


def test_what_was_logged_after_the_checkpoint_of_a_resumed_run_is_hidden(tmp_path):
    write_events(tmp_path, {"train/loss": {0: 3.0, 1: 2.0, 2: 1.0, 3: 9.0}})
    write_events(tmp_path, {"train/loss": {2: 1.5}}, purge_step=2, filename_suffix=".z")
    assert points_of(read_training(tmp_path).curves["train/loss"]) == {0: 3.0, 1: 2.0, 2: 1.5}


def test_curves_of_a_csv_logger(tmp_path):
    write_provenance(tmp_path, START)
    rows = "step,train/loss,val/AP,epoch\n0,3.5,,0\n1,nan,,0\n2,2.5,,0\n2,,0.5,0\n"
    (tmp_path / "metrics.csv").write_text(rows)
    curves = read_training(tmp_path).curves
    assert {name: points_of(curve) for name, curve in curves.items()} == {
        "train/loss": {0: 3.5, 2: 2.5},
        "val/AP": {2: 0.5},
    }


@pytest.mark.parametrize("content", [None, "{", "[]", '{"starts": [3]}', '{"starts": null}'])
def test_a_folder_without_a_training_has_none(content, tmp_path):
    if content is not None:
        (tmp_path / "provenance.json").write_text(content)
    (tmp_path / "metrics.csv").write_text("key,value\nAP,0.5\n")
    assert read_training(tmp_path) is None


def test_an_evaluation_is_no_training(tmp_path):
    write_provenance(tmp_path, START | {"command": "python -m etram_det validate --ckpt_path x"})
    write_events(tmp_path, {"val/AP": {5: 0.25}})
    assert read_training(tmp_path) is None


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"\0" * 99])
def test_a_damaged_file_of_tensorboard_gives_what_can_be_read(damage, tmp_path):
    write_events(tmp_path, {"train/loss": {i: 1.0 for i in range(100)}})
    [file] = tmp_path.glob("events.out*")
    file.write_bytes(damage(file.read_bytes()))
    training = read_training(tmp_path)
    assert training is None or 10 < len(training.curves["train/loss"].steps) < 90


def test_many_points_are_averaged():
    steps = np.arange(1000)
    thin = Curve(steps, steps % 2 * 2.0).thinned()
    assert len(thin.steps) == 250
    assert thin.steps[:2].tolist() == [1.5, 5.5]
    assert (thin.values == 1).all()
    few = Curve(steps[:300], steps[:300])
    assert few.thinned() is few


def run_with_training(folder, results=None):
    write_run(folder)
    (folder / "config.yaml").write_text(CONFIG)
    write_provenance(folder, START, START | {"step": 100})
    scalars = {"train/loss": {i: 9.0 for i in range(0, 400, 10)}, "val/AP": {199: 0.1, 399: 0.2}}
    speeds = {"steps": 0.5, "frames": 20.0}
    scalars |= {f"train/{k}_per_second": {i: v for i in range(3)} for k, v in speeds.items()}
    write_events(folder, scalars | {"train/learning_rate": {i: 1e-3 for i in range(3)}})
    file = folder / "metrics.json"
    results = json.loads(file.read_text())
    results["run"] |= {"parameters": 1_234_567, "step": 200}
    file.write_text(json.dumps(results))


def test_the_page_says_how_a_detector_was_trained(tmp_path):
    run_with_training(tmp_path)
    page = page_of(tmp_path)
    assert dict(page.rows["trained"]) == {
        "model": "1.23 million parameters, embed_dim 16, 4 scales",
        "loss": "SizeAwareLossWrapper (weight_type step)",
        "assignment": "SimOTA",
        "steps": "400",
        "step of the checkpoint": "200",
        "batch": "4 lanes of 5 frames, 2 batches a step",
        "speed": "0.5 steps/s, 20 frames/s (medians)",
        "data": "simulated traffic",
        "date": "2025-03-01 12:00:05 UTC, resumed once",
        "device and precision": "cpu, 32-true",
        "code": "etram_det 0.1.0, torch 2.8.0, commit 0123456789ab with changes",
        "seed": "7",
    }
    text = (tmp_path / "report.html").read_text()
    for plot in (
        "loss of the training",
        "AP of the validations",
        "learning rate",
        "frames a second",
    ):
        assert f'aria-label="{plot} over the training steps"' in text


def test_two_trainings_share_their_plots(tmp_path):
    run_with_training(tmp_path / "a")
    write_run(tmp_path / "b")  # a detector from elsewhere
    page = page_of(tmp_path / "a", tmp_path / "b", output=tmp_path / "two.html")
    assert ["seed", "7", "–"] in page.rows["trained"]
    assert (tmp_path / "two.html").read_text().count("over the training steps") == 4


def test_a_detector_from_elsewhere_has_no_training_section(tmp_path):
    write_run(tmp_path)
    write_report([tmp_path])
    text = (tmp_path / "report.html").read_text()
    assert 'id="training"' not in text
    assert "trained" not in Tables(text).rows
