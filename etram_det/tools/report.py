"""``python -m etram_det report``: one page of one evaluated run, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.page import FILE_NAME, write_report
from etram_det.report.run_files import newest_evaluation


def report_command(runs: Sequence[str], output: Path | None = None) -> None:
    """Write a page of metrics, plots and pictures that opens without a network.

    Args:
        runs: one or two run folders, of which the newest evaluation is shown, or folders of one
            evaluation; that of a training has no pictures. Two are shown side by side, with the
            second one's differences from the first.
        output: file to write. Unset: ``report.html`` in the run folder; for two runs, in the
            current folder.

    Raises:
        UserError: there are not one or two runs, or one holds no evaluation or is damaged.
    """
    if not 1 <= len(runs) <= 2:
        raise UserError(f"runs: must be one or two run folders, got {len(runs)}: name one or two")
    folders = [Path(run).expanduser() for run in runs]
    evaluations = [newest_evaluation(folder) for folder in folders]
    place = folders[0] / FILE_NAME if output is None and len(folders) == 1 else output
    path = write_report(evaluations, None if place is None else place.expanduser())
    within = [each for each in evaluations if each not in folders]
    screen().out(f"report{' of ' if within else ''}{', '.join(map(str, within))}: {path}")
