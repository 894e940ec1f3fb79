import shutil

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser

from etram_det.data.augment import AugmentSettings
from etram_det.data.datamodule import EventDataModule
from etram_det.data.labels import ETRAM3_CLASSES, ETRAM_CLASSES
from etram_det.errors import UserError
from etram_det.simulator.dataset import SimulationSettings
from support.paths import REFERENCE

SMALL = {"input_size": (90, 160), "num_steps": 4, "train_lanes": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def raw_root(tmp_path_factory):
    """The reference recordings, where the readers may put an index beside them."""
    return shutil.copytree(REFERENCE / "raw_etram", tmp_path_factory.mktemp("raw") / "root")


def data_module(root, **settings):
    return EventDataModule(root=str(root), **{**SMALL, **settings})


def batches_of(root, stage="fit", loader="train_dataloader", **settings):
    data = data_module(root, **settings)
    data.setup(stage)
    return list(getattr(data, loader)())


def fingerprint(batches):
    return [
        (
            batch.events.numpy().tobytes(),
            batch.labels.frame.tolist(),
            batch.labels.boxes.tolist(),
            batch.labels.classes.tolist(),
            batch.reset.tolist(),
            batch.time_us.tolist(),
            batch.recording,
        )
        for batch in batches
    ]


class Probe(pl.LightningModule):
    """Looks at what Lightning hands on: no network."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def _look(self, batch, batch_idx):
        self.seen.append((self.trainer.current_epoch, batch.time_us.tolist()))
        return self.weight.sum()

    training_step = predict_step = _look

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**settings):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", **quiet, **settings)


def test_batches_of_a_raw_folder(raw_root):
    data = data_module(raw_root)
    data.setup("fit")
    assert (data.num_classes, data.in_channels, data.input_size) == (8, 20, (90, 160))
    (recording,) = data.recordings["train"]
    batches = list(data.train_dataloader())
    assert len(batches) == -(-len(recording) // 4)
    for batch in batches:
        assert batch.events.shape == (4, 2, 20, 90, 160)
        assert batch.stream.tolist() == [True, False]
    assert sum(len(batch.labels) for batch in batches) > 0
    assert batches[0].scale.tolist() == [[8, 8], [8, 8]]


def test_evaluation_scores_each_labelled_frame_once(raw_root):
    data = data_module(raw_root, eval_lanes=3)
    data.setup("validate")
    (recording,) = data.recordings["val"]
    batches = list(data.val_dataloader())
    times = torch.cat([batch.time_us[~batch.padded] for batch in batches])
    np.testing.assert_array_equal(times, recording.frame_end_us)
    assert sum(len(batch.labels) for batch in batches) == recording.labelled.sum()
    assert not any(batch.padded.flatten()[batch.labels.frame].any() for batch in batches)
    assert all(batch.lane.tolist() == [0] for batch in batches)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_equal_for_0_1_and_3_workers(raw_root):
    expected = fingerprint(batches_of(raw_root))
    assert fingerprint(batches_of(raw_root, num_workers=1)) == expected
    assert fingerprint(batches_of(raw_root, num_workers=3)) == expected
    spawned = batches_of(raw_root, num_workers=1, multiprocessing_context="spawn")
    assert fingerprint(spawned) == expected
    assert fingerprint(batches_of(raw_root, seed=1)) != expected


def test_loaders_leave_the_random_numbers_of_training_alone(raw_root):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    batches_of(raw_root, num_workers=1)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("lanes", [1, 3, 5])
@pytest.mark.parametrize("sampling", ["stream", "random"])
def test_any_number_of_lanes_shares_one_recording(raw_root, lanes, sampling):
    batches = batches_of(raw_root, train_lanes=lanes, sampling=sampling)
    assert {len(batch.lane) for batch in batches} == {lanes}
    assert {sum(batch.stream.tolist()) for batch in batches} == {lanes * (sampling == "stream")}


def test_augmentation_can_be_turned_off(raw_root):
    plain = batches_of(raw_root, sampling="stream", augmentation=AugmentSettings(enabled=False))
    zoomed = batches_of(raw_root, sampling="stream", augmentation=AugmentSettings(stream_zoom=1))
    for before, after in zip(plain, zoomed, strict=True):
        assert torch.equal(before.time_us, after.time_us)
    # Zooming out loses events at nearest neighbours, and never adds any.
    totals = [sum(int(batch.events.sum()) for batch in run) for run in (plain, zoomed)]
    assert totals[1] < totals[0]


def test_zooming_out_keeps_the_events_where_it_adds_them_up(raw_root):
    settings = {"sampling": "stream", "count_cutoff": 255}
    plain, summed = (
        batches_of(raw_root, **settings, augmentation=AugmentSettings(stream_zoom=zoom, **chosen))
        for zoom, chosen in ((0, {}), (1, {"zoom_out": "sum", "zoom_out_max": 2.0}))
    )
    for before, after in zip(plain, summed, strict=True):
        assert before.events.sum() == after.events.sum() > 0
        assert not torch.equal(before.events, after.events)
    low = batches_of(
        raw_root, sampling="stream", count_cutoff=2,
        augmentation=AugmentSettings(stream_zoom=1, zoom_out="sum", zoom_out_max=2.0),
    )  # fmt: skip
    assert max(int(batch.events.max()) for batch in low) == 2


def test_events_can_be_dropped_from_counts_only():
    drops = AugmentSettings(event_drop=0.5)
    EventDataModule(augmentation=drops)
    EventDataModule(
        augmentation=AugmentSettings(event_drop=0.5, enabled=False), representation="mixed_density"
    )
    with pytest.raises(
        UserError,
        match=(
            r"^data\.augmentation\.event_drop: must be 0 with data\.representation mixed_density, "
            r"whose values are no counts, got 0\.5: set it to 0$"
        ),
    ):
        EventDataModule(augmentation=drops, representation="mixed_density")


def test_lightning_plans_each_epoch_anew(raw_root):
    probe = Probe()
    data = data_module(raw_root, num_workers=1)
    trainer(max_epochs=2, limit_val_batches=0).fit(probe, datamodule=data)
    epochs = [[times for epoch, times in probe.seen if epoch == wanted] for wanted in (0, 1)]
    expected = data.train_dataloader()
    for epoch in (0, 1):
        expected.batch_sampler.set_epoch(epoch)
        assert epochs[epoch] == [batch.time_us.tolist() for batch in expected]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("label_phase", ["first", "random"])
def test_a_run_that_goes_on_plans_its_own_epoch(label_phase, raw_root, tmp_path):
    whole, resumed = Probe(), Probe()
    first = trainer(max_epochs=1, limit_val_batches=0)
    first.fit(Probe(), datamodule=data_module(raw_root, label_phase=label_phase))
    first.save_checkpoint(tmp_path / "first.ckpt")
    data = data_module(raw_root, label_phase=label_phase)
    trainer(max_epochs=3, limit_val_batches=0).fit(whole, datamodule=data)
    # With workers, chunks are asked for before Lightning sets the epoch.
    data = data_module(raw_root, num_workers=1, label_phase=label_phase)
    trainer(max_epochs=3, limit_val_batches=0).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "first.ckpt"
    )
    assert data.resumes_exactly
    assert resumed.seen == [seen for seen in whole.seen if seen[0] > 0]
    shifted = {min(time_us % 50_000 for time_us, _ in seen[1]) // 10_000 for seen in whole.seen}
    assert len(shifted) == (1 if label_phase == "first" else 3)


def test_prediction_needs_no_labels(raw_root, tmp_path, recwarn):
    (tmp_path / "test").mkdir()
    (events,) = (raw_root / "test").glob("*_td.h5")
    shutil.copy(events, tmp_path / "test")
    probe = Probe()
    data = data_module(tmp_path)
    trainer().predict(probe, datamodule=data, return_predictions=False)
    (recording,) = data.recordings["predict"]
    assert len(probe.seen) == -(-len(recording) // 4)
    assert not [warning for warning in recwarn if "custom batch sampler" in str(warning.message)]
    with pytest.raises(UserError, match=events.stem.removesuffix("_td")):
        data.setup("test")


@pytest.mark.parametrize(
    ("layout", "downsample", "times"),
    [("preprocessed", "sum", 2), ("preprocessed", "nearest", 0), ("raw", "sum", 0)],
)
def test_frames_that_are_stored_already_are_reported(layout, downsample, times, raw_root, caplog):
    root = raw_root if layout == "raw" else REFERENCE / "preprocessed_etram"
    with caplog.at_level("INFO"):
        data_module(root, input_size=(360, 640), downsample=downsample).setup("fit")
    line = "data.downsample: sum has no effect on frames that are stored already"
    found = [each for each in caplog.messages if line in each]
    assert found == [f"train: train_day_0001: {line}", f"val: val_night_0001: {line}"][:times]


def test_without_a_root_traffic_is_simulated_once(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path))
    tiny = SimulationSettings(height=90, width=160, train=2, val=1, test=0, seconds=0.5)
    for number in (1, 2):
        data = EventDataModule(**{**SMALL, "input_size": (45, 80)}, simulation=tiny)
        with caplog.at_level("INFO"):
            data.prepare_data()
            data.setup("fit")
            data.prepare_data()
        assert number == 1 or capsys.readouterr() == ("", "")  # no bar where nothing is made
        assert len(data.recordings["train"]) == 2
        (root,) = tmp_path.glob("simulated-*")
        made = "made now and kept" if number == 1 else "kept"
        assert [record.getMessage() for record in caplog.records] == [
            f"data.root is not set: using simulated traffic, {made} in {root}"
        ]
        caplog.clear()
        capsys.readouterr()


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_missing_root_is_no_simulated_traffic(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = data_module(name)
    data.prepare_data()
    with pytest.raises(UserError, match=rf"^data\.root: .*{name}.*$"):
        data.setup("fit")


def test_an_empty_split_is_named(raw_root, tmp_path):
    shutil.copytree(raw_root / "train", tmp_path / "train")
    data = data_module(tmp_path)
    with pytest.raises(UserError, match=r"^data\.root: no val recordings under .*train.*$"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_steps": 0}, r"^data\.num_steps: must be at least 1, got 0: raise it$"),
        ({"train_lanes": 0}, r"^data\.train_lanes: must be at least 1, got 0: raise it$"),
        ({"eval_lanes": -1}, r"^data\.eval_lanes: must be at least 1, got -1: raise it$"),
        ({"num_workers": -1}, r"^data\.num_workers: must be at least 0, got -1: raise it$"),
        ({"seed": -1}, r"^data\.seed: must be at least 0, got -1: raise it$"),
        ({"train_lanes": 1}, r"^data\.train_lanes: must be at least 2 .* mixed, got 1: .*$"),
        ({"class_names": "coco"}, r"^data\.class_names: must be names or .*got coco: use "),
        ({"bins": 0}, r"^data\.bins: must be at least 1, got 0: raise it$"),
    ],
)
def test_settings_out_of_range_are_named(setting, message):
    with pytest.raises(UserError, match=message):
        data_module("anywhere", **setting)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ETRAM_CLASSES),
        (["--data.class_names", "etram3"], ETRAM3_CLASSES),
        (["--data.class_names", '["car", "cyclist"]'], ("car", "cyclist")),
    ],
)
def test_settings_can_be_given_on_the_command_line(given, expected):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EventDataModule, "data")
    flags = ["--data.augmentation.flip=0.25", "--data.simulation.train=3", "--data.root=x", *given]
    data = parser.instantiate_classes(parser.parse_args(flags)).data
    assert data.class_names == expected
    assert data.augmentation == AugmentSettings(flip=0.25)
    assert data.simulation.train == 3


def test_each_setting_is_explained_in_the_help():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(EventDataModule, "data")
    settings = parser.format_help().split("  --data.")[1:]
    assert len(settings) > 35
    # Each entry goes on with its meaning, before the type in brackets.
    unexplained = [entry.split()[0] for entry in settings if "\n" not in entry.split("(type:")[0]]
    assert unexplained == []


def test_areas_of_the_training_labels_are_those_of_their_boxes(raw_root):
    data = data_module(raw_root)
    data.setup("fit")
    [recording] = data.recordings["train"]
    frames = [recording.boxes(i) for i in np.flatnonzero(recording.labelled)]
    sides = np.concatenate([boxes[:, 2:] - boxes[:, :2] for boxes, _ in frames])
    areas = recording.label_areas()
    np.testing.assert_allclose(np.sort(areas), np.sort(sides.prod(axis=1)), rtol=1e-4)


def test_dropped_boxes_are_counted_by_reason(raw_root):
    data = data_module(raw_root, filters=["min_side_5"])
    data.setup("validate")
    [recording] = data.recordings["val"]
    recording.dropped["events: outside the sensor"] = 7
    stored = len(np.load(raw_root / "val" / "val_night_0001_bbox.npy"))
    dropped = data.dropped_boxes("val")
    assert set(dropped) == {"outside the frame", "min_side_5", "between label times"}
    assert sum(dropped.values()) == stored - len(recording.label_boxes) > 0
    assert data.dropped_boxes("test") == {}
