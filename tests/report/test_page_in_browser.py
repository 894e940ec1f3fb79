"""The report's page in a real browser, where there is one."""

import json
import shutil

import pytest

from etram_det.report.page import write_report
from support.small_evaluation import shown, write_run

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture
def browser(tmp_path):
    """Chromium without a head, which writes down what it is asked for and what it says."""
    selenium = pytest.importorskip("selenium.webdriver")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = "headless=new no-sandbox no-first-run"
    disabled = "gpu quic background-networking component-update sync dev-shm-usage"
    for flag in (*flags.split(), *(f"disable-{feature}" for feature in disabled.split())):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    driver.set_page_load_timeout(600)
    yield driver
    driver.quit()


def requested(browser):
    """Addresses that the page has asked for."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


CELLS = """return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')].map(
    row => [...row.cells].map(cell => cell.firstChild ? cell.firstChild.textContent : ''))"""
OVERFLOWING = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(each =>
    !each.closest('.scroll') && !each.closest('svg') && !each.closest('caption')
    && each.getBoundingClientRect().right > width + 1).map(each => each.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("width", [420, 1400])
def test_page_renders_in_a_browser(width, browser, tmp_path):
    results = write_run(tmp_path / "a")
    write_run(tmp_path / "b", protocol="prophesee")
    one = write_report([tmp_path / "a"])
    two = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "two.html")
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for page in (one, two):
        requested(browser)  # what the browser starts with
        browser.get(page.as_uri())
        assert browser.title.startswith("Evaluation: ")
        assert browser.get_log("browser") == []
        asked_for = requested(browser)
        assert page.as_uri() in asked_for
        assert [url for url in asked_for if not url.startswith(("file:", "data:"))] == []
        [all_sizes, *_] = browser.execute_script(CELLS, "sizes")
        assert all_sizes[:2] == ["all", shown(results, "AP")]
        # Nothing is wider than the window, but for tables that scroll within themselves.
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.execute_script(OVERFLOWING) == []
        assert browser.execute_script(
            "return [...document.images].every(each => each.naturalWidth > 0 && each.width > 150)"
        )
        plots = browser.execute_script(
            "return [...document.querySelectorAll('.plots svg')].map(each => each.clientWidth)"
        )
        assert len(plots) >= 7
        assert min(plots) > 250
