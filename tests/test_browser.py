"""The page of results, and the site, in a real browser: `make test-browser`, with Chromium of the system.

Over a minute, since every page of the site is opened at two widths.
"""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
from test_page import folder, written  # noqa: F401

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-browser` installs playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; set CHROMIUM to its path")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("browser") / "page.html"
    written(folder, out, "--data", str(folder / "data.npz"), "--log", str(folder / "log.json"))
    return out.as_uri()


@pytest.mark.parametrize("width", [1200, 375])
def test_a_browser_shows_it(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    assert requests == [address]
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table.models tbody tr").count() == 4
    for number in range(2):
        box = page.locator("svg").nth(number).bounding_box()
        assert min(width, 800) * 0.8 < box["width"] <= width
        assert 100 < box["height"] < 600
    whole, own = (page.locator(f".channels tr:first-child {each}").bounding_box() for each in (".bar", ".bar div"))
    assert own["width"] / whole["width"] == pytest.approx(5 / 8, abs=0.01)
    page.close()


def test_its_text_can_be_read_and_found(browser, address):
    page = browser.new_page()
    page.goto(address)
    text = page.locator("body").inner_text()
    assert "whole & <all>.keras and what became of it" in text
    assert "5 of 8" in text
    assert page.get_by_role("img").count() == 2
    assert "zero groups" in page.get_by_role("img").nth(1).inner_html()
    page.close()


# ---- the site, which `make docs` has built

SITE = Path(__file__).parent.parent / "site"
PAGES = sorted(page.relative_to(SITE).as_posix() for page in SITE.rglob("*.html"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    if not PAGES:
        pytest.skip("`make docs` builds the site")
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_of_the_site_is_wider_than_the_window_or_asks_another_host(browser, site, width):
    for name in PAGES:
        page = browser.new_page(viewport={"width": width, "height": 900})
        requests, complaints = [], []
        page.on("request", lambda request, seen=requests: seen.append(request.url))
        page.on("console", lambda message, seen=complaints: seen.append(message.text))
        page.on("pageerror", lambda error, seen=complaints: seen.append(str(error)))
        page.goto(site + name, wait_until="networkidle")
        assert [url for url in requests if not url.startswith((site, "data:", "blob:"))] == [], name
        assert complaints == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.close()


def test_the_search_of_the_site_finds_a_name(browser, site):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(site + "index.html")
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("coupled_groups")
    page.locator(".md-search-result__item").first.wait_for()
    assert "coupled_groups" in page.locator(".md-search-result__list").inner_text()
    page.close()
