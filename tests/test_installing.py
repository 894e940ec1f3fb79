"""The package as it is installed: from a wheel, and from a clone for those who change it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import etram_det
from support.paths import ROOT

# What is said where there is no pip, or neither hatchling nor an index to get it from.
NO_BACKEND = ("No module named pip", "Could not find a version that satisfies the requirement")


def pip(*arguments):
    isolation = (
        ["--no-build-isolation"] if find_spec("hatchling") and find_spec("editables") else []
    )
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, *map(str, arguments), "--no-deps", *isolation], capture_output=True, text=True
    )
    if any(words in done.stderr for words in NO_BACKEND):
        pytest.skip("hatchling is not installed, and there is no index to get it from")
    assert done.returncode == 0, done.stderr


def python(executable, folder, *arguments, **environment):
    """What a command prints that runs in a folder."""
    known = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [executable, *arguments],
        cwd=folder,
        env=known | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """What building needs, in a folder of the package's name."""
    folder = tmp_path / "above" / "etram_det"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("etram_det", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


def test_a_wheel_brings_its_configurations_and_runs_anywhere(clone, tmp_path):
    pip("wheel", clone, "--wheel-dir", tmp_path / "wheels")
    [wheel] = (tmp_path / "wheels").glob("*.whl")
    assert wheel.name.startswith(f"etram_det-{etram_det.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    required = {"etram_det/report/templates/page.html"}
    required |= {f"etram_det/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    required |= {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "etram_det").rglob("*")
        if path.suffix in (".py", ".html", ".typed")
    }
    assert required <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"etram_det"}
    assert any(name.endswith("licenses/LICENSE") for name in names)

    target, empty = tmp_path / "target", tmp_path / "empty"
    pip("install", wheel, "--target", target)
    empty.mkdir()
    ask = ["-c", "from etram_det.cli.flags import configurations; print(configurations())"]
    found = python(sys.executable, empty, *ask, PYTHONPATH=str(target))
    assert Path(found.strip()) == target / "etram_det" / "configs"
    command = ["-m", "etram_det", "fit", "--config", "size_aware", "--config", "quick"]
    shown = python(sys.executable, empty, *command, "--print_config", PYTHONPATH=str(target))
    config = yaml.safe_load(shown)
    assert config["trainer"]["max_steps"] == 400  # of quick
    assert config["trainer"]["gradient_clip_algorithm"] == "value"  # of the baseline
    assert config["model"]["loss"]["init_args"]["size_aware_weight"] == 2.5
    assert not list(empty.iterdir())


def test_an_editable_install_runs_above_the_clone_in_its_tests_and_anywhere(clone, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    executable = tmp_path / "venv" / "bin" / "python"
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    # What the package depends on, but no other editable install of it.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    pip("--python", executable, "install", "--editable", clone)
    (tmp_path / "empty").mkdir()
    ask = "import etram_det.cli.flags as flags; print(flags.configurations().resolve())"
    for folder in (clone.parent, clone / "tests", tmp_path / "empty"):
        shown = python(executable, folder, "-m", "etram_det", "--version")
        assert shown == f"etram_det {etram_det.__version__}\n"
        found = python(executable, folder, "-c", ask).strip()
        assert Path(found) == (clone / "configs").resolve()
