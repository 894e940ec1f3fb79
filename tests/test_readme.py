"""README's commands do what it says."""

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest

from etram_det.cli.commands import LIGHTNING_COMMANDS, TOOLS
from etram_det.cli.lightning import lightning_cli
from support.paths import ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python -m etram_det [^\n`]+", README)


def arguments_of(command):
    """What follows `python -m etram_det`, comments and line ends aside."""
    return shlex.split(command, comments=True)[3:]


def test_every_command_exists_and_is_listed():
    used = {arguments_of(command)[0] for command in COMMANDS} - {"COMMAND"}
    assert used >= {"fit", "validate"}
    assert used <= LIGHTNING_COMMANDS.keys() | TOOLS.keys()
    for name in (*LIGHTNING_COMMANDS, *TOOLS):
        assert f"`{name}`" in README


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--config" in c])
def test_every_configured_command_parses(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, *settings = arguments_of(command)
    if "--ckpt_path" in settings:
        place = settings.index("--ckpt_path")
        del settings[place : place + 2]
    cli = lightning_cli(["fit", *settings, "--trainer.precision", "32-true"], run=False)
    assert cli.model.class_names == cli.datamodule.class_names


def test_files_and_folders_that_it_names_exist():
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / path).exists(), path
    tour = README.split("## A tour", 1)[1].split("```")[1]
    for name in re.findall(r"[\w*]+\.(?:yaml|py)", tour):
        assert list(ROOT.rglob(name)), name


def test_the_module_is_a_program():
    program = [sys.executable, "-m", "etram_det"]
    done = subprocess.run([*program, "fit", "--data.lanes", "1"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "lanes" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*program, "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("etram_det ")


@pytest.mark.slow
def test_the_first_command_trains_a_detector(tmp_path):
    """Within 6 minutes on 2 cores: AP50 of at least 0.30, small objects found."""
    started = time.monotonic()
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("size_aware", "quick")]
    program = [sys.executable, "-m", "etram_det"]
    environment = {**os.environ, "ETRAM_DET_CACHE": str(tmp_path / "cache")}
    subprocess.run([*program, "fit", *configs], cwd=tmp_path, env=environment, check=True)
    assert time.monotonic() - started < 360

    run = tmp_path / "runs" / "size_aware"
    trained = json.loads((run / "version_0" / "metrics.json").read_text())
    assert trained["AP50"] >= 0.30
    assert trained["AP_small"] > 0.05

    # The figures on disk are those of the last validation.
    last = str(run / "version_0" / "checkpoints" / "last.ckpt")
    subprocess.run(
        [*program, "validate", *configs, "--ckpt_path", last],
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    again = json.loads((run / "version_1" / "metrics.json").read_text())
    for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_pedestrian"):
        assert again[name] == pytest.approx(trained[name], abs=1e-6)
