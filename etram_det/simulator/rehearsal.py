"""Traffic that shows what is asked of it: takes are drawn and rehearsed until one does.

A rehearsal runs the traffic of a take ahead, without pixels, and notes who is seen; the recording
shows the same, but for what hides what.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from etram_det.errors import UserError
from etram_det.simulator.crowd import GUESTS, WARM_UP_S, Crowd
from etram_det.simulator.places import build_place
from etram_det.simulator.projection import project
from etram_det.simulator.road_users import CAR, PEDESTRIAN
from etram_det.simulator.routes import CYCLE, RAIL, ROAD, WALK
from etram_det.simulator.stage import Camera
from etram_det.simulator.streets import Place
from etram_det.simulator.traffic import STEP_S, Traffic
from etram_det.simulator.user import Signals
from etram_det.simulator.viewpoint import draw_view, seen_from, visible_part

FAR_M = 85.0
# Most road users of a kind are where the frame is not wider than this.
_NEAR_M = {WALK: 26.0, CYCLE: 32.0, ROAD: 35.0, RAIL: 45.0}
_TAKES, _REHEARSALS = 4, 4  # of each take, at most; then the best of them is recorded
_LEAST_S = 4.0  # shorter recordings are not rehearsed: too little happens
_MOST_S = 12.0  # so much of a recording is rehearsed
# A road user is seen if its middle is in the frame in so many looks, this high in parts of the
# frame's height, and has gone so far in parts of its width.
_LOOKS, _HIGH, _WAY = 6, 0.04, 0.03


@dataclass(frozen=True)
class Conditions:
    """What is given of a recording.

    Attributes:
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        seconds: length of the recording.
        night: whether it is night and lamps are on.
        users: average number of road users in view.
        place: one of ``places.PLACES``.
        rails: whether there are rails in the middle of the road.
        effects: strength of each effect, as of ``EffectSettings``.
        name: of the recording, for messages.
        guests: classes that come in any case where there is a way for them, once for each mention.
    """

    height: int
    width: int
    seconds: float
    night: bool = False
    users: float = 10.0
    place: str = "street"
    rails: bool = False
    effects: dict[str, float] = field(default_factory=dict)
    name: str = "the recording"
    guests: tuple[int, ...] = GUESTS


@dataclass(frozen=True)
class Take:
    """A place before a camera and its traffic at the start of the recording.

    Attributes:
        camera: its optics.
        origin: its position in the place.
        angle: its rotation in the place.
        place: in the camera's axes.
        crowd: with the traffic.
    """

    camera: Camera
    origin: tuple[float, float]
    angle: float
    place: Place
    crowd: Crowd


def draw_take(rng: np.random.Generator, conditions: Conditions) -> Take:
    """The first take that shows what is asked of it, or the one that comes nearest.

    Raises:
        UserError: the place has no room for so many road users.
    """
    best, least, no_room = None, math.inf, None
    for _ in range(_TAKES):
        try:
            take = _draw(np.random.default_rng(rng.integers(2**63)), conditions)
        except UserError as error:
            no_room = error
            continue
        lacks = _complete(take, conditions)
        if lacks < least:
            best, least = take, lacks
        if lacks == 0:
            break
    if best is None:
        assert no_room is not None
        raise no_room
    return best


def _draw(rng: np.random.Generator, conditions: Conditions) -> Take:
    size = conditions.height, conditions.width
    place = build_place(rng, conditions.place, conditions.rails)
    camera, origin, angle = draw_view(rng, place, size)
    place = seen_from(place, origin, angle)
    signals = None
    if place.signals:
        # One group's lights change early in the recording.
        green = float(rng.uniform(5, 9)), float(rng.uniform(4, 7))
        changes_s = rng.uniform(-1.5, 0.3 * min(conditions.seconds, 10))
        signals = Signals.changing_at(green, int(rng.integers(2)), float(changes_s))
    traffic = Traffic(rng, place.crossings, signals, -WARM_UP_S)
    near, far = [], []
    for route in place.routes:
        near_m = min(_NEAR_M[route.kind] / conditions.width * camera.focal_px, FAR_M)
        near.append(visible_part(camera, size, route, near_m))
        far.append(visible_part(camera, size, route, FAR_M))
    crowd = Crowd(traffic, place.routes, near, far, conditions)
    while traffic.time_s < -1e-9:
        crowd.advance(STEP_S)
    return Take(camera, origin, angle, place, crowd)


def _complete(take: Take, conditions: Conditions) -> int:
    """Invite road users until all are seen that are asked for; returns how many are not."""
    seconds = min(conditions.seconds, _MOST_S)
    if seconds < _LEAST_S or not conditions.users:
        return 0
    crowd = take.crowd
    asked = Counter(crowd.guests)
    asked.update({c: 2 for kind, c in ((ROAD, CAR), (WALK, PEDESTRIAN)) if crowd.wanted.get(kind)})
    invited: set[int] = set()
    for number in range(_REHEARSALS):
        tracks = _rehearse(take, conditions, seconds)
        seen = {number for number, track in tracks.items() if track.is_seen}
        lacking = asked - Counter(tracks[number].class_id for number in seen)
        if not lacking or number == _REHEARSALS - 1:
            break
        crowd.traffic.remove(invited - seen)
        for class_id in lacking.elements():
            invited |= crowd.invite(class_id)
    return lacking.total()


@dataclass
class _Track:
    class_id: int
    looks: int = 0
    way: float = 0.0
    last: tuple[float, float] | None = None

    @property
    def is_seen(self) -> bool:
        return self.looks >= _LOOKS and self.way >= _WAY


def _rehearse(take: Take, conditions: Conditions, seconds: float) -> dict[int, _Track]:
    """The road users in view in the first ``seconds`` of a recording."""
    crowd, camera = take.crowd.copy(), take.camera
    tracks: dict[int, _Track] = {}
    for _ in range(int(seconds / STEP_S)):
        crowd.advance(STEP_S)
        for user in crowd.traffic.users:
            x, y, _ = user.pose()
            u, v, depth = project(camera, x, y, 0.5 * user.body.height)
            high = camera.focal_px * user.body.height / max(depth, 1.0) / conditions.height
            inside = 0 < u < conditions.width and 0 < v < conditions.height
            if not inside or depth < 2 or high < _HIGH:
                continue
            track = tracks.setdefault(user.track, _Track(user.class_id))
            track.looks += 1
            if track.last is not None:
                way = math.hypot(u - track.last[0], v - track.last[1])
                track.way += way / conditions.width
            track.last = u, v
    return tracks
