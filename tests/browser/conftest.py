"""A running service, a browser, photos, and the page under the policy that it has to live with."""

import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from service.api.app import create_app
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.caption_page import CaptionPage
from tests.browser.chromium import do_without, launch_chromium
from tests.browser.served import served

STRICT_POLICY = "default-src 'self'; img-src 'self' data: blob:"
WAIT_MS = 30_000
PHOTO_NAMES = ("astronaut", "cat", "coffee", "rocket")
_NPM_LIMIT_S = 120


@pytest.fixture(scope="session")
def address(tiny_model: ServedModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the real service listens."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), precision="fp32")
    with served(create_app(settings, tiny_model)) as url:
        yield url


# Not for the session: while Playwright's loop runs in this thread, no other test can start one of its own.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = launch_chromium(playwright)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(WAIT_MS)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, address: str) -> Iterator[Page]:
    """A blank page, on which the site's own code may not fail nor break a strict content policy."""
    page, faults = context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if _is_fault(message.text) else None)
    page.route(f"{address}/", _serve_under_policy)
    yield page
    assert faults == []


@pytest.fixture
def captions(page: Page, address: str) -> CaptionPage:
    """The page, opened."""
    return CaptionPage(page, address).open()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few real photos by name."""
    folder = tmp_path_factory.mktemp("photos")
    paths = {name: folder / f"{name}.png" for name in PHOTO_NAMES}
    for name, path in paths.items():
        Image.fromarray(getattr(skimage.data, name)()).reduce(2).save(path)
    return paths


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "notes.txt"
    path.write_text("This is no photo.\n")
    return path


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, fetched for the test alone."""
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "pack", "axe-core@4", "--silent"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_NPM_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        do_without(f"axe-core cannot be had: {error}")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as archive:
        member = archive.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def _is_fault(text: str) -> bool:
    return "Content Security Policy" in text or "Uncaught" in text


def _serve_under_policy(route: Route) -> None:
    response = route.fetch()
    route.fulfill(response=response, headers={**response.headers, "content-security-policy": STRICT_POLICY})
