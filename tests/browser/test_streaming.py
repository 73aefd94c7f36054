"""Words that appear while they are decided."""

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


def _begin_with_words(captions: CaptionPage) -> None:
    """Random weights write signs as often as words, and signs alone are never shown early."""
    captions.page.get_by_label("Begins with").fill("the dog on the grass")
