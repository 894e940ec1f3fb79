"""Damaged and hostile inputs end in success or one line: no hang, no code, no traceback."""

import json
import os
import subprocess
import sys

import pytest

from damage import corpus
from support.paths import ROOT


def run_all(folder, every):
    """Outcome of each case; one that kills its process is noted, and the next one follows."""
    outcomes = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    names = corpus.chosen(every)
    while len(outcomes) < len(names):
        arguments = [str(folder), str(len(outcomes)), str(every)]
        command = [sys.executable, "-m", "damage.corpus", *arguments]
        child = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = [line for line in child.stdout.splitlines() if line.startswith('{"code"')]
        outcomes += map(json.loads, lines)
        if child.returncode:
            name = names[len(outcomes)]
            end = f"ended with {child.returncode}: {child.stderr[-3000:]}"
            outcomes.append({"case": name, "code": None, "errors": [], "trace": end})
    return outcomes


def fault_of(outcome):
    """What is wrong with an outcome; None if nothing is."""
    if outcome["trace"]:
        return outcome["trace"]
    if outcome["ran_code"]:
        return "ran code"
    if outcome["code"] not in (0, 1, 2):
        return f"exit code {outcome['code']}"
    if outcome["code"] and len(outcome["errors"]) != 1:
        return f"printed {outcome['errors']}"
    return None


@pytest.mark.parametrize(
    "every", [pytest.param(48, marks=pytest.mark.gate), pytest.param(1, marks=pytest.mark.slow)]
)
def test_damaged_inputs_end_in_one_line(tmp_path, every):
    outcomes = run_all(tmp_path, every)
    faults = {each["case"]: fault for each in outcomes if (fault := fault_of(each))}
    assert not faults, "\n\n".join(f"{name}: {fault}" for name, fault in faults.items())
    assert len(outcomes) >= (440 if every == 1 else 100)
    # Most damage is noticed; some bits lie where they change nothing but numbers.
    assert 0.6 < sum(each["code"] != 0 for each in outcomes) / len(outcomes) < 0.95


def test_corpus_has_all_kinds_of_files():
    kinds = ("td.h5", "bbox.npy", "labels.npz", "sparse_frames.h5", "run.ckpt", "rvt.ckpt")
    names = list(corpus.CASES)
    assert all(sum(kind in name for name in names) >= 13 for kind in kinds)
    assert sum(name.startswith("settings") for name in names) >= 80
