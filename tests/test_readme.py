"""README's commands do what it says."""

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import time

import pytest

from etram_det.cli.commands import LIGHTNING_COMMANDS, TOOLS
from etram_det.cli.lightning import lightning_cli
from support.paths import ROOT

README = (ROOT / "README.md").read_text()
HANGS_S = 3600  # what takes longer does not end
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


def entries(text, heading):
    """Names under ``etram_det/`` in the tree below a heading."""
    tree = text.split(heading, 1)[1].split("```")[1]
    package = re.search(r"^etram_det/\n((?:  .*\n)+)", tree, re.MULTILINE)[1]
    return re.findall(r"^  ([\w.]+)/?(?= )", package, re.MULTILINE)


def test_the_map_of_contributing_is_the_tree():
    names = entries((ROOT / "CONTRIBUTING.md").read_text(), "## Where things live")
    found = {path.name for path in (ROOT / "etram_det").iterdir() if not path.name.startswith("_")}
    assert sorted(names) == sorted(found - {"py.typed"})


def test_the_tour_shows_every_room_and_configuration():
    rooms = {path.parent.name for path in (ROOT / "etram_det").glob("*/__init__.py")}
    assert rooms == set(entries(README, "## A tour"))
    tour = README.split("## A tour", 1)[1].split("```")[1]
    patterns = re.findall(r"[\w*/]+\.yaml", tour)
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert any(path.match(pattern) for pattern in patterns), path.name


@pytest.mark.gate
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
    """400 steps are a start on varied traffic: they reach an AP50 of about 0.2.

    How long it took is printed, not judged.
    """
    started, cpu_before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    configs = [f"--config={ROOT / 'configs' / name}.yaml" for name in ("small_objects", "quick")]
    program = [sys.executable, "-m", "etram_det"]
    environment = {**os.environ, "ETRAM_DET_CACHE": str(tmp_path / "cache")}
    where = {"cwd": tmp_path, "env": environment, "timeout": HANGS_S, "check": True}
    subprocess.run([*program, "fit", *configs], **where)
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = cpu.ru_utime + cpu.ru_stime - cpu_before.ru_utime - cpu_before.ru_stime
    print(f"\nfirst command: {time.monotonic() - started:.0f} s, {cpu_s:.0f} s of CPU time")

    run = tmp_path / "runs" / "small_objects"
    trained = json.loads((run / "version_0" / "metrics.json").read_text())
    assert trained["AP50"] >= 0.12
    assert trained["AP_small"] >= 0.015

    # The metrics on disk are those of the last validation.
    last = str(run / "version_0" / "checkpoints" / "last.ckpt")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    subprocess.run([*program, "validate", configs[0], "--ckpt_path", last], **where)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == made
    again = json.loads((run / "version_0" / "validate" / "metrics.json").read_text())
    for name in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_pedestrian"):
        assert again[name] == pytest.approx(trained[name], abs=1e-6)
