"""``python -m etram_det bench gpu``: all measurements of a device, in parts that go on.

It needs neither jsonargparse nor a library that reads recordings, so that it runs where little more
than PyTorch and Lightning is installed.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from etram_det.errors import UserError
from etram_det.files import write_text
from etram_det.models.arithmetic import use_tensor_float_32
from etram_det.progress import screen
from etram_det.report.tables import number_of
from etram_det.tools.bench.gpu_cases import Case, cases, sizes_on
from etram_det.tools.bench.measure import Measurement, Section, machine
from etram_det.tools.bench.tables import FILE_WIDTH, header_lines, table
from etram_det.training.devices import why_no_cuda

_FILE = "gpu.json"
# What must be the same of all measurements in a file.
_MACHINE = ("processor", "accelerator", "cuda", "packages", "system", "python")


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise ``UserError`` with a message in one line."""
        raise UserError(f"bench gpu: {message}: use --help")


def bench_gpu_command(args: Sequence[str]) -> None:
    """Measure what is asked for and not yet in the file, and print tables of all that is.

    Args:
        args: what follows ``bench gpu``.

    Raises:
        UserError: an argument does not fit, there is no device, or the file is of another machine.
    """
    given = _parser().parse_args(args)
    device = _device(given.device)
    known = cases(sizes_on(device, given.tiny))
    parts = [name for word in given.parts for name in word.split(",")] or list(known)
    if unknown := [name for name in parts if name not in known]:
        raise UserError(
            f"parts: must be among {', '.join(known)}, got {', '.join(unknown)}: use these"
        )
    use_tensor_float_32()
    measurements = _Measurements(given.output / _FILE, machine(device), given.tiny)
    console = screen(width=FILE_WIDTH)
    console.out(header_lines(measurements.machine))
    left = {}
    for part in parts:
        left[part] = _measure(part, known[part], measurements, given.minutes)
        for section in measurements.sections(part):
            console.print(table(section))
    console.out(f"written to {measurements.path}")
    for part, number in left.items():
        if number:
            console.out(f"{part}: {number_of(number, 'case')} left: run the same command again")


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="python -m etram_det bench gpu",
        description="Measure training (RVT base, chunks of 5, 6 to 24 lanes), streaming, loading "
        "and the largest costs on a CUDA device, on input made up there. What is in the output "
        "folder already is not measured again.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help=f"folder of {_FILE}")
    parser.add_argument(
        "--parts", nargs="+", default=[], metavar="PART", help="eager, compiled, graph: training; "
        "stream, loader, profile; all of them unless set",
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="after which a part begins no further case"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="to measure")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="sizes that show in seconds whether it runs, without compilation",
    )
    return parser


def _device(name: str) -> torch.device:
    if name == "cuda" and (reason := why_no_cuda()) is not None:
        raise UserError(
            f"device: must be a CUDA device, got none ({reason}): use bench train --device cpu, or "
            "--device cpu --tiny to see what would run"
        )
    return torch.device(name)


class _Measurements:
    """What was measured on one machine, by part and case, in a file that is written case by case.

    Args:
        path: the file; read if it is there.
        machine: as ``measure.machine`` describes it.
        tiny: whether sizes are tiny.

    Raises:
        UserError: the file is of another machine or other sizes, or no such file.
    """

    def __init__(self, path: Path, machine: dict[str, Any], tiny: bool) -> None:
        self.path, self.machine, self._tiny = path, machine, tiny
        self._parts: dict[str, dict[str, Any]] = {}
        if not path.is_file():
            return
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            self._parts = stored["parts"]
            theirs, sizes = [stored["machine"][name] for name in _MACHINE], stored["tiny"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"output: {path} must hold measurements of bench gpu, got others "
                f"({type(error).__name__}): use another folder"
            ) from error
        ours = [machine[name] for name in _MACHINE]
        if theirs != ours or sizes != tiny:
            raise UserError(
                f"output: {path} must hold measurements of this machine, these versions and sizes, "
                f"got those of {stored['machine']['accelerator'] or 'a processor'} on "
                f"{stored['machine']['date']}: use another folder"
            )

    def has(self, part: str, case: str) -> bool:
        """Whether a case was measured."""
        return case in self._parts.get(part, {})

    def add(self, part: str, case: str, section: Section) -> None:
        """Keep what a case found.

        Raises:
            UserError: the file cannot be written.
        """
        self._parts.setdefault(part, {})[case] = asdict(section)
        content = {"machine": self.machine, "tiny": self._tiny, "parts": self._parts}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"output: {self.path} cannot be written ({error.strerror or error}): use another "
                "folder"
            ) from error

    def sections(self, part: str) -> list[Section]:
        """What is known of a part, cases with the same title in one section."""
        merged: dict[str, Section] = {}
        for found in self._parts.get(part, {}).values():
            section = merged.setdefault(found["title"], Section(found["title"]))
            section.measurements += [Measurement(**each) for each in found["measurements"]]
            section.failures |= found["failures"]
        return list(merged.values())


def _measure(part: str, known: dict[str, Case], measurements: _Measurements, minutes: float) -> int:
    """Measure the cases of a part that are not yet known; returns how many time did not allow."""
    console = screen(stderr=True)
    left = [name for name in known if not measurements.has(part, name)]
    started_s, longest_s = time.monotonic(), 0.0
    while left:
        case_started_s = time.monotonic()
        if case_started_s - started_s + longest_s > 60 * minutes:
            break
        name = left.pop(0)
        console.out(f"measuring: {part}: {name}")
        measurements.add(part, name, known[name]())
        longest_s = max(longest_s, time.monotonic() - case_started_s)
    return len(left)
