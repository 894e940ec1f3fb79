"""The command itself: settings, messages, and the loop over trials."""

from __future__ import annotations

import difflib
import logging
import signal
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from etram_det.cli.flags import configuration_file
from etram_det.cli.lightning import lightning_cli
from etram_det.errors import UserError
from etram_det.progress import screen
from etram_det.tools.sweep.space import SEARCHED, SearchSpace

if TYPE_CHECKING:
    from etram_det.tools.sweep.study import SharedStudy

FILE_WIDTH = 160  # of the table in a file or a pipe, in columns

Range = tuple[float, float]


def sweep_command(
    output: Path,
    variants: Sequence[Path] | Path = (),
    trials: int = 20,
    metric: str = "AP",
    seeds: Sequence[int] | int = 1,
    learning_rate: Range | None = (1e-4, 5e-3),
    size_aware_weight: Range | None = (1.0, 4.0),
    small_threshold: Range | None = (256.0, 4096.0),
    medium_threshold: Range | None = (5184.0, 36864.0),
    sampler_seed: int = 0,
    storage: str | None = None,
    fit: Sequence[str] = (),
) -> None:
    """Search loss variants, size weighting and learning rate with Optuna.

    Each trial trains with ``fit``; the metric of its last validation is its value. Give the same
    command again, also from other processes, to go on with the study or to share its work.

    Args:
        output: folder of the study: its database, a folder for each trial, ``sweep.csv``,
            ``sweep.json`` and ``best.yaml``.
        variants: configurations to choose from, files or names such as baseline size_aware.
            Unset: only the one that ``fit`` gives.
        trials: number of trials that the study is to have, those of other processes included.
        metric: metric of metrics.json to maximise: AP, AP50, AP_small, AP_pedestrian, …
        seeds: seed of each trial's run; several for as many runs, whose mean counts.
        learning_rate: range, drawn by magnitude. Here and below, null keeps the configuration's.
        size_aware_weight: range of the smallest boxes' weight, at least 1, where there is one.
        small_threshold: range in square pixels, drawn by magnitude, where the weight depends on it.
        medium_threshold: the same for medium_threshold.
        sampler_seed: seed of the choices.
        storage: URL of a database server that several machines share, such as postgresql://…
        fit: settings of all runs, after a ``--`` that ends the sweep's own flags: ``-- --config
            quick --data.root /path``. They go over the variant.

    Raises:
        UserError: if Optuna is missing, a setting does not fit, the folder holds another study, or
            no trial came to a value.
    """
    ranges = (learning_rate, size_aware_weight, small_threshold, medium_threshold)
    seeds = [seeds] if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    metric = metric.removeprefix("val/")
    if trials < 1 or not seeds:
        raise UserError(f"trials, seeds: must be one or more, got {trials} and {seeds}: add some")
    named = [variants] if isinstance(variants, Path) else variants
    paths = [Path(configuration_file(str(each), "variants")) for each in named]
    bounds = {name: given for name, given in zip(SEARCHED, ranges, strict=True) if given}
    space = SearchSpace(_configurations(paths, fit, metric), bounds)
    if find_spec("optuna") is None:
        raise UserError("sweep: needs Optuna: install it by pip install 'etram-det[sweep]'")
    from etram_det.tools.sweep.study import SharedStudy

    _sweep(SharedStudy(output.expanduser(), space, metric, seeds, sampler_seed, storage), trials)


def _sweep(shared: SharedStudy, trials: int) -> None:
    """Run trials until there are enough, print and write what they found."""
    from etram_det.tools.sweep.outcome import progress_line, trials_table, value_of, write_outcome

    console = screen(width=FILE_WIDTH)
    console.out(_plan(shared.space, shared.output))

    def report(number: int) -> None:
        write_outcome(shared)
        console.out(progress_line(shared, number, trials))

    # A scheduler's SIGTERM acts as Ctrl-C does, so that the trial goes back to the study.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        shared.run(trials, report)
    finally:
        signal.signal(signal.SIGTERM, before)
    write_outcome(shared)
    console.print(trials_table(shared))
    ended = [trial for trial in shared.trials() if trial.state.is_finished()]
    if ended and all(value_of(trial) is None for trial in ended):
        raise UserError(
            f"trials: none of {len(ended)} came to a value: see the table, and their logs in "
            f"{shared.output / 'trials'}",
            exit_code=1,
        )
    console.out(f"sweep.csv, sweep.json, best.yaml and trials/ in {shared.output}")


def _configurations(
    variants: Sequence[Path], fit: Sequence[str], metric: str
) -> dict[str, dict[str, Any]]:
    """The complete configuration of each variant, by its file's name."""
    if not variants:
        if not fit:
            raise UserError(
                "variants: must be one or more configuration files, got none: set some, or give "
                "fit its settings after --"
            )
        return {"configuration": _resolved(fit, metric)}
    names = [path.stem for path in variants]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"variants: must differ in the names of their files, got {twice} twice: rename one"
        )
    return {path.stem: _resolved(["--config", str(path), *fit], metric) for path in variants}


def _resolved(settings: Sequence[str], metric: str) -> dict[str, Any]:
    """What ``fit`` makes of files and flags; building it and opening its data finds mistakes."""
    logging.disable(logging.INFO)  # every run will say it again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # every run will give it again
            cli = lightning_cli(["fit", *settings], run=False)
            names = cli.model.metric.settings.metric_names
            text = cli.parser.dump(cli.config, skip_unset=False)
            cli.datamodule.prepare_data()
            cli.datamodule.setup("fit")
    finally:
        logging.disable(logging.NOTSET)
    if metric not in names:
        near = difflib.get_close_matches(metric, names, 3) or names[:5]
        raise UserError(
            f"metric: must be an average precision or recall of metrics.json, got {metric}: "
            f"use {', '.join(near)} or another in docs/evaluation.md"
        )
    return dict(yaml.safe_load(text))


def _plan(space: SearchSpace, output: Path) -> str:
    """What will be searched, in one line for each variant."""
    lines = [f"study in {output}"]
    for variant in space.variants:
        searched = [
            "{} {:g} to {:g}".format(name, *space.ranges[name]) for name in space.searched(variant)
        ]
        lines.append(f"  {variant}: {', '.join(searched) or 'as it is'}")
    return "\n".join(lines)
