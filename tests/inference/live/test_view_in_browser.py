"""The page of a live run in a real browser, where there is one."""

import base64

import cv2
import numpy as np
import pytest

from etram_det.inference.live.view import LiveView
from support.browser import requested

NUMBERS = {
    "source": "replay of <b>night</b>.raw",
    "windows": 1234,
    "dropped": 0,
    "windows_per_s": 20.04,
    "events_per_s": 1234567.8,
    "latency_ms": 31.26,
    "median_ms": 30.04,
    "p99_ms": 48.04,
    "counts": [
        {"class_name": "pedestrian", "now": 0, "all": 17},
        {"class_name": "car", "now": 1, "all": 4321},
    ],
}
BOX = {"class_id": 1, "class_name": "car", "score": 0.876, "x": 10.4, "y": 20, "w": 30, "h": 15.6}
TEXTS = "return [...document.querySelectorAll('dd, #source, #state')].map(each => each.textContent)"
CELLS = """return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')].map(
    row => [...row.cells].map(cell => cell.textContent))"""
SHADE = """
const image = document.getElementById('picture'), canvas = document.createElement('canvas');
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
const context = canvas.getContext('2d');
context.drawImage(image, 0, 0);
return [image.naturalWidth, image.naturalHeight, context.getImageData(5, 5, 1, 1).data[0]]"""


def wait_for(browser, script, expected, *arguments):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(
        lambda _: browser.execute_script(script, *arguments) == expected
    )


@pytest.mark.parametrize("width", [420, 1400])
def test_page_shows_each_window_and_the_end(width, browser):
    view = LiveView("127.0.0.1", 0)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    requested(browser)  # what the browser starts with
    browser.get(view.address)
    assert browser.title == "etram_det live"
    for number, shade in enumerate((50, 200)):
        image = np.full((360, 640, 3), shade, np.uint8)
        said = NUMBERS | {"t": 1_050_000 + number, "boxes": [BOX] * number, "dropped": number}
        view.show(lambda image=image, said=said: (image, said))
        texts = ["replay of <b>night</b>.raw", "live", "1,234,568", "20.0", "1,234", str(number)]
        wait_for(browser, TEXTS, [*texts, "31.3 ms", "30.0 ms", "48.0 ms", "1.050 s"])
        wait_for(browser, SHADE, [640, 360, shade])
    counts = [["pedestrian", "0", "17"], ["car", "1", "4,321"]]
    assert browser.execute_script(CELLS, "counts") == counts
    assert browser.execute_script(CELLS, "boxes") == [["car", "0.88", "10, 20", "30, 16"]]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
    asked_for = requested(browser)
    assert {view.address, view.address + "windows"} <= set(asked_for)
    own = (view.address, "data:")
    assert [url for url in asked_for if not url.startswith(own)] == []
    screenshot = np.frombuffer(base64.b64decode(browser.get_screenshot_as_base64()), np.uint8)
    assert cv2.imdecode(screenshot, cv2.IMREAD_COLOR).shape[1] == width
    view.close()
    wait_for(browser, "return document.getElementById('state').textContent", "the run has ended")
