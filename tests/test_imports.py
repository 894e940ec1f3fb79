"""The house's walls: who imports whom, and where Lightning, PyTorch and file libraries live."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "etram_det"
LIGHTNING_HOMES = ("training/", "cli/lightning.py", "data/datamodule.py", "tools/sweep/")
# Ground first. A part may import those of lower floors, never its own floor or one above.
FLOORS = (
    {"errors"},
    {"types", "files", "progress"},
    {"boxes"},
    {"metrics"},
    {"drawing", "models", "simulator"},
    {"report", "checkpoint", "data"},
    {"inference"},
    {"training"},
    {"cli"},
    {"tools", "inspection"},
    {"__main__", "__init__"},
)
FLOOR = {part: level for level, parts in enumerate(FLOORS) for part in parts}
APART = [{"data", "models"}, {"data", "metrics"}, {"models", "metrics"}]
# Rooms and files that work without PyTorch, and those of data that make batches, which do not.
TORCH_FREE = {"errors", "types", "boxes", "files", "progress", "drawing", "inference", "simulator"}
_NAMES = ("sparse_batch", "streaming", "chunks", "loader_processes", "datamodule")
MAKES_BATCHES = tuple(f"data/{name}.py" for name in _NAMES)
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
    others = {m.split(".")[1] for m in imported_modules(source) if m.startswith("etram_det.")}
    for other in others - {own, "__version__"}:
        assert FLOOR[other] < FLOOR[own], f"{own} imports {other}"
        assert {own, other} not in APART


@pytest.mark.parametrize("source", SOURCES)
def test_lightning_stays_in_its_homes(source):
    uses = any(
        m.split(".")[0] in ("pytorch_lightning", "lightning") for m in imported_modules(source)
    )
    assert not uses or source.startswith(LIGHTNING_HOMES)


def test_no_room_without_a_name_of_its_own():
    stems = {Path(source).stem for source in SOURCES}
    assert not stems & {"utils", "util", "helpers", "common", "misc"}


def test_readers_drawing_and_inference_load_no_torch_and_no_file_library():
    free = TORCH_FREE | {"data"}
    sources = [each for each in SOURCES if part_of(each) in free and each not in MAKES_BATCHES]
    assert len(sources) > 35
    dotted = [
        each.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for each in sources
    ]
    code = f"""
import importlib, sys
heavy = {{"torch", "torchvision", "pytorch_lightning", "h5py", "hdf5plugin", "eventcv"}}
for name in {dotted}:
    importlib.import_module(f"etram_det.{{name}}")
    if loaded := heavy & {{*sys.modules}}:
        sys.exit(f"{{name}} loads {{loaded}}")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
