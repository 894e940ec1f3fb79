"""The LightningDataModule: finds the recordings, builds plans and loaders."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from torch.utils.data import DataLoader, Sampler

from etram_det.data.augment import AugmentSettings
from etram_det.data.chunks import Chunk, ChunkDataset, collate
from etram_det.data.class_balance import balanced_shares
from etram_det.data.datamodule_settings import (
    num_random_lanes,
    require_at_least,
    require_counts_to_drop_from,
    require_random_chunks,
)
from etram_det.data.findings import index_recordings, log_findings
from etram_det.data.fingerprint import fingerprint, identities, place_in_plan
from etram_det.data.interpolation import TrainingLabels
from etram_det.data.labels import ETRAM_CLASSES, LabelSettings, class_names_of
from etram_det.data.layouts import find_recordings
from etram_det.data.loader_processes import batch_loader
from etram_det.data.recording import Recording
from etram_det.data.representation import FrameSettings
from etram_det.data.sparse_batch import SparseBatch
from etram_det.data.streaming import ChunkRequest, EvaluationPlan, TrainingPlan
from etram_det.data.subset import (
    choose_subset,
    in_words,
    require_subset,
    warn_of_unknown_names,
)
from etram_det.progress import shown_progress
from etram_det.simulator.dataset import SimulationSettings, simulated_root
from etram_det.types import Batch

# By stage, which Lightning's Trainer gives as an enumeration that equals these words.
_SPLITS = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class EventDataModule(pl.LightningDataModule):
    """Recordings of an event camera with their labels, in batches of lanes.

    Loaders yield :class:`~etram_det.data.sparse_batch.SparseBatch`; ``to(device)`` makes it a
    :class:`~etram_det.types.Batch`, which Lightning does for each step.

    With no folder given, the built-in simulated traffic is generated once into the user's cache.

    Example:
        >>> from etram_det import EventDataModule, SimulationSettings, simulate
        >>> few = SimulationSettings(height=90, width=160, train=2, val=1, test=0, seconds=1)
        >>> simulate("traffic", few)
        >>> data = EventDataModule(
        ...     root="traffic", input_size=(45, 80), num_steps=4, train_lanes=2, num_workers=0
        ... )
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).to("cpu").events.shape  # [T, B, 2 * bins, H, W]
        torch.Size([4, 2, 20, 45, 80])

    Args:
        root: folder of the recordings: eTraM's raw files, as downloaded or sorted into ``train``,
            ``val`` and ``test``, downloads of Gen1, 1 Mpx and DSEC, or what RVT's preprocessing
            wrote. Unset: simulated traffic.
        simulation: the simulated traffic that is used where ``root`` is unset.
        class_names: name of each class id, in the order of the ids; or ``etram`` (8 classes),
            ``etram3``, ``gen1``, ``1mpx``, ``dsec`` for the names of that data set.
        input_size: height and width of the network's frames in pixels.
        window_ms: length of a frame's window, and the step from one frame to the next, in ms.
        bins: parts in time of a window; a frame has ``2 * bins`` channels, ``bins`` of a
            ``mixed_density``.
        count_cutoff: event counts saturate at this value, in [1, 255]; at most 127 for a
            ``mixed_density``.
        timing: ``events`` cuts the bins between the first and the last event of a window, as RVT
            does, ``window`` between the bounds of the window itself. Raw recordings only.
        downsample: ``sum`` adds up the sensor's pixels that share a pixel of the frame,
            ``nearest`` keeps one of them, as RVT does. Raw recordings only.
        sensor_size: height and width of the sensor in pixels, for raw recordings that lack it, or
            state one that their events contradict.
        representation: ``stacked_histogram`` counts events by polarity in equal parts of the
            window, ``mixed_density`` sums polarities over its whole, half, quarter and so on.
        time_unit: unit of the timestamps in HDF5 files: ``us``, ``ms``, ``ns`` or ``s``; unset for
            microseconds, which are refused where the events leave no doubt that they are not.
        clock: RAW files: ``recording`` takes off the camera's time at their start, as the readers
            of Metavision and OpenEB do, and so their boxes; ``camera`` keeps it.
        interval_ms: time between labelled frames of raw recordings in ms, a multiple of
            ``window_ms``.
        jitter_ms: how far a label of raw recordings may lie off the interval, in ms.
        filters: names of the filters that drop boxes, in the order of their use: ``min_side_5``
            and ``max_width`` (RVT's), ``prophesee``, ``prophesee_gen1``; ``only_named_classes``
            drops class ids without a name, which are an error otherwise.
        keep_unlabelled: train on recordings whose box file is empty, as background: at every
            interval, a frame is labelled to show nothing. Otherwise, and in evaluation, where
            frames without labels do not count, as in RVT, they are left out with a warning.
        interpolate_labels: in training, every frame between labels of a recording is labelled, by
            boxes interpolated along their tracks where no label has the frame's time.
        label_phase: ``first`` takes the label times that follow from the first one; ``random``
            draws in each epoch of training which of the label times within an interval those of a
            raw recording follow from, so that all labels have their turn.
        least_motion_px: random chunks leave out labels of tracks that have moved by less, in
            pixels of the sensor, since the chunk began: what stands gives no events. 0: none.
        subset: part of the recordings of each split to work on: a share in (0, 1], chosen so that
            class shares stay close to the whole, or a text file of names, one in each line.
        subset_seed: of the choice of a share; another seed chooses others.
        num_steps: frames of a chunk, through which gradients flow.
        train_lanes: lanes of a training batch on each process.
        eval_lanes: most lanes of a batch in evaluation and prediction, on each process.
        sampling: ``stream`` follows the recordings through time, ``random`` takes random chunks,
            ``mixed`` does the one in half of the lanes and the other in the rest, as RVT does.
        class_balance: in [0, 1]: how far recordings with boxes of rare classes give more of the
            random chunks. At 0 each gives as many as it has windows; at 1 all classes weigh alike,
            and a recording gives its share of the boxes, in the mean of the classes.
        augmentation: how training chunks are varied.
        seed: of the order of training and of what augmentation draws; at least 0.
        num_workers: processes that load, for each loader; results do not depend on it.
        pin_memory: whether batches are copied from page-locked memory, where there is a GPU.
        multiprocessing_context: how the loading processes are started: ``fork``, ``spawn`` or
            ``forkserver``; the platform's default unless set.
        predict_split: the split that ``predict`` works on; it needs no labels.
        on_unreadable_recording: what happens to a recording that cannot be read while training:
            ``error`` ends the run, ``skip`` goes on without the frames that are missing, and logs
            and counts them. In evaluation it is always an error.

    Raises:
        UserError: if a setting is out of its range.
    """

    # Epoch and step at which a checkpoint enters the training plan, and whether the plan is the
    # one that the checkpoint was trained by.
    resume_at: tuple[int, int] | None = None
    resumes_exactly = False

    def __init__(
        self,
        *,
        root: str | None = None,
        simulation: SimulationSettings = SimulationSettings(),  # noqa: B008 (frozen)
        class_names: (
            Sequence[str] | Literal["etram", "etram3", "gen1", "1mpx", "dsec"]
        ) = ETRAM_CLASSES,
        input_size: tuple[int, int] = (360, 640),
        window_ms: int = 50,
        bins: int = 10,
        count_cutoff: int = 10,
        timing: Literal["events", "window"] = "events",
        downsample: Literal["sum", "nearest"] = "sum",
        sensor_size: tuple[int, int] | None = (720, 1280),
        representation: Literal["stacked_histogram", "mixed_density"] = "stacked_histogram",
        time_unit: Literal["us", "ms", "ns", "s"] | None = None,
        clock: Literal["recording", "camera"] = "recording",
        interval_ms: int = 100,
        jitter_ms: int = 2,
        filters: Sequence[str] = (),
        keep_unlabelled: bool = False,
        interpolate_labels: bool = False,
        label_phase: Literal["first", "random"] = "first",
        least_motion_px: float = 0.0,
        subset: float | str | None = None,
        subset_seed: int = 0,
        num_steps: int = 5,
        train_lanes: int = 6,
        eval_lanes: int = 2,
        sampling: Literal["stream", "random", "mixed"] = "mixed",
        class_balance: float = 0.0,
        augmentation: AugmentSettings = AugmentSettings(),  # noqa: B008 (frozen)
        seed: int = 0,
        num_workers: int = 2,
        pin_memory: bool = True,
        multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None,
        predict_split: Literal["train", "val", "test"] = "test",
        on_unreadable_recording: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        require_at_least(1, num_steps=num_steps, train_lanes=train_lanes, eval_lanes=eval_lanes)
        require_at_least(0, seed=seed, num_workers=num_workers)
        self.root, self.simulation = root, simulation
        self.input_size = size = (int(input_size[0]), int(input_size[1]))
        self.frame_settings = FrameSettings(
            input_size=size,
            window_ms=window_ms,
            bins=bins,
            count_cutoff=count_cutoff,
            timing=timing,
            downsample=downsample,
            sensor_size=sensor_size,
            representation=representation,
            time_unit=time_unit,
            clock=clock,
        )
        self.label_settings = LabelSettings(
            class_names, interval_ms, jitter_ms, tuple(filters), keep_unlabelled
        )
        require_at_least(0, least_motion_px=least_motion_px)
        self.training_labels = TrainingLabels(interpolate_labels, label_phase, least_motion_px)
        self.class_names = class_names_of(class_names)
        require_counts_to_drop_from(augmentation, representation)
        require_subset(subset)  # before traffic is simulated for it
        self.subset, self.subset_seed = subset, subset_seed
        self.num_steps, self.augmentation, self.seed = num_steps, augmentation, seed
        self.train_lanes, self.eval_lanes = train_lanes, eval_lanes
        self.random_lanes = num_random_lanes(sampling, train_lanes)
        self.sampling, self.class_balance = sampling, class_balance
        require_random_chunks(class_balance, sampling)
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.multiprocessing_context = multiprocessing_context
        self.predict_split = predict_split
        self.on_unreadable_recording = on_unreadable_recording
        self.recordings: dict[str, list[Recording]] = {}
        # As the recordings were when they were found: files can go while training.
        self._identities: dict[str, dict[str, list[int]]] = {}

    @property
    def num_classes(self) -> int:
        """Number of classes, ``K``."""
        return len(self.class_names)

    @property
    def in_channels(self) -> int:
        """Channels of a frame."""
        return self.frame_settings.channels

    def prepare_data(self) -> None:
        """Generate the simulated traffic, where it is used and not yet in the user's cache."""
        if self.root is None and not self.recordings:
            root, is_new = _simulated_root(self.simulation)
            rank_zero_info(
                "data.root is not set: using simulated traffic, "
                f"{'made now and kept' if is_new else 'kept'} in {root}"
            )

    def setup(self, stage: str) -> None:
        """Find the recordings that a stage needs and that have not been found yet.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.

        Raises:
            UserError: the folder or a split is missing, or a recording is damaged or unlabelled.
        """
        root, splits = self.folder, _SPLITS[stage]
        if stage == "fit" and self.trainer is not None and self.trainer.limit_val_batches == 0:
            splits = ("train",)  # validation is turned off
        for name in splits:
            if name not in self.recordings:
                predicts = name == "predict"
                split = self.predict_split if predicts else name
                recordings = find_recordings(
                    root, split, self.frame_settings, self.label_settings, not predicts
                )
                if not self.recordings:
                    warn_of_unknown_names(self.subset, root)
                recordings = self.subset_of(recordings, name)
                if name == "train":
                    for recording in recordings:
                        recording.label_for_training(self.training_labels)
                is_first = getattr(rank_zero_only, "rank", 0) == 0  # one reports
                index_recordings(recordings, shown=is_first)
                if is_first:
                    log_findings(name, recordings)
                self.recordings[name] = recordings
                self._identities[name] = identities(recordings)

    @property
    def folder(self) -> Path:
        """Folder of the recordings: ``root``, or that of the simulated traffic."""
        root = _simulated_root(self.simulation)[0] if self.root is None else Path(self.root)
        return root.expanduser()

    def subset_of(self, recordings: Sequence[Recording], split: str) -> list[Recording]:
        """The part of a split's recordings that is set; all of them if none is.

        Raises:
            UserError: the subset does not fit.
        """
        if self.subset is None:
            return list(recordings)
        chosen = choose_subset(recordings, self.subset, self.num_classes, self.subset_seed)
        words = in_words(chosen, recordings, self.num_classes)
        rank_zero_info(f"data.subset: {split} has {words}")
        return chosen

    def train_dataloader(self) -> DataLoader[Chunk]:
        """Batches of ``train_lanes`` lanes, the same number of them on all processes."""
        rank, world_size = self._rank_and_world_size()
        # Lightning sets the epoch only after the first batches have been asked for.
        epoch, step = 0 if self.trainer is None else self.trainer.current_epoch, 0
        if self.resume_at is not None and self.resume_at[0] >= epoch:
            epoch, step = self.resume_at
        recordings = self.recordings["train"]
        num_phases = [len(recording.phases) for recording in recordings]
        phases = [each.in_phase(i) for each in recordings for i in range(len(each.phases))]
        plan = TrainingPlan(
            [recording.labelled for recording in phases],
            self.num_steps,
            stream_lanes=self.train_lanes - self.random_lanes,
            random_lanes=self.random_lanes,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            epoch=epoch,
            start_step=step,
            num_phases=num_phases,
            chunk_shares=balanced_shares(
                recordings, self.num_steps, self.class_names, self.class_balance
            ),
        )
        augmentation = self.augmentation if self.augmentation.enabled else None
        return self._loader("train", phases, plan, augmentation)

    def val_dataloader(self) -> DataLoader[Chunk]:
        """Batches of up to ``eval_lanes`` lanes that visit each validation recording once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Chunk]:
        """Batches of up to ``eval_lanes`` lanes that visit each test recording once."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Chunk]:
        """Batches of up to ``eval_lanes`` lanes that visit each recording to predict once."""
        # Lightning fears that a plan it does not know leaves something out.
        warnings.filterwarnings("ignore", message=".*custom batch sampler.*for prediction")
        return self._evaluation_loader("predict")

    def transfer_batch_to_device(
        self, batch: SparseBatch | Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Copy a batch while the device works on the one before; its frames become dense there."""
        return batch.to(device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """The place in the training plan, and all that the plan and its batches follow from."""
        if self.trainer is None or "train" not in self.recordings:
            return {}
        loop = self.trainer.fit_loop
        batches: Any = loop.epoch_loop.batch_progress.current
        return {
            "epoch": max(loop.epoch_progress.current.ready - 1, 0),
            "step": batches.processed,
            **self._what_a_run_follows_from(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the checkpoint's place in the plan, if the plan is still the same.

        What has changed is logged: the plan is another one then, and its epoch starts anew. Other
        validation recordings leave the plan as it is.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":
            return
        if state_dict.keys() == {"settings"}:
            return  # of a published checkpoint, which holds how frames are made, but no place
        self.resume_at, self.resumes_exactly, changes = place_in_plan(
            state_dict, self._what_a_run_follows_from(), str(self.trainer.ckpt_path)
        )
        for sentence in changes:
            rank_zero_info(f"ckpt_path: {sentence}")

    def fingerprints(self) -> dict[str, Any]:
        """Names, lengths, sizes and a digest of the recordings found so far, by split."""
        return {name: fingerprint(recordings) for name, recordings in self.recordings.items()}

    def _what_a_run_follows_from(self) -> dict[str, Any]:
        """Settings and recordings on which batches and metrics depend, as plain values."""
        _, world_size = self._rank_and_world_size()
        own = ("seed", "sampling", "class_balance", "train_lanes", "num_steps")
        of_data = {name: getattr(self, name) for name in own}
        of_data["augmentation"] = asdict(self.augmentation)
        for group in (self.frame_settings, self.label_settings, self.training_labels):
            of_data |= asdict(group)
        settings = {f"data.{name}": value for name, value in of_data.items()}
        return {
            "settings": settings | {"number of processes": world_size},
            "recordings": self._identities["train"],
            **({"validation": self._identities["val"]} if "val" in self._identities else {}),
        }

    def dropped_boxes(self, split: str) -> dict[str, int]:
        """Labels of a split that were left out when they were read, by reason.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
        """
        counts: Counter[str] = Counter()
        for recording in self.recordings.get(split, []):
            for reason, count in recording.dropped.items():
                # Events are counted there too, by each process for itself.
                if reason.startswith("boxes: "):
                    counts[reason.removeprefix("boxes: ")] += count
        return dict(counts)

    def _rank_and_world_size(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _evaluation_loader(self, name: str) -> DataLoader[Chunk]:
        recordings = self.recordings[name]
        lengths = [len(recording) for recording in recordings]
        ranks = self._rank_and_world_size()
        plan = EvaluationPlan(lengths, self.num_steps, self.eval_lanes, *ranks)
        return self._loader(name, recordings, plan)

    def _loader(
        self,
        name: str,
        recordings: Sequence[Recording],
        plan: Sampler[list[ChunkRequest]],
        augmentation: AugmentSettings | None = None,
    ) -> DataLoader[Chunk]:
        no_frames = None
        if name == "train" and self.on_unreadable_recording == "skip":
            shape = (0, self.in_channels, *self.input_size)
            no_frames = np.empty(shape, self.frame_settings.dtype)
        cutoff = self.frame_settings.count_cutoff
        dataset = ChunkDataset(
            recordings,
            self.num_steps,
            augmentation,
            no_frames,
            cutoff,
            self.training_labels.least_motion_px if name == "train" else 0.0,
        )
        return batch_loader(
            dataset,
            plan,
            partial(collate, num_steps=self.num_steps),
            num_workers=self.num_workers,
            multiprocessing_context=self.multiprocessing_context,
            pin_memory=self.pin_memory,
            # Training and its validation come back to their loaders.
            persistent_workers=name in ("train", "val"),
        )


def _simulated_root(settings: SimulationSettings) -> tuple[Path, bool]:
    """The folder of simulated traffic, and whether it was made now, with a progress bar."""
    with shown_progress("simulating traffic", transient=True) as progress:
        return simulated_root(settings, progress=progress)
