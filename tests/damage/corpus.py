"""Runs the corpus of damaged and hostile files, all made from seeds, through the command line.

``python -m damage.corpus FOLDER FIRST EVERY`` runs the cases in order, in this process, and writes
one line of JSON for each. ``test_damage.py`` judges them, and goes on behind one that killed it.
"""

import contextlib
import faulthandler
import io
import json
import os
import resource
import shutil
import sys
import traceback
from pathlib import Path

import torch

import damage.bytes  # noqa: F401  each adds its cases
import damage.checkpoints  # noqa: F401
import damage.frames  # noqa: F401
import damage.raw  # noqa: F401
import damage.settings  # noqa: F401
from damage.cases import CASES, Sound
from etram_det.cli.commands import run

LIMIT_S = 300  # for one command: what takes longer does not end
MEMORY = 24 * 2**30  # bytes of address space
# They go through Lightning's command line, 0.2 s each and more; the others take 0.05 s.
SLOW = (
    "run.ckpt",
    "checkpoint_is",
    "code_in",
    "hyper_parameters",
    "init_from",
    "resume_with",
    "settings",
    "weights_of",
)


def chosen(every):
    """Names of all cases that are fast, and of every n-th of the others."""
    slow = [name for name in CASES if name.startswith(SLOW)]
    left_out = set(slow) - set(slow[::every])
    return [name for name in CASES if name not in left_out]


def outcome_of(name, sound, folder):
    """Exit code, lines on standard error, and traceback, if any, of one case."""
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(sound.folder, place)
    os.chdir(place)
    command = CASES[name](place)
    out, error, trace, code = io.StringIO(), io.StringIO(), "", None
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = run(command)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        trace = traceback.format_exc()
    faulthandler.cancel_dump_traceback_later()
    errors = [
        line for line in error.getvalue().splitlines() if line.startswith("etram_det: error:")
    ]
    return {"code": code, "errors": errors, "trace": trace}


def main(folder, first, every):
    os.environ["CANARY"] = str(folder / "canary")
    os.environ["ETRAM_DET_CACHE"] = str(folder / "cache")
    torch.set_num_threads(1)
    sound = Sound(folder / str(first))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    for name in chosen(every)[first:]:
        outcome = outcome_of(name, sound, folder)
        canary = Path(os.environ["CANARY"])
        outcome |= {"case": name, "ran_code": canary.exists()}
        canary.unlink(missing_ok=True)
        results.write(json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
