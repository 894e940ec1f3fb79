"""An exported detector in an evaluation: the network's methods, and the commands with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from etram_det.cli.commands import run
from etram_det.inference.exported_file import read_exported
from etram_det.inference.streaming_detector import read_detector
from etram_det.training import exported_network
from etram_det.training.exported_network import ExportedNetwork
from support.random_checkpoint import FRAMES
from support.raw_files import boxes_at, random_events, write_raw

SIZE = FRAMES.input_size


def chunk(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 5, (3, 2, 20, *SIZE), generator=generator, dtype=torch.uint8)


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_chunks_of_lanes_give_what_the_network_gives(small_export, runtime):
    checkpoint, exported = small_export
    network = read_detector(checkpoint).detector.eval()
    other = ExportedNetwork(read_exported(exported), runtime)
    state = other_state = None
    for seed in range(2):
        features, state = network.features(chunk(seed).float(), state)
        expected = network.predict([x[[0, 3, 5]] for x in features]).decode()
        found, other_state = other.features(chunk(seed), other_state)
        decoded = other.predict([x[[0, 3, 5]] for x in found]).decode()
        torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-3)
        for ours, theirs in zip(other_state, state, strict=True):
            torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-4)
            torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-4)
        # A lane starts a recording, as the carried state shows it.
        state = [(h * torch.tensor([1.0, 0])[:, None, None, None], c * 0) for h, c in state]
        other_state = [
            (h * torch.tensor([1.0, 0])[:, None, None, None], c * 0) for h, c in other_state
        ]


def test_frames_keep_their_type(small_export, monkeypatch):
    """A mixed density has negative values, which an unsigned byte would turn into large ones."""
    seen = []

    class Engine:
        state = [np.zeros((1, 1, 1, 1), np.float32)] * 8

        def run(self, frame):
            seen.append(frame)
            return np.zeros((1, 4), np.float32), np.zeros(1, np.float32), np.zeros((1, 8), "f4")

    monkeypatch.setattr(exported_network, "exported_engine", lambda *_: Engine())
    exported = read_exported(small_export[1])
    settings = replace(exported.frame_settings, representation="mixed_density")
    network = ExportedNetwork(replace(exported, frame_settings=settings))
    network.features(torch.full((1, 1, 10, *SIZE), -1, dtype=torch.int8))
    assert {each.dtype for each in seen} == {np.dtype(np.int8)}
    assert all((each == -1).all() for each in seen)


def boxes_of(folder):
    [path] = folder.glob("*_bbox.npy")
    boxes = np.load(path)
    numbers = [boxes[name].astype(np.float64) for name in ("t", "class_id", "x", "y", "w", "h")]
    table = np.stack([*numbers, boxes["class_confidence"]], axis=1)
    return table[np.lexsort(table.T[[4, 3, 2, 6, 1, 0]].round(2))]


@pytest.mark.gate
def test_predict_and_validate_take_an_exported_file(
    small_export, tmp_path, monkeypatch, capfd, caplog
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    times = list(range(100_000, 500_001, 100_000))
    boxes = boxes_at(times, class_id=1, x=10.0)
    events = random_events(9000, 0.52, (90, 160))
    write_raw(tmp_path / "data" / "val", "val_day_0001", events, boxes, (90, 160))
    flags = [
        "--data.root",
        "data",
        "--data.num_workers",
        "0",
        "--data.num_steps",
        "4",
        "--trainer.accelerator",
        "cpu",
    ]
    flags += ["--trainer.enable_progress_bar", "false"]
    quiet = ["--results.pictures", "0", "--results.report", "false"]
    found, metrics = [], []
    for name, path in zip(("predict", "predict_1"), small_export, strict=True):
        split = ["--data.predict_split", "val", "--model.score_threshold", "0.38"]
        assert run(["predict", *flags, "--ckpt_path", str(path), *split]) == 0
        found.append(boxes_of(Path("runs/evaluations") / name / "predictions"))
    assert len(found[0]) > 100
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-3)

    # Labels that are found: some of the detections.
    [path] = Path("runs/evaluations/predict/predictions").glob("*_bbox.npy")
    boxes = np.load(path)
    labelled = boxes[np.isin(boxes["t"], times)][::7]
    np.save("data/val/val_day_0001_bbox.npy", labelled)
    for name, path in zip(("validate", "validate_1"), small_export, strict=True):
        command = ["validate", *flags, "--ckpt_path", str(path), *quiet]
        assert run(command) == 0
        metrics.append(json.loads(Path("runs/evaluations", name, "metrics.json").read_text()))
    assert metrics[0]["AP"] > 0.01
    for key in ("AP", "AP50", "AR"):
        assert metrics[1][key] == pytest.approx(metrics[0][key], abs=2e-3)
        assert metrics[-1]["run"]["checkpoint"] == str(path)
    assert (metrics[1]["run"]["step"], metrics[1]["run"]["parameters"]) == (None, None)
    assert capfd.readouterr().out.count("val, after 0 steps") == 1  # of the checkpoint alone
    assert "trained on simulated traffic only" not in caplog.text
    model = onnx.load(small_export[1])
    for entry in model.metadata_props:
        if entry.key == "knows_simulation_only":
            entry.value = "true"
    onnx.save(model, "simulated.onnx")
    known = ["--ckpt_path", "simulated.onnx", "--results.pictures", "0"]
    assert run(["validate", *flags, *known]) == 0
    assert (
        "ckpt_path: trained on simulated traffic only, and val_day_0001 is a real recording: "
    ) in caplog.text
    capfd.readouterr()
    of_checkpoint = ["--ckpt_path", str(small_export[0]), "--runtime", "openvino"]
    assert run(["validate", *flags, *of_checkpoint]) == 2
    assert "runtime: must be auto for a checkpoint, got openvino: use an exported file" in (
        capfd.readouterr().err
    )
    assert run(["fit", "--ckpt_path", str(small_export[1]), *flags]) == 2
    assert capfd.readouterr().err == (
        f"etram_det: error: ckpt_path: must be a checkpoint (.ckpt) to go on from, got "
        f"{small_export[1]}: use the one that it was exported from\n"
    )


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data.input_size", "[64,96]"],
            "data.input_size: must be 45 80, for which {} was exported, got 64 96: set "
            "data.input_size to the former, or use python -m etram_det export with --input-size "
            "64 96, or dynamic",
        ),
        (
            ["--data.bins", "5"],
            "data.bins, data.representation: must make frames of the checkpoint's 20 channels, got "
            "10: set them as they were when the checkpoint was trained, or use another checkpoint",
        ),
        (
            ["--data.class_names", "[car]"],
            "data.class_names: must be the checkpoint's ['pedestrian', 'car', 'bicycle', 'bus', "
            "'motorbike', 'truck', 'tram', 'wheelchair'], got ['car']: set data.class_names to the "
            "classes that the checkpoint was trained on, or use another checkpoint",
        ),
    ],
)
def test_what_a_file_was_not_exported_for_is_refused_before_any_data(
    small_export, tmp_path, monkeypatch, capfd, command, flags, message
):
    """No data are named: they would be simulated."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    assert run([command, "--ckpt_path", str(small_export[1]), *flags]) == 2
    expected = message.format(small_export[1])
    assert capfd.readouterr().err.splitlines()[-1] == f"etram_det: error: {expected}"
    assert not list(tmp_path.iterdir())
