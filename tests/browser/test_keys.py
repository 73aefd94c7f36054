"""The page of a service that has API keys."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from service.api.app import create_app
from service.keys import KeyStore, Scope
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.caption_page import CaptionPage
from tests.browser.served import served

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("closed")


@pytest.fixture(scope="module")
def secret(data_dir: Path) -> str:
    return KeyStore(Settings(data_dir=data_dir).keys_file).create("the page", (Scope.CAPTION,))[0]


@pytest.fixture(scope="module")
def closed_address(tiny_model: ServedModel, data_dir: Path, secret: str) -> Iterator[str]:
    """Where a service listens that wants a key."""
    with served(create_app(Settings(data_dir=data_dir), tiny_model)) as url:
        yield url


@pytest.fixture
def closed_page(context: BrowserContext, closed_address: str) -> Page:
    page = context.new_page()
    page.goto(closed_address)
    return page


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use key").click()


def test_key_is_asked_for_and_then_used(
    closed_page: Page, closed_address: str, secret: str, photos: dict[str, Path]
) -> None:
    captions = CaptionPage(closed_page, closed_address)
    field = closed_page.get_by_label("API key")
    expect(field).to_be_visible()
    captions.pick(photos["cat"])
    expect(captions.plate("cat.png").locator(".problem-title")).to_have_text("The request needs an API key")
    expect(captions.plate("cat.png").locator(".problem-detail")).to_contain_text("at the top of this page")
    enter(closed_page, secret)
    expect(closed_page.get_by_role("button", name="Add photos")).to_be_focused()
    captions.wait_until_settled()
    expect(captions.plate("cat.png").locator(".is-best .caption-text")).not_to_be_empty()
    expect(closed_page.locator("#model-in-use")).to_contain_text("tiny")
    expect(field).to_be_hidden()


def test_late_answer_to_a_request_without_the_key_changes_nothing(
    context: BrowserContext, closed_address: str, secret: str, photos: dict[str, Path]
) -> None:
    page, held = context.new_page(), list[Route]()

    def hold_the_first(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            held.append(route)

    page.route("**/v1/models", hold_the_first)
    page.goto(closed_address)
    captions = CaptionPage(page, closed_address)
    captions.pick(photos["cat"])
    enter(page, secret)
    expect(page.locator("#model-in-use")).to_contain_text("tiny")
    with page.expect_response(lambda response: response.status == 401):
        held[0].continue_()
    captions.wait_until_settled()
    page.wait_for_timeout(200)  # for what must not happen
    expect(page.locator("#model-in-use")).to_contain_text("tiny")
    expect(page.get_by_label("API key")).to_be_hidden()


def test_key_lasts_as_long_as_the_tab(closed_page: Page, context: BrowserContext, secret: str) -> None:
    enter(closed_page, secret)
    closed_page.reload()
    expect(closed_page.locator("#model-in-use")).to_contain_text("tiny")
    expect(closed_page.get_by_label("API key")).to_be_hidden()
    other_tab = context.new_page()
    other_tab.goto(closed_page.url)
    expect(other_tab.get_by_label("API key")).to_be_visible()


def test_wrong_key_is_asked_for_again(closed_page: Page, secret: str) -> None:
    enter(closed_page, "semicap_wrong")
    expect(closed_page.locator("#key-hint")).to_have_text(
        "The service does not take this key, or not for this."
    )
    enter(closed_page, secret)
    expect(closed_page.locator("#model-in-use")).to_contain_text("tiny")


def test_key_that_is_not_enough_for_one_view_is_asked_for_there_only(closed_page: Page, secret: str) -> None:
    enter(closed_page, secret)
    expect(closed_page.locator("#model-in-use")).to_contain_text("tiny")
    closed_page.get_by_role("link", name="Jobs").click()
    expect(closed_page.locator("#key-hint")).to_contain_text("or not for this")
    closed_page.get_by_role("link", name="Models").click()
    expect(closed_page.locator(".model").first).to_be_visible()
    expect(closed_page.get_by_label("API key")).to_be_hidden()


def test_page_that_asks_for_a_key_has_no_serious_fault(
    closed_page: Page, closed_address: str, axe: str
) -> None:
    expect(closed_page.get_by_label("API key")).to_be_visible()
    assert CaptionPage(closed_page, closed_address).violations(axe) == []


def test_open_service_asks_for_none(captions: CaptionPage) -> None:
    expect(captions.page.get_by_label("API key")).to_be_hidden()
