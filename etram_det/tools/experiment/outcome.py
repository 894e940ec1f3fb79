"""The outcome of an experiment: each variant's metrics, and the differences of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from math import isnan, nan
from statistics import fmean, stdev

from rich import box
from rich.table import Table

from etram_det.report.comparison import Comparison, compare, unlike
from etram_det.report.tables import number_of
from etram_det.tools.experiment.finished import FinishedRun, compared_keys
from etram_det.tools.experiment.plan import ExperimentPlan, Run


def progress_line(finished: Sequence[FinishedRun], to_do: Sequence[Run], jobs: int = 1) -> str:
    """One line on the run that has just finished, and the time that the others will take.

    Args:
        finished: runs, the newest last.
        to_do: those that are left.
        jobs: runs at the same time.
    """
    last = finished[-1]
    metrics = last.evaluated.metrics
    shown = ", ".join(f"{key} {metrics.get(key, nan):.4f}" for key in ("AP", "AP50", "AP_small"))
    pace_s = fmean(each.wall_s / each.run.steps for each in finished)
    left_s = pace_s * sum(run.steps for run in to_do) / jobs
    return (
        f"  {shown} in {timedelta(seconds=round(last.wall_s))}; {len(to_do)} to go, about "
        f"{timedelta(seconds=round(left_s))}"
    )


def outcome_tables(plan: ExperimentPlan, finished: Sequence[FinishedRun]) -> Iterator[Table]:
    """For each number of steps: all variants, and each comparison over the seeds of both."""
    for steps in dict.fromkeys(run.steps for run in plan.runs):
        of_steps = [each for each in finished if each.run.steps == steps]
        sides = {name: _of_variant(of_steps, name) for name in plan.variants}
        sides = {name: runs for name, runs in sides.items() if runs}
        if not sides:
            continue
        runs = {str(each.run): each.evaluated for each in of_steps if each.run.variant in sides}
        if apart := next(unlike(runs), None):
            yield Table(title=f"{steps} steps: not compared, as evaluated differently: {apart}")
            continue
        groups = compared_keys(next(iter(runs.values())).results["evaluation"])
        keys = [key for group in groups for key in group]
        for group in groups:
            yield _variants_table(f"{steps} steps, mean ± deviation over seeds", sides, group)
        for first, second in plan.comparisons:
            if first in sides and second in sides:
                yield _comparison_table(steps, first, second, sides, keys)


def _of_variant(finished: Sequence[FinishedRun], name: str) -> dict[int, FinishedRun]:
    return {each.run.seed: each for each in finished if each.run.variant == name}


_Sides = dict[str, dict[int, FinishedRun]]


def _variants_table(title: str, sides: _Sides, keys: Sequence[str]) -> Table:
    table = _new_table(title, ("variant", "seeds", "CPU min", *keys))
    for name, runs in sides.items():
        cells = []
        for key in keys:
            values = [each.evaluated.metrics.get(key, nan) for each in runs.values()]
            if isnan(sum(values)):
                cells.append("-")
                continue
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        minutes = fmean(each.cpu_s for each in runs.values()) / 60
        table.add_row(name, str(len(runs)), f"{minutes:.1f}", *cells)
    return table


def _comparison_table(
    steps: int, first: str, second: str, sides: _Sides, keys: Sequence[str]
) -> Table:
    """The paired difference over the seeds that both have."""
    seeds = sorted(set(sides[first]) & set(sides[second]))
    a, b = ([sides[name][seed].evaluated for seed in seeds] for name in (first, second))
    table = _new_table(
        f"{steps} steps, {second} less {first}, {number_of(len(seeds), 'seed')}",
        ("metric", first, second, "difference", "95 %", "verdict", "seeds better"),
    )
    for key in keys if seeds else ():
        each = compare(a, b, key, paired=True)
        if each is not None:
            better = sum(two.metrics[key] > one.metrics[key] for one, two in zip(a, b, strict=True))
            table.add_row(*_cells(each), f"{better} of {len(seeds)}")
    return table


def _cells(each: Comparison) -> list[str]:
    ends = "-" if each.interval is None else "{:+.3f} to {:+.3f}".format(*each.interval)
    means = [f"{side.mean:.3f}" for side in each.sides]
    return [each.key, *means, f"{each.difference:+.3f}", ends, each.verdict or "-"]


def _new_table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table
