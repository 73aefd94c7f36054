"""A headless Chromium: the system's, else Playwright's own."""

import os
import shutil
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, Playwright
from playwright.sync_api import Error as PlaywrightError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def launch_chromium(playwright: Playwright) -> Browser:
    """A running browser; without one the test is skipped, in CI it fails."""
    found = next((path for path in map(shutil.which, _NAMES) if path), None)
    if found is not None:
        return playwright.chromium.launch(executable_path=found, args=_ARGUMENTS)
    try:
        return playwright.chromium.launch(args=_ARGUMENTS)
    except PlaywrightError as error:
        do_without(f"there is no Chromium here: {error.message.splitlines()[0]}")


def do_without(reason: str) -> NoReturn:
    """Skips the test, or fails it in CI, where everything it needs has to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
