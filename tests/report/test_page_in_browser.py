"""The report's page in a real browser, where there is one."""

import pytest

from etram_det.report.page import write_report
from support.browser import requested
from support.small_evaluation import shown, write_run

CELLS = """return [...document.querySelectorAll('#' + arguments[0] + ' tbody tr')].map(
    row => [...row.cells].map(cell => cell.firstChild ? cell.firstChild.textContent : ''))"""
OVERFLOWING = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter(each =>
    !each.closest('.scroll') && !each.closest('svg') && !each.closest('caption')
    && each.getBoundingClientRect().right > width + 1).map(each => each.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize(
    "width", [420, *(pytest.param(each, marks=pytest.mark.gate) for each in (800, 1400))]
)
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
            "return [...document.querySelectorAll('.plots svg, .plot svg')]"
            ".map(each => each.clientWidth)"
        )
        # Table and plot of the confusion reach over the page together.
        right, page_right = browser.execute_script(
            "const all = [...document.querySelectorAll('#confused .beside > div')];"
            "return [Math.max(...all.map(each => each.getBoundingClientRect().right)),"
            "document.querySelector('#confused').getBoundingClientRect().right]"
        )
        assert right > 0.95 * page_right
        assert len(plots) >= 7
        assert min(plots) > 250
