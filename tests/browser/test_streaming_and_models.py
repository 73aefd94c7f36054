"""Words that appear while they are decided, and the models that the service has."""

import threading
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from service.registry import ServedModel
from tests.browser.caption_page import CaptionPage

pytestmark = pytest.mark.browser

WAIT_S = 60
STEPS_BEFORE_THE_PAUSE = 8


@pytest.fixture
def paused(tiny_model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set it to let the decoder, which stops after some tokens, go on."""
    step, go_on, steps = tiny_model.captioner.decoder.step, threading.Event(), iter(range(1000))

    def pausing(*arguments: Any, **named: Any) -> Any:
        assert next(steps) < STEPS_BEFORE_THE_PAUSE or go_on.wait(WAIT_S)
        return step(*arguments, **named)

    monkeypatch.setattr(tiny_model.captioner.decoder, "step", pausing)
    return go_on


@pytest.mark.parametrize("strategy", ["Beam", "Sample"])
def test_captions_are_shown_while_they_are_written(
    captions: CaptionPage, photos: dict[str, Path], paused: threading.Event, strategy: str
) -> None:
    captions.choose_strategy(strategy)
    _begin_with_words(captions)
    captions.pick(photos["cat"])
    plate = captions.plate("cat.png")
    expect(plate.locator(".drafts")).to_be_visible()
    expect(plate.locator(".drafts p").first).not_to_be_empty()
    expect(plate.locator(".caption")).to_have_count(0)
    paused.set()
    expect(plate.locator(".caption")).to_have_count(3)
    expect(plate.locator(".drafts")).to_be_hidden()


def test_removing_a_photo_that_is_written_ends_its_request(
    captions: CaptionPage, photos: dict[str, Path], paused: threading.Event
) -> None:
    _begin_with_words(captions)
    captions.pick(photos["cat"])
    expect(captions.plate("cat.png").locator(".drafts")).to_be_visible()
    with captions.page.expect_event("requestfailed"):
        captions.page.get_by_role("button", name="Remove cat.png").click()
    paused.set()
    expect(captions.plates).to_have_count(0)


def test_models_are_shown_with_facts_and_card(captions: CaptionPage, tiny_model: ServedModel) -> None:
    page = captions.page
    page.get_by_role("button", name="Models").click()
    dialog = page.get_by_role("dialog", name="Models")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("heading", level=3)).to_have_text(f"tiny {tiny_model.version} answers now")
    expect(dialog).to_contain_text("stage “supervised”")
    expect(dialog).to_contain_text("English")
    dialog.get_by_text("Model card").click()
    expect(dialog.locator(".card-text")).to_contain_text("Random weights, for tests.")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Models")).to_be_focused()


@pytest.mark.parametrize("width", [400, 1400])
def test_models_fit_the_screen(captions: CaptionPage, width: int) -> None:
    captions.page.set_viewport_size({"width": width, "height": 800})
    captions.page.get_by_role("button", name="Models").click()
    captions.page.get_by_text("Model card").click()
    expect(captions.page.locator(".card-text")).to_contain_text("tiny")
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert captions.page.evaluate(overflow) == 0
    assert captions.page.evaluate("document.getElementById('models').scrollWidth") <= width


def test_axe_finds_nothing_serious_in_the_models(captions: CaptionPage, axe: str) -> None:
    captions.page.get_by_role("button", name="Models").click()
    captions.page.get_by_text("Model card").click()
    expect(captions.page.locator(".card-text")).to_contain_text("tiny")
    assert captions.violations(axe) == []


def _begin_with_words(captions: CaptionPage) -> None:
    """Random weights write signs as often as words, and signs alone are never shown early."""
    captions.page.get_by_label("Begins with").fill("the dog on the grass")
