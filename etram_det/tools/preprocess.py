"""``python -m etram_det preprocess``: prepare recordings once, to load them fast ever after."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from etram_det.data.labels import LabelSettings
from etram_det.data.preprocessing import MANIFEST, preprocess
from etram_det.data.representation import FrameSettings
from etram_det.errors import UserError
from etram_det.progress import screen, shown_progress
from etram_det.report.tables import BETWEEN_LABEL_TIMES


def preprocess_command(
    root: Path,
    output: Path,
    format: Literal["sparse", "rvt"] = "sparse",
    workers: int | None = None,
    shard: str = "1/1",
    frames: FrameSettings = FrameSettings(input_size=(360, 640)),  # noqa: B008 (frozen)
    labels: LabelSettings = LabelSettings(),  # noqa: B008 (frozen)
) -> None:
    """Write the frames and labels of recordings, to train on without reading events again.

    Run it again after an interruption: finished recordings are kept.

    Args:
        root: folder of the recordings: raw eTraM, as downloaded or sorted into ``train``, ``val``
            and ``test``; or one that was preprocessed already, to change its format.
        output: folder to write; give it as ``data.root`` afterwards.
        format: ``sparse`` is small and fast to load; ``rvt`` is the layout of RVT and its eTraM
            fork.
        workers: processes that work at the same time; one for each core if unset.
        shard: ``i/n`` writes the i-th of n parts, to share the work between machines.
        frames: how events become frames.
        labels: which boxes become labels.

    Raises:
        UserError: a setting or file does not fit; the message names it.
    """
    started_s = time.monotonic()
    with shown_progress("frames") as progress:
        manifest = preprocess(
            root.expanduser(),
            output.expanduser(),
            frames,
            labels,
            format,
            workers,
            _shard(shard),
            progress,
        )
    console = screen()
    console.print(_summary(manifest))
    console.out(
        f"done in {time.monotonic() - started_s:.0f} s; counts of each recording in "
        f"{output / MANIFEST}"
    )


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UserError(f"shard: must be i/n, got {text}: write 1/4, say")
    return int(match[1]), int(match[2])


def _summary(manifest: dict[str, Any]) -> Table:
    table = Table("what is finished")
    table.add_column("number", justify="right")
    for name, number in manifest["totals"].items():
        # What lies between label times is counted there, too, but was not dropped.
        is_dropped = not name.endswith(BETWEEN_LABEL_TIMES)
        shown = name if is_dropped else f"boxes {BETWEEN_LABEL_TIMES}, not used"
        table.add_row(shown, f"{number:,}")
    return table
