"""The command itself: makes the sets, trains what is missing, and compares what there is."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from threading import Event

from etram_det.cli.data_of_fit import data_of_fit
from etram_det.errors import UserError
from etram_det.files import held_alone, write_text
from etram_det.progress import screen, shown_progress
from etram_det.simulator.dataset import SimulationSettings, simulated_root
from etram_det.tools.experiment.finished import (
    FinishedRun,
    data_checksums,
    finished_run,
    read_finished,
    write_finished,
)
from etram_det.tools.experiment.outcome import outcome_tables, progress_line
from etram_det.tools.experiment.plan import ExperimentPlan, Run, read_plan
from etram_det.tools.sweep.runs import fit_in_process, reason_of_failure

RESULTS = "results.jsonl"
_TABLES = "tables.md"
_WIDTH = 140  # of printed tables where they go into a pipe, in columns
_WIDTH_IN_FILE = 400  # nothing is cut there


def experiment_command(
    plan: Path,
    output: Path | None = None,
    results: Path | None = None,
    training: Path | None = None,
    evaluation: Path | None = None,
    most: int | None = None,
    jobs: int = 1,
) -> None:
    """Train variants with several seeds, evaluate all alike, and compare them.

    Give the same command again to go on: what is in the file of results is not run again, also on
    another machine. The sets of recordings are simulated unless folders are given.

    Args:
        plan: the experiment's file, such as configs/experiments/small_objects.yaml.
        output: folder for run folders, logs and ``tables.md``. Unset: ``experiments/`` and the
            plan's name.
        results: file of finished runs, a JSON line each. Unset: ``results.jsonl`` in ``output``.
        training: folder whose training split is used in place of the simulated one.
        evaluation: folder whose validation split is used in place of the simulated one.
        most: number of runs after which to end; 0 only compares. Unset: all.
        jobs: runs at the same time. They share the processor or the device; give each
            ``OMP_NUM_THREADS`` of its own.

    Raises:
        UserError: the plan is wrong, a finished run had other settings or recordings, a run
            failed, or another experiment writes to the same files.
    """
    if most is not None and most < 0:
        raise UserError(f"most: must be at least 0, got {most}: set 0 to compare only")
    if jobs < 1:
        raise UserError(f"jobs: must be at least 1, got {jobs}: set 1 for one after the other")
    planned = read_plan(plan.expanduser())
    output = (output or Path("experiments") / plan.stem).expanduser()
    file = (results or output / RESULTS).expanduser()
    root = partial(_root, planned, output, training, evaluation)
    if most == 0:
        _go_on(planned, output, file, root, most, jobs)
        return
    with held_alone(file) as has_file, held_alone(output) as has_output:
        if not (has_file and has_output):
            setting, path = ("output", output) if has_file else ("results", file)
            raise UserError(
                f"{setting}: {path} must belong to one experiment at a time, got a second one: "
                "wait for the first, or give it more --jobs"
            )
        _go_on(planned, output, file, root, most, jobs)


def _go_on(
    planned: ExperimentPlan,
    output: Path,
    file: Path,
    make_root: Callable[[], Path],
    most: int | None,
    jobs: int,
) -> None:
    """Train what is missing, as :func:`experiment_command` says, and compare what there is."""
    finished = read_finished(file)
    _require_same_settings(planned, finished, file)
    done = {each.run for each in finished}
    to_do = [run for run in planned.runs if run not in done]
    number = len(to_do) if most is None else min(most, len(to_do))
    screen().out(f"{file}: {len(done)} of {len(done) + len(to_do)} runs are finished")
    failed = []
    root = make_root() if number else None
    if number and finished:
        _require_same_recordings(planned.variants[to_do[0].variant], str(root), finished, file)
    for run, end in _ends(planned, to_do[:number], output, str(root), jobs):
        if isinstance(end, UserError):
            failed.append(run)
            screen().out(f"  {end}")
            continue
        finished.append(end)
        write_finished(file, finished)
        made = {each.run for each in finished}
        left = [each for each in to_do[:number] if each not in made and each not in failed]
        screen().out(progress_line(finished, left, jobs))
        _write_tables(planned, finished, output)
    for table in outcome_tables(planned, finished):
        screen(width=_WIDTH).print(table)
    if failed:
        raise UserError(
            f"runs: {len(failed)} of {number} failed ({'; '.join(map(str, failed))}): see their "
            f"logs in {output / 'logs'}",
            exit_code=1,
        )
    if finished:
        path = _write_tables(planned, finished, output)
        screen().out(f"tables: {path}")


def _ends(
    plan: ExperimentPlan, runs: Sequence[Run], output: Path, root: str, jobs: int
) -> Iterator[tuple[Run, FinishedRun | UserError]]:
    """Runs as they end, with what they found or why they failed."""
    stop = Event()

    def train(position: int, run: Run) -> FinishedRun | UserError:
        screen().out(f"run {position} of {len(runs)}: {run}")
        try:
            return _train(run, plan.variants[run.variant], output, root, stop)
        except UserError as error:
            return error

    waiting = deque(enumerate(runs, start=1))
    under_way: dict[Future[FinishedRun | UserError], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < jobs:
                    position, run = waiting.popleft()
                    under_way[pool.submit(train, position, run)] = run
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
        finally:
            stop.set()


def _train(run: Run, settings: Sequence[str], output: Path, root: str, stop: Event) -> FinishedRun:
    """Train and evaluate in a process of its own."""
    name, version_name = f"{run.variant}_{run.steps}", f"seed_{run.seed}"
    log = output / "logs" / f"{name}_{version_name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    folder = output / "runs" / name / version_name
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted or has failed
    arguments = [
        *settings,
        f"--data.root={root}",
        f"--seed_everything={run.seed}",
        f"--trainer.max_steps={run.steps}",
        f"--trainer.val_check_interval={run.steps}",
        "--trainer.enable_progress_bar=false",
        f"--trainer.logger.init_args.save_dir={output / 'runs'}",
        f"--trainer.logger.init_args.name={name}",
        f"--trainer.logger.init_args.version={version_name}",
        "--pictures.number=0",
        "--results.pictures=0",
        "--results.video_s=0",
    ]
    started_s = time.monotonic()
    code, cpu_s = fit_in_process(arguments, log, stop)
    if code != 0:
        raise UserError(f"{log}: {reason_of_failure(code, log)}", exit_code=1)
    return finished_run(folder, run, settings, cpu_s, time.monotonic() - started_s)


def _root(
    plan: ExperimentPlan, output: Path, training: Path | None, evaluation: Path | None
) -> Path:
    """A folder with the training split of one set and the validation split of another."""
    root = output / "recordings"
    root.mkdir(parents=True, exist_ok=True)
    for split, given, settings in (
        ("train", training, plan.training),
        ("val", evaluation, plan.evaluation),
    ):
        source = (given or _simulated(settings, split)).expanduser().resolve() / split
        if not source.is_dir():
            raise UserError(f"{source}: must be a split of recordings, got no folder: use another")
        link = root / split
        if link.is_symlink():
            link.unlink()
        link.symlink_to(source, target_is_directory=True)
    return root


def _simulated(settings: SimulationSettings, split: str) -> Path:
    with shown_progress(f"{split} recordings") as progress:
        return simulated_root(settings, progress=progress)[0]


def _require_same_settings(
    plan: ExperimentPlan, finished: Sequence[FinishedRun], file: Path
) -> None:
    for each in finished:
        settings = plan.variants.get(each.run.variant, each.settings)
        if list(settings) != list(each.settings):
            before, now = " ".join(each.settings), " ".join(settings)
            raise UserError(
                f"{plan.file}: variants.{each.run.variant}: must be {before} as in {file}, got "
                f"{now}: give the changed variant a name of its own"
            )


def _require_same_recordings(
    settings: Sequence[str], root: str, finished: Sequence[FinishedRun], file: Path
) -> None:
    """Refuse recordings that finished runs did not have, before the next one is trained."""

    @cache
    def checksums(settings: tuple[str, ...]) -> dict[str, str]:
        data, _ = data_of_fit([*settings, f"--data.root={root}"])
        data.setup("fit")
        return data_checksums(data.fingerprints())

    for each in finished:
        if each.data == checksums(tuple(settings)):
            continue
        # The same recordings have other labels where a variant adds some for training.
        now = checksums(tuple(each.settings))
        if each.data != now:
            split = next(name for name in now if each.data.get(name) != now[name])
            commit = each.versions.get("commit", "unknown")
            raise UserError(
                f"{file}: must be of runs on the same recordings, got others in {split} than those "
                f"of {each.run}, made at commit {commit}: use its --training and --evaluation, "
                "simulated as they were then, or another --results"
            )


def _write_tables(plan: ExperimentPlan, finished: Sequence[FinishedRun], output: Path) -> Path:
    console = screen()
    console.width = _WIDTH_IN_FILE
    with console.capture() as capture:
        for table in outcome_tables(plan, finished):
            console.print(table)
            console.print()
    output.mkdir(parents=True, exist_ok=True)
    lines = (line.rstrip() for line in capture.get().splitlines())
    write_text(output / _TABLES, "\n".join(lines) + "\n")
    return output / _TABLES
