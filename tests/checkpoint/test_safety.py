"""No file makes the program run code: every way in, tried with a file that would leave a mark."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from damage.cases import FIT, Payload
from etram_det.checkpoint.file import read_checkpoint
from etram_det.cli.commands import run
from etram_det.data.labels import load_array
from etram_det.errors import UserError
from etram_det.training.callbacks.run_checkpoint import AtomicCheckpointIO
from support.paths import ROOT

RAW = str(ROOT / "tests" / "reference" / "raw_etram")
PACKAGE = ROOT / "etram_det"


@pytest.fixture
def mark(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    # A user's own wish to load everything does not reach this program.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()


def test_the_mark_is_left_where_code_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    torch.save({"state_dict": {"a": Payload()}}, tmp_path / "evil.ckpt")
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert (tmp_path / "canary").exists()


def evil_checkpoint():
    torch.save({"state_dict": {"a": Payload()}, "hyper_parameters": {}}, "evil.ckpt")
    return "evil.ckpt"


COMMANDS = {
    "resume": lambda path: [*FIT, "--data.root", RAW, "--ckpt_path", path],
    "fine-tune": lambda path: [*FIT, "--data.root", RAW, "--model.init_from", path],
    "validate": lambda path: ["validate", *FIT[1:], "--data.root", RAW, "--ckpt_path", path],
    "test": lambda path: ["test", *FIT[1:], "--data.root", RAW, "--ckpt_path", path],
    "predict": lambda path: ["predict", *FIT[1:], "--data.root", RAW, "--ckpt_path", path],
    "import-rvt": lambda path: ["import-rvt", "--checkpoint", path, "--output", "new.ckpt"],
    "checkpoint": lambda path: ["checkpoint", path],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_checkpoint_holds(mark, command, capfd):
    assert run(COMMANDS[command](evil_checkpoint())) == 2
    error = capfd.readouterr().err
    [line] = [line for line in error.splitlines() if "error:" in line]
    assert "evil.ckpt: must hold only tensors and plain values" in line
    assert "Traceback" not in error


@pytest.mark.slow
def test_last_and_best_are_read_in_the_same_way(mark, capfd):
    folder = Path("runs") / "size_aware" / "version_0" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("last", "best"):
        Path(evil_checkpoint()).rename(folder / f"{name}.ckpt")
        code = run([*FIT, "--data.root", RAW, "--ckpt_path", name])
        assert code == 2, name
        assert "must hold only tensors and plain values" in capfd.readouterr().err
    assert run([*FIT, "--data.root", RAW, "--resume", "auto"]) in (0, 2)


def test_lightning_reads_as_we_do(mark):
    with pytest.raises(UserError, match="must hold only tensors and plain values"):
        AtomicCheckpointIO().load_checkpoint(evil_checkpoint(), weights_only=False)


def test_flag_that_would_allow_code_is_not_there(mark, capfd):
    sound = [*FIT, "--data.root", RAW, "--weights_only", "false"]
    assert run(sound) == 2
    assert "weights_only" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["evil.npy", "evil.npz"])
def test_pickled_arrays_are_refused(mark, name):
    evil = np.array([Payload()], dtype=object)
    if name.endswith("z"):
        np.savez(name, boxes=evil)
    else:
        np.save(name, evil, allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as a NumPy file"):
        load_array(Path(name), "boxes" if name.endswith("z") else None)


def test_placeholders_run_nothing(mark):
    path = evil_checkpoint()
    with pytest.raises(UserError):
        read_checkpoint(path, ignored=("pathlib.PosixPath",))


def calls_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            keywords = {each.arg: ast.unparse(each.value) for each in node.keywords}
            yield ast.unparse(node.func), keywords


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_reader_in_the_package_is_a_safe_one(path):
    for name, keywords in calls_of(ast.parse(path.read_text(encoding="utf-8"))):
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"
        elif name in ("np.load", "numpy.load"):
            assert keywords.get("allow_pickle", "False") == "False"
        elif name.startswith("yaml."):
            assert not name.endswith((".load", ".unsafe_load", ".full_load", ".load_all"))
        assert not name.endswith(("load_from_checkpoint", "read_pickle"))
        assert name.split(".")[0] not in ("pickle", "dill", "joblib", "marshal", "shelve")
        assert name not in ("eval", "exec", "os.system", "__import__")
