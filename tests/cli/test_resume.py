"""Which run `--resume auto` goes on from, and that it reads no other checkpoint."""

import copy
import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from etram_det import errors
from etram_det.checkpoint import file
from etram_det.cli import resume
from etram_det.models import losses
from support.paths import REFERENCE

OLD_RUN = REFERENCE / "run_0.1.0"
CONFIG = json.loads((OLD_RUN / "provenance.json").read_text())["config"] | {"resume": "auto"}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)


def run_folder(number, change=None, age_s=0):
    """A copy of the old run, in whose configuration something was changed."""
    folder = Path("runs/size_aware") / f"version_{number}"
    shutil.copytree(OLD_RUN, folder)
    facts = json.loads((folder / "provenance.json").read_text())
    if change is not None:
        change(facts["config"])
    (folder / "provenance.json").write_text(json.dumps(facts))
    last = folder / "checkpoints" / "last.ckpt"
    os.utime(last, (1e9 - age_s, 1e9 - age_s))
    return last


def chosen(config=CONFIG):
    found = resume.chosen_checkpoint("fit", config)
    return None if found is None else Path(found)


def other_seed(config):
    config["seed_everything"] = 7


def test_only_the_chosen_checkpoint_is_read(monkeypatch):
    run_folder(0, other_seed)
    wanted = run_folder(1, age_s=60)
    run_folder(2, other_seed, age_s=30)
    read, original = [], file.read_checkpoint
    monkeypatch.setattr(
        file, "read_checkpoint", lambda path, **how: (read.append(path), original(path, **how))[1]
    )
    assert chosen() == wanted
    assert read == [wanted]


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"config": 3}', "{}"])
def test_a_run_without_its_provenance_is_found_by_its_checkpoint(content):
    last = run_folder(0)
    facts = last.parent.parent / "provenance.json"
    facts.unlink()
    if content is not None:
        facts.write_text(content)
    assert chosen() == last


def test_the_newest_run_that_can_be_read_is_taken(caplog):
    caplog.set_level(logging.INFO, "etram_det")
    older, newer = run_folder(0, age_s=60), run_folder(1)
    assert chosen() == newer
    newer.write_bytes(newer.read_bytes()[:-1000])
    assert chosen() == older
    assert f"resume: passed over: {newer}: cannot be read as a checkpoint" in caplog.text
    assert f"resume: going on from {older}, after 12 steps" in caplog.messages


def test_differences_to_the_nearest_run_are_logged(caplog):
    caplog.set_level(logging.INFO, "etram_det")
    last = run_folder(0, other_seed)
    assert chosen() is None
    assert caplog.messages == [
        "resume: no last.ckpt of these settings yet: a new run starts; in "
        f"{last}, seed_everything was 7 and is 1"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "etram_det.models.losses.SizeAwareLossWrapper",
        "SizeAwareLossWrapper",
        "etram_det.losses.SizeAwareLossWrapper",  # where no module is any more
    ],
)
def test_names_of_one_class_are_equal(name, monkeypatch):
    monkeypatch.setattr(errors, "Alias", losses.SizeAwareLossWrapper, raising=False)
    last = run_folder(0, lambda config: config["model"]["loss"].update(class_path=name))
    assert chosen() == last
    config = copy.deepcopy(CONFIG)
    config["model"]["loss"]["class_path"] = "etram_det.errors.Alias"
    assert chosen(config) == last


@pytest.mark.parametrize("name", ["etram_det.models.losses.YOLOXLoss", "mine.SizeAwareLossWrapper"])
def test_other_classes_are_not(name):
    run_folder(0, lambda config: config["model"]["loss"].update(class_path=name))
    assert chosen() is None


def test_no_arguments_of_a_class_are_what_is_not_there():
    def without_arguments(config):
        config["model"]["loss"]["init_args"]["classification"]["init_args"] = {}

    assert chosen() is None
    assert run_folder(0, without_arguments) == chosen()


def test_where_data_is_read_differently_the_run_is_the_same_one():
    def by_other_workers(config):
        config["data"].update(num_workers=3, on_bad_recording="skip", eval_lanes=5)

    assert run_folder(0, by_other_workers) == chosen()
