"""The package as it is installed: from a wheel, and from a clone for those who change it."""

import os
import re
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
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    (folder / "tests").symlink_to(ROOT / "tests")
    return folder


@pytest.mark.gate
def test_a_wheel_brings_its_configurations_and_runs_anywhere(clone, tmp_path):
    pip("wheel", clone, "--wheel-dir", tmp_path / "wheels")
    [wheel] = (tmp_path / "wheels").glob("*.whl")
    assert wheel.name.startswith(f"etram_det-{etram_det.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    # Templates, styles and the package's checkpoint included.
    files = [path.relative_to(clone).as_posix() for path in clone.rglob("*") if path.is_file()]
    required = {each for each in files if each.startswith("etram_det/")}
    required |= {f"etram_det/{each}" for each in files if each.startswith("configs/")}
    assert "etram_det/pretrained/simulated_traffic.ckpt" in required
    assert "etram_det/configs/experiments/small_objects.yaml" in required
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


@pytest.fixture
def empty_venv(tmp_path):
    """An environment of its own that sees the packages of this one, but no install of ours."""
    venv.create(tmp_path / "venv", symlinks=True)
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return tmp_path / "venv" / "bin" / "python", packages


def build(folder, output, *kinds):
    """What hatchling builds of a folder."""
    if find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed")
    targets = [word for kind in kinds for word in ("-t", kind)]
    python(sys.executable, folder, "-m", "hatchling", "build", "-d", str(output), *targets)
    return sorted(output.iterdir())


def test_sdist_and_wheel_pass_the_check_of_the_index(clone, tmp_path):
    pytest.importorskip("twine")
    wheel, sdist = build(clone, tmp_path / "dist", "sdist", "wheel")
    checked = python(
        sys.executable, tmp_path, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist
    )
    assert checked.count("PASSED") == 2
    version = etram_det.__version__
    assert sdist.name == f"etram_det-{version}.tar.gz"
    # What the sdist builds is what the clone builds.
    shutil.unpack_archive(sdist, tmp_path / "sdist")
    [again] = build(tmp_path / "sdist" / f"etram_det-{version}", tmp_path / "again", "wheel")
    names, names_again = (zipfile.ZipFile(file).namelist() for file in (wheel, again))
    assert sorted(names) == sorted(names_again)


@pytest.mark.gate
def test_the_wheel_goes_over_the_torch_that_is_there(clone, empty_venv, tmp_path):
    executable, packages = empty_venv
    [wheel] = build(clone, tmp_path / "dist", "wheel")
    # All of its dependencies must be there already, in versions that suit it.
    command = [sys.executable, "-m", "pip", "--python", executable, "--disable-pip-version-check"]
    done = subprocess.run(
        [*map(str, command), "install", "--no-index", "--quiet", str(wheel)],
        capture_output=True,
        text=True,
    )
    if any(words in done.stderr for words in NO_BACKEND[:1]):
        pytest.skip("there is no pip")
    assert done.returncode == 0, done.stderr
    installed = {path.name.split("-")[0] for path in packages.glob("*.dist-info")}
    assert installed == {"etram_det"}
    shown = python(executable, tmp_path, "-c", "import etram_det, torch; print(torch.__file__)")
    assert Path(shown.strip()).is_relative_to(sysconfig.get_paths()["purelib"])
    shown = python(executable, tmp_path, "-m", "etram_det", "--version")
    assert shown == f"etram_det {etram_det.__version__}\n"


def test_the_version_is_the_same_everywhere():
    version = etram_det.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    newest = re.search(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest.groups() == (version, str(citation["date-released"]))


def test_the_workflow_runs_the_gate_on_each_supported_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["gate"]
    project = (ROOT / "pyproject.toml").read_text()
    first, last = map(int, re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups())
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(first, last)]
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    # What pytest leaves out by itself is run after it, but for what is slow or needs a device.
    assert {"pytest", "pytest -m gate"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


@pytest.mark.gate
def test_an_editable_install_runs_above_the_clone_in_its_tests_and_anywhere(
    clone, empty_venv, tmp_path
):
    executable, _ = empty_venv
    pip("--python", executable, "install", "--editable", clone)
    (tmp_path / "empty").mkdir()
    ask = "import etram_det.cli.flags as flags; print(flags.configurations().resolve())"
    for folder in (clone.parent, clone / "tests", tmp_path / "empty"):
        shown = python(executable, folder, "-m", "etram_det", "--version")
        assert shown == f"etram_det {etram_det.__version__}\n"
        found = python(executable, folder, "-c", ask).strip()
        assert Path(found) == (clone / "configs").resolve()
