"""What a sweep searches over, and the configuration that a choice makes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etram_det.errors import UserError

if TYPE_CHECKING:
    import optuna

SEARCHED = ("learning_rate", "size_aware_weight", "small_threshold", "medium_threshold")
_LINEAR = "size_aware_weight"
_THRESHOLDS = ("small_threshold", "medium_threshold")
# The thresholds that a weight type reads: searching over the other would be noise.
_THRESHOLDS_OF = {
    "exponential": _THRESHOLDS[:1],
    "linear": _THRESHOLDS[1:],
    "step": _THRESHOLDS,
    "power": _THRESHOLDS[:1],
    "gaussian": _THRESHOLDS[:1],
}

Choice = Mapping[str, Any]


@dataclass(frozen=True)
class SearchSpace:
    """Variants and ranges.

    Attributes:
        variants: name of each variant and its complete configuration, as ``fit`` reads it.
        ranges: lowest and highest value of each searched setting, some of ``SEARCHED``.

    Raises:
        UserError: if a range is out of order or its bounds, thresholds could cross, or nothing is
            left to search.
    """

    variants: Mapping[str, dict[str, Any]]
    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            least, words = (1.0, "at least 1") if name == _LINEAR else (math.ulp(0.0), "positive")
            if not least <= low < high < math.inf:
                raise UserError(
                    f"{name}: must be {words}, finite and in ascending order, got {low:g} "
                    f"{high:g}: set other bounds, or null to keep the configuration's"
                )
        for variant in self.variants:
            self._require_thresholds_apart(variant)
        if len(self.variants) == 1 and not self.searched(next(iter(self.variants))):
            raise UserError(
                "variants: must be two or more where no range is searched, got "
                f"{next(iter(self.variants))}: name more variants or set a range"
            )

    def searched(self, variant: str) -> tuple[str, ...]:
        """Names of the settings that are searched for a variant.

        The weight and its thresholds are so only where the variant's loss has size weighting.
        """
        used = {"learning_rate"}
        for place in _size_weights(self.variants[variant]):
            used |= _used_in(place)
        return tuple(name for name in self.ranges if name in used)

    def draw(self, trial: optuna.Trial) -> Choice:
        """Let the sampler choose a variant and a value for each of its searched settings."""
        variant = trial.suggest_categorical("variant", list(self.variants))
        for name in self.searched(variant):
            low, high = self.ranges[name]
            trial.suggest_float(name, low, high, log=name != _LINEAR)
        return trial.params

    def configuration(self, choice: Choice) -> dict[str, Any]:
        """The configuration of a variant with the chosen settings in their places."""
        config = copy.deepcopy(self.variants[choice["variant"]])
        if "learning_rate" in choice:
            config["model"]["learning_rate"] = choice["learning_rate"]
        for place in _size_weights(config):
            place.update({name: choice[name] for name in _used_in(place) & choice.keys()})
        return config

    def _require_thresholds_apart(self, variant: str) -> None:
        """A loss refuses thresholds out of order: no draw may give any."""
        for place in _size_weights(self.variants[variant]):
            used = _used_in(place) & self.ranges.keys()
            if not used & set(_THRESHOLDS):
                continue
            small, medium = (
                self.ranges[name] if name in used else (place[name], place[name])
                for name in _THRESHOLDS
            )
            if not small[1] < medium[0]:
                raise UserError(
                    "small_threshold, medium_threshold: all values of the first must lie below "
                    f"those of the second, got up to {small[1]:g} and from {medium[0]:g} in "
                    f"{variant}: narrow or set --small-threshold or --medium-threshold"
                )


def _size_weights(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The places in a configuration's loss that hold size weighting: ``init_args`` of classes."""
    parts = [config["model"].get("loss")]
    while parts:
        arguments = (parts.pop() or {}).get("init_args") or {}
        if "size_aware_weight" in arguments:
            yield arguments
        parts += [each for each in arguments.values() if isinstance(each, Mapping)]


def _used_in(place: Mapping[str, Any]) -> set[str]:
    """Names of the searched settings that a size weighting reads."""
    if place.get("adaptive_quantiles"):
        return {"size_aware_weight"}  # the labels set the thresholds
    thresholds = _THRESHOLDS_OF.get(place.get("weight_type", ""), _THRESHOLDS)
    return {"size_aware_weight", *thresholds} & place.keys()
