"""What this project uses of Lightning's private parts: each test names what a change breaks."""

import inspect

import pytest
import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from etram_det.cli.lightning import EtramCLI
from etram_det.training import lightning_internals as internals


class Recorder(pl.Callback):
    """Asks after each batch what the module under test makes of it."""

    def __init__(self):
        self.due, self.ends_step = [], []

    def on_train_batch_end(self, trainer, *_):
        self.due.append(internals.validation_is_due(trainer))
        self.ends_step.append(internals.ends_optimizer_step(trainer))


def trainer(tmp_path, **settings):
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet, **settings)


@pytest.fixture
def fitted(tmp_path):
    """A trainer after six batches: a validation after every third, a step after every second."""
    recorder = Recorder()
    run = trainer(
        tmp_path,
        max_steps=3,
        limit_train_batches=6,
        limit_val_batches=1,
        val_check_interval=3,
        accumulate_grad_batches=2,
        callbacks=[recorder],
    )
    run.fit(BoringModel())
    return run, recorder


def test_validations_that_are_due_are_known(fitted):
    due = fitted[1].due
    assert due == [False, False, True, False, False, True], (
        "ExactResume does not know which validations are due: "
        "_TrainingEpochLoop._should_check_val_fx or _FitLoop._data_fetcher has changed"
    )


def test_no_validation_is_due_before_a_training(tmp_path):
    assert not internals.validation_is_due(trainer(tmp_path))


def test_ends_of_optimiser_steps_are_known(fitted):
    assert fitted[1].ends_step == [False, True] * 3, (
        "ExactResume does not know which batches end a step: "
        "_TrainingEpochLoop._should_accumulate has changed"
    )


def test_steps_of_loggers_can_be_moved(fitted):
    why = "resumed runs log under wrong steps: _TrainingEpochLoop._batches_that_stepped has changed"
    loop = fitted[0].fit_loop.epoch_loop
    assert loop._batches_that_stepped == 3, why
    internals.forget_logged_step(fitted[0])
    state = fitted[0].fit_loop.state_dict()
    assert state["epoch_loop.state_dict"] == {"_batches_that_stepped": 2}, why
    internals.add_logged_step(state)
    fitted[0].fit_loop.load_state_dict(state)
    assert loop._batches_that_stepped == 3, why


def test_progress_of_the_loops_has_the_names_that_a_resume_changes(fitted):
    state = fitted[0].fit_loop.state_dict()
    counts = {"ready", "started", "processed", "completed"}
    for name in ("epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"):
        why = f"ExactResume cannot set {name}: Lightning's progress has changed"
        assert state[name].keys() >= {"total", "current", "is_last_batch"}, why
        assert state[name]["total"].keys() == state[name]["current"].keys() == counts, why
    assert state["epoch_progress"]["current"].keys() >= counts


def test_a_slurm_job_is_found(tmp_path, monkeypatch):
    assert internals.slurm_environment(trainer(tmp_path)) is None
    for name, value in {"JOB_ID": "7", "NTASKS": "1", "JOB_NAME": "train", "PROCID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert isinstance(internals.slurm_environment(trainer(tmp_path)), SLURMEnvironment), (
        "SLURM jobs are not requeued: Trainer._accelerator_connector has changed"
    )


def test_a_module_alone_is_not_training(tmp_path):
    module, states = BoringModel(), []
    why = "weights-only checkpoints are not reported: LightningModule._trainer has changed"
    assert not internals.is_training(module), why
    module.on_train_start = lambda: states.append(internals.is_training(module))
    module.on_validation_start = lambda: states.append(internals.is_training(module))
    run = trainer(tmp_path, max_steps=1, limit_train_batches=1, limit_val_batches=1)
    run.fit(module)
    run.validate(module, verbose=False)
    assert states == [True, False, False], why


@pytest.mark.parametrize(
    ("strategy", "accumulated", "fixed", "searched"),
    [
        ("ddp", 1, True, False),
        ("auto", 1, True, False),
        ("ddp", 2, False, False),
        ("ddp_find_unused_parameters_true", 1, False, True),
        (DDPStrategy(static_graph=False), 1, False, False),
    ],
)
def test_several_devices_have_a_fixed_graph(tmp_path, strategy, accumulated, fixed, searched):
    run = trainer(tmp_path, strategy=strategy, devices=2, accumulate_grad_batches=accumulated)
    internals.fix_graph(run)
    assert run.strategy._ddp_kwargs == {
        "find_unused_parameters": searched,
        "static_graph": fixed,
        "gradient_as_bucket_view": True,
    }, "several devices are slower than they could be: DDPStrategy._ddp_kwargs has changed"
    alone = trainer(tmp_path)
    internals.fix_graph(alone)
    assert not isinstance(alone.strategy, DDPStrategy)


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_loggers_can_be_sent_to_a_folder(kind, tmp_path):
    why = f"{kind.__name__} does not write into the run folder: its private names have changed"
    logger, folder = kind(tmp_path / "other", name="x"), tmp_path / "a" / "run" / "version_3"
    assert not internals.has_version(logger), why
    internals.log_into(logger, folder, purge_step=2)
    logger.log_metrics({"loss": 1.0}, 2)
    logger.save()
    assert logger.log_dir == str(folder), why
    assert list(folder.glob("events.out*" if kind is TensorBoardLogger else "metrics.csv")), why
    assert not (tmp_path / "other").exists(), why
    assert internals.has_version(logger), why
    assert internals.has_version(kind(tmp_path, version=0)), why


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("_prepare_subcommand_parser", "--resume is not a setting of fit"),
        ("_prepare_subcommand_kwargs", "checkpoints are read without weights_only"),
        ("_parse_ckpt_path", "a checkpoint's settings override the command line"),
        ("_instantiate_trainer", "checkpoints are not written atomically"),
        ("_run_subcommand", "faults of disk and memory end with a traceback"),
        ("_set_seed", "a seed out of its range ends with a traceback"),
        ("_parser", "run folders hold no configuration"),
    ],
)
def test_methods_of_the_command_line_are_there(name, what):
    method = getattr(LightningCLI, name, None)
    assert method is not None, f"{what}: LightningCLI.{name} is gone"
    if name in vars(EtramCLI):
        theirs, ours = (
            list(inspect.signature(getattr(owner, name)).parameters)
            for owner in (LightningCLI, EtramCLI)
        )
        assert ours == theirs, f"{what}: LightningCLI.{name} takes other arguments"
