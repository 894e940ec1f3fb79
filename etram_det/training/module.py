"""The LightningModule: training, evaluation and prediction over streams of recordings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, distributed
from torchvision.ops import box_convert

from etram_det.checkpoint.contents import require_same_data, require_same_tensors
from etram_det.checkpoint.file import Checkpoint, read_checkpoint
from etram_det.checkpoint.transfer import carry_over
from etram_det.errors import UserError
from etram_det.metrics.settings import COUNTED_DETECTIONS, MOTION_BINS, SIZE_BINS, ProtocolName
from etram_det.metrics.size_binned_map import SizeBinnedMAP
from etram_det.models.assign import SimOTA
from etram_det.models.detector import Detector
from etram_det.models.losses import YOLOXLoss
from etram_det.models.postprocessing import Candidates, best_candidates, on_host, suppressed
from etram_det.training.compiled_step import in_one_form
from etram_det.training.label_sizes import follow_label_sizes
from etram_det.training.lanes import LaneStates
from etram_det.training.lightning_internals import is_training
from etram_det.training.module_settings import NETWORK, require_in_range
from etram_det.training.optimizer import adamw, adapt_to_own_step, one_cycle
from etram_det.training.trainer_settings import require_steps
from etram_det.types import Batch, Detections, Labels, State

_log = logging.getLogger(__name__)


class DetectionModule(pl.LightningModule):
    """A recurrent detector, its loss, schedule and metric.

    Args:
        class_names: name of each class, in the order of their ids. Follows ``data.class_names``.
        in_channels: channels of a frame. Follows ``data.bins`` and ``data.representation``.
        train_lanes: lanes of a training batch, for the learning rate. Follows
            ``data.train_lanes``.
        compile: ``stages`` compiles each stage, the pyramid and the head by ``torch.compile``, in
            the first steps; ``step`` compiles all that a training step computes of a chunk, from
            its frames to its losses, as one graph.
        init_from: checkpoint of this project, an imported one included, that a new training
            starts from; for ``fit`` also ``last`` or ``best``, that of the newest run, or
            ``package``, which knows simulated traffic. What fits is loaded, rows of the classes by
            name; what does not fit is listed.
        loss: training loss; RVT's (YOLOX's) unless set.
        assignment: of anchor points to boxes, for the loss; RVT's (YOLOX's SimOTA) unless set.
        learning_rate: highest learning rate, in (0, 100); ``2e-4 * sqrt(effective batch / 8)``
            unless set, where the effective batch counts the lanes of all processes and
            accumulated batches.
        weight_decay: AdamW's weight decay, at least 0, of all parameters but biases, norms and
            layer scales.
        schedule: how the learning rate falls after the warm-up: ``linear``, ``cosine``, or
            ``constant`` for no schedule at all.
        warmup_share: share of all steps in which the learning rate rises, in (0, 1).
        div_factor: highest over first learning rate, above 0.
        final_div_factor: highest over last learning rate, above 0.
        score_threshold: least objectness times class confidence of a detection, in [0, 1].
        nms_threshold: IoU above which the lower-scored of two boxes of a class is dropped, in
            [0, 1].
        class_agnostic_nms: whether ``predict`` drops such boxes whatever their classes.
        max_detections: detections kept of each frame, best first; at least 1. Metrics count the
            best of these in each frame and class, at most 100 as COCO does.
        forget_every: in evaluation and prediction, the state starts anew after so many frames,
            which must divide the frames of a chunk: shows what memory is worth. Unset: it is
            carried through a recording.
        protocol: how detections are judged: ``full`` counts every label; ``prophesee`` drops
            small boxes and the first 0.5 s, as published numbers do, and ``prophesee_gen1`` is
            its form for Gen1; ``etram_fork`` ignores classes as well.
        size_bins: least and greatest area of each size bin in square pixels, both included;
            COCO's small, medium and large (32 and 96 squared) unless set.
        motion_bins: least and greatest speed of each motion bin in sensor pixels a second, both
            included; standing, slow and fast (10 and 100) unless set.
        pixel_frame: whether areas are measured in pixels of the ``network``'s input or of the
            ``native`` sensor.
        class_groups: groups of classes, by name or id, whose mean metrics are reported.
        **architecture: of the network, see :class:`~etram_det.models.detector.Detector`.

    Raises:
        UserError: if a value is out of its range.
    """

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        in_channels: int = 20,
        train_lanes: int = 8,
        compile: Literal["none", "stages", "step"] = "none",
        init_from: str | None = None,
        loss: YOLOXLoss | None = None,
        assignment: SimOTA | None = None,
        learning_rate: float | None = None,
        weight_decay: float = 0.0,
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup_share: float = 0.005,
        div_factor: float = 25.0,
        final_div_factor: float = 10000.0,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.45,
        class_agnostic_nms: bool = False,
        max_detections: int = 300,
        forget_every: int | None = None,
        protocol: ProtocolName = "full",
        size_bins: dict[str, tuple[float, float]] | None = None,
        pixel_frame: Literal["network", "native"] = "network",
        class_groups: dict[str, list[int | str]] | None = None,
        motion_bins: dict[str, tuple[float, float]] | None = None,
        **architecture: Any,
    ) -> None:
        super().__init__()
        self._is_step_compiled = False
        architecture = NETWORK | architecture
        # Loss and assignment are modules with settings of their own, which the run's config.yaml
        # holds; all others are plain values, so that checkpoints load without unpickling code.
        self.save_hyperparameters(ignore=["loss", "assignment"])
        require_in_range(self.hparams)
        self.class_names = tuple(class_names)
        self.detector = Detector(
            num_classes=len(self.class_names), in_channels=in_channels, **architecture
        )
        if compile == "stages":
            self.detector.compile_parts()
        if compile == "step":
            self.compile_step()
        self.init_from = init_from
        self.loss = YOLOXLoss() if loss is None else loss
        if assignment is not None:
            self.loss.assignment = assignment
        self.metric = SizeBinnedMAP(
            class_names=self.class_names,
            size_bins=SIZE_BINS if size_bins is None else size_bins,
            pixel_frame=pixel_frame,
            protocol=protocol,
            class_groups=class_groups,
            max_detections=min(max_detections, COUNTED_DETECTIONS),
            motion_bins=MOTION_BINS if motion_bins is None else motion_bins,
        )
        self.train_states, self.eval_states = LaneStates(), LaneStates()
        # Of the last training step, for whoever reports what was wrong with it.
        self.loss_parts: dict[str, Tensor] = {}
        self._steps_of_checkpoint = 0
        self._num_groups: int | None = None  # of the optimiser in the checkpoint to go on from

    @property
    def trained_steps(self) -> int:
        """Steps that the weights were trained for: here, or before the evaluated checkpoint."""
        trains = self.trainer.state.fn == "fit" or self.trainer.ckpt_path is None
        return self.trainer.global_step if trains else self._steps_of_checkpoint

    def load_initial_weights(self) -> None:
        """Load what fits of ``init_from``, once, and log what was loaded and what was not.

        Raises:
            UserError: if the file is no checkpoint of this project, or nothing in it fits.
        """
        # Cleared once loaded: a second fit continues from the current weights.
        path, self.init_from = self.init_from, None
        if path is not None:
            transfer = carry_over(path, self.detector, self.class_names, self.hparams["dim_head"])
            _log.info("\n  ".join([f"model.init_from: {path}", *transfer.lines()]))
            theirs = read_checkpoint(path).settings.get("stem_norm_eps", NETWORK["stem_norm_eps"])
            if theirs != self.hparams["stem_norm_eps"]:
                _log.info(
                    "model.stem_norm_eps: %g, where the weights of model.init_from were trained "
                    "with %g",
                    self.hparams["stem_norm_eps"],
                    theirs,
                )

    def on_fit_start(self) -> None:
        """Load a new training's initial weights, and what follows its labels' sizes.

        What was restored from a checkpoint is kept.

        Raises:
            UserError: if ``init_from`` does not fit, or thresholds or scales that follow the labels
                lack a data module with training labels.
        """
        if not self.trainer.ckpt_path:
            self.load_initial_weights()
        follow_label_sizes(self.loss, getattr(self.trainer, "datamodule", None))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of the labelled frames of one chunk; the state is kept for the lanes' next chunk."""
        labels = batch.labels
        self.loss_parts = {}
        if not len(labels):
            return self._nothing_to_learn(self._features(batch, self.train_states))
        state = self.train_states.get(batch.lane, batch.reset)
        if self._is_step_compiled:
            state, labels = in_one_form(batch, state, self.detector)
        losses, state = self._losses(
            batch.events, state, labels.frame, labels.boxes, labels.classes
        )
        self.train_states.update(batch.lane, state)
        self.loss_parts = {name: value.detach() for name, value in losses.items()}
        named = {f"train/{name}": value for name, value in self.loss_parts.items()}
        # Not for Lightning's progress bar, which would read it at each step.
        self.log_dict(named, batch_size=len(labels))
        return losses["loss"]

    def _nothing_to_learn(self, features: Sequence[Tensor]) -> Tensor:
        """Zero, whose gradients of zero for every parameter keep all processes in step.

        Where there are several, pyramid and head see one frame of features ``[T * B, C_s, h_s,
        w_s]``: synchronised batch normalisation waits for all processes.
        """
        if not _is_one_of_several():
            return torch.stack([p.sum() for p in self.detector.parameters()]).sum() * 0
        output = self.detector.predict([x[:1] for x in features])
        parts = (output.offsets, output.objectness, output.classes)
        return torch.stack([x.float().mean() for x in parts]).sum() * 0

    def _losses(
        self,
        events: Tensor,
        state: State | None,
        frame: Tensor,
        boxes: Tensor,
        classes: Tensor,
    ) -> tuple[dict[str, Tensor], State]:
        """Losses of a chunk ``[T, B, C, H, W]`` and the lanes' state after it.

        ``frame`` ``[N]``, ``boxes`` ``[N, M, 4]`` and ``classes`` ``[N, M]`` are its labels.
        """
        features, state = self.detector.features(events, state)
        output = self.detector.predict([x[frame] for x in features])
        return self.loss(output, box_convert(boxes, "xyxy", "cxcywh"), classes), state

    def compile_step(self, backend: Any = "inductor", fullgraph: bool = False) -> None:
        """Compile what a training step computes of a chunk as one graph.

        It serves any number of labelled frames and boxes; one labelled frame alone has a graph of
        its own.

        Args:
            backend: of ``torch.compile``.
            fullgraph: refuse a loss that cannot be compiled into the same graph.
        """
        self._is_step_compiled = True
        self._losses = torch.compile(  # type: ignore[method-assign]
            self._losses, backend=backend, fullgraph=fullgraph
        )

    def on_train_epoch_start(self) -> None:
        """Clear the lanes: the plan of each epoch resets all of them."""
        self.train_states.clear()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Detect objects in the labelled frames of one chunk and update the metric."""
        features = self._evaluated_features(batch)
        labels = batch.labels
        if not len(labels):
            return
        candidates = self._candidates(
            [x[labels.frame] for x in features],
            batch,
            every_class=not self.metric.settings.rules.as_published,
        )
        self._evaluate(candidates, batch)

    def _evaluate(self, candidates: Candidates, batch: Batch) -> None:
        """Update the metric, on the host.

        Here alone an evaluation waits: for the candidates' number with the labels, and in
        :meth:`_suppressed` for what is left of them.
        """
        labels = batch.labels
        tracks = [] if labels.tracks is None else [labels.tracks]
        on_device = [labels.frame, labels.boxes, labels.classes, batch.time_us, batch.scale]
        number, frame, boxes, classes, time_us, scale, *tracks = on_host(
            [candidates.number, *on_device, *tracks]
        )
        lanes = (frame % batch.events.shape[1]).tolist()
        self.metric.update(
            self._suppressed(replace(candidates, number=number)),
            Labels(frame, boxes, classes, *tracks),
            recording=[batch.recording[i] for i in lanes],
            time_us=time_us.flatten()[frame],
            scale=scale[lanes],
            start_us=torch.tensor([batch.start_us.get(i, 0) for i in lanes]),
        )

    def on_validation_epoch_start(self) -> None:
        """Start with empty lanes and an empty metric, and the same network on all processes."""
        if _is_one_of_several():
            # Each process has its own batch-norm statistics; checkpoints hold the first one's.
            for buffer in self.detector.buffers():
                distributed.broadcast(buffer, src=0)
        self.eval_states.clear()
        self.metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the whole split, except those without ground truth."""
        assert self.trainer.state.stage is not None
        split = self.trainer.state.stage.dataloader_prefix
        metrics = self.metric.compute()
        precisions_and_recalls = {
            f"{split}/{name}": metrics[name]
            for name in self.metric.settings.metric_names
            if name in metrics and not metrics[name].isnan()
        }
        if self.trainer.state.fn != "fit":
            # Where Lightning finds the step that loggers are to note; of itself it counts from 0.
            precisions_and_recalls["step"] = torch.tensor(float(self.trained_steps))
        # Equal on all processes: nothing is to be reduced, which both flags together say.
        self.log_dict(precisions_and_recalls, sync_dist=True, rank_zero_only=True)

    # A test is a validation on another split.
    test_step = validation_step
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def on_predict_epoch_start(self) -> None:
        """Start with empty lanes."""
        self.eval_states.clear()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Detections]:
        """Detections of all ``T * B`` frames, frame ``t * B + b`` at index ``t * B + b``."""
        candidates = self._candidates(self._evaluated_features(batch), batch)
        return self._suppressed(candidates, self.hparams["class_agnostic_nms"])

    def _features(self, batch: Batch, states: LaneStates) -> list[Tensor]:
        """Backbone features ``[T * B, C_s, h_s, w_s]`` of a chunk, carrying the lanes' state."""
        state = states.get(batch.lane, batch.reset)
        features, state = self.detector.features(batch.events, state)
        states.update(batch.lane, state)
        return features

    def _evaluated_features(self, batch: Batch) -> list[Tensor]:
        """As :meth:`_features`, but where it is asked for, the state is forgotten now and then."""
        if (every := self.hparams["forget_every"]) is None:
            return self._features(batch, self.eval_states)
        pieces = [self.detector.features(part)[0] for part in batch.events.split(every)]
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    def _candidates(
        self, features: Sequence[Tensor], batch: Batch, every_class: bool = False
    ) -> Candidates:
        """Boxes in features ``[N, C_s, h_s, w_s]``, cut at the batch's frames or as in RVT."""
        as_published = self.metric.settings.rules.as_published
        return best_candidates(
            self.detector.predict(features).decode(),
            self.hparams["score_threshold"],
            frame_size=None if as_published else batch.frame_size,
            every_class=every_class,
        )

    def _suppressed(self, candidates: Candidates, agnostic: bool = False) -> list[Detections]:
        """Detections of the ``N`` frames on the host, which waits for them."""
        settings: Any = self.hparams
        return suppressed(candidates, settings.nms_threshold, settings.max_detections, agnostic)

    def configure_optimizers(self) -> Any:
        """AdamW with RVT's one-cycle schedule.

        Raises:
            UserError: if the schedule needs a number of steps and none is set.
        """
        settings: Any = self.hparams
        require_steps(settings.schedule, self.trainer)
        lanes = settings.train_lanes * self.trainer.world_size
        optimizer = adamw(
            self.detector,
            settings,
            lanes * self.trainer.accumulate_grad_batches,
            self._num_groups,
        )
        if settings.schedule == "constant":
            return optimizer
        scheduler = one_cycle(optimizer, settings, int(self.trainer.estimated_stepping_batches))
        by_step = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": by_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network, other classes or other frames.

        Raises:
            UserError: if class names differ, their order, channels of the frames, or the
                detector's tensors.
        """
        stored = Checkpoint(checkpoint)
        self._steps_of_checkpoint = stored.step
        require_same_data(stored.settings, self.class_names, self.hparams["in_channels"])
        tensors = stored.tensors
        of_detector = {name: x for name, x in tensors.items() if name.startswith("detector.")}
        own = self.detector.state_dict(prefix="detector.")
        require_same_tensors(of_detector, own, "ckpt_path")
        # A loss may follow another one: it takes over what both have and keeps its own rest.
        own = self.loss.state_dict(prefix="loss.")
        of_loss = {name: tensors[name] for name in own if name in tensors}
        require_same_tensors(of_loss, {name: own[name] for name in of_loss}, "ckpt_path")
        others = {name: x for name, x in tensors.items() if not name.startswith("loss.")}
        stored.tensors = own | of_loss | others
        if not is_training(self):
            return
        if not stored.has_training_state:
            raise UserError(
                "ckpt_path: must hold the states of optimiser and schedule to train on, got none: "
                "use model.init_from to start from its weights"
            )
        if stored.has_optimizer:
            self._num_groups = adapt_to_own_step(stored.optimizer_states[0])
        else:
            _log.info(
                "ckpt_path: the checkpoint holds weights only: training starts from them at step "
                "0, with a fresh optimiser and schedule"
            )


def _is_one_of_several() -> bool:
    """Whether this process trains or evaluates together with others."""
    initialised = distributed.is_available() and distributed.is_initialized()
    return initialised and distributed.get_world_size() > 1
