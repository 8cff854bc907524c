"""The report in a real browser: nothing is fetched, nothing fails, it fits narrow and wide, light and dark."""

import json
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from tests.browser import find_chromium, visit
from tests.report_data import METHODS, TITLE

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium: install Debian's package chromium")

SCROLL_WIDTH = "document.documentElement.scrollWidth"
IMAGES = "JSON.stringify([...document.images].map(i => i.complete && i.naturalWidth > 0))"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
PAGE_TITLE = "document.title"
NARROW_DRAWINGS = (
    "[...document.querySelectorAll('.drawing svg')].filter(s => s.getBoundingClientRect().width < 300).length"
)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_the_page_opens_without_a_request_or_an_error(report, width, dark):
    page = report / "report.html"
    seen = visit(page, width, dark, (SCROLL_WIDTH, IMAGES, BACKGROUND, PAGE_TITLE, NARROW_DRAWINGS))
    assert seen.requests == [page.as_uri()]
    assert seen.failures == []
    assert seen.complaints == []
    assert seen.answers[PAGE_TITLE] == TITLE
    assert seen.answers[SCROLL_WIDTH] <= width
    assert seen.answers[NARROW_DRAWINGS] == 0
    images = json.loads(seen.answers[IMAGES])
    assert len(images) == 3 * len(METHODS)
    assert all(images)
    shot = imread(BytesIO(seen.screenshot), format="png")[..., :3]
    assert shot.shape[1] == width
    assert shot.shape[0] > 3000
    assert shot[:300].std() > 0.05  # something is written there
    brightness = float(np.median(shot[:300]))
    assert (brightness < 0.2) if dark else (brightness > 0.9)
    assert (seen.answers[BACKGROUND] == "rgb(255, 255, 255)") != dark


def test_a_page_that_asks_for_something_is_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text('<img src="missing.png"><script>console.error("x"); undefined_name()</script>')
    seen = visit(page)
    assert (tmp_path / "missing.png").as_uri() in seen.requests
    assert seen.failures
    assert len(seen.complaints) >= 2
