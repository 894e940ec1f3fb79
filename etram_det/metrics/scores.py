"""Precision, recall and F1 over the least score from which detections count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from etram_det.metrics.bootstrap import IGNORED, TRUE
from etram_det.metrics.matching import Matches

SCORES = np.linspace(0, 1, 101)


class BestScore(NamedTuple):
    """The score at which F1 is highest, and what is found there; all in [0, 1]."""

    score: float
    f1: float
    precision: float
    recall: float


@dataclass(frozen=True)
class ScoreCounts:
    """Detections of K classes from each of S scores on, matched at the least IoU.

    Attributes:
        scores: ``[S]``, ascending.
        true: ``[S, K]`` int64, detections that took a label.
        detections: ``[S, K]`` int64, all of them but those in crowds.
        labels: ``[K]`` int64.
    """

    scores: np.ndarray
    true: np.ndarray
    detections: np.ndarray
    labels: np.ndarray

    def f1(self, class_id: int | None = None) -> np.ndarray:
        """``[S]`` in [0, 1]: of one class, or of all boxes whatever their class; 0 of nothing."""
        true, found, labels = self._of(class_id)
        return 2 * true / np.maximum(found + labels, 1)

    def best(self, class_id: int | None = None) -> BestScore | None:
        """The middle one of the best scores; None without labels, or where nothing is found."""
        true, found, labels = self._of(class_id)
        f1 = self.f1(class_id)
        if not f1.any():
            return None
        best = np.flatnonzero(f1 == f1.max())
        s = best[len(best) // 2]
        return BestScore(
            float(self.scores[s]), float(f1[s]), float(true[s] / found[s]), float(true[s] / labels)
        )

    def _of(self, class_id: int | None) -> tuple[np.ndarray, np.ndarray, int]:
        if class_id is None:
            return self.true.sum(axis=1), self.detections.sum(axis=1), int(self.labels.sum())
        return self.true[:, class_id], self.detections[:, class_id], int(self.labels[class_id])


def counts_over_score(matches: Matches, labels: np.ndarray) -> ScoreCounts:
    """Count the detections of matches over all areas from each score on.

    Args:
        matches: their first range holds all areas.
        labels: ``[K]`` number of ground-truth boxes.
    """
    true, detections = (np.zeros((len(SCORES), len(labels)), np.int64) for _ in range(2))
    for class_id in range(len(labels)):
        of_class = slice(matches.first[class_id], matches.first[class_id + 1])
        status = matches.status[0, 0, of_class]
        # Detections come best score first. A score that is equal counts.
        number = np.searchsorted(-matches.score[of_class], -SCORES, side="right")
        for counted, is_one in ((true, status == TRUE), (detections, status != IGNORED)):
            counted[:, class_id] = np.concatenate([[0], np.cumsum(is_one)])[number]
    return ScoreCounts(SCORES, true, detections, labels)
