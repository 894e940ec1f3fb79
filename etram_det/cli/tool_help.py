"""What ``--help`` of a tool starts with: how it is called, and examples."""

from __future__ import annotations

# How a command is called after its name, and examples with what each of them does.
TOOLS_HELP: dict[str, tuple[str, dict[str, str]]] = {
    "check": (
        "[FOLDER] [--output DIR] [flags of fit] …",
        {
            "/path/to/recordings": "with the settings that fit has by itself",
            "/path/to/recordings --config size_aware": "as fit --config size_aware would read them",
        },
    ),
    "simulate": (
        "--output DIR [--KEY VALUE] …",
        {
            "--output traffic": "32 recordings of 6 s",
            "--output traffic --amount standard": "92 recordings of 20 s",
            "--output traffic --settings.train 2 --settings.seconds 60 --preview": (
                "two long ones, with videos"
            ),
        },
    ),
    "preprocess": (
        "--root DIR --output DIR [--KEY VALUE] …",
        {
            "--root /path/to/eTraM --output /path/to/cache": "what fit then takes as data.root",
            "--root /path/to/eTraM --output /path/to/cache --shard 1/4": (
                "a quarter of the work, on one of four machines"
            ),
        },
    ),
    "stats": (
        "--root DIR [--output DIR] [--KEY VALUE] …",
        {"--root /path/to/eTraM --output stats": "tables, and plots in stats/"},
    ),
    "bench": (
        "PART [--KEY VALUE] …",
        {
            "stream": "one window after the other, in PyTorch",
            "train --growth true": "a training step, over lanes, steps, pixels and scales",
            "all --output bench.json": "everything: some ten minutes",
        },
    ),
    "import-rvt": (
        "--checkpoint FILE --output FILE [--KEY VALUE] …",
        {"--checkpoint rvt-b.ckpt --output rvt-b.etram.ckpt": "for detect, validate or fit"},
    ),
    "detect": (
        "FILE … [--ckpt_path FILE] [--KEY VALUE] …",
        {
            "recording.raw": "with the network of the package: boxes and a video",
            "recording.raw --ckpt_path best --score 0.5": "with the best one of the newest run",
            "/path/to/recordings --ckpt_path best.onnx --video false": "of a folder, boxes only",
        },
    ),
    "live": (
        "[--ckpt_path FILE] [--KEY VALUE] …",
        {
            "--view": "boxes of the camera that is there, and a page to look at",
            "--replay recording.raw --view": "of a recording, at the pace of its events",
        },
    ),
    "evaluate": (
        "--labels PATH --detections PATH … [--KEY VALUE] …",
        {
            "--labels /path/to/recordings --detections found": "box files of one detector",
            "--labels gt.json --detections yolo=A.json --detections rvt=B.json": (
                "two detectors side by side"
            ),
        },
    ),
    "convert-labels": (
        "FILE … --output PATH [--KEY VALUE] …",
        {
            "export.json --output root/val --times.rate 10": (
                "COCO labels, at ten images a second"
            ),
            "root/val --output labels.json": "back to COCO",
        },
    ),
    "export": (
        "--ckpt_path FILE --output FILE [--KEY VALUE] …",
        {"--ckpt_path best --output detector.onnx": "the best one of the newest run"},
    ),
    "report": (
        "RUN [RUN … [vs RUN …]] [--output FILE]",
        {
            "runs/a/version_0": "its newest evaluation",
            "runs/a/version_0 runs/b/version_0": "two runs, compared by the paired bootstrap",
            "runs/a/version_0 runs/a/version_1 vs runs/b/version_0 runs/b/version_1": (
                "several seeds a side"
            ),
        },
    ),
    "checkpoint": (
        "FILE [--KEY VALUE] …",
        {
            "best": "of the newest run: settings, data, versions, metrics",
            "best --publish network.ckpt": "a small file without folders and optimiser",
        },
    ),
    "sweep": (
        "--output DIR [--KEY VALUE] … -- [flags of fit] …",
        {
            "--output sweeps/loss -- --data.root /path/to/eTraM": (
                "loss variants and learning rates, each a training of its own"
            ),
        },
    ),
    "experiment": (
        "PLAN [--KEY VALUE] …",
        {
            "configs/experiments/small_objects.yaml": "all runs of a plan, and their comparison",
            "configs/experiments/small_objects.yaml --most 0": "only the comparison",
        },
    ),
    "doctor": (
        "[--json true]",
        {"": "versions, devices, codecs, runtimes and caches", "--json": "for a bug report"},
    ),
    "cache": (
        "[clear] [--yes true]",
        {"": "what is kept, where, how large", "clear": "remove it, after a question"},
    ),
}


def usage_of(command: str, program: str) -> str:
    """How a tool is called, and its examples.

    Args:
        command: its name.
        program: with which the command line starts.
    """
    call, examples = TOOLS_HELP[command]
    lines = [
        f"  {f'{program} {flags}'.rstrip()}\n      {words}" for flags, words in examples.items()
    ]
    return "\n".join([f"usage: {program} {call}", "", "Examples:", "", *lines, "", ""])
