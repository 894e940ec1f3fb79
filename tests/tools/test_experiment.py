"""An experiment: its plan, its lines of finished runs, what it goes on with and compares."""

import json
import os
import re
import signal
import threading
import time
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from etram_det.cli.commands import run
from etram_det.cli.data_of_fit import data_of_fit
from etram_det.errors import UserError
from etram_det.files import held_alone
from etram_det.report.comparison import compare
from etram_det.report.run_files import read_run
from etram_det.simulator.dataset import SimulationSettings, simulate
from etram_det.tools.experiment import command
from etram_det.tools.experiment.finished import (
    FinishedRun,
    compared_keys,
    data_checksums,
    read_finished,
    write_finished,
)
from etram_det.tools.experiment.plan import Run, read_plan
from etram_det.tools.sweep import runs
from etram_det.tools.sweep.runs import ProcessEnd
from support.paths import ROOT
from support.small_evaluation import write_run

PLAN = {
    "training": {"height": 90, "width": 160, "train": 1, "val": 1, "test": 0, "seconds": 0.3},
    "evaluation": {"height": 90, "width": 160, "train": 0, "val": 2, "test": 0, "seconds": 0.3},
    "settings": {"trainer.accelerator": "cpu", "data.input_size": [45, 80]},
    "variants": {
        "plain": {"configs": ["quick"]},
        "fast": {"configs": ["quick"], "settings": {"model.learning_rate": 1.0e-2}},
    },
    "runs": [{"variants": ["plain", "fast"], "seeds": [1, 2], "steps": 3}],
    "comparisons": [["plain", "fast"]],
}
FAST = ["--config", "quick", "--model.learning_rate=0.01", "--trainer.accelerator=cpu"]
FAST += ["--data.input_size=[45, 80]"]


def frames(seed, share):
    """A frame of each of 12 recordings with four pedestrians, of which a share is found."""
    rng = np.random.default_rng(seed)
    labels = [((60 * k, 10, 60 * k + 30, 60), 0) for k in range(4)]
    luck, scores = rng.random((12, 4)), rng.uniform(0.3, 1, (12, 5))
    false_alarm = (0, 120, 40, 160)
    found = [
        [(false_alarm, 0, scores[r, 4])]
        + [(labels[k][0], 0, scores[r, k]) for k in range(4) if luck[r, k] < share]
        for r in range(12)
    ]
    return [(f"val_day_{r:04d}", 1_000_000, labels, of) for r, of in enumerate(found)]


@pytest.fixture
def plan_file(tmp_path):
    def write(**changes):
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
        return path

    return write


class Asked(list):
    """Runs that were asked for, and how many are to be under way at once."""

    at_once = None


@cache
def fingerprints(root, *splits):
    data, _ = data_of_fit([*FAST, f"--data.root={root}"])
    data.setup("fit")
    return data.fingerprints()


@pytest.fixture
def trained(monkeypatch):
    """Runs that were asked for; their run folders hold an evaluation by variant and seed."""
    asked, one_at_a_time = Asked(), threading.Lock()

    def fit(arguments, log, stop):
        if asked.at_once is not None:
            asked.at_once.wait()  # breaks where fewer are under way
        values = dict(a.removeprefix("--").split("=", 1) for a in arguments if "=" in a)
        folder, name = (values[f"trainer.logger.init_args.{key}"] for key in ("save_dir", "name"))
        version = values["trainer.logger.init_args.version"]
        asked.append((name, version, values["trainer.max_steps"], arguments))
        log.write_text("etram_det: error: no more memory\n")
        path = log.parent.parent / "runs" / name / version
        assert not path.exists()  # a run that failed starts anew
        path.mkdir(parents=True)
        if (name, version) == ("fast_3", "seed_2") and len(asked) < 5:
            return ProcessEnd(1, 0.0)
        share = 0.9 if name.startswith("fast") else 0.4
        assert str(path.parent.parent) == folder
        root = Path(values["data.root"])
        splits = (str((root / name).resolve()) for name in ("train", "val"))
        with one_at_a_time:  # the parser is not for threads, and runs are processes
            data = fingerprints(root, *splits)
        start = {"versions": {"torch": "2.14.1"}, "git": {"commit": "abc", "dirty": False}}
        facts = {"data": data, "starts": [start]}
        (path / "provenance.json").write_text(json.dumps(facts))
        write_run(path, False, frames(int(values["seed_everything"]), share))
        return ProcessEnd(0, 60.0)

    monkeypatch.setattr(command, "fit_in_process", fit)
    return asked


def test_the_plans_of_this_project_hold_variants_that_fit_takes():
    plan = read_plan(ROOT / "configs" / "experiments" / "small_objects.yaml")
    assert plan.runs[:4] == [
        Run(name, 1, 400) for name in ("small_objects", "baseline_seen", "rvt", "baseline")
    ]
    six = [each for each in plan.runs if each.steps == 400 and each.seed == 6]
    assert {each.variant for each in six} == {
        *("small_objects", "baseline_seen", "rvt", "baseline", "assignment", "old_recipe")
    }
    assert len(plan.runs) == 36 + 9 * 3 + 15 * 3 + 9 + 4
    names = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    used = {
        flags[i + 1]
        for flags in plan.variants.values()
        for i, f in enumerate(flags)
        if f == "--config"
    }
    assert used <= names
    baseline = yaml.safe_load((ROOT / "configs" / "baseline.yaml").read_text())
    for flags in plan.variants.values():
        for flag in (each for each in flags if each.startswith("--") and "=" in each):
            keys = flag.removeprefix("--").split("=")[0].split(".")
            known = baseline
            for key in keys[: keys.index("init_args")] if "init_args" in keys else keys:
                known = known[key]


def test_runs_go_seed_by_seed_and_on_from_their_lines(
    plan_file, trained, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(command, "_WIDTH", 60)  # narrow, as many a screen
    arguments = ["experiment", str(plan_file()), "--output", str(tmp_path / "out")]
    assert run(arguments) == 1
    assert [(name, version) for name, version, *_ in trained] == [
        ("plain_3", "seed_1"), ("fast_3", "seed_1"), ("plain_3", "seed_2"), ("fast_3", "seed_2"),
    ]  # fmt: skip
    assert trained[1][3][: len(FAST)] == FAST
    assert {steps for _, _, steps, _ in trained} == {"3"}
    screen, error = capsys.readouterr()
    assert "run 2 of 4: fast, seed 1, 3 steps" in screen
    assert re.search(r"AP50 0\.\d{4}, AP_small .* in 0:00:\d\d; 2 to go, about 0:00:\d\d", screen)
    assert f"{tmp_path}/out/logs/fast_3_seed_2.log: no more memory" in screen
    assert "runs: 1 of 4 failed (fast, seed 2, 3 steps): see their logs in" in error
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [1, 1, 2]
    # Where recordings were written makes no difference, and what they were trained with is known.
    assert len({json.loads(line)["data"]["train"] for line in lines}) == 1
    assert json.loads(lines[0])["versions"] == {"torch": "2.14.1", "commit": "abc"}

    assert run(arguments) == 0
    assert [each[:2] for each in trained[4:]] == [("fast_3", "seed_2")]
    assert run([*arguments, "--most", "0"]) == 0
    assert len(trained) == 5
    table = (tmp_path / "out" / "tables.md").read_text()
    assert "3 steps, fast less plain, 2 seeds" in table
    row = next(line for line in table.splitlines() if line.startswith("| AP50"))
    assert row.rstrip(" |").endswith("2 of 2")
    assert re.search(r"\| +\+0\.\d{3} \|", row)
    assert "…" not in table
    # The training split of one set, the validation split of the other.
    recordings = tmp_path / "out" / "recordings"
    assert len(list((recordings / "train").glob("*_bbox.npy"))) == 1
    assert len(list((recordings / "val").glob("*_bbox.npy"))) == 2


def test_runs_on_other_recordings_are_not_mixed(plan_file, trained, tmp_path, capsys):
    arguments = ["experiment", str(plan_file()), "--output", str(tmp_path / "out")]
    assert run([*arguments, "--most", "1"]) == 0
    others = replace(SimulationSettings.of(PLAN["evaluation"]), seed=7)
    simulate(tmp_path / "others", others)
    assert run([*arguments, "--evaluation", str(tmp_path / "others")]) == 2
    assert capsys.readouterr().err == (
        f"etram_det: error: {tmp_path}/out/results.jsonl: must be of runs on the same recordings, "
        "got others in val than those of plain, seed 1, 3 steps, made at commit abc: use its "
        "--training and --evaluation, simulated as they were then, or another --results\n"
    )
    assert len(trained) == 1  # no time was lost
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1
    assert run([*arguments, "--most", "-1"]) == 2
    assert "most: must be at least 0, got -1: set 0 to compare only" in capsys.readouterr().err
    assert run([*arguments, "--jobs", "0"]) == 2
    assert "jobs: must be at least 1, got 0: set 1 for one after" in capsys.readouterr().err


def test_variants_with_other_labels_of_the_same_recordings_go_on(tmp_path):
    simulate(tmp_path, SimulationSettings(height=90, width=160, train=1, val=1, test=0, seconds=1))
    plain, more = (tuple(FAST), (*FAST, "--data.interpolate_labels=true"))
    finished = []
    for name, settings in {"plain": plain, "more": more}.items():
        data, _ = data_of_fit([*settings, f"--data.root={tmp_path}"])
        data.setup("fit")
        of_data = data_checksums(data.fingerprints())
        finished.append(FinishedRun(Run(name, 1, 3), settings, 0.0, 0.0, None, {}, of_data))
    assert finished[0].data["train"] != finished[1].data["train"]
    for settings in (plain, more):
        command._require_same_recordings(settings, str(tmp_path), finished, Path("lines"))
    others = {**finished[1].data, "train": finished[0].data["train"]}
    finished[1] = replace(finished[1], data=others)
    with pytest.raises(UserError, match="got others in train than those of more, seed 1"):
        command._require_same_recordings(more, str(tmp_path), finished, Path("lines"))


def test_runs_at_the_same_time_leave_the_same_lines(plan_file, trained, tmp_path, capsys):
    found = []
    for jobs in ("1", "3"):
        output = tmp_path / jobs
        trained.at_once = threading.Barrier(3, timeout=30) if jobs == "3" else None
        arguments = ["experiment", str(plan_file()), "--output", str(output), "--jobs", jobs]
        assert run([*arguments, "--most", "3"]) == 0
        lines = map(json.loads, (output / "results.jsonl").read_text().splitlines())
        found.append(sorted((x["variant"], x["seed"], x["results"]["AP"]) for x in lines))
    assert found[0] == found[1]
    assert len(found[0]) == 3
    assert "run 3 of 3: plain, seed 2, 3 steps" in capsys.readouterr().out


def test_a_run_that_is_stopped_ends_its_process(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(runs, "sys", SimpleNamespace(executable=str(program)))
    stop, log = threading.Event(), tmp_path / "log"
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    assert runs.fit_in_process([], log, stop).code == -signal.SIGTERM
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


@pytest.mark.slow
def test_a_real_run_and_one_that_was_interrupted_before(plan_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    small = {"model.embed_dim": 8, "model.dim_head": 4, "data.input_size": [90, 160]}
    small |= {"data.num_workers": 0, "trainer.accelerator": "cpu", "trainer.log_every_n_steps": 1}
    path = plan_file(settings=small, runs=[{"variants": ["fast"], "seeds": [3], "steps": 2}])
    left = tmp_path / "out" / "runs" / "fast_2" / "seed_3"
    left.mkdir(parents=True)
    (left / "metrics.json").write_text("{}")  # of a run that is not to be taken for this one
    assert run(["experiment", str(path), "--output", str(tmp_path / "out")]) == 0
    line = json.loads((tmp_path / "out" / "results.jsonl").read_text())
    assert (line["variant"], line["seed"], line["steps"]) == ("fast", 3, 2)
    assert set(line["data"]) == {"train", "val"}
    assert len(line["results"]["recordings"]) == 2
    settings = yaml.safe_load((left / "config.yaml").read_text())
    assert settings["seed_everything"] == 3
    assert settings["model"]["learning_rate"] == 0.01
    assert settings["trainer"]["max_steps"] == settings["trainer"]["val_check_interval"] == 2
    assert line["cpu_s"] > 1


def test_a_line_gives_back_metrics_and_resamples(tmp_path):
    write_run(tmp_path / "a", False, frames(1, 0.5))
    read = read_run(tmp_path / "a")
    runs = [FinishedRun(Run("plain", 1, 3), FAST, 60.4, 61, read, {"torch": "2.14.1"}, {})]
    write_finished(tmp_path / "runs.jsonl", runs)
    again = read_finished(tmp_path / "runs.jsonl")[0]
    assert (again.run, again.settings, again.cpu_s) == (runs[0].run, FAST, 60)
    groups = compared_keys(read.results["evaluation"])
    keys = [key for group in groups for key in group if key in read.resamples.values]
    assert keys[:2] == ["AP", "AP50"]
    assert list(again.evaluated.resamples.values) == keys
    for key in keys:
        assert again.evaluated.metrics[key] == pytest.approx(
            read.metrics[key], abs=6e-6, nan_ok=True
        )
        np.testing.assert_allclose(
            again.evaluated.resamples.values[key], read.resamples.values[key], atol=1e-5
        )


def test_pairs_of_seeds_that_vary_together_differ_by_less_than_their_spread(tmp_path):
    for seed, share in enumerate((0.3, 0.5, 0.7)):
        write_run(tmp_path / f"a{seed}", False, frames(seed, share))
        write_run(tmp_path / f"b{seed}", False, frames(seed, share + 0.15))
    a, b = ([read_run(tmp_path / f"{side}{seed}") for seed in range(3)] for side in "ab")
    apart, paired = compare(a, b, "AP50"), compare(a, b, "AP50", paired=True)
    assert paired.difference == apart.difference
    assert paired.interval[1] - paired.interval[0] < 0.5 * (apart.interval[1] - apart.interval[0])
    assert paired.interval[0] < paired.difference < paired.interval[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": [{"variants": ["slow"], "seeds": [1], "steps": 3}]},
         "runs: must name variants, got slow: use plain, fast"),
        ({"comparisons": [["plain", "slow"]]},
         "comparisons: must name variants, got slow: use plain, fast"),
        ({"variants": {"plain": {"config": "quick"}}},
         "variants.plain: must have configs and may have settings, got config: set these"),
        ({"runs": [{"variants": ["plain"], "seeds": [1]}]},
         "runs: each must have the keys variants, seeds, steps, got variants, seeds: set these"),
        ({"variants": {"plain": {"configs": "quick"}}},
         "variants.plain.configs: must be a list, got quick: set [quick]"),
        ({"variants": {"plain": {"configs": [], "settings": ["a"]}}},
         "variants.plain.settings: must be a mapping, got ['a']: set names and values"),
        ({"runs": [{"variants": ["plain"], "seeds": 3, "steps": 3}]},
         "runs.seeds: must be a list, got 3: set [3]"),
        ({"runs": [{"variants": ["plain"], "seeds": [1], "steps": "many"}]},
         "runs: seeds and steps must be whole numbers, got many: set these"),
        ({"comparisons": [["plain", "fast", "plain"]]},
         "comparisons: must be pairs of variants, got plain, fast, plain: set two"),
        ({"training": {"hight": 90}},
         "training: must be settings of simulate, got others (got an unexpected keyword argument "
         "'hight'): see simulate --help"),
        ({"variants": {1: {"configs": ["quick"]}}},
         "variants: must have text for names, got 1: quote it"),
        ({"more": 1}, "must have the keys training, evaluation, settings, variants, runs, co"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_refused_by_name(plan_file, changes, message, capsys):
    path = plan_file(**changes)
    assert run(["experiment", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"etram_det: error: {path}: ")
    assert message in error
    assert error.count("\n") == 1


def test_one_experiment_at_a_time_writes_to_a_file(plan_file, trained, tmp_path, capsys):
    arguments = ["experiment", str(plan_file()), "--output", str(tmp_path / "out")]
    file = tmp_path / "out" / "results.jsonl"
    with held_alone(file) as is_alone:
        assert is_alone
        assert run([*arguments, "--most", "1"]) == 2
        assert capsys.readouterr().err == (
            f"etram_det: error: results: {file} must belong to one experiment at a time, got a "
            "second one: wait for the first, or give it more --jobs\n"
        )
        assert run([*arguments, "--most", "0"]) == 0  # which writes no runs
        assert run([*arguments, "--most", "1", "--results", str(tmp_path / "other.jsonl")]) == 0
    assert len(trained) == 1
    file.write_bytes(b"\xff\xfe")
    capsys.readouterr()
    assert run([*arguments, "--most", "0"]) == 2
    assert capsys.readouterr().err.startswith(
        f"etram_det: error: {file}: must be text in UTF-8, got "
    )


def test_a_date_is_a_setting_like_others(plan_file):
    path = plan_file(settings={"data.root": date(2024, 1, 1)})
    assert '--data.root="2024-01-01"' in read_plan(path).variants["plain"]


def test_a_plan_that_cannot_be_read_costs_a_line(tmp_path, capsys):
    assert run(["experiment", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == (
        "etram_det: error: plan: nowhere.yaml cannot be read (No such file or directory): use "
        "another\n"
    )
    (tmp_path / "plan.yaml").write_text("runs: [1\nvariants: {")
    assert run(["experiment", str(tmp_path / "plan.yaml")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'plan.yaml'}: must be YAML, got other text (while parsing" in error
    assert error.count("\n") == 1


def test_a_variant_keeps_its_settings_and_a_damaged_line_is_named(plan_file, tmp_path, capsys):
    write_run(tmp_path / "a", False, frames(1, 0.5))
    runs = [FinishedRun(Run("fast", 1, 3), FAST, 60, 61, read_run(tmp_path / "a"), {}, {})]
    file = tmp_path / "runs.jsonl"
    write_finished(file, runs)
    changed = {"variants": {**PLAN["variants"], "fast": {"configs": ["quick"]}}}
    arguments = ["experiment", str(plan_file(**changed)), "--results", str(file)]
    assert run(arguments) == 2
    assert (
        f"variants.fast: must be {' '.join(FAST)} as in {file}, got --config quick "
        "--trainer.accelerator=cpu --data.input_size=[45, 80]: give the changed variant a name of "
        "its own"
    ) in capsys.readouterr().err
    file.write_text(file.read_text() + '{"variant": "fast"}\n')
    assert run(arguments) == 2
    assert f"{file}: line 2: must be a finished run, got " in capsys.readouterr().err
