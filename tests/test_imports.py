"""The house's walls: who imports whom, and where Lightning lives."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "etram_det"
LIGHTNING_HOMES = {"module.py", "callbacks", "lightning_commands.py", "data/datamodule.py"}
# Part of the package -> the parts it may import from. Tools and the command line may use all.
ALLOWED = {
    "types": set(),
    "boxes": {"types"},
    "files": set(),
    "progress": set(),
    "faults": {"types", "setting_mistakes"},
    "setting_mistakes": set(),
    "settings_files": {"types"},
    "data": {"types", "boxes", "files", "progress"},
    "models": {"types", "boxes", "files"},
    "metrics": {"types", "boxes", "files"},
    "report": {"types", "boxes", "files", "metrics", "settings_files"},
    "checkpoint_contents": {"types"},
    "checkpoint": {"types", "checkpoint_contents", "boxes", "files", "models"},
    "rvt_checkpoint": {"types", "boxes", "files", "models", "checkpoint"},
    "lanes": {"types"},
    "streaming_detector": {"types", "boxes", "data", "models", "checkpoint"},
    "tracking": {"types"},
    "schedule": {"types"},
    "run_folders": {"types", "checkpoint", "settings_files"},
    "inspection": {
        *("types", "boxes", "data", "models", "metrics", "report", "checkpoint"),
        *("streaming_detector", "cli"),
    },
    "callbacks": {"types", "boxes", "files", "faults", "metrics", "report", "checkpoint"},
    "module": {
        *("types", "boxes", "files", "models", "metrics", "report", "checkpoint"),
        *("checkpoint_contents", "lanes", "schedule"),
    },
}
SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_modules(source):
    """Dotted names of everything that a file imports, relative imports made absolute."""
    path = PACKAGE / source
    package = ("etram_det", *Path(source).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "etram_det":
                yield from (f"etram_det.{alias.name}" for alias in node.names)
            else:
                yield module


def part_of(source):
    return Path(source).parts[0].removesuffix(".py")


@pytest.mark.parametrize("source", SOURCES)
def test_imports_follow_the_direction_of_the_house(source):
    own = part_of(source)
    if own in ALLOWED:
        others = {m.split(".")[1] for m in imported_modules(source) if m.startswith("etram_det.")}
        assert others - {own} - {"__version__"} <= ALLOWED[own]


@pytest.mark.parametrize("source", SOURCES)
def test_lightning_stays_in_its_homes(source):
    uses = any(
        m.split(".")[0] in ("pytorch_lightning", "lightning") for m in imported_modules(source)
    )
    assert not uses or {source, part_of(source)} & LIGHTNING_HOMES


def test_no_room_without_a_name_of_its_own():
    stems = {Path(source).stem for source in SOURCES}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}
