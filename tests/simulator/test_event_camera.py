"""What the camera sees and the sensor adds: events, noise, effects, views."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from etram_det.simulator.event_camera import EventCamera
from etram_det.simulator.noise import Noise, ReadOut, in_order
from etram_det.simulator.pixels import EVENT, SensorSettings, compare, draw_pixels, settle_all
from etram_det.simulator.scene import Conditions, Scene

QUIET = SensorSettings(background_hz=0, dark_noise_hz=0, hot_pixels=0)


def make_camera(
    night: bool = False, users: float = 6.0, sensor: SensorSettings = QUIET, seed: int = 3,
    place: str = "street", **effects: float,
) -> EventCamera:  # fmt: skip
    rng = np.random.default_rng(seed)
    scene = Scene(rng, Conditions(180, 320, 1.0, night, users, place, effects=effects))
    return EventCamera(scene, sensor, rng)


def test_without_noise_an_empty_place_is_silent_by_day_and_night() -> None:
    assert len(make_camera(users=0).advance(1_000_000)) == 0
    assert len(make_camera(night=True, users=0).advance(1_000_000)) == 0
    assert len(make_camera(users=0, occluders=1, shadows=1).advance(500_000)) == 0


@pytest.mark.parametrize(
    ("night", "effect"),
    [(False, "rain"), (False, "leaves"), (False, "shaking"), (True, "flicker")],
)
def test_an_effect_makes_events_that_grow_with_its_strength(night: bool, effect: str) -> None:
    counts = [
        len(make_camera(night, 0, place="crossing", **{effect: strength}).advance(1_500_000))
        for strength in (0.0, 0.5, 2.0)
    ]
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2]


def test_rain_makes_upright_streaks_brighter_first() -> None:
    events = make_camera(users=0, rain=1).advance(300_000)
    seen = np.zeros((180, 320))
    seen[events["y"], events["x"]] = 1
    upright = (seen[1:] * seen[:-1]).sum()
    level = (seen[:, 1:] * seen[:, :-1]).sum()
    assert upright > 1.5 * level
    order = np.lexsort((events["t"], events["y"], events["x"]))
    pixel = events["y"][order].astype(int) * 320 + events["x"][order]
    first = np.append(True, np.diff(pixel) != 0)
    assert events["p"][order][first].mean() > 0.9


def test_lamps_flicker_at_twice_the_frequency_of_the_mains() -> None:
    camera = make_camera(night=True, users=0, place="crossing", flicker=1)
    events = camera.advance(1_000_000)
    assert len(events) > 100
    phase = np.exp(2j * math.pi * events["t"] / 10_000)
    positive = events["p"] == 1
    assert abs(phase[positive].mean()) > 0.5
    assert abs(np.angle(phase[positive].mean() / phase[~positive].mean())) > 1.5


def test_a_pixel_rests_after_an_event() -> None:
    events = make_camera(sensor=replace(QUIET, refractory_us=2_000)).advance(300_000)
    order = np.lexsort((events["t"], events["y"], events["x"]))
    events = events[order]
    same = (np.diff(events["x"].astype(int)) == 0) & (np.diff(events["y"].astype(int)) == 0)
    assert same.sum() > 100
    assert np.diff(events["t"])[same].min() >= 2_000


def test_a_higher_threshold_gives_fewer_events() -> None:
    low = make_camera(sensor=replace(QUIET, contrast_threshold=0.2)).advance(300_000)
    high = make_camera(sensor=replace(QUIET, contrast_threshold=0.6)).advance(300_000)
    assert 0 < len(high) < 0.5 * len(low)


def test_night_is_dark_with_bright_lamps() -> None:
    day, night = make_camera(users=10), make_camera(night=True, users=10)
    assert np.median(night.image) < 0.2 * np.median(day.image)
    assert (night.image > 1.5).any()  # lamps outshine white in daylight
    assert not (day.image > 1.5).any()

    def contrast(camera: EventCamera) -> float:
        level = np.log(camera.scene.light.background + camera.sensor.dark_level)
        return float(np.std(level))

    assert contrast(night) < 0.8 * contrast(day)


def test_sunshine_casts_shadows_on_the_ground_alone() -> None:
    cloudy, sunny = make_camera(users=10), make_camera(users=10, shadows=1)
    darker = cloudy.image - sunny.image
    assert (darker > 0.05).sum() > 50
    assert darker.min() > -1e-6
    owner = np.zeros((2, 180, 320), np.int32)
    sunny.look()
    owner[:] = sunny._owner
    assert (darker[owner[0] >= 0] > 0.05).mean() < 0.05


def step_response(intensity: float, sensor: SensorSettings) -> np.ndarray:
    """Times of the events of a pixel whose light doubles within a microsecond at 1 ms."""
    image = np.full((1, 1), intensity, np.float32)
    pixels = draw_pixels(np.random.default_rng(0), replace(sensor, threshold_spread=0), image)
    pixels.reference[:] = pixels.level
    image[:] = 2 * intensity
    events, number = compare(
        pixels, (0, 0, 1, 1), 0.0, 999.0, 1000.0, np.empty(1000, EVENT), 0
    )  # fmt: skip
    events, number = settle_all(pixels, 0.0, 90_000.0, events, number)
    return events["t"][:number]


def test_a_pixel_is_slower_in_the_dark() -> None:
    """The lag of a low-pass filter whose cut-off is proportional to the intensity."""
    sensor = replace(
        QUIET, contrast_threshold=0.2, threshold_mismatch=0, refractory_us=0, dark_level=1e-4
    )
    for intensity in (0.5, 0.05, 0.005):
        times = step_response(intensity, sensor)
        light = 2 * intensity + sensor.dark_level
        lag_us = 1e6 / (2 * math.pi * 3000 * light)
        crossed = np.array([0.2, 0.4, 0.6]) / math.log(light / (intensity + sensor.dark_level))
        np.testing.assert_allclose(times - 1000, -lag_us * np.log(1 - crossed), rtol=0.03, atol=2)


def test_thresholds_of_the_polarities_differ_by_their_mismatch() -> None:
    image = np.ones((40, 40), np.float32)
    ratios = []
    for seed in range(20):
        sensor = replace(QUIET, threshold_mismatch=0.2)
        pixels = draw_pixels(np.random.default_rng(seed), sensor, image)
        ratios.append(pixels.thresholds[1].mean() / pixels.thresholds[0].mean() - 1)
    assert 0.1 < max(ratios) < 0.23
    assert -0.23 < min(ratios) < -0.1


def test_noise_grows_with_darkness() -> None:
    sensor = SensorSettings(background_hz=0.2, dark_noise_hz=2.0, hot_pixels=0)
    noise = Noise(sensor, (200, 300), np.random.default_rng(0))
    dark = np.zeros((200, 300), np.float32)
    for intensity, rate_hz in ((0.0, 2.0), (0.15, 1.1), (0.3, 0.2), (1.0, 0.2)):
        events = noise.between(0, 1_000_000, dark + np.float32(intensity))
        expected = 200 * 300 * rate_hz
        assert abs(len(events) - expected) < 5 * np.sqrt(expected)
        assert abs(events["p"].mean() - 0.55) < 0.03


def test_hot_pixels_fire_in_bursts_at_their_mean_rate() -> None:
    sensor = SensorSettings(
        background_hz=0, dark_noise_hz=0, hot_pixels=1e-3, hot_pixel_hz=200, hot_burst_s=0.2
    )
    noise = Noise(sensor, (200, 300), np.random.default_rng(0))
    dark = np.zeros((200, 300), np.float32)
    events = np.concatenate(
        [noise.between(t, t + 20_000, dark) for t in range(0, 20_000_000, 20_000)]
    )
    pixel, counts = np.unique(events["y"].astype(int) * 300 + events["x"], return_counts=True)
    assert 35 < len(pixel) < 90
    assert counts.mean() == pytest.approx(200 * 20, rel=0.1)
    one = events[(events["y"].astype(int) * 300 + events["x"]) == pixel[0]]
    per_slice = np.bincount(one["t"] // 20_000, minlength=1000)
    assert (per_slice == 0).mean() > 0.4  # silent more than half of the time
    assert per_slice[per_slice > 0].mean() > 6


def test_events_are_sorted_by_time_and_keep_their_order_within_a_microsecond() -> None:
    rng = np.random.default_rng(0)
    first, second = np.zeros(5000, EVENT), np.zeros(300, EVENT)
    for events in (first, second):
        events["t"] = 70_000 + rng.integers(0, 1000, len(events))
        events["x"] = rng.integers(0, 640, len(events))
    first["t"][:3] = 69_999  # rounding may put an event before the slice: it comes last
    together = np.concatenate([first, second])
    expected = together[np.argsort((together["t"] - 70_000).astype(np.uint16), kind="stable")]
    np.testing.assert_array_equal(in_order(first, second, 70_000), expected)


def test_the_read_out_delays_and_loses_what_comes_too_fast() -> None:
    sensor = replace(QUIET, readout_hz=1e5, readout_buffer=50)  # an event in 10 us
    events = np.zeros(300, EVENT)
    events["t"] = np.repeat([1000, 50_000], [200, 100])
    read_out = ReadOut(sensor)
    read = read_out.read(events.copy(), 60_000)
    assert read_out.num_lost == 150 + 50
    np.testing.assert_array_equal(read["t"][:50], 1000 + 10 * np.arange(50))
    np.testing.assert_array_equal(read["t"][50:], 50_000 + 10 * np.arange(50))
    # What is late comes with the next call.
    read_out = ReadOut(sensor)
    first = read_out.read(events[:40].copy(), 1100)
    second = read_out.read(events[:0].copy(), 2000)
    assert (len(first), len(second)) == (11, 29)
    assert np.all(np.diff(np.concatenate([first["t"], second["t"]])) == 10)


def test_what_is_near_hides_what_is_far() -> None:
    camera = make_camera(users=12)
    free = camera.look()
    drawn = [i for i in camera.order if free["num_own"][i] > 0]
    near = drawn[-1]
    assert free["num_visible"][near] > 0
    # Of twelve in view, someone is behind someone else.
    assert any(0 < free["num_visible"][i] < free["num_own"][i] for i in drawn)
    # A wall right in front of the camera hides all of them.
    camera._light.nearest[:] = 1.0
    camera._light.row_nearest[:] = 1.0
    assert camera.look()["num_visible"].max() == 0
