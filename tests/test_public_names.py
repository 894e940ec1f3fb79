"""What `etram_det` offers a script: names that are imported when they are used, with examples."""

import ast
import doctest
import subprocess
import sys

import pytest

import etram_det
from support.paths import ROOT

HEAVY = {
    "torch",
    "numpy",
    "numba",
    "pytorch_lightning",
    "matplotlib",
    "cv2",
    "h5py",
    "jsonargparse",
}
WITH_EXAMPLES = {
    "Detector",
    "EventDataModule",
    "SizeAwareFocalLoss",
    "SizeAwareIOULoss",
    "SizeAwareLossWrapper",
    "SizeBinnedMAP",
    "StreamingDetector",
    "open_recording",
    "simulate",
}
NAMES = {
    *WITH_EXAMPLES,
    "Batch",
    "DetectionModule",
    "Detections",
    "FrameSettings",
    "LabelSettings",
    "Labels",
    "SimulationSettings",
    "UserError",
}


def test_the_public_names_are_listed_and_typed():
    assert set(etram_det.__all__) == {*NAMES, "__version__"}
    assert set(dir(etram_det)) >= NAMES
    # Type checkers see what the lazy import gives.
    typed = {}
    for node in ast.walk(ast.parse((ROOT / "etram_det" / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("etram_det."):
            typed |= {alias.asname: node.module for alias in node.names}
    assert typed.keys() == NAMES
    for name in NAMES:
        assert getattr(etram_det, name).__module__ == typed[name]
    assert (ROOT / "etram_det" / "py.typed").is_file()


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'etram_det' has no attribute 'Detektor'"):
        _ = etram_det.Detektor
    with pytest.raises(ImportError, match="cannot import name 'Detektor'"):
        from etram_det import Detektor  # noqa: F401


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, etram_det; dir(etram_det); print(*{HEAVY} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_overview_of_the_commands_loads_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "etram_det", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "Each command explains its settings with --help." in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "etram_det.cli.commands" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_examples_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    # Only what the example itself imports, as in a reader's own script.
    (example, *_) = doctest.DocTestFinder(recurse=False).find(getattr(etram_det, name), globs={})
    failed, tried = doctest.DocTestRunner().run(example)
    assert failed == 0, capsys.readouterr().out
    assert tried > 0 or name not in WITH_EXAMPLES
