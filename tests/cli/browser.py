"""A headless Chromium to look at pages with, and what it saw."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"


class Browser:
    """One page at a time, at a given size."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path | str, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Shows a file, or what an address gives, as a screen of that width in CSS pixels does."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        for command, values in (
            ("Emulation.setDeviceMetricsOverride", metrics),
            ("Emulation.setEmulatedMedia", {"features": [scheme]}),
        ):
            self.driver.execute_cdp_cmd(command, values)
        self.messages()
        self.requests()
        self.driver.get(page if isinstance(page, str) else page.resolve().as_uri())

    def messages(self) -> list[str]:
        """What was written to the console since the last call."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, data in the page itself aside."""
        events = [json.loads(entry["message"]) for entry in self._log("performance")]
        urls = [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def _log(self, name: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.driver.get_log(name)  # type: ignore[no-untyped-call]
        return entries

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.driver.execute_script(f"return {script}")

    def picture(self, path: Path) -> None:
        """The whole page as a PNG, however long."""
        height = int(self.run("document.documentElement.scrollHeight"))
        width = int(self.run("window.innerWidth"))
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.save_screenshot(str(path))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile in `folder`; the test is skipped where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    driver_path = shutil.which(DRIVER)
    if program is None or driver_path is None:
        missing = "chromium" if program is None else DRIVER
        pytest.skip(f"no {missing} here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={folder}",
    ):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium's sandbox does not work for root
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(driver_path))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
