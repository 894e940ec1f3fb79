"""``python -m etram_det bench``: runs the benchmarks, prints tables and writes JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from etram_det.cli.resume import named_checkpoint
from etram_det.errors import UserError
from etram_det.files import write_text
from etram_det.inference.engine import Runtime, require_installed
from etram_det.inference.exported_file import ExportedDetector
from etram_det.inference.streaming_detector import TrainedDetector, open_detector
from etram_det.models.arithmetic import use_tensor_float_32
from etram_det.progress import screen
from etram_det.tools.bench.data import bench_data
from etram_det.tools.bench.inputs import BenchSettings, Precision, Preset
from etram_det.tools.bench.measure import Section, machine
from etram_det.tools.bench.metric import bench_metric
from etram_det.tools.bench.sizes import bench_sizes
from etram_det.tools.bench.stream import bench_stream
from etram_det.tools.bench.tables import FILE_WIDTH, header_lines, table
from etram_det.tools.bench.train import bench_assign, bench_growth, bench_train
from etram_det.tools.export.graph import require_export_packages
from etram_det.training.devices import why_no_cuda


def bench_command(
    part: Literal["train", "stream", "sizes", "assign", "metric", "data", "all"],
    preset: Preset = "tiny",
    input_size: tuple[int, int] | None = None,
    lanes: int = 2,
    steps: int = 5,
    scales: Literal[3, 4] = 3,
    precision: Sequence[Precision] = ("32-true", "bf16-mixed"),
    compile: Literal["none", "stages"] = "none",
    gradient_checkpointing: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    repeats: int = 10,
    data: bool = False,
    growth: bool = False,
    frames: int = 4000,
    ckpt_path: Path | None = None,
    runtimes: Sequence[Literal["pytorch", "onnxruntime", "openvino"]] | None = None,
    output: Path | None = None,
) -> None:
    """Measure speed, and compare it with the counted arithmetic; ``bench gpu`` has its own help.

    Variants take turns, A B A B, so that their ratios hold on a machine with other load too.
    ``bench gpu --help`` shows the settings of ``bench gpu``, all measurements of a GPU.

    Args:
        part: a training step, streaming inference, memory and speed of all presets and three
            sizes, assignment, the metric, loading; or all but ``sizes``.
        preset: sizes of the network, as in RVT.
        input_size: height and width of the frames in pixels; 384 and 640 unless set, or those of
            ``ckpt_path``.
        lanes: lanes of a training batch.
        steps: time steps of a training chunk.
        scales: scales of the pyramid: 3 as in RVT, or 4.
        precision: precisions to measure, one after the other.
        compile: ``stages`` measures compiled variants as well; compiling takes minutes.
        gradient_checkpointing: compute attention again in the backward pass.
        device: where to compute; ``auto`` takes an accelerator where there is one.
        repeats: measurements of each variant, of which the median counts.
        data: also train on batches from the loader, of simulated traffic in the user's cache.
        growth: also time the training step with more lanes, steps, pixels and scales.
        frames: frames that the metric is timed on.
        ckpt_path: a checkpoint or an exported detector that ``stream`` measures, in place of random
            weights of the preset.
        runtimes: that ``stream`` compares; PyTorch unless set, or for an exported detector those
            that are installed. A checkpoint is exported for the others (extras ``export``,
            ``openvino``).
        output: JSON file to write.

    Raises:
        UserError: for a setting that does not fit. What cannot be measured here takes one line
            of the report instead, and the rest is measured.
    """
    use_tensor_float_32()
    if (missing := why_no_cuda()) is not None and device == "cuda":
        raise UserError(f"device: must be cpu or auto here, got cuda ({missing}): set cpu")
    chosen = torch.device("cuda" if missing is None and device != "cpu" else "cpu")
    source = None
    if ckpt_path is not None:
        if part != "stream":
            raise UserError(f"ckpt_path: must be left out of {part}, got {ckpt_path}: use stream")
        source = open_detector(Path(named_checkpoint(ckpt_path, "ckpt_path")).expanduser())
    settings = BenchSettings(
        preset=preset,
        input_size=input_size or _size_of(source),
        lanes=lanes,
        steps=steps,
        scales=scales,
        precision=tuple(precision),
        compile=compile,
        gradient_checkpointing=gradient_checkpointing,
        repeats=repeats,
        device=chosen,
        runtimes=_runtimes(runtimes, source),
        source=source,
    )
    _run(_parts(part, settings, data, growth, frames), chosen, output)


def _size_of(source: TrainedDetector | ExportedDetector | None) -> tuple[int, int]:
    """Height and width of the frames of a detector, in pixels."""
    return (None if source is None else source.frame_settings.input_size) or (384, 640)


def _runtimes(
    given: Sequence[Runtime] | None, source: TrainedDetector | ExportedDetector | None
) -> tuple[Runtime, ...]:
    """The runtimes to compare.

    Raises:
        UserError: one is not installed, or cannot read the source.
    """
    if given is None:
        others: tuple[Runtime, ...] = ("onnxruntime", "openvino")
        if isinstance(source, ExportedDetector):
            return tuple(name for name in others if find_spec(name))
        return ("pytorch",)
    for runtime in given:
        require_installed(runtime)
    if "pytorch" in given and isinstance(source, ExportedDetector):
        raise UserError(
            "runtimes: must be onnxruntime or openvino for an exported detector, got pytorch: use "
            "--ckpt_path with its checkpoint to compare all of them"
        )
    if {"onnxruntime", "openvino"} & set(given) and not isinstance(source, ExportedDetector):
        require_export_packages()
    return tuple(given)


def _parts(
    part: str, settings: BenchSettings, data: bool, growth: bool, frames: int
) -> dict[str, Callable[[], list[Section]]]:
    """The benchmarks that are asked for, by name."""
    repeats = settings.repeats
    parts: dict[str, Callable[[], list[Section]]] = {
        "train": lambda: [bench_train(settings, data)],
        "growth": lambda: [bench_growth(settings)],
        "stream": lambda: [bench_stream(settings)],
        "sizes": lambda: list(bench_sizes(settings)),
        "assign": lambda: [bench_assign(settings.device, repeats)],
        "metric": lambda: [bench_metric(frames, max(repeats // 3, 1))],
        "data": lambda: bench_data(repeats),
    }
    wanted = (
        set(parts) - {"sizes"} if part == "all" else {part, "growth"} if part == "train" else {part}
    )
    wanted -= set() if growth else {"growth"}
    return {name: parts[name] for name in parts if name in wanted}


def _run(
    parts: dict[str, Callable[[], list[Section]]],
    device: torch.device,
    output: Path | None,
) -> None:
    """Run benchmarks one after the other, print their tables and write the report."""
    console = screen(width=FILE_WIDTH)
    header = machine(device)
    console.out(header_lines(header), sep="\n")
    sections: list[Section] = []
    for name, run in parts.items():
        with console.status(f"measuring: {name}"):
            found = run()
        for section in found:
            console.print(table(section))
        sections += found
    if output is not None:
        report = {"machine": header, "sections": list(map(asdict, sections))}
        try:
            write_text(output, json.dumps(report, indent=2) + "\n")
        except OSError as error:
            raise UserError(
                f"output: {output} cannot be written ({error.strerror or error}): choose another"
            ) from error
        console.out(f"written to {output}")
