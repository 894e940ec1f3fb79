"""A flag that processes share and that none of them can take along."""

from __future__ import annotations

from multiprocessing.context import BaseContext
from typing import Any

# The memory of a flag that is gone would be given to the next one, and be zero again, while a
# process may still look at it.
_kept: list[Any] = []


class Flag:
    """Set once, for all processes that have it.

    Unlike multiprocessing's events it has no lock: a process that is ended from outside while it
    holds one leaves all others waiting for ever.

    Args:
        context: the start method's, of the processes that it is given to.
    """

    def __init__(self, context: BaseContext) -> None:
        self._value = context.RawValue("b", 0)
        _kept.append(self._value)

    def set(self) -> None:
        """Set it, for good."""
        self._value.value = 1

    def is_set(self) -> bool:
        """Whether a process has set it."""
        return bool(self._value.value)
