from pathlib import Path

import pytest
import torch

from support.browser import browser  # noqa: F401
from support.forks import keep_forks_possible

# Two pytest workers share two cores.
torch.set_num_threads(1)
keep_forks_possible()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """Recordings of seconds, for tiny runs."""
    from support.tiny_runs import write_data  # there, as it imports all of the package

    root = tmp_path_factory.mktemp("recordings")
    write_data(root)
    return root


@pytest.fixture
def tiny_folder(tiny_data, tmp_path, monkeypatch):
    """A folder of its own with the recordings in it, for runs that start there."""
    monkeypatch.chdir(tmp_path)
    Path("data").symlink_to(tiny_data)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    return tmp_path


@pytest.fixture(scope="session")
def short_outcome(tiny_data, tmp_path_factory):
    """What the short run leaves that is never stopped."""
    from support.tiny_runs import SHORT, unbroken

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("unbroken"))
        Path("data").symlink_to(tiny_data)
        return unbroken(SHORT)


@pytest.fixture(scope="session")
def small_export(tmp_path_factory):
    """A small checkpoint, and what is exported of it for frames of one size."""
    from support.exported import small_export

    return small_export(tmp_path_factory, "fixed", input_size=(45, 80))


def pytest_ignore_collect(collection_path, config):
    """With ``-m gpu``, load no other tests: the machine may lack what they need."""
    if config.option.markexpr == "gpu" and collection_path.name.startswith("test_"):
        return collection_path.parent.name != "gpu" or None
    return None


def pytest_collection_modifyitems(config, items):
    """Give long tests their time; skip those for a CUDA device where there is none, and say why."""
    if config.pluginmanager.hasplugin("timeout"):
        for item in items:
            takes_long = item.get_closest_marker("slow") or item.get_closest_marker("gpu")
            if takes_long and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(3600))
    items = [item for item in items if item.get_closest_marker("gpu")]
    if not items:
        return
    from etram_det.training.devices import why_no_cuda

    if (reason := why_no_cuda()) is not None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=f"needs a CUDA device: {reason}"))
