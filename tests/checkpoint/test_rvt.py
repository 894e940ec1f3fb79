"""From RVT's checkpoint to detections, fine-tuning and back to one line where it does not fit."""

import json
import re
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from etram_det.boxes import BOX_DTYPE
from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.checkpoint.rvt import IGNORED_GLOBALS, rename_rvt
from etram_det.cli.commands import run
from etram_det.cli.lightning import lightning_cli
from etram_det.data.labels import CLASS_NAMES_OF
from etram_det.models.detector import Detector
from support import rvt

CHECKPOINT = rvt.REFERENCE / "rvt_reference.ckpt"
# RVT's presets: embed_dim, dim_head, fpn_depth.
PRESETS = {"tiny": (32, 32, 0.33), "small": (48, 24, 0.33), "base": (64, 32, 0.67)}
BASELINE = rvt.REFERENCE.parent.parent / "configs" / "baseline.yaml"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))


def in_rvts_names(tensors):
    """A detector's tensors as RVT names them, written out layer by layer."""
    num_scales = len({name.split(".")[2] for name in tensors if name.startswith("head.stems.")})
    fpn = {
        2: {"reduce.0": "lateral_conv0", "merge_down.0": "C3_p4"}
        | {"downsample.0": "bu_conv1", "merge_up.0": "C3_n4"},
        3: {"reduce.1": "lateral_conv0", "merge_down.1": "C3_p4"}
        | {"downsample.1": "bu_conv1", "merge_up.1": "C3_n4"}
        | {"reduce.0": "reduce_conv1", "merge_down.0": "C3_p3"}
        | {"downsample.0": "bu_conv2", "merge_up.0": "C3_n3"},
        4: {"reduce.2": "lateral_conv0", "merge_down.2": "C3_p4"}
        | {"downsample.2": "bu_conv1", "merge_up.2": "C3_n4"}
        | {"reduce.1": "reduce_conv1", "merge_down.1": "C3_p3"}
        | {"downsample.1": "bu_conv2", "merge_up.1": "C3_n3"}
        | {"reduce.0": "reduce_conv2", "merge_down.0": "C3_p2"}
        | {"downsample.0": "bu_conv3", "merge_up.0": "C3_n2"},
    }[num_scales]
    words = {
        "class_branches": "cls_convs",
        "box_branches": "reg_convs",
        "class_outputs": "cls_preds",
        "box_outputs": "reg_preds",
        "objectness_outputs": "obj_preds",
        "qkv": "self_attn.qkv",
        "projection": "self_attn.proj",
        "scale1": "ls1",
        "scale2": "ls2",
    }
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            name = re.sub(r"(stages\.\d)\.(downsample)\.", r"\1.downsample_cf2cl.conv.", name)
            name = re.sub(r"(stages\.\d)\.norm\.", r"\1.downsample_cf2cl.norm.", name)
            if name.endswith(("lstm.weight", "lstm.bias")):
                name = name.replace("lstm.", "lstm.conv1x1.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
            if block := re.search(r"attention\.(\d+)", name):
                kind = ("window", "grid")[int(block[1]) % 2]
                name = name.replace(block[0], f"att_blocks.{int(block[1]) // 2}.att_{kind}")
            name = name.replace("mlp.0", "mlp.net.0.0").replace("mlp.2", "mlp.net.2")
        else:
            name = name.replace(".norm.", ".bn.")
            for ours, theirs in fpn.items():
                name = name.replace(f"fpn.{ours}.", f"fpn.{theirs}.")
            name = name.replace(".process.", ".conv1.").replace(".bypass.", ".conv2.")
            name = re.sub(r"(C3_[np]\d)\.merge\.", r"\1.conv3.", name)
            name = re.sub(r"bottlenecks\.(\d)\.0\.", r"m.\1.conv1.", name)
            name = re.sub(r"bottlenecks\.(\d)\.1\.", r"m.\1.conv2.", name)
            name = re.sub(r"^head\.", "yolox_head.", name)
        for ours, theirs in words.items():
            name = re.sub(rf"\b{ours}\b", theirs, name)
        renamed[f"mdl.{name}"] = tensor
    return renamed


def small_detector(**settings):
    torch.manual_seed(0)
    sizes = {"num_classes": 8, "embed_dim": 8, "dim_head": 4, "fpn_depth": 0.33}
    detector = Detector(**(sizes | {"layer_scale_init": 0.5} | settings)).eval()
    for name, tensor in detector.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return detector


def import_rvt(source, *flags, output="ours.ckpt"):
    return run(["import-rvt", "--checkpoint", str(source), "--output", output, *flags])


def saved(state_dict, path="rvt.ckpt", **rest):
    torch.save({"state_dict": state_dict, **rest}, path)
    return path


def reference_tensors():
    return dict(read_checkpoint(CHECKPOINT).tensors)


def detector_of(path):
    checkpoint = read_checkpoint(path)
    settings = checkpoint.settings
    names = settings.pop("class_names")
    detector = Detector(num_classes=len(names), **settings).eval()
    detector.load_state_dict(checkpoint.detector_tensors)
    return detector, names


def write_labelled(root, size, scale, num_classes):
    """One recording of RVT's layout with a large box of each class in its last frame."""
    folder = root / "test" / "sequence"
    frames = folder / "event_representations_v2" / "stacked_histogram_dt=50_nbins=10"
    frames.mkdir(parents=True)
    (folder / "labels_v2").mkdir()
    suffix = "_ds2_nearest" if scale == 2 else ""
    with h5py.File(frames / f"event_representations{suffix}.h5", "w") as file:
        file["data"] = np.ones((3, 20, *size), np.uint8)
    np.save(frames / "timestamps_us.npy", np.array([500_000, 550_000, 600_000]))
    np.save(frames / "objframe_idx_2_repr_idx.npy", np.array([2]))
    boxes = np.zeros(num_classes, BOX_DTYPE)
    boxes["t"], boxes["class_id"] = 600_000, np.arange(num_classes)
    boxes["x"], boxes["y"], boxes["w"], boxes["h"] = 20, 30, 15 * scale, 26 * scale
    np.savez(folder / "labels_v2/labels.npz", labels=boxes, objframe_idx_2_label_idx=np.array([0]))


def write_recordings(root):
    """The two lanes of the reference's events as recordings in RVT's layout, without labels."""
    events = rvt.arrays()["events"].numpy()
    for lane in range(events.shape[1]):
        folder = root / "test" / f"lane_{lane}" / "event_representations_v2"
        folder /= "stacked_histogram_dt=50_nbins=10"
        folder.mkdir(parents=True)
        with h5py.File(folder / "event_representations.h5", "w") as file:
            file["data"] = events[:, lane]
        np.save(folder / "timestamps_us.npy", (np.arange(len(events)) + 1) * 50_000)


def fitting(*flags):
    """A command's settings for the reference's frames of 120x124 pixels."""
    return [
        *("--config", str(BASELINE), "--data.root", "data", "--data.input_size", "[120, 124]"),
        *("--data.num_workers", "0", "--data.count_cutoff", "255", "--trainer.accelerator", "cpu"),
        *flags,
    ]


def test_import_then_predict_equals_rvt(tmp_path):
    write_recordings(tmp_path / "data")
    assert import_rvt(CHECKPOINT, "--dim-head", "4") == 0
    settings = ["--model.score_threshold", "0.1", "--model.nms_threshold", "0.45"]
    settings += ["--model.protocol", "prophesee"]  # boxes as RVT leaves them, beyond the frame too
    assert run(["predict", *fitting("--ckpt_path", "ours.ckpt", *settings)]) == 0
    num_compared = 0
    for lane in range(2):
        boxes = np.load(f"runs/evaluations/predict/predictions/lane_{lane}_bbox.npy")
        for step in range(3):
            found = boxes[boxes["t"] == (step + 1) * 50_000]
            left, top, right, bottom, objectness, confidence, class_id = (
                rvt.arrays()[f"det_conf0.1_{2 * step + lane}"].numpy().T
            )
            columns = [left, top, right - left, bottom - top, objectness * confidence, class_id]
            expected = np.stack(columns, axis=1)
            names = ("x", "y", "w", "h", "class_confidence", "class_id")
            actual = np.stack([found[name].astype(np.float32) for name in names], axis=1)
            assert len(actual) == len(expected)
            distance = np.abs(actual[:, None] - expected[None]).max(axis=-1, initial=0)
            assert (distance.min(axis=0, initial=9) < 1e-3).all()
            assert (distance.min(axis=1, initial=9) < 1e-3).all()
            num_compared += len(expected)
    assert num_compared == sum(len(rvt.arrays()[f"det_conf0.1_{i}"]) for i in range(6)) > 100


@pytest.mark.parametrize(
    ("preset", "class_names", "size", "scale"),
    [
        pytest.param("gen1", "gen1", (240, 304), 1, marks=pytest.mark.gate),
        pytest.param("1mpx", "1mpx", (360, 640), 2, marks=pytest.mark.gate),
        ("etram_fork", "etram3", (360, 640), 2),
    ],
)
def test_imported_weights_run_on_their_data_set(preset, class_names, size, scale, tmp_path):
    num_classes = len(CLASS_NAMES_OF[class_names])
    write_labelled(tmp_path / "data", size, scale, num_classes)
    tensors = in_rvts_names(
        small_detector(num_classes=num_classes, fpn_stages=(2, 3, 4)).state_dict()
    )
    assert import_rvt(saved(tensors), "--dim-head", "4", "--class-names", class_names) == 0
    configs = [BASELINE, BASELINE.with_name(f"preset_{preset}.yaml")]
    flags = ["--ckpt_path", "ours.ckpt", "--data.root", "data", "--data.num_workers", "0"]
    flags += [*(f"--config={path}" for path in configs), "--trainer.accelerator", "cpu"]
    assert run(["test", *flags]) == 0
    metrics = json.loads(Path("runs/evaluations/test/metrics.json").read_text())
    # A box of 15x26 px has a diagonal of just 30, as Gen1's protocol wants it; twice that, 60.
    assert metrics["num_boxes"] == num_classes
    for name in CLASS_NAMES_OF[class_names]:
        assert f"AP_{name}" in metrics


def test_every_tensor_arrives_bit_for_bit():
    assert import_rvt(CHECKPOINT, "--dim-head", "4") == 0
    detector, names = detector_of("ours.ckpt")
    assert names[0] == "pedestrian"
    assert len(names) == 8
    expected = rvt.detector().state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in detector.state_dict().items())
    back = in_rvts_names(detector.state_dict())
    reference = reference_tensors()
    assert back.keys() == reference.keys()
    assert all(back[name].equal(reference[name]) for name in back)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("data_set", "partition_split"), [("gen1", 1), ("1mpx", 2)])
def test_official_sizes_are_read_off_the_tensors(preset, data_set, partition_split, monkeypatch):
    embed_dim, dim_head, depth = PRESETS[preset]
    num_classes = {"gen1": 2, "1mpx": 3}[data_set]
    sizes = {"embed_dim": embed_dim, "dim_head": dim_head, "fpn_depth": depth}
    with torch.device("meta"):
        detector = Detector(num_classes=num_classes, fpn_stages=(2, 3, 4), **sizes)
    tensors = {n: torch.zeros(x.shape, dtype=x.dtype) for n, x in detector.state_dict().items()}
    written = {}
    monkeypatch.setattr(
        "etram_det.tools.import_rvt.write_checkpoint", lambda path, content: written.update(content)
    )
    monkeypatch.setattr(
        "etram_det.tools.import_rvt.read_checkpoint",
        lambda *_: Checkpoint({"state_dict": in_rvts_names(tensors)}),
    )
    flags = ["--class-names", data_set] if num_classes == 3 else []
    assert import_rvt("rvt.ckpt", *flags) == 0
    settings = written["hyper_parameters"]
    assert {name: settings[name] for name in sizes} == sizes
    assert settings["partition_split"] == partition_split
    assert settings["fpn_stages"] == [2, 3, 4]
    assert settings["in_channels"] == 20
    assert settings["num_blocks"] == [1, 1, 1, 1]
    assert len(settings["class_names"]) == num_classes


def plain_pyramid(tensors, features):
    """The fork's four-scale pyramid, line by line, by the fork's own names."""

    def conv(x, name, stride=1):
        layer = f"mdl.fpn.{name}"
        weight = tensors[f"{layer}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        statistics = (tensors[f"{layer}.bn.running_{which}"] for which in ("mean", "var"))
        x = F.batch_norm(x, *statistics, tensors[f"{layer}.bn.weight"], tensors[f"{layer}.bn.bias"])
        return F.silu(x)

    def block(x, y, name):
        x = torch.cat([x, y], dim=1)
        half = conv(conv(conv(x, f"{name}.conv1"), f"{name}.m.0.conv1"), f"{name}.m.0.conv2")
        return conv(torch.cat([half, conv(x, f"{name}.conv2")], dim=1), f"{name}.conv3")

    def up(x):
        return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)

    x4, x8, x16, x32 = features
    lateral16 = conv(x32, "lateral_conv0")
    lateral8 = conv(block(up(lateral16), x16, "C3_p4"), "reduce_conv1")
    lateral4 = conv(block(up(lateral8), x8, "C3_p3"), "reduce_conv2")
    out4 = block(up(lateral4), x4, "C3_p2")
    out8 = block(conv(out4, "bu_conv3", 2), lateral4, "C3_n2")
    out16 = block(conv(out8, "bu_conv2", 2), lateral8, "C3_n3")
    return out4, out8, out16, block(conv(out16, "bu_conv1", 2), lateral16, "C3_n4")


@torch.no_grad()
def test_the_fourth_scale_of_the_fork():
    source = in_rvts_names(small_detector().state_dict())
    assert {"mdl.fpn.C3_p2.conv1.conv.weight", "mdl.fpn.bu_conv3.conv.weight"} <= source.keys()
    assert import_rvt(saved(source), "--dim-head", "4") == 0
    detector, _ = detector_of("ours.ckpt")
    features, _ = detector.features(rvt.arrays()["events"])
    for ours, theirs in zip(detector.fpn(features), plain_pyramid(source, features), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_partition_of_gen1():
    """Official Gen1 weights saw 256x320 pixels in cells of 8x10."""
    tensors = in_rvts_names(small_detector(num_classes=2, fpn_stages=(2, 3, 4)).state_dict())
    assert import_rvt(saved(tensors), "--dim-head", "4") == 0
    detector, names = detector_of("ours.ckpt")
    assert names == ["car", "pedestrian"]
    seen = set()
    for stage in detector.backbone.stages:
        stage.attention[0].register_forward_pre_hook(lambda _, args: seen.add(args[1]))
    _, state = detector(torch.zeros(1, 1, 20, 240, 304, dtype=torch.uint8))
    assert seen == {(8, 10)}
    assert state[0][0].shape[-2:] == (64, 80)


def as_trained_by_rvt():
    """What stands beside the weights under PyTorch 2.0: a method, its schedule, its optimiser."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9)
    state = {"anneal_func": schedule.get_lr, "last_epoch": 3}
    progress = {"epoch": 4, "global_step": 1}
    return {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [state], **progress}


def test_a_training_checkpoint_of_rvt_is_imported():
    source = saved(reference_tensors(), **as_trained_by_rvt())
    found = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    assert {"builtins.getattr", "torch.optim.lr_scheduler.OneCycleLR"} <= set(found)
    assert import_rvt(source, "--dim-head", "4") == 0
    assert read_checkpoint("ours.ckpt").optimizer_states == []
    assert torch.serialization.get_unsafe_globals_in_checkpoint("ours.ckpt") == []


class Code:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return (open, ("created", "w"))


class System:
    def __reduce__(self):
        import os

        return (os.system, ("touch created",))


class Getattr:
    def __reduce__(self):
        return (getattr, (types.SimpleNamespace, "__init__"))


def changed(change):
    tensors = reference_tensors()
    change(tensors)
    return saved(tensors)


def tensors_with(name, *shape):
    return changed(lambda tensors: tensors.update({name: torch.zeros(*shape)}))


def written(content):
    with open("rvt.ckpt", "wb") as file:
        file.write(content)
    return "rvt.ckpt"


STAGE = "mdl.backbone.stages.0."
# Name: (source of the checkpoint, further flags, what the line must say)
MISTAKES = {
    "missing file": (lambda: "none.ckpt", [], ["none.ckpt", "no file"]),
    "text": (lambda: written(b"not a checkpoint"), [], ["must be a checkpoint that PyTorch wrote"]),
    "empty": (lambda: written(b""), [], ["cannot be read as a checkpoint"]),
    "cut short": (lambda: written(CHECKPOINT.read_bytes()[:300_000]), [], ["copy it again"]),
    "code": (lambda: saved(reference_tensors(), x=Code()), [], ["io.open", "could run code"]),
    "shell": (lambda: saved(reference_tensors(), x=System()), [], ["system", "could run code"]),
    "code among the ignored": (
        lambda: saved(reference_tensors(), x=Getattr()),
        [],
        ["types.SimpleNamespace", "could run code"],
    ),
    "no state_dict": (lambda: torch.save({"model": {}}, "rvt.ckpt") or "rvt.ckpt", [], ["none in"]),
    "a list": (
        lambda: saved({"weights": [1, 2]}),
        [],
        ["state_dict.weights must be Tensor, got [1, 2]"],
    ),
    "another network": (
        lambda: saved({"conv1.weight": torch.zeros(3)}),
        [],
        ["mdl.backbone.stages.", "conv1.weight"],
    ),
    "our own": (
        lambda: saved({"detector.head.x": torch.zeros(3)}),
        [],
        ["project's own", "--ckpt_path"],
    ),
    "missing tensor": (
        lambda: changed(lambda tensors: tensors.pop(f"{STAGE}lstm.conv1x1.bias")),
        [],
        ["lacks backbone.stages.0.lstm.bias (so named here)"],
    ),
    "missing size": (
        lambda: changed(lambda tensors: tensors.pop("mdl.yolox_head.cls_preds.0.weight")),
        [],
        ["head.class_outputs.0.weight", "got none"],
    ),
    "no scales": (
        lambda: changed(lambda t: [t.pop(n) for n in list(t) if "stems" in n]),
        [],
        ["needs the tensor head.stems.0.conv.weight (so named here)", "got none"],
    ),
    "not finite": (
        lambda: changed(lambda t: t[f"{STAGE}lstm.conv1x1.bias"].fill_(float("nan"))),
        [],
        [f"{STAGE}lstm.conv1x1.bias must hold finite numbers", "use an earlier checkpoint"],
    ),
    "extra tensor": (lambda: tensors_with("mdl.fpn.extra.weight", 3), [], ["mdl.fpn.extra.weight"]),
    "other shape": (
        lambda: tensors_with(f"{STAGE}downsample_cf2cl.norm.weight", 9),
        [],
        [f"{STAGE}downsample_cf2cl.norm.weight", "(8,)", "(9,)"],
    ),
    "patches without overlap": (
        lambda: tensors_with(f"{STAGE}downsample_cf2cl.conv.weight", 8, 20, 4, 4),
        [],
        ["downsample_cf2cl.conv", "(8, 20, 7, 7)", "(8, 20, 4, 4)"],
    ),
    "masked tokens": (
        lambda: tensors_with(f"{STAGE}mask_token", 1, 1, 1, 8),
        [],
        [f"{STAGE}mask_token", "enable_masking"],
    ),
    "depthwise LSTM": (
        lambda: tensors_with(f"{STAGE}lstm.conv3x3_dws.weight", 8, 1, 3, 3),
        [],
        ["conv3x3_dws", "dws_conv"],
    ),
    "gated MLP": (
        lambda: tensors_with(f"{STAGE}att_blocks.0.att_window.mlp.net.0.proj.weight", 32, 8),
        [],
        ["mlp.net.0.proj", "mlp_gated"],
    ),
    "attention without bias": (
        lambda: changed(lambda t: [t.pop(n) for n in list(t) if n.endswith("qkv.bias")]),
        [],
        ["attention.0.qkv.bias", "and 6 more"],
    ),
    "class count": (lambda: CHECKPOINT, ["--class-names", "gen1"], ["class_names", "8", "2"]),
    "class named twice": (
        lambda: CHECKPOINT,
        ["--class-names", "[a, a, b, c, d, e, f, g]"],
        ["8 different names"],
    ),
    "three classes": (
        lambda: saved(in_rvts_names(small_detector(num_classes=3).state_dict())),
        [],
        ["--class-names", "1mpx or etram3"],
    ),
    "head width": (lambda: CHECKPOINT, ["--dim-head", "5"], ["dim_head", "5"]),
    "no head width": (lambda: CHECKPOINT, None, ["--dim-head", "embed_dim 8"]),
    "partition": (lambda: CHECKPOINT, ["--partition-split", "3"], ["partition_split", "3"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_one_line_and_no_file(mistake, tmp_path, capfd):
    make, flags, words = MISTAKES[mistake]
    source = make()
    before = sorted(tmp_path.iterdir())
    flags = [] if flags is None else ["--dim-head", "4", *flags]
    assert import_rvt(source, *flags) == 2
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert "Traceback" not in error
    for word in words:
        assert word in lines[0]
    # Neither an output, nor a part of one, nor what the code in a file would have made.
    assert sorted(tmp_path.iterdir()) == before


def test_an_output_that_is_there_is_kept(tmp_path, capfd):
    (tmp_path / "ours.ckpt").write_text("mine")
    assert import_rvt(CHECKPOINT, "--dim-head", "4") == 2
    assert "ours.ckpt is there already" in capfd.readouterr().err
    assert (tmp_path / "ours.ckpt").read_text() == "mine"


def test_an_output_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert import_rvt(CHECKPOINT, "--dim-head", "4", output="file/ours.ckpt") == 2
    assert "file/ours.ckpt: cannot be written" in capfd.readouterr().err


def test_damage_anywhere_in_the_pickle_ends_with_one_line(tmp_path, capfd):
    content = bytearray(CHECKPOINT.read_bytes())
    start = content.index(b"mdl.backbone")
    generator = np.random.default_rng(0)
    for _ in range(40):
        damaged = content.copy()
        for place in generator.integers(start - 200, start + 4000, 20):
            damaged[place] = generator.integers(256)
        assert import_rvt(written(damaged), "--dim-head", "4") in (0, 2)
        assert "Traceback" not in capfd.readouterr().err
        (tmp_path / "ours.ckpt").unlink(missing_ok=True)


def test_ignored_names_are_neither_imported_nor_called():
    """A module of one of the names is there, and raises an error if it is touched."""
    assert all("." in name for name in IGNORED_GLOBALS)
    touched = []

    class DictConfig:
        def __init__(self):
            self.settings = {"a": 1}

        def __setstate__(self, state):
            touched.append(state)

    DictConfig.__module__, DictConfig.__qualname__ = "omegaconf.dictconfig", "DictConfig"
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = DictConfig
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
        patch.setitem(sys.modules, "omegaconf.dictconfig", module)
        saved(reference_tensors(), hyper_parameters=DictConfig())
        assert import_rvt("rvt.ckpt", "--dim-head", "4") == 0
    assert not touched


def test_rename_leaves_no_name_of_rvts():
    names = " ".join(rename_rvt(reference_tensors()))
    for word in "mdl yolox C3_ bu_conv lateral _convs _preds self_attn bn".split():
        assert word not in names


def test_imported_weights_follow_their_own_architecture(tmp_path):
    write_recordings(tmp_path / "data")
    assert import_rvt(CHECKPOINT, "--dim-head", "4", "--partition-split", "1") == 0
    cli = lightning_cli(["fit", *fitting()], run=False)
    assert cli.model.hparams["partition_split"] == 2
    assert run(["predict", *fitting("--ckpt_path", "ours.ckpt")]) == 0
    config = (tmp_path / "runs/evaluations/predict/config.yaml").read_text()
    assert "partition_split: 1" in config
    assert "embed_dim: 8" in config
