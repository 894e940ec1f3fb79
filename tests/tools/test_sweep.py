"""A sweep: what it searches, what it keeps, and that processes can share and resume it."""

import csv
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml

from etram_det.cli.commands import run
from etram_det.cli.flags import tool_arguments
from etram_det.errors import UserError
from etram_det.tools.sweep import command, study
from etram_det.tools.sweep.outcome import progress_line, write_outcome
from etram_det.tools.sweep.space import SearchSpace
from etram_det.tools.sweep.study import SharedStudy
from support.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
CONFIGS = ROOT / "configs"
RAW = ROOT / "tests" / "reference" / "raw_etram"
SMALL_RAW = [
    "--model.embed_dim=8",
    "--model.dim_head=4",
    "--model.fpn_depth=0.33",
    "--data.num_workers=0",
    "--data.train_lanes=2",
    f"--data.root={RAW}",
    "--data.input_size=[90, 160]",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=2",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
]
RANGES = {
    "learning_rate": (1e-4, 1e-2),
    "size_aware_weight": (1.0, 4.0),
    "small_threshold": (256.0, 4096.0),
    "medium_threshold": (5184.0, 36864.0),
}
HANGS_S = 900  # what takes longer does not end


def configuration(loss, **data):
    return {
        "seed_everything": 1,
        "data": {"root": None, "num_steps": 5, **data},
        "model": {"loss": loss, "learning_rate": None},
        "trainer": {"max_steps": 4, "logger": {"class_path": "Any", "init_args": {"name": "a"}}},
    }


def weighting(weight_type, **others):
    return {
        "size_aware_weight": 2.5,
        "small_threshold": 1024.0,
        "medium_threshold": 9216.0,
        "weight_type": weight_type,
        **others,
    }


BASELINE = configuration({"class_path": "YOLOXLoss", "init_args": {"box": None}})
EXPONENTIAL = configuration({"class_path": "Wrapper", "init_args": weighting("exponential")})


def space(ranges=RANGES, **variants):
    return SearchSpace(variants or {"baseline": BASELINE, "size_aware": EXPONENTIAL}, ranges)


def value_of(config):
    """Best at a learning rate of 1e-3 and, where there is one, a weight of 2."""
    rate = config["model"]["learning_rate"]
    weight = config["model"]["loss"]["init_args"].get("size_aware_weight", 1)
    return 0.5 - abs(rate - 1e-3) - 0.1 * abs(weight - 2) + 0.01 * config["seed_everything"]


def pretend(settings, log):
    """Stands in for a training: writes the metric that its settings would have."""
    config = yaml.safe_load(settings.read_text())
    logger = config["trainer"]["logger"]["init_args"]
    folder = Path(logger["save_dir"]) / logger["name"] / logger["version"]
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"AP": value_of(config), "num_boxes": 3}))
    return 0


def shared_study(output, runner=pretend, seeds=(1,), metric="AP", **variants):
    return SharedStudy(output, space(**variants), metric, seeds, runner=runner)


def finish(shared, total):
    numbers = []
    shared.run(total, numbers.append)
    return numbers


def refuse(settings, log):
    raise KeyboardInterrupt


# What is searched


@pytest.mark.parametrize(
    ("loss", "searched"),
    [
        (None, ["learning_rate"]),
        ({"class_path": "YOLOXLoss"}, ["learning_rate"]),
        (weighting("exponential"), ["learning_rate", "size_aware_weight", "small_threshold"]),
        (weighting("linear"), ["learning_rate", "size_aware_weight", "medium_threshold"]),
        (weighting("step"), list(RANGES)),
        (weighting("of_a_new_kind"), list(RANGES)),
        (
            weighting("step", adaptive_quantiles=[0.33, 0.67]),
            ["learning_rate", "size_aware_weight"],
        ),
    ],
)
def test_a_variant_is_searched_over_what_its_loss_reads(loss, searched):
    if loss is not None and "class_path" not in loss:
        loss = {"class_path": "Wrapper", "init_args": loss}
    assert list(space(variant=configuration(loss)).searched("variant")) == searched


def test_choices_go_to_every_size_weighting_however_deep():
    part = {"class_path": "SizeAware", "init_args": weighting("step")}
    loss = {"class_path": "YOLOXLoss", "init_args": {"box": part, "classification": part}}
    deep = configuration(loss)
    choice = {
        "variant": "deep",
        "learning_rate": 3e-4,
        "size_aware_weight": 1.5,
        "small_threshold": 300.0,
        "medium_threshold": 6000.0,
    }
    made = space(deep=deep, baseline=BASELINE).configuration(choice)
    assert made["model"]["learning_rate"] == 3e-4
    for name in ("box", "classification"):
        arguments = made["model"]["loss"]["init_args"][name]["init_args"]
        assert arguments == {
            "size_aware_weight": 1.5,
            "small_threshold": 300.0,
            "medium_threshold": 6000.0,
            "weight_type": "step",
        }
    assert deep["model"]["learning_rate"] is None  # the variant itself is left alone
    assert deep["model"]["loss"]["init_args"]["box"]["init_args"]["size_aware_weight"] == 2.5


def test_thresholds_that_are_not_read_stay():
    choice = {"variant": "size_aware", "learning_rate": 1e-3, "small_threshold": 300.0}
    arguments = space().configuration(choice)["model"]["loss"]["init_args"]
    assert (arguments["small_threshold"], arguments["medium_threshold"]) == (300.0, 9216.0)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"learning_rate": (1e-2, 1e-4)}, "learning_rate: must be positive.*0.01 0.0001"),
        ({"learning_rate": (0.0, 1e-4)}, "learning_rate: must be positive"),
        ({"learning_rate": (1e-4, float("inf"))}, "learning_rate: .* finite"),
        ({"size_aware_weight": (0.5, 2.0)}, "size_aware_weight: must be at least 1"),
        ({"small_threshold": (256.0, 9216.0)}, "up to 9216 and from 9216 in size_aware"),
    ],
)
def test_ranges_that_cannot_be_searched_are_refused(ranges, message):
    with pytest.raises(UserError, match=message):
        space(ranges)


def test_nothing_to_search_is_refused():
    with pytest.raises(UserError, match="got baseline: name more variants or set a range"):
        space({"size_aware_weight": (1.0, 2.0)}, baseline=BASELINE)
    space({}, baseline=BASELINE, size_aware=EXPONENTIAL)


# What is kept


def test_a_trial_is_the_mean_over_its_seeds(tmp_path):
    shared = shared_study(tmp_path, seeds=(1, 4))
    assert finish(shared, 6) == [0, 1, 2, 3, 4, 5]
    write_outcome(shared)
    outcome = json.loads((tmp_path / "sweep.json").read_text())
    values = [trial["value"] for trial in outcome["trials"]]
    assert values == sorted(values, reverse=True)
    for trial in outcome["trials"]:
        config = shared.space.configuration(trial["settings"])
        first, second = (value_of(config | {"seed_everything": seed}) for seed in (1, 4))
        assert trial["values"] == pytest.approx({"1": first, "4": second})
        assert trial["value"] == pytest.approx((first + second) / 2)
        assert trial["spread"] == pytest.approx(0.03 / 2**0.5)
        assert (tmp_path / trial["folder"] / "seed_4" / "metrics.json").is_file()
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [float(row["value"]) for row in rows] == pytest.approx(values)
    assert [int(row["number"]) for row in rows] == [trial["number"] for trial in outcome["trials"]]
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["trainer"] == EXPONENTIAL["trainer"]
    assert value_of(best | {"seed_everything": 1}) == pytest.approx(
        outcome["trials"][0]["values"]["1"]
    )


@pytest.mark.gate
def test_choices_follow_from_the_seed_and_improve(tmp_path):
    first, second = (shared_study(tmp_path / name) for name in ("first", "second"))
    finish(first, 30)
    finish(second, 5)
    chosen = [trial.params for trial in first.trials()]
    assert chosen[:5] == [trial.params for trial in second.trials()]
    assert len({json.dumps(params) for params in chosen}) == 30
    values = [trial.value for trial in first.trials()]
    assert sum(values[20:]) > sum(values[:10])  # the sampler learns


def test_failures_are_kept_and_do_not_stop_the_study(tmp_path):
    def fail_some(settings, log):
        number = int(settings.parent.name)
        if number == 0:
            log.write_text("Seed set\n\r 50%|etram_det: error: data.root: no recordings\n\n")
            return 2
        if number == 1:
            return -9
        if number == 2:
            return 0  # trained, never evaluated
        pretend(settings, log)
        if number == 3:
            results = settings.parent / "seed_1" / "metrics.json"
            results.write_text(json.dumps({"AP50": 0.1}))
        return 0

    shared = shared_study(tmp_path, fail_some)
    assert finish(shared, 5) == [0, 1, 2, 3, 4]
    assert [trial.user_attrs.get("error") for trial in shared.trials()] == [
        "data.root: no recordings",
        "ended by signal 9",
        "no evaluation: trainer.val_check_interval exceeds the run's steps",
        "AP is unknown: the validation split has no such boxes",
        None,
    ]
    assert "5/5 | trial 1: failed: ended by signal 9 | " in progress_line(shared, 1, 5)
    write_outcome(shared)
    outcome = json.loads((tmp_path / "sweep.json").read_text())
    assert outcome["best"] == outcome["trials"][0]["number"] == 4
    assert [trial["state"] for trial in outcome["trials"]] == ["complete"] + ["failed"] * 4


def test_without_a_single_success_there_is_no_best(tmp_path):
    shared = shared_study(tmp_path, lambda settings, log: 1)
    finish(shared, 2)
    write_outcome(shared)
    assert json.loads((tmp_path / "sweep.json").read_text())["best"] is None
    assert not (tmp_path / "best.yaml").exists()


# Resuming and sharing


def test_the_same_command_goes_on_until_the_total_is_reached(tmp_path):
    assert finish(shared_study(tmp_path), 2) == [0, 1]
    assert finish(shared_study(tmp_path), 2) == []
    assert finish(shared_study(tmp_path), 5) == [2, 3, 4]


def test_an_interrupted_trial_is_started_anew_with_its_settings(tmp_path):
    finish(shared_study(tmp_path), 2)
    interrupted = shared_study(tmp_path, refuse)
    with pytest.raises(KeyboardInterrupt):
        finish(interrupted, 4)
    given_back = interrupted.study.trials[2]
    again = shared_study(tmp_path)
    assert len(again.trials()) == 2
    assert finish(again, 4) == [3, 4]
    states = {each.number: each for each in again.trials()}
    assert sorted(states) == [0, 1, 3, 4]
    assert states[3].params == given_back.params


@pytest.fixture
def quick_heartbeat(monkeypatch):
    monkeypatch.setattr(study, "HEARTBEAT_S", 1)
    monkeypatch.setattr(study, "GRACE_S", 2)


def hang(settings, log):
    Path(settings.parent.parent.parent / "hangs").touch()
    time.sleep(600)


def _hang(output):
    finish(shared_study(output, hang), 1)


@pytest.mark.usefixtures("quick_heartbeat")
@pytest.mark.slow
def test_a_killed_process_gives_its_trial_back(tmp_path):
    shared = shared_study(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_hang, args=(tmp_path,))
    process.start()
    while not (tmp_path / "hangs").exists():
        time.sleep(0.05)
    alive = shared_study(tmp_path)
    assert finish(alive, 1) == []  # it runs elsewhere, for longer than the grace period
    assert process.is_alive()
    choice = alive.trials()[0].params

    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert finish(shared, 1) == [1]  # after waiting for a heartbeat in vain
    assert [each.number for each in shared.trials()] == [1]
    assert shared.trials()[0].params == choice
    assert finish(shared_study(tmp_path), 1) == []
    assert len(shared.study.trials) == 2  # retried once only


def work_together(num_processes, folder, total):
    forked = multiprocessing.get_context("fork")
    workers = [forked.Process(target=_work, args=(folder, total)) for _ in range(num_processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(HANGS_S)
        assert worker.exitcode == 0


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    finish(shared_study(tmp_path), 0)  # both find the study there
    work_together(2, tmp_path, 12)
    trials = shared_study(tmp_path).trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert len({json.dumps(trial.params) for trial in trials}) == 12
    shares = [
        (tmp_path / name).read_text().split() for name in os.listdir(tmp_path) if "by_" in name
    ]
    assert sorted(int(number) for share in shares for number in share) == sorted(
        trial.number for trial in trials
    )


def _work(output, total):
    def slowly(settings, log):
        time.sleep(0.1)
        return pretend(settings, log)

    shared = SharedStudy(output, space(), "AP", (1,), runner=slowly)
    numbers = finish(shared, total)
    done = [n for n in numbers if n in {trial.number for trial in shared.trials()}]
    (output / f"by_{os.getpid()}").write_text(" ".join(map(str, done)))


@pytest.mark.usefixtures("quick_heartbeat")
def test_the_last_place_is_taken_once(tmp_path):
    late, early = shared_study(tmp_path), shared_study(tmp_path)
    before = late.trials
    views = [[]]  # what the late process saw before the early one started
    late.trials = lambda: views.pop() if views else before()
    assert finish(early, 1) == [0]
    assert finish(late, 1) == []
    assert [trial.number for trial in early.trials()] == [0]
    assert len(early.study.trials) == 2


@pytest.mark.slow
def test_one_waiting_trial_is_started_by_one_process(tmp_path):
    shared = shared_study(tmp_path)
    for number in range(20):
        shared.study.enqueue_trial({"learning_rate": 1e-4 * (number + 1)})
    work_together(3, tmp_path, 20)
    rates = [trial.params["learning_rate"] for trial in shared.trials()]
    assert sorted(rates) == pytest.approx([1e-4 * (n + 1) for n in range(20)])


# Mistakes


def test_another_study_in_the_folder_is_refused(tmp_path):
    shared_study(tmp_path)
    shared_study(
        tmp_path,
        baseline=configuration(BASELINE["model"]["loss"], root="/elsewhere"),
        size_aware=EXPONENTIAL,
    )
    with pytest.raises(UserError, match="metric: must be AP as in the study in .*, got AR"):
        shared_study(tmp_path, metric="AR")
    with pytest.raises(UserError, match=r"seeds: must be \[1\] as .* got \[1, 2\]"):
        shared_study(tmp_path, seeds=(1, 2))
    with pytest.raises(UserError, match=r"baseline: data.num_steps: must be 5 .* got 9: repeat"):
        shared_study(
            tmp_path,
            baseline=configuration(BASELINE["model"]["loss"], num_steps=9),
            size_aware=EXPONENTIAL,
        )
    narrow = space(RANGES | {"learning_rate": (1e-4, 1e-3)})
    with pytest.raises(UserError, match=r"learning_rate: must be \[0.0001, 0.01\] as in"):
        SharedStudy(tmp_path, narrow, "AP", (1,))


def test_a_database_that_is_none_or_gone_is_refused(tmp_path):
    finish(shared_study(tmp_path), 1)
    (tmp_path / study.DATABASE).write_text("no database\nat all\n" * 1000)
    with pytest.raises(UserError, match=r"study.db: must be a database of this command, got one"):
        shared_study(tmp_path)
    (tmp_path / study.DATABASE).unlink()
    with pytest.raises(UserError, match="holds trials without their study.db"):
        shared_study(tmp_path)


def test_the_study_of_an_earlier_release_is_refused_in_one_line(tmp_path):
    (tmp_path / "trials").mkdir()
    (tmp_path / "study.journal").touch()
    with pytest.raises(UserError, match="study.journal, of earlier releases, is not read") as error:
        shared_study(tmp_path)
    assert "\n" not in str(error.value)


def test_a_database_elsewhere_holds_the_study(tmp_path):
    settings = (tmp_path / "study", space(), "AP", (1,))
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    first, second = (SharedStudy(*settings, runner=pretend, storage=url) for _ in range(2))
    assert finish(first, 2) == [0, 1]
    assert finish(second, 3) == [2]
    assert not (tmp_path / "study" / study.DATABASE).exists()
    with pytest.raises(UserError, match="nosuch://: must be a database of this command"):
        SharedStudy(*settings, storage="nosuch://")
    with pytest.raises(UserError, match="study holds trials of another study than this new one"):
        SharedStudy(*settings, storage=f"sqlite:///{tmp_path / 'new.db'}")


def test_without_optuna_it_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("study", "outcome"):
        monkeypatch.delitem(sys.modules, f"etram_det.tools.sweep.{name}")
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert sweep("--variants", CONFIGS / "size_aware.yaml") == 2
    assert "pip install 'etram-det[sweep]'" in capsys.readouterr().err
    assert not Path("study").exists()


# The command


def sweep(*arguments, fit=SMALL_RAW):
    return run(["sweep", "--output", "study", *map(str, arguments), "--", *fit])


@pytest.fixture
def _pretended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run_fit", pretend)
    monkeypatch.setattr(command, "FILE_WIDTH", 200)


def test_several_values_of_a_flag_are_a_list_and_the_rest_is_for_fit():
    given = ["--out-put", "x", "y", "--seeds", "1", "-2", "-h", "--", "--a.b-c", "1", "2"]
    expected = ["--out_put", "x", "y", "--seeds", '["1", "-2"]', "-h"]
    expected += ["--fit", '["--a.b-c", "1", "2"]']
    assert tool_arguments(given, command.sweep_command) == expected
    # One value is a list as well, unless it is one already.
    one = ["--seeds", "7", "--variants=a.yaml", "--output", "x"]
    expected = ["--seeds", '["7"]', "--variants", '["a.yaml"]', "--output", "x"]
    assert tool_arguments(one, command.sweep_command) == expected
    for value in ("null", "[1, 2]"):
        given = ["--seeds", value]
        assert tool_arguments(given, command.sweep_command) == given
    rate = ["--learning-rate", "null", "--trials=3"]
    assert tool_arguments(rate, command.sweep_command) == ["--learning_rate", *rate[1:]]


@pytest.mark.usefixtures("_pretended")
def test_the_command_prints_its_trials_best_first(capsys):
    variants = ["baseline", CONFIGS / "size_aware_step.yaml"]  # a name, and a file
    arguments = ["--variants", *variants, "--seeds", 1, 2, "--metric", "val/AP"]
    assert sweep(*arguments, "--trials", 3, "--learning-rate", 1e-4, 1e-2) == 0
    shown = capsys.readouterr().out
    assert "  baseline: learning_rate 0.0001 to 0.01\n" in shown
    assert "size_aware_step: learning_rate 0.0001 to 0.01, size_aware_weight 1 to 4, " in shown
    assert "3/3 | trial 2: AP 0." in shown
    [headings] = [line for line in shown.splitlines() if "trial ┃" in line]
    assert [each.strip() for each in headings.strip("┃").split("┃")][-2:] == ["time", "remark"]
    outcome = json.loads(Path("study/sweep.json").read_text())
    places = [shown.index(f"│ {trial['value']:.4f} │") for trial in outcome["trials"]]
    assert places == sorted(places)
    settings = yaml.safe_load(Path("study/trials/0000/seed_2.yaml").read_text())
    assert settings["trainer"]["max_steps"] == 2
    assert settings["trainer"]["num_sanity_val_steps"] == 0
    assert settings["seed_everything"] == 2

    assert sweep(*arguments, "--trials", 4, "--learning-rate", 1e-4, 1e-2) == 0
    assert "4/4 | trial 3" in capsys.readouterr().out
    assert sweep(*arguments, "--trials", 4) == 2
    assert "learning_rate: must be [0.0001, 0.01] as in the study" in capsys.readouterr().err


@pytest.mark.usefixtures("_pretended")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "AP_smal"], "metric: .* got AP_smal: use AP_small"),
        (["--learning-rate", "1e-2", "1e-4"], "learning_rate: must be positive"),
        (["--size-aware-weight", "3"], "size_aware_weight"),
        (["--trials", "0"], "trials, seeds: must be one or more, got 0"),
        (["--variants", CONFIGS / "nwd.yaml", "nwd"], "got nwd twice: rename"),
        (["--variants", "missing"], "variants: must be a file or one of baseline, .* got missing"),
        (["--trails", "3"], "trails"),
    ],
)
def test_mistakes_end_with_one_line_before_any_run(arguments, message, capsys):
    variants = [] if "--variants" in arguments else ["--variants", CONFIGS / "size_aware.yaml"]
    assert sweep(*variants, *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("etram_det: error: ")
    assert re.search(message, error), error
    assert not Path("study").exists()


@pytest.mark.usefixtures("_pretended")
def test_mistakes_in_what_fit_gets_show_before_any_run(capsys):
    variants = ["--variants", CONFIGS / "size_aware.yaml"]
    assert sweep(*variants, fit=["--model.loss.init_args.size_aware_weight", "0.5"]) == 2
    assert "size_aware_weight: must be at least 1, got 0.5" in capsys.readouterr().err
    assert sweep(*variants, fit=[*SMALL_RAW, "--data.root", "/nowhere"]) == 2
    assert "data.root: no folder /nowhere; expected one with" in capsys.readouterr().err
    assert not Path("study").exists()
    assert sweep(fit=[]) == 2
    assert "variants: must be one or more configuration files" in capsys.readouterr().err


@pytest.mark.usefixtures("_pretended")
def test_an_interrupt_is_one_line_and_the_trial_comes_back(monkeypatch, capsys):
    arguments = ["--variants", CONFIGS / "baseline.yaml", "--trials", 1]
    with monkeypatch.context() as patch:
        patch.setattr(study, "run_fit", refuse)
        assert sweep(*arguments) == 1
    assert capsys.readouterr().err.endswith("interrupted\n")
    assert sweep(*arguments) == 0
    assert "1/1 | trial 1: AP" in capsys.readouterr().out


def test_a_run_writes_its_log_and_ends_with_an_interrupt(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/cat")  # refuses flags: ends at once
    log = tmp_path / "log"
    assert study.run_fit(tmp_path / "settings.yaml", log) == 1
    assert log.read_text()

    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho $$ started\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    log.unlink()

    def interrupt():
        while not (log.exists() and log.read_text().endswith("started\n")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        study.run_fit(tmp_path / "settings.yaml", log)
    number = int(log.read_text().split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


@pytest.mark.slow
def test_a_real_trial_and_its_best_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for the trial's process, as in this one
    assert sweep("--variants", CONFIGS / "size_aware.yaml", "--trials", 1) == 0
    outcome = json.loads(Path("study/sweep.json").read_text())
    folder = Path("study/trials/0000/seed_1")
    assert outcome["trials"][0]["error"] is None
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    assert list(folder.glob("events.*"))

    # Over another loss: the best configuration sets all there is.
    configs = ["--config", str(CONFIGS / "nwd.yaml"), "--config", "study/best.yaml"]
    assert run(["fit", *configs]) == 0
    first, again = (
        torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run_folder in (folder, Path("runs/size_aware/version_0"))
    )
    assert all(first[name].equal(again[name]) for name in first.keys() | again.keys())
    capsys.readouterr()

    # Steps that end before an evaluation give no metric.
    never = ["--trainer.val_check_interval", "100000"]
    variant = ["--variants", CONFIGS / "size_aware.yaml"]
    assert sweep("--output", "never", *variant, "--trials", 1, fit=[*SMALL_RAW, *never]) == 1
    shown = capsys.readouterr()
    assert "trial 0: failed: no evaluation: trainer.val_check" in shown.out
    assert "trials: none of 1 came to a value" in shown.err
