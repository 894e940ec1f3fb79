"""How settings are written: names of configurations, old names, files, help."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

import etram_det
from etram_det.cli import flags
from etram_det.cli.commands import LIGHTNING_COMMANDS, TOOLS, run
from etram_det.cli.flags import (
    configuration_file,
    read_settings,
    settings_arguments,
    tool_arguments,
)
from etram_det.data.labels import CLASS_NAMES_OF, FILTERS
from etram_det.errors import UserError
from support.paths import ROOT

CONFIGS = ROOT / "configs"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_name_is_a_configuration_of_the_package():
    assert configuration_file("size_aware") == str(CONFIGS / "size_aware.yaml")
    assert configuration_file("{data: {bins: 5}}") == "{data: {bins: 5}}"
    assert configuration_file("seed_everything: 5") == "seed_everything: 5"


def test_a_file_in_the_working_directory_comes_first():
    Path("size_aware.yaml").write_text("data: {bins: 7}\n")
    assert configuration_file("size_aware") == "size_aware.yaml"
    assert configuration_file("size_aware.yaml") == "size_aware.yaml"
    Path("size_aware").write_text("data: {bins: 8}\n")
    assert configuration_file("size_aware") == "size_aware"
    Path("baseline.yaml").write_text("data: {bins: 9}\n")  # the first one is the package's
    assert settings_arguments([]) == ["--config", str(CONFIGS / "baseline.yaml")]


@pytest.mark.parametrize("name", ["size_awar", "configs/size_aware.yaml", "size_aware.yml", ""])
def test_unknown_names_are_refused_with_the_known_ones(name, capsys):
    assert run(["fit", "--config", name]) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert line.startswith(
        "etram_det: error: --config: must be a file or one of baseline, baseline_"
    )
    assert f", got {name}: use" in line
    assert all(path.stem in line for path in CONFIGS.glob("*.yaml"))


def test_the_installed_configurations_come_before_those_of_a_clone(tmp_path, monkeypatch):
    package = tmp_path / "[site] *" / "etram_det"
    for folder in (package.parent / "configs", package / "configs"):
        folder.mkdir(parents=True)
        (folder / "baseline.yaml").write_text("")
        monkeypatch.setattr(etram_det, "__file__", str(package / "__init__.py"))
        assert flags.configurations() == folder


def test_a_missing_baseline_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(etram_det, "__file__", str(tmp_path / "etram_det" / "__init__.py"))
    assert run(["fit", "--print_config"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("etram_det: error: configs: must hold baseline.yaml, in ")
    assert "\n" not in line


OLD_NAMES = {
    "bad_steps": ("bad_steps.most_in_a_row", "3", "  most_in_a_row: 3\n"),
    "data.on_bad_recording": (
        "data.on_bad_recording", "skip", "  on_unreadable_recording: skip\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("old", flags.RENAMED)
def test_old_names_of_settings_work_with_a_notice(old, capsys, caplog):
    key, value, expected = OLD_NAMES[old]
    group, _, name = key.rpartition(".")
    Path("old.yaml").write_text(f"# as it was\n{group}:\n  {name}: {value}\n")
    message = f"{old} is renamed to {flags.RENAMED[old]}: use the new name"
    for arguments, where in (
        ([f"--{key}", value], ""),
        ([f"--{key}={value}"], ""),
        (["--config", "old.yaml"], "old.yaml: "),
    ):
        caplog.clear()
        with pytest.raises(SystemExit):
            run(["fit", *arguments, "--print_config"])
        assert expected in capsys.readouterr().out
        [notice] = [each for each in caplog.records if "renamed" in each.message]
        assert notice.message.startswith(where + message)
        assert notice.levelno == logging.WARNING


def test_old_names_are_not_taken_for_longer_ones():
    kept = ["--bad_steps_of_mine", "1", "--data.on_bad_recordings", "x", "bad_steps"]
    assert settings_arguments(kept)[2:] == kept


def test_old_flags_of_tools_work_with_a_notice(caplog):
    def tool(output: str, resize: Literal["stretch", "letterbox"] = "stretch") -> None:
        """Has its flag renamed."""

    for args in (["--fit", "pad"], ["--fit=pad"]):
        caplog.clear()
        words = tool_arguments(["--output", "pad", *args], tool)
        assert " ".join(words).replace("=", " ") == "--output pad --resize letterbox"
        assert [each.split(":")[0] for each in caplog.messages] == ["--fit is renamed to --resize"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {embed_dim: 8\n", "mine.yaml: must hold settings in YAML, got while parsing"),
        ("a: " + "9" * 5000, "mine.yaml: must hold settings in YAML, got Exceeds the limit"),
        ("- 1\n", "mine.yaml: must hold settings by name, got [1]: use a form such as trainer: {"),
        ("5", "mine.yaml: must hold settings by name, got 5: use"),
        ("data: [1, 2]\n", "mine.yaml: data must hold settings by name, got [1, 2]: use those"),
        ("model:\ndata: {}\n", "mine.yaml: model must hold settings by name, got null: use those"),
    ],
)
def test_files_without_settings_are_refused(text, message):
    with pytest.raises(UserError, match=re.escape(message)):
        read_settings(text, "mine.yaml", ("model", "data"))


def test_files_of_nothing_but_comments_hold_no_settings():
    assert read_settings("", "mine.yaml", ()) == "{}"
    assert read_settings("# data:\n#   bins: 5\n", "mine.yaml", ()) == "{}"
    assert read_settings("data: {bins: 5} # five\n", "mine.yaml", ()) == "data: {bins: 5} # five\n"


# What has choices that its type does not show: setting, its choices, of which commands.
CHOICES = {
    "labels.filters": (FILTERS, ("preprocess", "stats")),
    "labels.class_names": (CLASS_NAMES_OF, ("preprocess", "stats")),
    "data.filters": (FILTERS, ("fit", "predict")),
    "data.class_names": (CLASS_NAMES_OF, ("fit",)),
    "data.representation": (("stacked_histogram", "mixed_density"), ("fit",)),
    "frames.representation": (("stacked_histogram", "mixed_density"), ("preprocess", "stats")),
    "data.downsample": (("sum", "nearest"), ("fit", "test")),
    "data.sampling": (("stream", "random", "mixed"), ("fit",)),
    "data.on_unreadable_recording": (("error", "skip"), ("fit",)),
    "model.protocol": (("full", "prophesee", "prophesee_gen1", "etram_fork"), ("validate",)),
    "model.schedule": (("linear", "cosine", "constant"), ("fit",)),
    "model.loss": (("YOLOXLoss", "SizeAwareLossWrapper"), ("fit",)),
    "class-names": (CLASS_NAMES_OF, ("import-rvt", "evaluate", "convert-labels")),
    "protocol": (("full", "prophesee", "prophesee_gen1", "etram_fork"), ("evaluate",)),
    "resume": (("auto", "never"), ("fit",)),
}


def help_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run([*arguments])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [*LIGHTNING_COMMANDS, *TOOLS])
def test_help_is_plain_and_lists_choices(command, capsys):
    text = help_of([command, "--help"], capsys)
    assert len(text) > 400
    assert not re.findall(r".*(?:``|:\s*[a-z]+:`|\.\. [a-z]+::).*", text)
    options = text.split("\noptions:", 1)[1]
    for setting, (choices, commands) in CHOICES.items():
        if command in commands:
            entry = re.search(rf"^  --{setting}[ ,](.*?)(?=^  -|^\S|\Z)", options, re.S | re.M)[1]
            words = re.sub(r"(?<=[.\w])\n +", "", entry) + entry  # long class paths are broken
            assert all(choice in words for choice in choices), setting


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (
            "etram_det.models.losses.SizeAwareLossWrapper",
            ["exponential,linear,step,power,gaussian", "'objectness'", "GIOULoss", "NWDLoss"],
        ),
        ("etram_det.models.losses.YOLOXLoss", ["CIOULoss", "VarifocalLoss"]),
    ],
)
def test_help_of_a_loss_lists_its_choices(loss, words, capsys):
    text = help_of(["fit", f"--model.loss.help={loss}"], capsys)
    assert all(word in text for word in words)
    assert "``" not in text
    assert not re.search(r":[a-z]+:`", text)


def test_a_flag_of_lists_of_lists_is_given_several_times():
    def tool(labels: str, detections: Sequence[Sequence[str]], only: bool = False) -> None: ...

    given = ["--detections", "a", "b", "--only", "--detections=c", "--labels", "x"]
    expected = ["--only=true", "--labels", "x", "--detections", '[["a", "b"], ["c"]]']
    assert tool_arguments(given, tool) == expected


def test_a_switch_that_may_be_unset_leaves_the_files_behind_it():
    def tool(files: Sequence[str], agnostic: bool | None = None) -> None: ...

    assert tool_arguments(["--agnostic", "a.raw"], tool) == ['["a.raw"]', "--agnostic=true"]
    for value in ("true", "false", "null"):
        given = ["a.raw", "--agnostic", value]
        assert tool_arguments(given, tool) == ['["a.raw"]', "--agnostic", value]
