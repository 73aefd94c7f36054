"""The page for everyone: keyboard, screen readers, small screens, dark rooms, no motion."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.caption_page import CaptionPage

pytestmark = pytest.mark.browser

MAX_TAB_STOPS = 80

FOCUS_RING = """() => {
    const focused = document.activeElement;
    const shown = focused.matches('.segment input') ? focused.closest('.segment') : focused;
    const {outlineStyle, outlineWidth} = getComputedStyle(shown);
    const {width, height} = shown.getBoundingClientRect();
    return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 && width > 5 && height > 5;
}"""


def test_everything_works_by_keyboard_alone(captions: CaptionPage, photos: dict[str, Path]) -> None:
    page = captions.page
    tab_to(page, page.get_by_role("radio", name="Beam"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Sample")).to_be_checked()
    tab_to(page, page.get_by_role("slider", name="Captions"))
    page.keyboard.press("ArrowLeft")
    tab_to(page, page.get_by_role("button", name="Choose photos"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photos["cat"], photos["coffee"]])
    captions.wait_until_settled()
    expect(captions.plate("cat.png").locator(".bar")).to_have_count(2)
    tab_to(page, captions.plate("cat.png").get_by_role("button", name="Copy caption").first)
    page.keyboard.press("Space")
    expect(captions.announcement).to_have_text("Caption copied.")


def test_focus_stays_on_the_page_when_its_button_goes(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.pick(photos["cat"], photos["coffee"])
    captions.wait_until_settled()
    captions.page.get_by_role("button", name="Remove cat.png").press("Enter")
    expect(captions.page.get_by_role("button", name="Remove coffee.png")).to_be_focused()
    captions.page.keyboard.press("Enter")
    expect(captions.page.get_by_role("button", name="Choose photos")).to_be_focused()
    captions.pick(photos["cat"])
    captions.page.get_by_role("button", name="Clear").press("Enter")
    expect(captions.page.get_by_role("button", name="Choose photos")).to_be_focused()


def test_every_stop_of_the_tab_key_is_visible(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    captions.page.evaluate("document.activeElement.blur()")
    last = captions.page.get_by_role("link", name="Metrics")
    for _ in range(MAX_TAB_STOPS):
        captions.page.keyboard.press("Tab")
        assert captions.page.evaluate(FOCUS_RING), captions.page.evaluate("document.activeElement.outerHTML")
        if is_focused(last):
            return
    pytest.fail(f"the last link was not reached within {MAX_TAB_STOPS} stops")


def test_skip_link_leaves_the_address_of_the_view(captions: CaptionPage) -> None:
    page = captions.page
    page.get_by_role("link", name="Models").click()
    page.locator(".skip-link").press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    assert page.url.endswith("#models")


def test_coming_back_to_the_photos_shows_where_one_was(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    captions.pick(*photos.values(), *photos.values())
    captions.wait_until_settled()
    sixth = captions.plates.nth(5).locator(".file-name")
    sixth.scroll_into_view_if_needed()
    captions.page.get_by_role("link", name="Models").click()
    expect(captions.page.get_by_role("heading", name="Models", exact=True)).to_be_in_viewport()
    captions.page.go_back()
    expect(sixth).to_be_in_viewport()
    captions.page.go_forward()
    captions.page.get_by_role("link", name="Photos").click()
    expect(sixth).to_be_in_viewport()


def test_outcome_is_announced(captions: CaptionPage, photos: dict[str, Path], text_file: Path) -> None:
    captions.pick(photos["cat"])
    best = captions.plate("cat.png").locator(".is-best .caption-text")
    expect(captions.announcement).to_have_text(f"cat.png: {best.text_content()}")
    captions.pick(text_file)
    expect(captions.announcement).to_have_text("1 photo captioned, 1 not.")


@pytest.mark.parametrize("width", [360, 400])
def test_phone_never_scrolls_sideways(
    captions: CaptionPage, photos: dict[str, Path], tmp_path: Path, width: int
) -> None:
    captions.page.set_viewport_size({"width": width, "height": 740})
    assert overflow(captions.page) == 0
    captions.page.locator("#options summary").click()
    captions.choose_strategy("Sample")
    assert overflow(captions.page) == 0
    long_name = tmp_path / f"{'a-very-long-file-name-' * 6}.png"
    long_name.write_bytes(photos["cat"].read_bytes())
    captions.pick(long_name, *photos.values())
    captions.wait_until_settled()
    assert overflow(captions.page) == 0


def test_open_options_do_not_hide_the_next_view_of_a_phone(captions: CaptionPage) -> None:
    panel = captions.page.locator("#options")
    captions.page.get_by_role("link", name="Jobs").click()
    expect(panel).to_have_attribute("open", "")
    captions.page.set_viewport_size({"width": 400, "height": 860})
    captions.page.locator("#options summary").click()
    expect(panel).to_have_attribute("open", "")
    captions.page.get_by_role("link", name="Photos").click()
    expect(panel).not_to_have_attribute("open", "")


@pytest.mark.parametrize("width", [360, 700, 960, 1100, 1400])
def test_captions_have_room_for_their_words(
    captions: CaptionPage, photos: dict[str, Path], width: int
) -> None:
    captions.page.set_viewport_size({"width": width, "height": 900})
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    boxes = [text.bounding_box() for text in captions.page.locator(".caption-text").all()]
    assert len(boxes) == 3
    assert all(box and box["width"] >= 180 for box in boxes)


def test_buttons_are_large_enough_for_a_finger(captions: CaptionPage, photos: dict[str, Path]) -> None:
    """24 pixels, WCAG 2.2 target size."""
    captions.page.set_viewport_size({"width": 360, "height": 740})
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    boxes = [button.bounding_box() for button in captions.page.locator("button:visible").all()]
    assert len(boxes) > 5
    assert all(box and box["height"] >= 24 and box["width"] >= 24 for box in boxes)


def test_nothing_moves_for_people_who_ask_for_that(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.page.emulate_media(reduced_motion="reduce")
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    assert captions.page.evaluate("document.getAnimations().length") == 0
    fill = captions.page.locator(".bar-fill").first
    assert fill.evaluate("fill => getComputedStyle(fill).animationName") == "none"


def test_touch_screens_are_not_asked_to_drop(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 860}, has_touch=True, is_mobile=True)
    captions = CaptionPage(context.new_page(), address).open()
    expect(captions.page.get_by_role("heading", name="Choose photos")).to_be_visible()
    expect(captions.page.get_by_text("Drop photos here")).to_be_hidden()
    context.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_axe_finds_nothing_serious(
    captions: CaptionPage,
    photos: dict[str, Path],
    text_file: Path,
    axe: str,
    colours: Literal["light", "dark"],
    width: int,
) -> None:
    captions.page.set_viewport_size({"width": width, "height": 900})
    captions.page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    assert captions.violations(axe) == []
    captions.pick(photos["cat"], text_file)
    captions.wait_until_settled()
    assert captions.violations(axe) == []


def test_colours_follow_the_system(captions: CaptionPage) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    captions.page.emulate_media(color_scheme="light")
    light = captions.page.evaluate(background)
    captions.page.emulate_media(color_scheme="dark")
    assert captions.page.evaluate(background) != light


def tab_to(page: Page, target: Locator) -> None:
    for _ in range(MAX_TAB_STOPS):
        if is_focused(target):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"{target} was not reached within {MAX_TAB_STOPS} stops")


def is_focused(target: Locator) -> bool:
    return bool(target.evaluate("element => element === document.activeElement"))


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
