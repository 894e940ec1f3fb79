"""What was cleaned while reading is logged: by name, with its numbers, and once."""

import pytest
import pytorch_lightning as pl
import torch

from etram_det.data.datamodule import EventDataModule
from etram_det.training.callbacks.recording_faults import DroppedEvents
from support.raw_files import boxes_at, random_events, write_raw


class Blind(pl.LightningModule):
    """Looks at batches and learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Each split with a clean recording, a faulty one, and one whose clock jumped."""
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    for split in ("train", "val", "test"):
        for name in ("clean", "faulty", "jump"):
            events = random_events(1000)
            if name == "faulty":
                events["y"][[3, 500, 800]] = 33014
                events["t"][4] = events["t"][6] + 1  # two timestamps are repaired: 0.2 %
            if name == "jump":
                events["t"][600] += 10**9
            labels = boxes_at([100_000 * i for i in range(1, 10)])
            write_raw(tmp_path / split, f"{split}_{name}", events, labels)
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_is_logged_once_and_with_its_numbers(root, num_workers, caplog):
    data = EventDataModule(
        root=str(root), input_size=(24, 32), num_workers=num_workers, sampling="stream"
    )
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "callbacks": [DroppedEvents()]},
        **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
        enable_model_summary=False,
    )
    trainer.fit(Blind(), data)
    logged = [m for m in caplog.messages if "timestamp" in m or "outside" in m]
    words = "_jump: 40% of its events have an earlier timestamp than"
    jumps = [f"{split}{words}" for split in ("train", "val")]
    assert sorted(m.split(" the event before")[0] for m in logged if "timestamp" in m) == jumps
    assert [m for m in logged if "outside" in m] == [
        f"{split}: 3 events outside the sensor were dropped: 3 of {split}_faulty"
        for split in ("val", "train")
    ]

    caplog.clear()
    trainer.test(Blind(), data)
    trainer.predict(Blind(), data, return_predictions=False)
    assert [m.split(" of ")[0] for m in caplog.messages if "outside" in m] == [
        f"{split}: 3 events outside the sensor were dropped: 3" for split in ("test", "predict")
    ]
