"""Looking into checkpoints gives the metrics that training and evaluation gave."""

import json
import math
import os

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from etram_det.cli.commands import run
from etram_det.drawing.plots import (
    as_picture,
    channels_plot,
    memory_plot,
    sizes_plot,
    space_time_plot,
)
from etram_det.errors import UserError
from etram_det.inspection.checkpoints import (
    newest_checkpoints,
    parameter_counts,
    read,
    short_names,
    size_weights,
)
from etram_det.inspection.recordings import fullest_frames, observe, pictures_of, recordings_of
from etram_det.report.metric_plots import class_size_plot
from etram_det.report.run_files import results_of
from etram_det.report.tables import comparison_table, parameters_table, settings_table
from support.small_runs import SMALL_RAW


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder of two steps on tests/reference/raw_etram."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2"]
    flags += ["--model.score_threshold", "0", "--pictures.number", "0"]
    assert run(["fit", *SMALL_RAW, *flags, "--trainer.logger.save_dir", str(folder)]) == 0
    return folder / "size_aware" / "version_0"


@pytest.fixture(scope="module")
def checkpoint(folder):
    return read(folder / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def recording(checkpoint):
    [recording] = recordings_of(checkpoint.data(), "val")
    return recording


def test_a_checkpoint_holds_its_run(checkpoint):
    assert checkpoint.step == 2
    assert checkpoint.model["embed_dim"] == 8
    assert checkpoint.config["data"]["input_size"] == [90, 160]
    assert checkpoint.data().input_size == (90, 160)
    assert checkpoint.data("/other").root == "/other"
    learnt = sum(p.numel() for p in checkpoint.trained.detector.parameters())
    assert sum(parameter_counts(checkpoint).values()) == learnt


def test_settings_come_from_the_run_folder_where_the_checkpoint_lacks_them(folder, checkpoint):
    older = torch.load(checkpoint.path, weights_only=True)
    for name in ("provenance", "EventDataModule"):
        older.pop(name, None)
    path = folder / "checkpoints" / "older.ckpt"
    torch.save(older, path)
    assert read(path).data().input_size == (90, 160)
    alone = folder.parent.parent / "alone.ckpt"
    torch.save(older, alone)
    assert read(alone).config == {}
    assert read(alone).size_weight is None
    assert read(alone).data().class_names == checkpoint.trained.class_names


@pytest.fixture(scope="module")
def evaluated(checkpoint):
    """Results of a ``Trainer`` on the data of the run, as a notebook gets them."""
    module = checkpoint.module()
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.validate(module, checkpoint.data(), verbose=False)
    return results_of(module.metric.result, score_threshold=0.3, dropped_by_data={})


def test_evaluation_equals_that_of_training(folder, evaluated):
    ours = evaluated
    theirs = json.loads((folder / "metrics.json").read_text())
    names = [name for name, value in theirs.items() if not isinstance(value, dict)]
    assert len(names) > 100
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name


def test_observation_follows_the_state(checkpoint, recording):
    seen = observe(checkpoint, recording, num_frames=4, score_threshold=0)
    detector = checkpoint.trained.detector
    with torch.no_grad():
        frames = torch.from_numpy(recording.frames(0, 4))[:, None]
        features, state = detector.features(frames)
    # One chunk of four frames ends where four single frames do.
    for i, (hidden, cell) in enumerate(state):
        last = cell[0].square().mean(dim=0).sqrt()
        np.testing.assert_allclose(seen.cell[i][-1], last, atol=1e-5)
        np.testing.assert_allclose(
            seen.hidden[i][-1], hidden[0].square().mean(dim=0).sqrt(), atol=1e-5
        )
        median = cell[0].flatten(1).median(dim=1).values[:, None, None]
        apart = (cell[0] - median).square().mean(dim=0).sqrt()
        np.testing.assert_allclose(seen.memory[i][-1], apart, atol=1e-5)
    assert seen.strides == (4, 8, 16, 32)
    # 90x160 px, padded to whole attention windows.
    shapes = [(4, 128 // stride, 192 // stride) for stride in seen.strides]
    assert [each.shape for each in seen.features] == shapes
    assert seen.seconds.tolist() == (recording.frame_end_us[:4] / 1e6).tolist()
    assert all(len(each) > 0 for each in seen.detections)


def test_pictures_carry_labels_and_detections(checkpoint, recording):
    seen = observe(checkpoint, recording, num_frames=4, score_threshold=0)
    labelled = [t for t in range(4) if recording.boxes(t) is not None]
    pictures = pictures_of(checkpoint, recording, seen, labelled)
    assert [title.split(",")[0] for title in pictures] == [recording.name] * len(labelled)
    # 160 px wide frames are enlarged four times.
    assert {picture.shape for picture in pictures.values()} == {(360, 640, 3)}
    [(title, fullest)] = fullest_frames(checkpoint.data(), [recording], number=3).items()
    t = int(np.bincount(recording.label_frame).argmax())
    assert title == f"{recording.name}, {recording.frame_end_us[t] / 1e6:.2f} s"
    assert fullest.any()


def test_size_weights_of_the_run_come_first(checkpoint, folder):
    weights, thresholds = size_weights(checkpoint)
    assert thresholds == (1024, 9216)
    assert list(weights) == ["this run: exponential", "linear", "step", "power", "gaussian"]
    at = np.array([0.0, 256, 1024, 10_000])
    own = [2.5, 2.5 * math.exp(-0.25), 1, 1]
    np.testing.assert_allclose(weights["this run: exponential"](at), own, atol=1e-6)
    np.testing.assert_allclose(weights["step"](at), [2.5, 2.5, 2.5, 1])


def test_adaptive_thresholds_come_from_the_checkpoint(folder, checkpoint):
    settings = {"size_aware_weight": 3.0, "adaptive_quantiles": [0.3, 0.6], "weight_type": "step"}
    tensors = torch.load(checkpoint.path, weights_only=True)
    tensors["provenance"] = {"config": {"model": {"loss": {"init_args": settings}}}}
    state = {"small_threshold": 100.0, "medium_threshold": 400.0, "adapted": True}
    tensors["state_dict"] |= {
        f"loss.size_weight.{name}": torch.tensor(value) for name, value in state.items()
    }
    path = folder / "adaptive.ckpt"
    torch.save(tensors, path)
    weights, thresholds = size_weights(read(path))
    assert thresholds == (100, 400)
    assert weights["this run: step"](np.array([99.0, 399, 401])).tolist() == [3, 2, 1]


def test_newest_checkpoints_come_first(tmp_path):
    paths = [tmp_path / name / "checkpoints" / "best.ckpt" for name in "abc"]
    for age, path in zip((20, 10, 30), paths, strict=True):
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert newest_checkpoints(tmp_path) == [paths[1], paths[0], paths[2]]
    assert newest_checkpoints(tmp_path / "nowhere") == []


def test_checkpoints_have_names_of_their_own(checkpoint):
    assert short_names(checkpoint) == ["size_aware/version_0/last"]
    names = short_names(checkpoint, checkpoint)
    assert names == ["size_aware/version_0/last (1)", "size_aware/version_0/last (2)"]


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        read(tmp_path / "missing.ckpt")


def test_tables_hold_the_metrics(evaluated):
    results = evaluated
    better = results | {"AP": results["AP"] + 0.25}
    table = comparison_table({"one": results, "two": better})
    rows = dict(zip(table.columns[0].cells, table.columns[3].cells, strict=True))
    assert rows["AP"] == "+0.250"
    assert rows["AP50"] == "+0.000"
    table = parameters_table({"a": 300, "b": 100})
    assert list(table.columns[1].cells) == ["300", "100", "400"]
    assert list(table.columns[2].cells) == ["75.0%", "25.0%", "100.0%"]
    table = settings_table({"a": {"b": "[/x]", "c": None}, "d": [2]})
    assert [str(cell) for cell in table.columns[0].cells] == ["a.b", "d"]
    assert [str(cell) for cell in table.columns[1].cells] == ["[/x]", "[2]"]


def test_heat_map_shows_metrics_and_differences(evaluated):
    results = evaluated | {"AP": 0.5, "AP_small": 0.25}
    texts = [text.get_text() for text in class_size_plot(results).axes[0].texts]
    assert texts[0].startswith("0.50 (")
    assert texts[1].startswith("0.25 (")
    assert any(text.startswith("–") for text in texts)  # no ground truth
    less = results | {"AP": 0.75}
    texts = [text.get_text() for text in class_size_plot(results, less).axes[0].texts]
    assert texts[0].startswith("-0.25 (")
    assert texts[1].startswith("+0.00 (")


def test_data_plots_show_what_is_there():
    frames = np.zeros((3, 4, 8, 10), np.uint8)
    frames[1, 2, 5, 7] = 9  # brighter, first bin of the second frame
    seconds = np.array([0.05, 0.1, 0.15])
    [image] = space_time_plot(frames, seconds, bins=2, window_ms=50).axes[0].images
    shown = np.asarray(image.get_array())
    assert shown.shape == (10, 6)
    assert shown[7, 2] == 9
    assert image.get_extent() == pytest.approx([0, 0.15, 10, 0])
    plot = channels_plot(frames[1], np.array([[6.0, 4, 9, 7]]), bins=2, window_ms=50)
    titles = [axes.get_title(loc="left") for axes in plot.axes[:4]]
    assert titles[0] == "darker, 0 to 25 ms"
    assert np.asarray(plot.axes[2].images[0].get_array()).sum() == 9
    assert channels_plot(frames[0], np.empty((0, 4)), bins=2, window_ms=50).axes
    sides, classes = np.array([8.0, 9, 40]), np.array([0, 0, 1])
    axes = sizes_plot(sides, classes, ("car", "bus"), (1024, 9216)).axes[0]
    assert [text.get_text() for text in axes.get_legend().texts] == ["car (2)", "bus (1)"]
    assert sum(patch.get_height() for patch in axes.patches) >= 3


def test_memory_plot_has_a_line_for_each_stage(checkpoint, recording):
    seen = observe(checkpoint, recording, num_frames=3)
    plot = memory_plot(seen.seconds, seen.frames, seen.hidden, seen.cell)
    assert [len(axes.lines) for axes in plot.axes] == [1, 4, 4]
    [given] = plot.axes[0].lines
    np.testing.assert_allclose(given.get_ydata(), seen.frames.sum(axis=(1, 2, 3)) / 1e3)
    assert as_picture(plot).shape[2] == 3
