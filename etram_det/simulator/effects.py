"""Effects of weather, light and surroundings, and which recordings have them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from etram_det.simulator.ranges import require_range

# Steps of sequences that spread evenly over [0, 1): fractional parts of multiples of square roots.
_STEPS = {
    "shadows": math.sqrt(2),
    "glare": math.sqrt(3),
    "flicker": math.sqrt(5),
    "rain": math.sqrt(7),
    "leaves": math.sqrt(11),
    "shaking": math.sqrt(13),
    "occluders": math.sqrt(17),
}
EFFECTS = tuple(_STEPS)
_BY_DAY, _AT_NIGHT = ("shadows",), ("glare", "flicker")


@dataclass(frozen=True)
class EffectSettings:
    """Strengths of the effects, 0 for none and 1 for the usual, and how often each is drawn.

    Attributes:
        share: share of all recordings that have an effect, in [0, 1]. Shadows need daylight, glare
            and flicker need the night: they are in all days, or all nights, if these are fewer.
        shadows: share of the light on the ground that the sun's shadows take away is 0.6 times
            this, 0.9 at most.
        glare: brightness of the halo around lamps; 1 is 2.5 times that without glare.
        flicker: depth of the modulation of street lamps at 100 Hz, relative to 0.45, 1 at most.
        rain: rainfall, relative to 3 mm per hour.
        leaves: amount of leaves that move in the wind; from 3 on they move no faster.
        shaking: way of the camera's pole in gusts, relative to 1.5 pixels of 360 rows, 3.2 pixels
            at most.
        occluders: number of poles, trees and signs in front of the road, relative to the usual.
    """

    share: float = 0.25
    shadows: float = 1.0
    glare: float = 1.0
    flicker: float = 1.0
    rain: float = 1.0
    leaves: float = 1.0
    shaking: float = 1.0
    occluders: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            most = 1 if field.name == "share" else 10
            require_range(f"effects.{field.name}", getattr(self, field.name), 0, most)

    def drawn(self, number: int, night: bool, nights: float, start: float) -> dict[str, float]:
        """Strength of each effect in a recording; 0 for those that it does not have.

        Args:
            number: of the recording among the days or nights of its split.
            night: whether it is at night.
            nights: share of the recordings at night.
            start: in [0, 1), where the effects begin.
        """
        strengths = {}
        for name, step in _STEPS.items():
            share = self.share
            if name in _BY_DAY or name in _AT_NIGHT:
                possible = nights if name in _AT_NIGHT else 1 - nights
                is_possible = night == (name in _AT_NIGHT)
                share = min(share / possible, 1.0) if possible > 0 and is_possible else 0.0
            place = (number * step + start * 7 * step) % 1
            strengths[name] = getattr(self, name) if place < share else 0.0
        return strengths
