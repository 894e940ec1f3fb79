"""A road user on its way, and the lights that it obeys."""

from __future__ import annotations

import math
from dataclasses import dataclass

from etram_det.simulator.body import Body
from etram_det.simulator.routes import WALK, Route

_AMBER_S, _CLEAR_S = 2.0, 1.5
_STANDS_MS = 0.05  # slower ones stand


@dataclass(eq=False)
class User:
    """A road user on its way.

    Attributes:
        track: number of the user.
        class_id: of eTraM.
        body: what it looks like.
        route: its way.
        s: position of its centre along it, in metres.
        cruise: speed where nothing holds it up, in metres per second.
        speed: of now.
        lateral: metres to the left of the route.
        wobble: metres by which a bicycle swerves.
        pause_s: seconds that are left of a stop without a reason.
        beside: a user that it walks with.
    """

    track: int
    class_id: int
    body: Body
    route: Route
    s: float
    cruise: float
    speed: float = 0.0
    lateral: float = 0.0
    wobble: float = 0.0
    phase: float = 0.0
    pause_s: float = 0.0
    beside: User | None = None
    acceleration: float = 0.0
    driven: float = 0.0
    next_gate: int = 0
    waited_s: float = 0.0  # at the next gate
    patience_s: float = 1.0  # that it spends at a kerb or stop

    @property
    def walks(self) -> bool:
        """Whether it is on a footway."""
        return self.route.kind == WALK

    @property
    def front(self) -> float:
        """Position of its front along the route."""
        return self.s + 0.5 * self.body.length

    @property
    def rear(self) -> float:
        """Position of its rear along the route."""
        return self.s - 0.5 * self.body.length

    @property
    def stands(self) -> bool:
        """Whether it does not move."""
        return self.speed < _STANDS_MS

    @property
    def heading(self) -> float:
        """Direction of its route where it is, on the same turn all along."""
        return self.route.at(self.s)[2]

    def pose(self, joint: float = 0.0) -> tuple[float, float, float]:
        """Position and heading of a part of the body, whose two axles are on the route."""
        half = 0.05 if self.walks else 0.3 * (self.body.length if joint == 0 else 5.0)
        x0, y0, h0 = self.route.at(self.s + joint - half)
        x1, y1, h1 = self.route.at(self.s + joint + half)
        middle = 0.5 * (h0 + h1)
        heading = middle
        if not self.walks:  # the chord, on the same turn as the route
            chord = math.atan2(y1 - y0, x1 - x0)
            heading = middle + (chord - middle + math.pi) % (2 * math.pi) - math.pi
        lateral = self.lateral
        if self.wobble:
            # By the way, not by the time: it keeps still where it stands.
            turn = 0.9 * self.driven + self.phase
            lateral += self.wobble * math.sin(turn)
            heading += 0.7 * self.wobble * math.cos(turn)
        x, y = 0.5 * (x0 + x1), 0.5 * (y0 + y1)
        return x - lateral * math.sin(middle), y + lateral * math.cos(middle), heading


@dataclass
class Signals:
    """Traffic lights of two groups that take turns.

    Attributes:
        green_s: seconds of green of each group.
        offset_s: of the cycle at time 0.
    """

    green_s: tuple[float, float]
    offset_s: float

    @classmethod
    def changing_at(cls, green_s: tuple[float, float], group: int, time_s: float) -> Signals:
        """Lights at which the green of a group ends at a time."""
        end = green_s[0] if group == 0 else sum(green_s) + _AMBER_S + _CLEAR_S
        return cls(green_s, end - time_s)

    def green_left_s(self, group: int, time_s: float) -> float:
        """Seconds of green that are left for a group; 0 for none."""
        pause = _AMBER_S + _CLEAR_S
        into = (time_s + self.offset_s) % (sum(self.green_s) + 2 * pause)
        if group == 1:
            into -= self.green_s[0] + pause
        return self.green_s[group] - into if 0 <= into < self.green_s[group] else 0.0
