"""Ranges of settings."""

from __future__ import annotations

import math

from etram_det.errors import UserError


def require_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Refuse a value outside of ``low`` to ``high``.

    Raises:
        UserError: it is not in this range, or not a finite number.
    """
    if low <= value <= high and value < math.inf:
        return
    bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    remedy = "raise it" if value < low else "lower it" if value > high else "set a finite number"
    raise UserError(f"{name}: must be {bounds}, got {value}: {remedy}")
