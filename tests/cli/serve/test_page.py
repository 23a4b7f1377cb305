"""The page a server shows, in a browser: narrow and wide, light and dark, drawn from by keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.cli.browser import Browser, chromium
from tests.cli.serve.conftest import Start

SHOTS = os.environ.get("SCREENSHOTS")
"""A folder for pictures of the page, for whoever wants to look at them."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def status(browser: Browser) -> str:
    return str(browser.run("document.getElementById('status').textContent"))


def wait(browser: Browser, text: str) -> None:
    WebDriverWait(browser.driver, 30).until(lambda _: text in status(browser))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_draws_full_and_compressed_side_by_side(
    serve: Start, browser: Browser, width: int, dark: bool
) -> None:
    address = serve().address
    browser.open(f"{address}/", width, dark=dark)
    assert browser.run("getComputedStyle(document.getElementById('keyed')).display") == "none"
    keys = browser.driver.switch_to.active_element  # the prompt has the focus
    keys.send_keys("a red apple", Keys.TAB, "")
    for text in ("20%", "7", "128x128"):
        browser.driver.switch_to.active_element.send_keys(text, Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(" ")
    assert browser.run("document.getElementById('both').checked")
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(browser, "drawn")
    captions = browser.run(
        "[...document.querySelectorAll('figcaption')].map(one => one.textContent)"
    )
    assert len(captions) == 2
    assert "20%" in captions[0]
    assert "budgetfull" in captions[1]
    assert all("seed 7" in caption and "held" in caption for caption in captions)
    assert browser.run("[...document.images].every(one => one.naturalWidth > 0 && one.alt)")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert all(url.startswith(address) for url in browser.requests())
    assert browser.messages() == []
    paper = str(browser.run("getComputedStyle(document.documentElement).backgroundColor"))
    ink = str(browser.run("getComputedStyle(document.body).color"))
    assert paper != ink
    if SHOTS:
        browser.picture(Path(SHOTS) / f"serve-{width}-{'dark' if dark else 'light'}.png")


def test_a_refusal_is_shown(serve: Start, browser: Browser) -> None:
    browser.open(f"{serve().address}/", 360)
    browser.driver.switch_to.active_element.send_keys("a fox", Keys.TAB, "200%", Keys.ENTER)
    browser.driver.switch_to.active_element.send_keys(Keys.TAB)
    browser.run("document.getElementById('budget').value = '200%'")
    browser.run("document.getElementById('form').requestSubmit()")
    wait(browser, "share of the history")
    assert browser.run("document.getElementById('status').className") == "bad"
    assert browser.run("document.querySelectorAll('figure').length") == 0


def test_a_key_is_asked_for(serve: Start, browser: Browser, key_file: Path) -> None:
    browser.open(f"{serve(key_file=key_file).address}/", 360)
    wait(browser, "no API key")
    assert not browser.run("document.getElementById('keyed').hidden")
