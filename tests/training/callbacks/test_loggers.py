"""What loggers get to show, read back from what they wrote."""

import csv
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning.callbacks import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from etram_det.cli.commands import run
from etram_det.cli.lightning import lightning_cli
from etram_det.cli.messages import message_and_code
from etram_det.drawing.frames import draw_boxes, draw_text, frame_image
from etram_det.training.callbacks.loggers import OptimisationMonitor
from etram_det.training.callbacks.validation_pictures import choose_frames
from support.paths import ROOT
from support.processes import BASE as DISTRIBUTED
from support.processes import run_in_processes
from support.raw_files import boxes_at, random_events, write_raw

STEPS = 4


def config(name):
    return ["--config", str(ROOT / "configs" / f"{name}.yaml")]


SMALL = [
    *("--model.embed_dim", "8", "--model.dim_head", "4", "--model.fpn_depth", "0.33"),
    *("--model.max_detections", "20", "--data.num_workers", "0", "--data.train_lanes", "2"),
    *("--data.input_size", "[48, 64]", "--data.num_steps", "2", "--trainer.max_steps", f"{STEPS}"),
    *("--trainer.val_check_interval", "2", "--trainer.num_sanity_val_steps", "1"),
    *("--trainer.log_every_n_steps", "2", "--trainer.accelerator", "cpu"),
    *("--model.warmup_share", "0.5", "--trainer.gradient_clip_val", "0.01"),
    *("--model.score_threshold", "0", "--pictures.score_threshold", "0"),
    *("--pictures.number", "5", "--results.video_s", "0", "--results.report", "false"),
]
VAL = {"val_day_0001": 0.8, "val_day_0002": 0.5, "val_night_0003": 0.6}


def write_split(folder, seconds):
    for i, (name, length) in enumerate(seconds.items()):
        boxes = [
            boxes_at([t], class_id=i, x=6.0 + 4 * i, y=4.0 + t / 1e5, w=10 + t / 4e4)
            for t in range(100_000, round(length * 1e6) + 1, 100_000)
        ]
        events = random_events(int(4000 * length), length + 0.05, seed=i)
        write_raw(folder, name, events, np.concatenate(boxes))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_split(root / "train", {"train_day_0001": 0.9, "train_night_0002": 0.6})
    write_split(root / "val", VAL)
    return root


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")


class Probe(Callback):
    """Looks at each step with its own eyes."""

    def __init__(self):
        self.rates, self.norms, self.areas = [], [], []

    def on_after_backward(self, trainer, pl_module):
        squares = [p.grad.double().square().sum() for p in pl_module.parameters()]
        self.norms.append(float(torch.stack(squares).sum().sqrt()))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        boxes = [batch.labels.of_frame(i)[0] for i in range(len(batch.labels))]
        sizes = torch.cat([each[:, 2:] - each[:, :2] for each in boxes]) if boxes else None
        self.areas.append(np.empty(0) if sizes is None else sizes.prod(dim=1).numpy())


@pytest.fixture(scope="module")
def probed(root, tmp_path_factory):
    """A run with a size-aware loss, and what was seen of it."""
    folder = tmp_path_factory.mktemp("probed")
    flags = [*config("size_aware"), *SMALL, "--data.root", str(root)]
    flags += ["--trainer.logger.save_dir", str(folder)]
    cli = lightning_cli(["fit", *flags], run=False)
    probe = Probe()
    cli.trainer.callbacks.append(probe)
    cli.trainer.fit(cli.model, cli.datamodule)
    return events_of(folder / "size_aware" / "version_0"), probe, cli


def events_of(folder):
    # All there is, not a sample of it.
    everything = dict.fromkeys(("images", "histograms", "scalars", "tensors"), 0)
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def fit(root, *flags, variant="size_aware"):
    assert run(["fit", *config(variant), *SMALL, "--data.root", str(root), *flags]) == 0


def picture_of(event):
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_learning_rate_and_gradient_norm_are_those_of_the_step(probed):
    events, probe, _ = probed
    rates, norms = events.Scalars("train/learning_rate"), events.Scalars("watch/gradient_norm")
    # Steps 2 and 4, which Lightning counts from 0.
    assert [each.step for each in rates] == [each.step for each in norms] == [1, 3]
    assert [each.value for each in rates] == pytest.approx([probe.rates[1], probe.rates[3]])
    assert [each.value for each in norms] == pytest.approx([probe.norms[1], probe.norms[3]])
    # Clipped to 0.01 for each parameter they could not be as large.
    num_parameters = sum(p.numel() for p in probed[2].model.parameters())
    assert max(probe.norms) > 0.01 * num_parameters**0.5
    assert rates[0].value != rates[1].value


def test_headline_scalars_stand_apart_from_all_others(probed):
    events, _, cli = probed
    folders = {}
    for tag in events.Tags()["scalars"]:
        folder, _, name = tag.partition("/")
        folders.setdefault(folder, set()).add(name)
    speeds = {"steps_per_second", "frames_per_second"}
    assert folders["train"] == {"loss", "learning_rate"} | speeds
    sizes = {"AP_small"}  # the labels have no other size, and no track ids
    assert folders["val"] == {"AP", "AP50", "AR", "AP_day", "AP_night"} | sizes
    others = {"box_loss", "objectness_loss", "class_loss", "gradient_norm", "epoch"}
    assert others <= folders["watch"]
    assert {"AP_car", "AR_VH"} <= folders["val_by_class"]
    assert {"AP_car_small", "AP50_car_small"} <= folders["val_by_class_and_size"]
    assert {"AP50_small", "AP75_small", "AR_small"} == folders["val_by_size"]
    assert {"AP50_night", "AP75_day", "AR_day"} <= folders["val_by_day"]
    assert folders["val_more"] == {"AP75", "AR1", "AR10"}
    # TensorBoard sorts folders by name and opens the first two.
    assert sorted(folders)[:2] == ["train", "val"]
    assert "val/PR50_car" in events.Tags()["tensors"]
    # Checkpoints, sweeps and early stopping monitor them by their plain names.
    monitored = cli.trainer.callback_metrics
    assert {"train/loss", "train/box_loss", "val/AP", "val/AP_car_small"} <= set(monitored)
    assert cli.model.metric.settings.metric_folders.keys() == set(
        cli.model.metric.settings.metric_names
    )


def test_speed_is_of_the_training_alone(probed):
    events, _, cli = probed
    steps, frames = (
        [each.value for each in events.Scalars(f"train/{name}_per_second")]
        for name in ("steps", "frames")
    )
    # Two lanes of two frames a step.
    assert np.array(frames) == pytest.approx(4 * np.array(steps), rel=1e-6)
    first, last = events.Scalars("train/loss")
    # The second is of steps 3 and 4; between them and the first lies a validation, which takes
    # longer than both.
    assert steps[1] > 2 / (last.wall_time - first.wall_time)


@pytest.fixture
def monitor(monkeypatch):
    """A monitor whose clock is set by hand, and what it logs."""
    clock, logged = [0.0], []
    monkeypatch.setattr("etram_det.training.callbacks.loggers.perf_counter", lambda: clock[0])
    module = SimpleNamespace(
        loss=SimpleNamespace(size_weight=None),
        log_dict=lambda values, **_: logged.append({k: float(v) for k, v in values.items()}),
    )
    return OptimisationMonitor(), module, clock, logged


def test_validations_and_accumulated_batches_are_left_out_of_the_speed(monitor):
    monitor, module, clock, logged = monitor
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=2, world_size=3, loggers=[])
    batch = SimpleNamespace(events=np.empty((5, 4, 0)), labels=[])
    monitor.on_train_start(trainer, module)
    for half_step in range(1, 9):  # two batches make a step
        clock[0] += 1.0
        trainer.global_step = half_step // 2
        monitor.on_train_batch_end(trainer, module, None, batch, 0)
        if half_step == 6:
            monitor.on_validation_start(trainer, module)
            clock[0] += 100.0
            monitor.on_validation_end(trainer, module)
    speed = {"train/steps_per_second": 0.5, "train/frames_per_second": 5 * 4 * 3}
    assert logged == [speed, speed]


def test_histogram_holds_the_weights_of_the_labels_since_the_last_one(probed):
    events, probe, _ = probed
    shown = events.Histograms("watch/size_weight")
    assert [each.step for each in shown] == [2, 4]
    for i, each in enumerate(shown):
        areas = np.concatenate(probe.areas[2 * i : 2 * i + 2])
        weights = np.clip(2.5 * np.exp(-areas / 1024), 1, 2.5)
        of_event = each.histogram_value
        assert of_event.num == len(weights) > 0
        assert of_event.min == pytest.approx(weights.min(), rel=1e-5)
        assert of_event.max == pytest.approx(weights.max(), rel=1e-5)
        assert of_event.sum == pytest.approx(weights.sum(), rel=1e-5)


def test_pictures_show_fixed_frames_by_day_and_night(probed):
    events, _, cli = probed
    tags = events.Tags()["images"]
    # Two of each recording but the last in turn, at the middles of halves; none of the sanity check
    assert tags == [
        "val_frames/val_day_0001_0.30s",
        "val_frames/val_day_0001_0.70s",
        "val_frames/val_day_0002_0.30s",
        "val_frames/val_night_0003_0.20s",
        "val_frames/val_night_0003_0.50s",
    ]
    for tag in tags:
        assert [each.step for each in events.Images(tag)] == [2, 4]


def test_a_picture_holds_frame_labels_and_detections(probed):
    events, _, cli = probed
    recording = cli.datamodule.recordings["val"][0]
    index = recording.frame_end_us.tolist().index(300_000)
    picture = frame_image(recording.frames(index, index + 1)[0]).repeat(10, 0).repeat(10, 1)
    labels, classes = recording.boxes(index)
    draw_boxes(picture, labels * 10, classes, cli.model.class_names, dashed=True)
    frames = cli.model.metric.result.frames
    [place] = np.flatnonzero((frames.recording == recording.name) & (frames.time_us == 300_000))
    found = frames.detections.select(frames.detections.frame == place)
    found = found.select(np.argsort(-found.scores, kind="stable"))
    assert len(found) > 0
    names = cli.model.class_names
    draw_boxes(picture, found.boxes * 10, found.classes, names, found.scores)
    draw_text(picture, "val_day_0001 0.30s", (0, 0))
    [_, shown] = events.Images("val_frames/val_day_0001_0.30s")
    assert np.array_equal(picture_of(shown), picture)


def test_hyper_parameters_are_resolved_and_stand_beside_the_metrics(probed):
    events, probe, cli = probed
    content = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    logged = content.session_start_info.hparams
    assert logged["model.loss"].string_value == "SizeAwareLossWrapper"
    assert logged["model.loss.box"].string_value == "IOULoss"
    assert logged["model.loss.weight_type"].string_value == "exponential"
    assert logged["model.loss.weighted_terms"].string_value == "box"
    assert logged["model.loss.size_aware_weight"].number_value == 2.5
    assert logged["model.loss.small_threshold"].number_value == 1024
    # Unset in the configuration: it follows from two lanes.
    assert logged["model.learning_rate"].number_value == pytest.approx(1e-4)
    assert logged["data.input_size"].string_value == "48, 64"
    assert logged["trainer.max_steps"].number_value == STEPS
    experiment = HParamsPluginData.FromString(
        events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    ).experiment
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"val/AP", "val/AP50", "val/AP_small", "val/AR"} <= metrics
    # TensorBoard takes the last scalar of the same name, which must be there, and real.
    assert metrics <= set(events.Tags()["scalars"])
    assert [each.step for each in events.Scalars("val/AP")] == [1, 3]


def test_accumulated_batches_share_a_histogram(root):
    flags = ["--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "3"]
    fit(root, *flags, "--pictures.number", "0", "--trainer.log_every_n_steps", "1")
    events = events_of("runs/size_aware/version_0")
    assert [each.step for each in events.Histograms("watch/size_weight")] == [1, 2, 3]
    assert [each.step for each in events.Scalars("watch/gradient_norm")] == [0, 1, 2]


def test_watching_changes_no_result(root, probed):
    fit(root, "--pictures.number", "0", "--trainer.logger", "false")
    [path] = Path().rglob("last.ckpt")
    plain = torch.load(path, weights_only=True)["state_dict"]
    for name, tensor in probed[2].model.state_dict().items():
        assert plain[name].equal(tensor), name


def test_a_baseline_has_no_weights_and_pictures_stay_within_what_is_validated(root):
    # One batch of two lanes: the first two frames of the two longest recordings.
    fit(root, "--trainer.limit_val_batches", "1", variant="baseline")
    tags = events_of("runs/baseline/version_0").Tags()
    assert tags["histograms"] == []
    assert "watch/gradient_norm" in tags["scalars"]
    assert tags["images"] == ["val_frames/val_day_0001_0.10s", "val_frames/val_night_0003_0.10s"]


@pytest.mark.parametrize(
    ("flag", "value"), [("number", "-1"), ("score_threshold", "1.5"), ("score_threshold", "-0.1")]
)
def test_settings_out_of_range_are_refused(flag, value, root, capfd):
    flags = [*config("size_aware"), *SMALL, "--data.root", str(root)]
    assert run(["fit", *flags, f"--pictures.{flag}", value]) == 2
    assert f"pictures.{flag}" in capfd.readouterr().err


def test_choice_takes_day_and_night_in_turns():
    frames = ["a_day_1"] * 5 + ["b_day_2"] * 3 + ["c_night_3"] * 4
    assert choose_frames(frames, 0) == []
    assert choose_frames(frames, 1) == [2]
    assert choose_frames(frames, 2) == [2, 10]
    assert choose_frames(frames, 3) == [2, 6, 10]
    assert choose_frames(frames, 4) == [1, 3, 6, 10]
    assert choose_frames(frames, 100) == list(range(12))


@given(
    st.dictionaries(st.sampled_from(["x", "u_day", "v_day", "w_night"]), st.integers(1, 9)),
    st.integers(0, 40),
)
def test_choice_is_even_and_as_large_as_asked_for(lengths, number):
    frames = [name for name, length in lengths.items() for _ in range(length)]
    chosen = choose_frames(frames, number)
    assert len(chosen) == len(set(chosen)) == min(number, len(frames))
    counts = {name: sum(frames[i] == name for i in chosen) for name in lengths}
    for name, count in counts.items():
        # No recording has two more than another that still has frames to give.
        assert all(count <= counts[n] + 1 or counts[n] == lengths[n] for n in lengths), name


def test_csv_takes_the_place_of_tensorboard(root):
    fit(root, *config("log_csv"), variant="size_aware_adaptive")
    folder = Path("runs/size_aware_adaptive/version_0")
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    norms = [row["train/gradient_norm"] for row in rows if row["train/gradient_norm"]]
    precisions = [float(row["val/AP"]) for row in rows if row["val/AP"]]
    assert len(norms) == len(precisions) == 2
    results = json.loads((folder / "metrics.json").read_text())
    assert precisions[-1] == pytest.approx(results["AP"], abs=1e-7)
    assert not list(folder.glob("events.out*"))
    # Thresholds that follow the labels are logged as they were computed.
    logged = yaml.safe_load((folder / "hparams.yaml").read_text())
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert logged["model.loss.weight_type"] == "step"
    for name in ("small_threshold", "medium_threshold"):
        computed = float(state[f"loss.size_weight.{name}"])
        assert logged[f"model.loss.{name}"] == pytest.approx(computed)
    assert logged["model.loss.small_threshold"] != 1024


def wandb_records(path):
    """The records of a W&B file: a log of LevelDB's form, behind seven bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if place % 32768 > 32768 - 7:
            place += -place % 32768  # too little of the block is left for a header
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


@pytest.mark.gate
def test_wandb_gets_metrics_pictures_curves_and_settings_offline(root, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(root, *config("log_wandb"))
    wandb.finish()  # which a program does at its end
    # Beside TensorBoard, which keeps its run folder.
    assert list(Path("runs/size_aware/version_0").glob("events.out*"))
    records, until = [], time.monotonic() + 600
    while not any(each.HasField("exit") for each in records) and time.monotonic() < until:
        time.sleep(0.1)  # its own process still writes
        paths = list(Path("runs/wandb").glob("offline-run-*/*.wandb"))
        records = [record for path in paths for record in wandb_records(path)]
    [path] = paths
    history, settings, projects = {}, {}, set()
    for record in records:
        projects |= {record.run.project} - {""}
        settings |= {each.key: json.loads(each.value_json) for each in record.config.update}
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            history.setdefault(name, []).append(json.loads(item.value_json))
    assert projects == {"etram_size_aware"}
    assert settings["model.loss.weight_type"] == "exponential"
    assert settings["model.learning_rate"] == pytest.approx(1e-4)
    results = json.loads(Path("runs/size_aware/version_0/metrics.json").read_text())
    assert history["val/AP50"][-1] == pytest.approx(results["AP50"], abs=1e-7)
    events = events_of("runs/size_aware/version_0")
    norms = [each.value for each in events.Scalars("watch/gradient_norm")]
    assert history["train/gradient_norm"] == pytest.approx(norms)
    counted = [each.histogram_value.num for each in events.Histograms("watch/size_weight")]
    assert [sum(each) for each in history["train/size_weight/values"]] == counted
    for tag in events.Tags()["images"]:
        [[first], [last]] = history[f"{tag}/filenames"]
        picture = np.asarray(Image.open(path.parent / "files" / last).convert("RGB"))
        assert np.array_equal(picture, picture_of(events.Images(tag)[-1]))
    [[curves], _] = history["val/PR50/filenames"]
    assert Image.open(path.parent / "files" / curves).size == (990, 440)


def test_wandb_without_a_login_is_reported_in_a_line():
    wandb = pytest.importorskip("wandb")
    error = wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")
    assert message_and_code(error) == (
        "trainer.logger: W&B cannot be used (No API key configured. Use `wandb login` to log in.): "
        "run `wandb login`, set WANDB_MODE=offline, or leave log_wandb.yaml out",
        2,
    )


def test_wandb_that_is_not_installed_is_reported_in_a_line(root, monkeypatch, capfd):
    monkeypatch.setattr("etram_det.training.callbacks.loggers.find_spec", lambda name: None)
    flags = [*config("size_aware"), *SMALL, *config("log_wandb"), "--data.root", str(root)]
    assert run(["fit", *flags]) == 2
    [line] = [line for line in capfd.readouterr().err.splitlines() if "error:" in line]
    assert "pip install 'etram-det[wandb]'" in line
    assert not Path("runs").exists()


@pytest.mark.slow
def test_two_processes_show_the_pictures_of_both(root, tmp_path):
    flags = ["--data.root", str(root), "--pictures.number", "3"]
    run_in_processes(2, tmp_path / "two", ["fit", *DISTRIBUTED, *flags])
    run_in_processes(1, tmp_path / "one", ["fit", *DISTRIBUTED, *flags])
    of_both, alone = (
        events_of(tmp_path / name / "runs" / "size_aware" / "version_0").Tags()["images"]
        for name in ("two", "one")
    )
    assert of_both == alone
    assert {tag.split("/")[1][:-6] for tag in of_both} == set(VAL)
