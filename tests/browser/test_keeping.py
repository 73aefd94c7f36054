"""What a person takes along: copied captions, exported files, remembered options."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from service.option_reading import options_schema
from tests.browser.caption_page import CaptionPage

pytestmark = pytest.mark.browser


@pytest.fixture
def captioned(captions: CaptionPage, photos: dict[str, Path], text_file: Path) -> CaptionPage:
    """The page with two captioned photos and a failed file between them."""
    captions.pick(photos["cat"], text_file, photos["coffee"])
    captions.wait_until_settled()
    return captions


def test_copied_caption_is_in_the_clipboard_and_announced(captioned: CaptionPage) -> None:
    second = captioned.plate("cat.png").locator(".caption").nth(1)
    second.get_by_role("button", name="Copy caption").click()
    expect(second.get_by_text("Copied")).to_be_visible()
    expect(captioned.announcement).to_have_text("Caption copied.")
    clipboard = captioned.page.evaluate("navigator.clipboard.readText()")
    assert clipboard == second.locator(".caption-text").text_content()


def test_copying_works_without_the_clipboard_api(captions: CaptionPage, photos: dict[str, Path]) -> None:
    """Which browsers withhold on plain http to another machine."""
    captions.page.add_init_script("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    captions.page.reload()
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    best = captions.plate("cat.png").locator(".is-best")
    best.get_by_role("button", name="Copy caption").click()
    expect(captions.announcement).to_have_text("Caption copied.")
    expect(best.get_by_role("button")).to_be_focused()
    field = captions.page.get_by_role("textbox", name="Begins with")
    field.press("ControlOrMeta+V")
    expect(field).to_have_value(best.locator(".caption-text").text_content() or "")


def test_count_of_what_failed_leads_to_it(captioned: CaptionPage, text_file: Path) -> None:
    captioned.page.set_viewport_size({"width": 1400, "height": 500})
    captioned.pick(text_file)
    captioned.wait_until_settled()
    failed = captioned.page.get_by_role("button", name="Remove notes.txt")
    count = captioned.page.get_by_role("heading").get_by_role("button", name="2 not")
    for number in (0, 1, 0):
        count.click()
        expect(failed.nth(number)).to_be_focused()
        expect(failed.nth(number)).to_be_in_viewport()


def test_json_lines_hold_every_caption_of_every_captioned_photo(captioned: CaptionPage) -> None:
    lines = [json.loads(line) for line in saved(captioned, "Save JSONL", "semicap-captions.jsonl")]
    assert [(line["item"], line["file_name"]) for line in lines] == [(0, "cat.png"), (2, "coffee.png")]
    for line in lines:
        assert set(line) == {"item", "file_name", "captions", "model", "scorer", "image", "date"}
        assert set(line["captions"][0]) >= {"text", "clip_similarity", "clip_score", "log_likelihood"}
        assert line["model"]["name"] == "tiny"
        assert datetime.fromisoformat(line["date"]).tzinfo is not None
        assert [one["text"] for one in line["captions"]] == shown_texts(captioned.plate(line["file_name"]))


def test_text_file_has_the_best_caption_of_each_photo(captioned: CaptionPage) -> None:
    best = {name: shown_texts(captioned.plate(name))[0] for name in ("cat.png", "coffee.png")}
    assert saved(captioned, "Save .txt", "semicap-captions.txt") == [f"{k}\t{v}" for k, v in best.items()]


def test_nothing_can_be_saved_before_there_is_a_caption(captions: CaptionPage, text_file: Path) -> None:
    captions.pick(text_file)
    captions.wait_until_settled()
    expect(captions.page.get_by_role("button", name="Save .txt")).to_be_disabled()
    expect(captions.page.get_by_role("button", name="Save JSONL")).to_be_disabled()


def test_options_are_remembered(captions: CaptionPage) -> None:
    captions.choose_strategy("Sample")
    captions.slide("Temperature", 0.7)
    captions.page.reload()
    expect(captions.page.get_by_role("radio", name="Sample")).to_be_checked()
    expect(captions.page.get_by_role("slider", name="Temperature")).to_have_value("0.7")
    captions.page.get_by_role("button", name="Reset options").click()
    captions.page.reload()
    expect(captions.page.get_by_role("radio", name="Beam")).to_be_checked()


def test_asking_again_is_marked_while_other_options_are_chosen(captioned: CaptionPage) -> None:
    again = captioned.page.get_by_role("button", name="Caption again")
    expect(again).not_to_have_class("is-due")
    captioned.choose_strategy("Greedy")
    expect(again).to_have_class("is-due")
    captioned.choose_strategy("Beam")
    expect(again).not_to_have_class("is-due")
    captioned.slide("Longest caption", 9)
    again.click()
    captioned.wait_until_settled()
    expect(again).not_to_have_class("is-due")
    captioned.page.get_by_role("button", name="Reset options").click()
    expect(again).to_have_class("is-due")


def test_remembered_nonsense_is_forgotten(captions: CaptionPage) -> None:
    nonsense = {"strategy": "magic", "num_beams": 99, "temperature": "hot", "num_captions": 2}
    captions.page.evaluate("text => localStorage.setItem('semicap.options', text)", json.dumps(nonsense))
    captions.page.reload()
    expect(captions.page.get_by_text("Beam, 2 captions")).to_be_visible()
    captions.page.evaluate("localStorage.setItem('semicap.options', '{')")
    captions.page.reload()
    expect(captions.page.get_by_text("Beam, 3 captions")).to_be_visible()


def test_only_what_the_strategy_uses_is_shown(captions: CaptionPage) -> None:
    sliders = captions.page.get_by_role("slider")
    expect(sliders).to_have_count(4)
    captions.choose_strategy("Greedy")
    expect(sliders).to_have_count(2)
    captions.choose_strategy("Sample")
    expect(sliders).to_have_count(5)
    expect(captions.page.get_by_role("slider", name="Beams")).to_have_count(0)


def test_beam_search_never_asks_for_more_captions_than_beams(captions: CaptionPage) -> None:
    beams, wanted = (captions.page.get_by_role("slider", name=name) for name in ("Beams", "Captions"))
    captions.slide("Captions", 7)
    expect(beams).to_have_value("7")
    captions.slide("Beams", 2)
    expect(wanted).to_have_value("2")


def test_page_offers_nothing_that_the_service_refuses(captions: CaptionPage) -> None:
    read_table = "import('/web/options.js').then(module => module.OPTION_FIELDS)"
    fields: list[dict[str, Any]] = captions.page.evaluate(read_table)
    schema = options_schema()
    assert len(fields) >= 8
    for field in fields:
        known = schema[field["name"]]
        known = next((part for part in known.get("anyOf", ()) if part["type"] != "null"), known)
        if "minimum" in field:
            assert known["minimum"] <= field["minimum"] <= field["initial"]
            assert field["initial"] <= field["maximum"] <= known["maximum"]
        if "choices" in field:
            assert [choice["value"] for choice in field["choices"]] == known["enum"]


def saved(captions: CaptionPage, button: str, file_name: str) -> list[str]:
    with captions.page.expect_download() as download:
        captions.page.get_by_role("button", name=button).click()
    assert download.value.suggested_filename == file_name
    *lines, rest = download.value.path().read_text().split("\n")
    assert rest == ""
    return lines


def shown_texts(plate: Locator) -> list[str | None]:
    return [one.text_content() for one in plate.locator(".caption-text").all()]
