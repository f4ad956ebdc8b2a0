"""A headless Chromium for tests of the web page; they are skipped where there is none."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The page needs no network; without these Chromium looks for its maker's servers at each start.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic",
         "--no-first-run")


@contextlib.contextmanager
def chromium(folder: Path, window: str = "1280,800") -> Iterator:
    """A browser that downloads into `folder` and writes down every request.

    --no-sandbox: its sandbox does not work for root, nor in most containers.
    """
    pytest.importorskip("selenium", reason="selenium is not installed (pip install -e '.[dev]')")
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver_binary = shutil.which("chromedriver")
    if not (binary and driver_binary):
        pytest.skip("no Chromium with its driver (on Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *QUIET,
                     f"--user-data-dir={folder / 'profile'}", f"--window-size={window}", "--lang=en-US"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver_binary)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver) -> list[str]:
    """The addresses that pages of servers have asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [message["params"]["request"]["url"] for message in messages
            if message["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("chrome:", "data:"))]  # of its own first page
