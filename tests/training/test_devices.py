"""Devices that are not there, do not compute what is asked for, or are too small: one line."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from etram_det.cli import lightning
from etram_det.cli.commands import run
from etram_det.errors import UserError
from etram_det.inference.pytorch_engine import PyTorchEngine
from etram_det.models.detector import Detector
from etram_det.training import devices
from etram_det.training.module import DetectionModule
from support.tiny_runs import SETTINGS, steps, write_data

SIZES = {"embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33}


@pytest.fixture
def old_card(monkeypatch):
    """A card without bfloat16, of 8 GiB."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda _: SimpleNamespace(total_memory=8 * 2**30, name="Tesla V100"),
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("accelerator", ["gpu", "cuda"])
def test_no_device_is_one_line(accelerator, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--trainer.accelerator", accelerator]) == 2
    assert " ".join(capsys.readouterr().err.split()) == (
        "etram_det: error: trainer.accelerator: must be a device that is there, got one that is "
        f"not ({devices.why_no_cuda()}): set trainer.accelerator to cpu or auto"
    )


def test_more_devices_than_there_are_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    text = "You requested gpu: [0, 1]\n But your machine only has: [0]"
    assert str(devices.in_own_words(MisconfigurationException(text))) == (
        "trainer.devices: must be devices that are there, 1 of them, got others (You requested "
        "gpu: [0, 1] But your machine only has: [0]): set trainer.devices to auto"
    )
    text = "`MPSAccelerator` can not run on your system"
    assert str(devices.in_own_words(MisconfigurationException(text))) == (
        f"trainer.accelerator: must be a device that is there, got one that is not ({text}): set "
        "trainer.accelerator to cpu or auto"
    )
    assert str(devices.in_own_words(MisconfigurationException("any\n other"))) == "any other"


def test_a_card_without_bfloat16_is_one_line(old_card):
    def trainer(device, precision):
        strategy = SimpleNamespace(root_device=torch.device(device))
        return SimpleNamespace(strategy=strategy, precision=precision)

    with pytest.raises(UserError) as error:
        devices.require_arithmetic(trainer("cuda:0", "bf16-mixed"))
    assert str(error.value) == (
        "trainer.precision: must be 16-mixed or 32-true on Tesla V100, which does not compute in "
        "bfloat16, got bf16-mixed: set 16-mixed"
    )
    for device, precision in (("cuda:0", "16-mixed"), ("cuda:0", "32-true"), ("cpu", "bf16-mixed")):
        devices.require_arithmetic(trainer(device, precision))


def test_a_stream_on_a_card_without_bfloat16_is_one_line(monkeypatch):
    from etram_det.models import arithmetic

    monkeypatch.setattr(arithmetic, "lacks_bfloat16", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    detector = Detector(num_classes=2, **SIZES)
    message = "precision: must be float32 on Tesla V100, which does not compute in bfloat16"
    with pytest.raises(UserError, match=message):
        PyTorchEngine(detector, "bfloat16")
    assert PyTorchEngine(detector).dtype == torch.float32


def kept_bytes(detector, lanes, steps):
    events = torch.zeros(steps, lanes, 20, 64, 96, dtype=torch.uint8)
    with devices.kept_for_backward() as kept:
        _ = detector(events)
    for parameter in detector.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_counted_of_a_lane_is_what_a_step_keeps(checkpointing):
    settings = SIZES | {"gradient_checkpointing": checkpointing}
    events = torch.empty(3, 1, 20, 64, 96, dtype=torch.uint8, device="meta")
    counted = devices.bytes_of_a_lane(Detector(num_classes=2, **settings).to("meta"), events)
    detector = Detector(num_classes=2, **settings)
    a_lane = kept_bytes(detector, 3, 3) - kept_bytes(detector, 2, 3)
    # Other kernels of the CPU keep other things; the device has two batches of frames as well.
    assert counted == pytest.approx(a_lane, rel=0.25)


def test_a_device_that_is_full_is_one_line_that_says_what_fits(old_card, monkeypatch):
    module = DetectionModule(class_names=("car", "bus"), **SIZES)
    data = SimpleNamespace(train_lanes=400, input_size=(360, 640), num_steps=5)
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    card = torch.device("cuda:0")
    assert devices.out_of_memory(full, torch.device("cpu"), module, data) is None
    assert devices.out_of_memory(RuntimeError("other"), card, module, data) is None
    words = devices.out_of_memory(full, card, module, data)
    assert words.startswith(
        "data.train_lanes: must fit into the 8 GiB of Tesla V100: of 400 lanes of 5 frames of "
        "640x360, by estimate "
    )
    assert words.endswith(": set data.train_lanes and these so")
    numbers = [
        int(word) for word in re.split("[ :]", words.split("by estimate")[1]) if word.isdecimal()
    ]
    full_precision, half, checkpointed, both = numbers
    assert 0 < full_precision < half < both
    assert full_precision < checkpointed < both < 400


def test_an_evaluation_that_fills_a_device_names_its_own_lanes(old_card):
    module = DetectionModule(class_names=("car", "bus"), **SIZES).eval()
    data = SimpleNamespace(eval_lanes=30, input_size=(360, 640), num_steps=5)
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    assert devices.out_of_memory(full, torch.device("cuda:0"), module, data) == (
        "data.eval_lanes: must fit into the 8 GiB of Tesla V100, got 30 lanes of 5 frames of "
        "640x360 in evaluation: lower data.eval_lanes (results stay the same), or set "
        "trainer.precision bf16-mixed"
    )


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("training_step", "data.train_lanes: must fit into the 8 GiB of Tesla V100: of 3 lanes"),
        ("validation_step", "data.eval_lanes: must fit into the 8 GiB of Tesla V100, got 2 lanes"),
    ],
)
def test_fit_on_a_full_device_says_what_fits(
    old_card, tmp_path, monkeypatch, capsys, step, expected
):
    monkeypatch.chdir(tmp_path)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(DetectionModule, step, full)
    asked = lightning.out_of_memory
    card = torch.device("cuda:0")
    monkeypatch.setattr(lightning, "out_of_memory", lambda e, _, *rest: asked(e, card, *rest))
    settings = [*SETTINGS, *steps(2, validation=1), "--data.root", str(tmp_path / "data")]
    write_data(tmp_path / "data")
    assert run(settings) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert f"error: {expected}" in error
    assert "Traceback" not in error
