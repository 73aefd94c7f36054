"""A running service, a browser, photos, and the page under the policy that it has to live with."""

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from service.api.app import create_app
from service.jobs.parts import JobParts
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.caption_page import CaptionPage
from tests.browser.chromium import do_without, launch_chromium
from tests.browser.job_page import JobPage
from tests.browser.served import served
from tests.service.jobs.broker import running_broker
from tests.service.jobs.fakes import InlineWorker

INDEX = re.compile(r"^http://127\.0\.0\.1:\d+/$")
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
def page(context: BrowserContext) -> Iterator[Page]:
    """A blank page, on which the site's own code may not fail nor break a strict content policy."""
    page, faults = context.new_page(), list[str]()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if _is_fault(message.text) else None)
    page.route(INDEX, _serve_under_policy)
    yield page
    page.unroute_all(behavior="ignoreErrors")  # an answer that a test did not wait for is of no interest
    assert faults == []


@pytest.fixture
def captions(page: Page, address: str) -> CaptionPage:
    """The page, opened."""
    return CaptionPage(page, address).open()


@pytest.fixture(scope="session")
def job_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of a service with a broker, whose chunks have five photos."""
    folder = tmp_path_factory.mktemp("jobs")
    with running_broker(folder / "broker") as broker:
        yield Settings(data_dir=folder / "data", redis_url=broker.url, precision="fp32", job_chunk_items=5)


@pytest.fixture(scope="session")
def job_address(job_settings: Settings, tiny_model: ServedModel) -> Iterator[str]:
    """A service with jobs; who does them is up to the test."""
    with served(create_app(job_settings, tiny_model)) as url:
        yield url


@pytest.fixture
def worker(job_settings: Settings) -> Iterator[InlineWorker]:
    """Does the jobs of `job_address` when the test says so."""
    parts = JobParts.build(job_settings)
    yield InlineWorker(parts)
    parts.close()


@pytest.fixture
def jobs(page: Page, job_address: str) -> JobPage:
    """The view of jobs, opened."""
    return JobPage(page, job_address).open()


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twelve photos, of which one is broken."""
    folder = tmp_path_factory.mktemp("many")
    paths = [folder / f"photo-{number:02}.jpg" for number in range(12)]
    for number, path in enumerate(paths):
        Image.new("RGB", (60 + number, 48), (20 * number, 90, 120)).save(path)
    paths[7].write_bytes(paths[7].read_bytes()[:300])
    return paths


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
