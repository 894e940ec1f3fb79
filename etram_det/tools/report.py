"""``python -m etram_det report``: a page of an evaluated run, of two, or of two sides of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.report.comparison import unlike
from etram_det.report.page import FILE_NAME, write_comparison, write_report
from etram_det.report.run_files import newest_evaluation, read_run
from etram_det.report.tables import sides_table

_VERSUS = "vs"
_WIDTH = 120  # of the table where it goes into a file or a pipe, in columns


def report_command(runs: Sequence[str], output: Path | None = None) -> None:
    """Write a page of metrics, plots and pictures that opens without a network.

    Args:
        runs: one or two run folders, of which the newest evaluation is shown, or folders of one
            evaluation; that of a training has no pictures. Two are shown side by side, with the
            second one's differences from the first. Several a side, such as seeds, are compared
            by their means: ``A1 A2 vs B1 B2``.
        output: file to write. Unset: ``report.html`` in the run folder; for several runs, in the
            current folder.

    Raises:
        UserError: there are not one or two runs or two sides, a run holds no evaluation or is
            damaged, or the runs of two sides were evaluated differently.
    """
    output = None if output is None else output.expanduser()
    if _VERSUS in runs:
        _report_sides(runs, output)
        return
    if not 1 <= len(runs) <= 2:
        raise UserError(
            f"runs: must be one or two run folders, got {len(runs)}: name one or two, or two sides "
            "with vs between them"
        )
    folders = [Path(run).expanduser() for run in runs]
    evaluations = [newest_evaluation(folder) for folder in folders]
    place = folders[0] / FILE_NAME if output is None and len(folders) == 1 else output
    path = write_report(evaluations, None if place is None else place.expanduser())
    if len(folders) == 2:
        read = dict(zip("AB", map(read_run, evaluations), strict=True))
        if apart := "; ".join(unlike(read)):
            screen().out(f"not compared, as they were not evaluated alike: {apart}")
    within = [each for each in evaluations if each not in folders]
    screen().out(f"report{' of ' if within else ''}{', '.join(map(str, within))}: {path}")


def _report_sides(runs: Sequence[str], output: Path | None) -> None:
    """Compare the runs before ``vs`` with those after it, on the screen and in a page."""
    middle = runs.index(_VERSUS)
    named = {"A": runs[:middle], "B": runs[middle + 1 :]}
    numbers = [len(side) for side in named.values()]
    if _VERSUS in named["B"] or min(numbers) < 1 or 1 == min(numbers) < max(numbers):
        raise UserError(
            "runs: must be two sides of two or more runs, or of one each, with vs between them, "
            f"got {numbers[0]} and {numbers[1]}: use A1 A2 vs B1 B2"
        )
    sides = {
        name: [read_run(newest_evaluation(Path(run).expanduser())) for run in side]
        for name, side in named.items()
    }
    folders = [run.folder.resolve() for side in sides.values() for run in side]
    if len(set(folders)) < len(folders):
        raise UserError(
            "runs: must be different ones, got one of them twice: leave it out, as a run counts "
            "once in the spread over runs"
        )
    by_folder = {str(run.folder): run for side in sides.values() for run in side}
    if apart := "; ".join(unlike(by_folder)):
        raise UserError(
            f"runs: must be evaluated on the same recordings by the same rules, got other {apart}: "
            "use validate or test with the same settings for all"
        )
    path, groups = write_comparison(sides, output)
    screen(width=_WIDTH).print(sides_table(groups))
    screen().out(f"report: {path}")
