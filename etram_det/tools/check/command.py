"""``python -m etram_det check``: all that ``fit`` would find in its data, without training."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from etram_det.cli.data_of_fit import data_of_fit
from etram_det.data.datamodule import EventDataModule
from etram_det.data.layouts import splits_of
from etram_det.data.subset import warn_of_unknown_names
from etram_det.errors import UserError
from etram_det.progress import screen, shown_progress
from etram_det.tools.check.contact_sheet import write_sheet
from etram_det.tools.check.split_findings import (
    Finding,
    SplitFindings,
    findings_of,
    remarks_of,
    warnings_as_findings,
)
from etram_det.tools.check.summary import summary_of

WIDTH = 100  # columns in a file or a pipe
SHEET = "check.png"
_WINDOWS, _LEAST_WINDOWS = 400, 4  # that are encoded: of all recordings together, of each
_MOST_WINDOWS = 24


def check_command(
    root: Path | None = None, output: Path = Path("check"), fit_flags: Sequence[str] = ()
) -> int:
    """Show what ``fit`` would make of recordings, without training: read this before you train.

    It takes all flags of ``fit``, such as ``--config size_aware`` and ``--data.input_size``, and
    reads the data as ``fit`` would with them. Exit code 1 where something is doubtful.

    Args:
        root: folder of the recordings, in any layout; ``data.root`` of the settings unless given.
        output: folder for ``check.png``, frames with their labels.
        fit_flags: flags of ``fit``; they are given as they are, without this name.

    Returns:
        Exit code.

    Raises:
        UserError: a setting does not fit, or there are no recordings.
    """
    own = [] if root is None else ["--data.root", str(root)]
    data, needed = data_of_fit([*fit_flags, *own])
    if data.root is None:
        raise UserError("root: must be a folder of recordings, got none: use check ROOT")
    names = splits_of(data.folder) if data.folder.is_dir() else []
    with warnings_as_findings() as remarks:
        warn_of_unknown_names(data.subset, data.folder)
    splits = [findings_of(name, data) for name in names or (None,)]
    _sample(splits, data)
    sheet = output.expanduser() / SHEET
    num_shown = write_sheet(sheet, splits, data)
    remarks += [*remarks_of(splits), *_missing(names, needed, data.folder)]
    doubts = [each.text for each in remarks if each.is_doubtful]
    console = screen(width=WIDTH)
    console.print(summary_of(splits, remarks, data, shutil.disk_usage(".").free))
    if num_shown:
        console.out(f"{num_shown} labelled frames: {sheet}")
    console.out("What to set:" if doubts else "Nothing is doubtful.", style="bold")
    for doubt in doubts:
        console.print(f"- {doubt}")
    return 1 if doubts else 0


def _sample(splits: Sequence[SplitFindings], data: EventDataModule) -> None:
    """Read some frames of all recordings."""
    number = max(sum(len(split.recordings) for split in splits), 1)
    of_each = min(max(_WINDOWS // number, _LEAST_WINDOWS), _MOST_WINDOWS)
    with shown_progress("recordings sampled", transient=True) as progress:
        sampled = (None for split in splits for _ in split.sample(data, of_each))
        for done, _ in enumerate(sampled, start=1):
            progress(done, number)


def _missing(names: Sequence[str], needed: Sequence[str], folder: Path) -> list[Finding]:
    """Splits that fit needs and that are not there."""
    if not names:
        text = "no train/, val/ or test/: checked for detect and predict only: to train, sort the "
        return [Finding(f"{text}recordings with their boxes into such folders")]
    return [
        Finding(f"{name}: no recordings, which fit needs: add {name}/ to {folder}{remedy}", True)
        for name, remedy in (("train", ""), ("val", ", or set trainer.limit_val_batches to 0"))
        if name in needed and name not in names
    ]
