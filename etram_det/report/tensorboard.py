"""Results of an evaluation in TensorBoard: precision over recall, and tables as text."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, RenderableType

from etram_det.metrics.curves import RECALL_THRESHOLDS, Curves
from etram_det.report.tables import detail_tables, summary_tables

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def show_results(
    writer: SummaryWriter, results: Mapping[str, Any], curves: Curves, split: str, step: int
) -> None:
    """Add all tables as text, and each class's precision over recall at an IoU of 0.5.

    The metrics themselves are scalars that the training loop logs.

    Args:
        writer: TensorBoard's own.
        results: what ``etram_det.report.run_files.results_of`` returns.
        curves: of the same evaluation, over all frames.
        split: name of the split, which comes first in every name.
        step: number of training steps done.
    """
    # Four spaces make a block of fixed width in Markdown.
    for name, tables in {"summary": summary_tables, "details": detail_tables}.items():
        text = _plain_text(tables(results)).replace("\n", "\n    ")
        writer.add_text(f"{split}/{name}", f"    {text}", step)
    for class_id, name in enumerate(results["confusion"]["names"][:-1]):
        num_boxes = int(curves.num_boxes[class_id, 0])
        if num_boxes:
            precision = curves.precision[0, :, class_id, 0]
            _add_curve(writer, f"{split}/PR50_{name}", precision, num_boxes, step)


def _add_curve(
    writer: SummaryWriter, tag: str, precision: np.ndarray, num_boxes: int, step: int
) -> None:
    """Add one curve, with the numbers of detections that belong to its points."""
    # TensorBoard wants rising thresholds, which means falling recall.
    precision, recall = precision[::-1], RECALL_THRESHOLDS[::-1]
    reached = precision > 0
    num_true = np.where(reached, np.round(recall * num_boxes), 0)
    num_false = np.divide(num_true * (1 - precision), precision, where=reached, out=0 * recall)
    writer.add_pr_curve_raw(
        tag,
        num_true,
        np.round(num_false),
        np.zeros_like(recall),
        num_boxes - num_true,
        precision,
        recall,
        step,
        num_thresholds=len(recall),
    )


def _plain_text(tables: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(tables)
    return console.file.getvalue()  # type: ignore[attr-defined]
