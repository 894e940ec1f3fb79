"""What settings of the data module must fulfil, alone and together."""

from __future__ import annotations

from etram_det.data.augment import AugmentSettings
from etram_det.errors import UserError


def num_random_lanes(sampling: str, train_lanes: int) -> int:
    """How many lanes of a training batch take random chunks.

    Raises:
        UserError: if the only lane would have to do both.
    """
    if sampling == "mixed" and train_lanes == 1:
        raise UserError(
            "data.train_lanes: must be at least 2 with data.sampling mixed, got 1: add a lane, or "
            "set data.sampling to stream or random"
        )
    return {"stream": 0, "random": train_lanes, "mixed": train_lanes // 2}[sampling]


def require_random_chunks(class_balance: float, sampling: str) -> None:
    """Refuse a class balance out of [0, 1], or one of chunks that are not drawn."""
    if not 0 <= class_balance <= 1:
        raise UserError(
            f"data.class_balance: must be in [0, 1], got {class_balance}: set 0 for none, 1 for all"
        )
    if class_balance and sampling == "stream":
        raise UserError(
            "data.class_balance: must be 0 with data.sampling stream, which passes once through "
            f"each recording, got {class_balance}: set data.sampling to mixed or random"
        )


def require_counts_to_drop_from(augmentation: AugmentSettings, representation: str) -> None:
    """Refuse to drop events of frames that do not count them."""
    if augmentation.enabled and augmentation.event_drop and representation == "mixed_density":
        raise UserError(
            "data.augmentation.event_drop: must be 0 with data.representation mixed_density, whose "
            f"values are no counts, got {augmentation.event_drop}: set it to 0"
        )


def require_at_least(least: int, **settings: float) -> None:
    """Refuse settings of the data, by name, below the least value."""
    for name, value in settings.items():
        if value < least:
            raise UserError(f"data.{name}: must be at least {least}, got {value}: raise it")
