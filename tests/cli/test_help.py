"""Help for people: examples and own settings first, Lightning's in short; hyphens of flags."""

import re
import shlex

import pytest
import yaml
from jsonargparse import auto_parser

from etram_det.cli.commands import (
    LIGHTNING_COMMANDS,
    TOOLS,
    run,
    tool_function,
    tool_parser_settings,
)
from etram_det.cli.flags import tool_arguments
from etram_det.cli.help import COMMANDS_HELP
from etram_det.cli.lightning import lightning_cli
from etram_det.cli.tool_help import TOOLS_HELP
from support.paths import ROOT

BASELINE = yaml.safe_load((ROOT / "configs" / "baseline.yaml").read_text())


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def help_of(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run([*arguments])
    assert stop.value.code == 0
    return capsys.readouterr().out


def settings_in(text):
    return re.findall(r"^  --([\w.-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("command", LIGHTNING_COMMANDS)
def test_help_starts_with_three_examples_and_ends_with_lightnings_settings(command, capsys):
    text = help_of(capsys, command, "--help")
    lines = text.splitlines()
    program = f"python -m etram_det {command}"
    assert lines[0] == f"usage: {program} [--config FILE.yaml] … [--KEY VALUE] …"
    examples = text.split("Examples:", 1)[1].split("Settings come from", 1)[0]
    assert re.findall(rf"^  {program} (.+)$", examples, re.MULTILINE) == [
        *COMMANDS_HELP[command][1]
    ]
    assert len(COMMANDS_HELP[command][1]) == 3

    shown = settings_in(text.split("\noptions:", 1)[1])
    own = [each for each in shown if not each.startswith("trainer.")]
    assert shown[: len(own)] == own  # Lightning's come after
    assert own.index("data.root") < own.index("model.embed_dim")
    assert command != "fit" or own.index("model.embed_dim") < own.index("checkpoint.monitor")
    # Of Lightning's, those that the baseline explains, in a few lines each.
    in_baseline = {f"trainer.{name}" for name in BASELINE["trainer"]}
    assert {*shown} - {*own} == in_baseline
    assert "known subclasses: pytorch_lightning" not in text
    assert len(lines) < 500


def test_help_shows_the_defaults_of_the_baseline(capsys):
    text = " ".join(help_of(capsys, "fit", "--help").split())
    for setting, default in (
        ("trainer.max_steps MAX_STEPS steps of the optimiser", "100000"),
        (
            "trainer.sync_batchnorm {true,false} normalise batches over all devices, not each",
            "false",
        ),
    ):
        assert f"--{setting} (default: {default})" in text
    assert "(default: YOLOXLoss, known subclasses: etram_det.models.losses.YOLOXLoss" in text
    assert "type:" not in text


def test_help_of_groups_of_classes_shows_the_baselines(capsys):
    text = " ".join(help_of(capsys, "fit", "--help").split())
    assert "(default: {PED: [pedestrian], VH: [car, bus, truck, tram]," in text


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_help_of_evaluations_lists_nothing_of_training_and_nothing_twice(command, capsys):
    text = help_of(capsys, command, "--help")
    shown = settings_in(text)
    assert len(shown) == len({*shown})
    assert not [
        each
        for each in shown
        if each.startswith(("checkpoint.", "early_stopping.", "data.augmentation.", "non_finite"))
    ]
    assert {"verbose", "return_predictions"}.isdisjoint(shown)
    # Headings are whole sentences or names; Lightning's docstrings would be cut.
    headings = [line for line in text.splitlines() if line[:1].isalpha() and line.endswith(":")]
    assert not [line for line in headings if "Perform" in line or "Run inference" in line]


def test_help_of_tools_shows_defaults_as_files_of_settings_have_them(capsys):
    text = " ".join(help_of(capsys, "evaluate", "--help").split())
    assert "(default: {small: [0, 1024], medium: [1024, 9216], large: [9216, .inf]})" in text
    assert "(default: [720, 1280])" in text
    assert "(default: false)" in text
    assert "Path to a configuration file" not in text


def test_bench_without_a_part_names_what_is_missing(capfd):
    assert run(["bench"]) == 2
    assert "part: must be given, got none: see --help" in capfd.readouterr().err


def test_help_all_lists_every_setting_with_its_type(capsys):
    short = {*settings_in(help_of(capsys, "fit", "--help"))}
    text = help_of(capsys, "fit", "--help-all")
    every = {*settings_in(text)}
    assert every > short
    assert {"trainer.profiler", "trainer.detect_anomaly", "trainer.callbacks"} <= every - short
    assert "(type: int, default: 64)" in text


@pytest.mark.parametrize(
    ("command", "flags"),
    [(command, flags) for command, (_, examples) in COMMANDS_HELP.items() for flags in examples],
)
def test_the_examples_parse(command, flags, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = flags.split()
    if "--ckpt_path" in words:
        place = words.index("--ckpt_path")
        del words[place : place + 2]
    words = [word for word in words if word not in ("--resume", "auto")]
    cli = lightning_cli([command, *words], run=False)
    assert cli.model.hparams["embed_dim"] in (16, 64)


def test_flags_of_lightnings_commands_may_have_hyphens(capsys):
    with pytest.raises(SystemExit) as stop:
        run(["fit", "--data.train-lanes", "3", "--model.learning-rate=0.01", "--print-config"])
    assert stop.value.code == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["data"]["train_lanes"], config["model"]["learning_rate"]) == (3, 0.01)


@pytest.mark.parametrize("command", TOOLS)
def test_help_of_tools_starts_with_examples_that_parse(command, capsys, monkeypatch):
    lines = help_of(capsys, command, "--help").splitlines()
    program = f"python -m etram_det {command}"
    assert lines[0].startswith(f"usage: {program} ")
    assert lines[2] == "Examples:"
    shown = [line.strip() for line in lines if line.startswith(f"  {program}")]
    assert shown == [f"{program} {flags}".rstrip() for flags in TOOLS_HELP[command][1]]
    assert all(len(line) < 100 for line in lines[:20])
    monkeypatch.chdir(ROOT)  # where the plans are
    function = tool_function(command)
    parser = auto_parser(function, **tool_parser_settings(command))
    for flags in TOOLS_HELP[command][1]:
        parser.parse_args(tool_arguments(shlex.split(flags), function))


@pytest.mark.parametrize("command", TOOLS)
def test_flags_of_tools_are_shown_as_the_documentation_writes_them(command, capsys):
    text = help_of(capsys, command, "--help")
    usage, options = text.split("\noptions:", 1)
    flags = {*re.findall(r"--[\w.-]+", usage), *(f"--{name}" for name in settings_in(options))}
    plain = {flag for flag in flags if "." not in flag}
    assert {flag for flag in plain if "_" in flag} <= {"--ckpt_path", "--print_config"}
    assert "type: " not in options
    if command == "detect":
        assert {"--input-size", "--slow-motion", "--window-ms"} <= plain
