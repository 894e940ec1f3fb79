"""Two ranks that train the real module together, over NCCL or gloo."""

import socket
from dataclasses import replace

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

from etram_det.tools.bench import gpu_cases
from etram_det.tools.bench.module_step import ModuleStep, made_up_batch
from etram_det.training.callbacks.exact_resume import ExactResume
from etram_det.training.lightning_internals import fix_graph


class RankBatches(torch.utils.data.Dataset):
    """Batches of one rank; one of the second rank's has no labels."""

    def __init__(self, settings, rank):
        self.batch, self.rank = made_up_batch(settings).to("cpu"), rank

    def __len__(self):
        return 4

    def __getitem__(self, index):
        batch = replace(self.batch, events=self.batch.events.roll(2 * index + self.rank, dims=-1))
        if (index, self.rank) == (1, 1):
            none = {name: x[:0] for name, x in vars(batch.labels).items() if x is not None}
            batch = replace(batch, labels=replace(batch.labels, **none))
        return batch


class Place(LightningEnvironment):
    """A rank that knows its number."""

    def __init__(self, rank, port):
        super().__init__()
        self.rank, self._main_port = rank, port

    creates_processes_externally = True

    def global_rank(self):
        return self.rank

    def local_rank(self):
        return self.rank

    def world_size(self):
        return 2

    def set_global_rank(self, rank):
        pass

    def set_world_size(self, size):
        pass


def _train(rank, where, folder, port):
    torch.set_num_threads(1)
    settings = gpu_cases.sizes_on(torch.device("cpu"), tiny=True).settings
    module = ModuleStep(settings, "32-true").module
    del module.log, module.log_dict
    module.hparams["schedule"] = "constant"
    resume = ExactResume()
    trainer = pl.Trainer(
        accelerator="gpu" if where == "cuda" else "cpu",
        devices=2,
        strategy=DDPStrategy(cluster_environment=Place(rank, port)),
        sync_batchnorm=where == "cuda",
        use_distributed_sampler=False,
        max_steps=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[resume, Gathered(folder / f"rank{rank}.pt", resume)],
        default_root_dir=folder,
    )
    fix_graph(trainer)
    trainer.fit(module, torch.utils.data.DataLoader(RankBatches(settings, rank), batch_size=None))


class Gathered(pl.Callback):
    """Writes what a rank has at the end, and what a checkpoint would hold of all ranks."""

    def __init__(self, path, resume):
        self.path, self.resume = path, resume

    def on_train_end(self, trainer, pl_module):
        weights = {name: x.cpu() for name, x in pl_module.detector.state_dict().items()}
        processes = self.resume._gathered({"rank": trainer.global_rank})
        content = {"weights": weights, "steps": trainer.global_step, "processes": processes}
        torch.save(content, self.path)


def trained_by_two(where, folder):
    """What each of two ranks ends with."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_train, (where, folder, port), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]
