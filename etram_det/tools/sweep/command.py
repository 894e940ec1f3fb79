"""The command itself: settings, messages, and the loop over trials."""

from __future__ import annotations

import difflib
import logging
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from etram_det.cli.flags import configuration_file
from etram_det.cli.lightning import lightning_cli
from etram_det.errors import UserError
from etram_det.tools.sweep.outcome import progress_line, trials_table, write_outcome
from etram_det.tools.sweep.space import SearchSpace
from etram_det.tools.sweep.study import SharedStudy, run_fit

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
    fit: Sequence[str] = (),
) -> None:
    """Search loss variants, size weighting and learning rate with Optuna.

    Each trial trains with ``fit`` and is judged by a figure of its last evaluation of the
    validation split. Give the same command again, also from other processes or machines that see
    the folder, to go on with the study or to share its work.

    Args:
        output: folder of the study: its journal, a folder for each trial, ``sweep.csv``,
            ``sweep.json`` and ``best.yaml``.
        variants: configurations to choose from, files or names such as baseline size_aware.
            Unset: only the one that ``fit`` gives.
        trials: number of trials that the study is to have, those of other processes included.
        metric: figure of metrics.json to maximise: AP, AP50, AP_small, AP_pedestrian, …
        seeds: seed of each trial's run; several for as many runs, whose mean counts.
        learning_rate: lowest and highest learning rate, drawn by magnitude. Here and below, null
            leaves what the configuration says.
        size_aware_weight: lowest and highest weight of the smallest boxes, at least 1, for
            variants whose loss has size weighting.
        small_threshold: lowest and highest small_threshold in square pixels, drawn by magnitude,
            for variants whose weight depends on it.
        medium_threshold: lowest and highest medium_threshold in square pixels, drawn by
            magnitude, for variants whose weight depends on it.
        sampler_seed: seed of the choices.
        fit: settings of all runs, written as for ``fit`` after a ``--`` that ends the sweep's own
            flags: ``-- --config quick --data.root /path``. They go over the variant.

    Raises:
        UserError: if Optuna is missing, a setting does not fit, the folder holds another study, or
            no trial came to a value.
    """
    ranges = {
        "learning_rate": learning_rate,
        "size_aware_weight": size_aware_weight,
        "small_threshold": small_threshold,
        "medium_threshold": medium_threshold,
    }
    seeds = [seeds] if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    if trials < 1 or not seeds:
        raise UserError(f"trials, seeds: must be one or more, found {trials} and {seeds}")
    metric = metric.removeprefix("val/")
    named = [variants] if isinstance(variants, Path) else variants
    paths = [Path(configuration_file(str(each), "variants")) for each in named]
    space = SearchSpace(
        _configurations(paths, fit, metric),
        {name: bounds for name, bounds in ranges.items() if bounds is not None},
    )
    shared = SharedStudy(output.expanduser(), space, metric, seeds, sampler_seed, run_fit)
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    _say(console, _plan(space, shared.output))
    with _interrupted_by_termination():
        while (trial := shared.next_trial(trials)) is not None:
            shared.run(trial)
            write_outcome(shared)
            _say(console, progress_line(shared, trial.number, trials))
    write_outcome(shared)
    console.print(trials_table(shared))
    _require_a_value(shared)
    _say(console, f"sweep.csv, sweep.json, best.yaml and trials/ in {shared.output}")


def _require_a_value(shared: SharedStudy) -> None:
    """Tell of a study in which every run failed: its settings must be at fault."""
    ended = [trial for trial in shared.trials() if trial.state.is_finished()]
    if ended and all(trial.value is None for trial in ended):
        raise UserError(
            f"trials: none of {len(ended)} came to a value: the table has their last words, "
            f"{shared.output / 'trials'} their logs",
            exit_code=1,
        )


def _configurations(
    variants: Sequence[Path], fit: Sequence[str], metric: str
) -> dict[str, dict[str, Any]]:
    """The whole configuration of each variant, by its file's name.

    Raises:
        UserError: if two have one name, a setting does not fit, or the metric does not exist.
    """
    if not variants:
        if not fit:
            raise UserError(
                "variants: must be one or more configuration files, found none: name some, or "
                "give fit its settings after --"
            )
        return {"configuration": _resolved(fit, metric)}
    names = [path.stem for path in variants]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(
            f"variants: must differ in the names of their files, found {twice.pop()} twice: "
            "rename one"
        )
    return {path.stem: _resolved(["--config", str(path), *fit], metric) for path in variants}


def _resolved(settings: Sequence[str], metric: str) -> dict[str, Any]:
    """What ``fit`` makes of files and flags; building it all shows mistakes before any run.

    So does opening the data; simulated traffic is made now, if need be.
    """
    logging.disable(logging.INFO)  # every run will say it again
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the metric has seen no frames
            cli = lightning_cli(["fit", *settings], run=False)
            figures = [name for name in cli.model.metric.compute() if name.startswith("A")]
            text = cli.parser.dump(cli.config, skip_none=False)
            cli.datamodule.prepare_data()
            cli.datamodule.setup("fit")
    finally:
        logging.disable(logging.NOTSET)
    if metric not in figures:
        near = difflib.get_close_matches(metric, figures, 3) or figures[:5]
        raise UserError(
            f"metric: must be an average precision or recall of metrics.json, found {metric}: "
            f"choose {', '.join(near)} or another in docs/evaluation.md"
        )
    return dict(yaml.safe_load(text))


def _plan(space: SearchSpace, output: Path) -> str:
    """What will be searched, in one line for each variant."""
    lines = [f"study in {output}"]
    for variant in space.variants:
        searched = [
            f"{name} {space.ranges[name][0]:g} to {space.ranges[name][1]:g}"
            for name in space.searched(variant)
        ]
        lines.append(f"  {variant}: {', '.join(searched) or 'as it is'}")
    return "\n".join(lines)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """Let a scheduler's SIGTERM act as Ctrl-C does, so that the trial goes back to the study."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
