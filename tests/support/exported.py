"""A small exported detector, made once for all tests, beside its checkpoint."""

import os

from filelock import FileLock

from etram_det.inference.streaming_detector import read_detector
from support.random_checkpoint import FRAMES, write_random_checkpoint


def small_export(tmp_path_factory, name, frames=FRAMES, **settings):
    """Paths of a checkpoint and of the file that ``export_detector`` makes of it."""
    from etram_det.tools.export.graph import export_detector

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of this run, for all of its workers
    folder /= "exported"
    folder.mkdir(exist_ok=True)
    checkpoint, exported = folder / f"{name}.ckpt", folder / f"{name}.onnx"
    with FileLock(folder / f"{name}.lock"):
        if not exported.exists():
            write_random_checkpoint(checkpoint, frames)
            made = folder / f"{name}.partial.onnx"
            export_detector(read_detector(checkpoint), made, fingerprint="ab12", **settings)
            made.rename(exported)
    return checkpoint, exported
