"""The documentation: what it shows parses, compiles or runs, and its site builds."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from argparse import ArgumentError
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from jsonargparse import auto_parser

import etram_det
from etram_det.boxes import BOX_DTYPE
from etram_det.cli.commands import (
    LIGHTNING_COMMANDS,
    TOOLS,
    tool_function,
    tool_parser_settings,
)
from etram_det.cli.flags import settings_arguments, tool_arguments
from etram_det.cli.lightning import EtramCLI, lightning_cli
from etram_det.data.labels import load_array, packed
from etram_det.errors import UserError
from support.paths import ROOT

PAGES = sorted(
    [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
CALL = re.compile(r"(?:python -m etram_det|^ *etram-det) +([^`|;&>#\n]+)", re.MULTILINE)
SMALL = {"height": 90, "width": 160, "train": 2, "val": 1, "test": 0, "seconds": 1.0}


def blocks(path, language):
    """Blocks of code of a page in one language, indented ones as they are written."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", code, flags=re.MULTILINE) for indent, code in found]


def commands_of(path):
    """What follows ``python -m etram_det`` in blocks of shell and, in one piece, in the text."""
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    pieces = [
        " ".join(x.split()) for x in re.findall(r"`(python -m etram_det [^`]+ [^`]+)`", prose)
    ]
    for shell in [*blocks(path, "bash"), *blocks(path, "sh")]:
        shell = shell.replace("\\\n", " ")
        for name, first in re.findall(r"^ *for (\w+) in (\S+?)(?=[ ;\n])", shell, re.MULTILINE):
            shell = re.sub(rf"\$\{{?{name}\b\}}?", first, shell)
        pieces.append(shell)
    # What an earlier command of the page writes is not there.
    written = [f"--config {name}/" for name in re.findall(r"--output (\S+)", text)]
    for call in (call for piece in pieces for call in CALL.findall(piece)):
        if any(words in call for words in written):
            continue
        # Several that differ in one word: {train,stream}.
        braces = re.search(r"\{([\w,]+)\}", call)
        for choice in braces[1].split(",") if braces else [""]:
            words = shlex.split(call.replace(braces[0], choice) if braces else call)
            yield [word for word in words if word != "…"]


@cache
def lightnings_parser(command):
    class Parsers(EtramCLI):
        def parse_arguments(self, parser, args):
            self.config = {"subcommand": None}

        _parse_ckpt_path = _set_seed = before_instantiate_classes = lambda self: None
        instantiate_classes = _add_instantiators = lambda self: None
        _run_subcommand = lambda self, subcommand: None  # noqa: E731

    return lightning_cli([command], kind=Parsers)._subcommand_parsers[command]


@cache
def tool_parser(command):
    return auto_parser(tool_function(command), **tool_parser_settings(command))


def parse(words):
    """Read the settings of a command by its own parser, and do nothing with them."""
    command, *args = words
    if command in LIGHTNING_COMMANDS:
        parser = lightnings_parser(command)
        settings = [word for word in settings_arguments(args) if word != "--print_config"]
        parser.parse_args(settings)
    elif words[:2] == ["bench", "gpu"]:
        source = (ROOT / "etram_det" / "tools" / "bench" / "gpu.py").read_text()
        assert all(f'"{word}"' in source for word in args[1:] if word.startswith("--"))
    elif command in TOOLS:
        tool_parser(command).parse_args(tool_arguments(args, tool_function(command)))
    else:
        assert words in (["--version"], ["--help"], ["COMMAND"], ["COMMAND", "--help"]), words


@pytest.mark.parametrize("name", NAMES)
def test_every_command_parses(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    faults = []
    for words in commands_of(ROOT / name):
        try:
            parse(words)
        except (ArgumentError, AssertionError, UserError) as error:
            faults.append(f"{shlex.join(words)}: {error}")
    assert not faults


def test_the_commands_are_found():
    """The test above would pass, too, if it saw no command."""
    found = [words[0] for path in PAGES for words in commands_of(path)]
    assert len(found) > 80
    assert {*found} >= {"fit", "validate", "detect", "live", "export", "doctor", "cache", "bench"}
    assert {*found} >= {"evaluate", "convert-labels", "checkpoint", "experiment"}
    assert [*commands_of(ROOT / "docs" / "index.md")] == [
        ["detect", "recording.raw"],
        ["fit", "--config", "small_objects", "--config", "quick"],
    ]
    with pytest.raises(Exception, match="sampling"):
        parse(["fit", "--data.sampling", "no such thing"])
    with pytest.raises(Exception, match="no_such_setting"):
        parse(["detect", "x.raw", "--no-such-setting", "1"])


@pytest.mark.parametrize("name", NAMES)
def test_python_compiles_and_imports_what_there_is(name):
    for code in blocks(ROOT / name, "python"):
        tree = ast.parse(code, name)
        compile(tree, name, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "etram_det":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, each.name) for each in node.names), code
            elif isinstance(node, ast.Import):
                for each in node.names:
                    assert each.name.split(".")[0] != "etram_det" or find_spec(each.name)


@pytest.mark.parametrize("name", NAMES)
def test_settings_in_yaml_are_settings(name, tmp_path):
    for code in blocks(ROOT / name, "yaml"):
        if "--8<--" not in code and "LogIOULoss" not in code:  # which CONTRIBUTING.md adds
            (tmp_path / "settings.yaml").write_text(code, encoding="utf-8")
            parse(["fit", "--config", str(tmp_path / "settings.yaml")])  # raises what is wrong


def test_a_setting_in_yaml_that_there_is_not_is_found(tmp_path):
    (tmp_path / "settings.yaml").write_text("model: {no_such_setting: 1}\n", encoding="utf-8")
    with pytest.raises((ArgumentError, UserError), match="no_such_setting"):
        parse(["fit", "--config", str(tmp_path / "settings.yaml")])


def test_training_from_python_runs(tmp_path, monkeypatch, capsys):
    """As it is written, on less traffic, with smaller frames and networks, for two steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ETRAM_DET_CACHE", str(tmp_path / "cache"))
    etram_det.simulate("traffic", etram_det.SimulationSettings(**SMALL), workers=1)
    shorter = {
        "max_steps=1000, val_check_interval=500": "max_steps=2, val_check_interval=2, logger=False",
        'root="traffic"': 'root="traffic", input_size=(45, 80), num_workers=0',
        "embed_dim=32": "embed_dim=8, dim_head=4",
        "val_day_0001": next(Path("traffic/val").glob("*_td.h5")).name.removesuffix("_td.h5"),
    }
    first, *others = blocks(ROOT / "docs" / "howto" / "python.md", "python")
    assert len(first.strip().splitlines()) <= 10
    assert len(others) == 2
    for code in (first, *others):
        for before, after in shorter.items():
            code = code.replace(before, after)
        exec(compile(code, "python.md", "exec"), {})
    shown = capsys.readouterr().out
    assert re.search(r"^(0\.\d+|nan)$", shown, re.MULTILINE)
    assert re.search(r"^0 \[.*\] \[", shown, re.MULTILINE | re.DOTALL)  # boxes, scores
    assert "torch.Size([5, 4, 20, 45, 80])" in shown
    assert etram_det.StreamingDetector("detector.ckpt").class_names[0] == "pedestrian"


def test_the_box_file_of_the_tutorial_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = blocks(ROOT / "docs" / "tutorials" / "own_labels.md", "python")
    exec(compile(code, "own_labels.md", "exec"), {})
    boxes = packed(load_array(tmp_path / "monday_bbox.npy"))
    assert boxes.dtype.names == BOX_DTYPE.names
    assert boxes["t"].tolist() == [100_000, 200_000]
    assert boxes["x"].tolist() == [310, 318]


class Page(HTMLParser):
    """What a page of the site loads and links to."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.loads, self.links = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id"))
        source = given.get("src") or (given.get("href") if tag == "link" else None)
        if source and (tag != "link" or given.get("rel") in ("stylesheet", "icon")):
            self.loads.append(source)
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site, built with warnings as errors."""
    if find_spec("zensical") is None or find_spec("mkdocstrings") is None:
        pytest.skip("needs pip install 'etram-det[docs]'")
    folder = tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("docs", "configs", "etram_det"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


def test_the_site_shows_every_page_and_all_of_the_api(site):
    def pages(entry):
        if isinstance(entry, str):
            yield entry
        for each in (
            entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ()
        ):
            yield from pages(each)

    listed = [*pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {*listed} == written
    assert len(listed) == len(written)
    for page in listed:
        folder = site / page.removesuffix(".md").removesuffix("index")
        assert (folder / "index.html").is_file(), page
    api = Page(site / "reference" / "api" / "index.html")
    for name in etram_det.__all__[1:]:
        module = getattr(etram_det, name).__module__
        assert f"{module}.{name}" in api.ids, name
    settings = (site / "reference" / "settings" / "index.html").read_text()
    assert "most_in_a_row" in settings


def test_the_site_loads_nothing_from_elsewhere_and_its_links_lead_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    for path, page in pages.items():
        assert not [each for each in page.loads if re.match(r"(https?:)?//", each)], path
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            place = (path.parent / target).resolve() if target else path
            place = place / "index.html" if place.is_dir() else place
            assert place.is_file(), f"{path}: {link}"
            if anchor and place in pages:
                assert anchor in pages[place].ids, f"{path}: {link}"


def test_pages_open_in_a_browser_without_errors(site, browser):
    for page in ("index.html", "concepts/lanes/index.html", "reference/api/index.html"):
        browser.get((site / page).as_uri())
        assert browser.find_element("tag name", "h1").text
        widths = browser.execute_script(
            "return [...document.querySelectorAll('article img')].map(each => each.naturalWidth)"
        )
        assert all(widths)
        # Opened as a file, the search index cannot be fetched; nothing else may fail.
        errors = [
            each["message"] for each in browser.get_log("browser") if each["level"] == "SEVERE"
        ]
        assert not [each for each in errors if "search" not in each], errors
