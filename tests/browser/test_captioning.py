"""Photos come in and captions appear."""

import json
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, expect

from service.api.app import create_app
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.caption_page import BUSY, CaptionPage
from tests.browser.served import served

pytestmark = pytest.mark.browser

MAX_REQUESTS_AT_ONCE = 4
TOO_MANY_REQUESTS = 429
CAPTIONS = "**/v1/captions/stream"


def test_picked_photo_shows_the_services_captions_and_scores(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    captions.page.get_by_label("Begins with").fill("the dog")
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    answer = captions.ask_directly(photos["cat"], {"num_captions": "3", "prefix": "the dog"})
    expected = answer["results"][0]["captions"]
    assert all(one["text"].startswith("The dog") for one in expected)
    plate = captions.plate("cat.png")
    expect(plate.locator(".caption-text")).to_have_text([caption["text"] for caption in expected])
    expect(plate.locator(".score-number")).to_have_text([f"{one['clip_score']:.2f}" for one in expected])
    model, scorer = answer["model"], answer["scorer"]
    expect(plate.locator(".small-print")).to_contain_text(
        f"captioned by {model['name']} {model['version']} · scored by {scorer['name']} {scorer['revision']}"
    )


def test_bar_is_as_long_as_the_score_is_of_the_scale(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.page.emulate_media(reduced_motion="reduce")
    captions.choose_strategy("Sample")
    captions.slide("Captions", 16)
    captions.pick(*photos.values())
    captions.wait_until_settled()
    bars = captions.page.locator(".caption .bar")
    shares = bars.evaluate_all("""bars => bars.map(bar =>
        bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)""")
    scores = [float(text) for text in captions.page.locator(".caption .score-number").all_inner_texts()]
    assert len(scores) == 16 * len(photos)
    assert max(scores) > 0.1
    assert shares == pytest.approx([score / 2.5 for score in scores], abs=0.01)


def test_dropped_photo_is_captioned(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.drop(photos["rocket"])
    captions.wait_until_settled()
    expect(captions.plate("rocket.png").locator(".caption")).to_have_count(3)
    expect(captions.page.locator(".drop-veil")).to_be_hidden()


def test_photo_of_the_page_cannot_be_dropped_on_it(captions: CaptionPage, photos: dict[str, Path]) -> None:
    """Browsers drag pictures as files."""
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    captions.page.evaluate("addEventListener('dragstart', () => { window.isDragged = true; })")
    captions.plate("cat.png").locator("img").drag_to(captions.page.locator(".legend"))
    assert captions.page.evaluate("window.isDragged") is None


def test_dropped_folder_is_named_and_the_photo_beside_it_captioned(
    captions: CaptionPage, photos: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    captions.drop(folder, photos["cat"])
    captions.wait_until_settled()
    expect(captions.page.get_by_text("holiday is a folder: drop the photos in it instead")).to_be_visible()
    expect(captions.plates).to_have_count(1)


def test_pasted_photo_is_captioned(captions: CaptionPage) -> None:
    captions.page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 64});
        const blob = await new Promise(done => canvas.toBlob(done, 'image/png'));
        await navigator.clipboard.write([new ClipboardItem({'image/png': blob})]);
    }""")
    captions.page.keyboard.press("ControlOrMeta+V")
    captions.wait_until_settled()
    expect(captions.page.locator(".caption")).to_have_count(3)


def test_sampling_three_captions_shows_three_bars(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.choose_strategy("Sample")
    captions.slide("Captions", 3)
    with captions.page.expect_request(CAPTIONS) as request:
        captions.pick(photos["coffee"])
    captions.wait_until_settled()
    expect(captions.plate("coffee.png").locator(".bar")).to_have_count(3)
    assert _sent_options(request.value) == {
        "strategy": "sample",
        "num_captions": "3",
        "temperature": "1",
        "top_p": "0.9",
        "seed": "0",
        "max_tokens": "30",
        "max_chars": "300",
        "final_stop": "keep",
        "rank_by": "clip",
    }


def test_captioning_again_uses_the_options_chosen_meanwhile(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    captions.pick(photos["cat"], photos["coffee"])
    captions.wait_until_settled()
    captions.choose_strategy("Greedy")
    captions.page.get_by_role("button", name="Caption again").click()
    expect(captions.page.locator(".caption")).to_have_count(2)


def test_ranking_by_likelihood_shows_what_it_ranks_by(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.page.get_by_role("radio", name="Likelihood").check()
    captions.pick(photos["cat"])
    captions.wait_until_settled()
    ranks = captions.plate("cat.png").locator(".caption-rank").all_inner_texts()
    assert ranks[0].startswith("Best of 3 by likelihood")
    assert all("log-likelihood -" in rank for rank in ranks)


def test_text_file_shows_the_services_problem_and_the_photos_beside_it_work(
    captions: CaptionPage, photos: dict[str, Path], text_file: Path
) -> None:
    captions.pick(photos["cat"], text_file, photos["rocket"])
    captions.wait_until_settled()
    broken = captions.plate("notes.txt")
    expect(broken.locator(".problem-title")).to_have_text("Not an image format that is read here")
    expect(broken.locator(".problem-detail")).to_contain_text("JPEG, PNG, WEBP")
    expect(broken.get_by_role("button", name="Try again")).to_be_hidden()
    expect(captions.page.get_by_role("heading", name="2 photos captioned, 1 not")).to_be_visible()
    expect(captions.page.locator(".captions:visible")).to_have_count(2)


def test_broken_photo_is_not_offered_to_be_tried_again(
    captions: CaptionPage, photos: dict[str, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "half.png"
    broken.write_bytes(photos["cat"].read_bytes()[:5000])
    captions.pick(broken)
    expect(captions.page.get_by_text("The image cannot be decoded")).to_be_visible()
    expect(captions.page.get_by_role("button", name="Try again")).to_be_hidden()


def test_thirty_photos_are_captioned_a_few_at_a_time(captions: CaptionPage, tmp_path: Path) -> None:
    paths = [tmp_path / f"colour-{index:02}.png" for index in range(30)]
    for index, path in enumerate(paths):
        Image.new("RGB", (64, 48), (8 * index, 128, 255 - 8 * index)).save(path)
    captions.page.evaluate(WATCH_LOAD)
    captions.pick(*paths)
    expect(captions.page.get_by_role("heading", name="30 photos captioned")).to_be_visible()
    expect(captions.page.locator(".plate .is-best")).to_have_count(30)
    assert captions.page.locator(".file-name").all_inner_texts() == [path.name for path in paths]
    assert 1 < captions.page.evaluate("window.peak") <= MAX_REQUESTS_AT_ONCE


def test_busy_service_is_asked_again_after_the_time_it_names(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    refuse_once(captions, retry_after_s=2)
    captions.pick(photos["cat"])
    expect(captions.page.get_by_text("The service is busy. Trying again in 2 s.")).to_be_visible()
    captions.wait_until_settled()
    expect(captions.plate("cat.png").locator(".caption")).to_have_count(3)


def test_overloaded_service_captions_every_photo_in_the_end(
    page: Page, tiny_model: ServedModel, photos: dict[str, Path], tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path, max_images_per_request=1, max_queued_images=1)
    statuses: list[int] = []
    page.on("response", lambda response: statuses.append(response.status))
    with served(create_app(settings, tiny_model)) as address:
        captions = CaptionPage(page, address).open()
        captions.pick(*photos.values(), *photos.values())
        expect(page.get_by_role("heading", name="8 photos captioned", exact=True)).to_be_visible()
    assert TOO_MANY_REQUESTS in statuses


def test_photos_wait_for_a_service_that_is_away_and_go_on_by_themselves(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    lost: list[str] = []
    captions.page.on("requestfailed", lambda request: lost.append(request.url.rpartition("/")[2]))
    captions.page.context.set_offline(True)
    captions.pick(*photos.values(), *photos.values())
    expect(captions.page.get_by_text("This goes on when it does.")).to_have_count(MAX_REQUESTS_AT_ONCE)
    expect(captions.page.locator("#readiness")).to_contain_text("The service did not answer.")
    assert lost.count("stream") == MAX_REQUESTS_AT_ONCE
    captions.page.context.set_offline(False)
    expect(captions.page.get_by_role("heading", name="8 photos captioned", exact=True)).to_be_visible()
    expect(captions.page.locator("#readiness")).to_be_hidden()


def test_photo_that_waits_for_the_service_can_be_removed_or_asked_for_anew(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    captions.page.context.set_offline(True)
    captions.pick(photos["cat"], photos["coffee"])
    expect(captions.page.get_by_text("This goes on when it does.")).to_have_count(2)
    captions.page.get_by_role("button", name="Remove cat.png").click()
    captions.choose_strategy("Greedy")
    captions.page.get_by_role("button", name="Caption again").click()
    captions.page.context.set_offline(False)
    captions.wait_until_settled()
    expect(captions.page.locator(".caption")).to_have_count(1)


def test_photo_that_the_service_never_answers_fails_and_can_be_tried_again(
    captions: CaptionPage, photos: dict[str, Path]
) -> None:
    captions.page.route(CAPTIONS, lambda route: route.abort(), times=3)
    captions.pick(photos["cat"])
    expect(captions.page.get_by_text("The service did not answer", exact=True)).to_be_visible()
    captions.page.get_by_role("button", name="Try again").click()
    expect(captions.plate("cat.png").locator(".caption")).to_have_count(3)


def test_photo_removed_while_it_waits_is_not_sent(captions: CaptionPage, photos: dict[str, Path]) -> None:
    refuse_once(captions, retry_after_s=1)
    captions.pick(photos["cat"])
    expect(captions.plate("cat.png").locator(".state")).to_contain_text("busy")
    captions.page.get_by_role("button", name="Remove cat.png").click()
    sent: list[str] = []
    captions.page.on("request", lambda request: sent.append(request.url))
    captions.page.wait_for_timeout(1500)
    expect(captions.page.locator("#invitation")).to_be_visible()
    assert sent == []


def test_note_stands_while_the_service_is_not_ready(captions: CaptionPage) -> None:
    problem = json.dumps({"title": "The captioning engine is not running", "status": 503, "detail": ""})
    captions.page.route(
        "**/health/ready",
        lambda route: route.fulfill(status=503, body=problem, content_type="application/problem+json"),
        times=1,
    )
    captions.page.reload()
    note = captions.page.get_by_text("The captioning engine is not running.")
    expect(note).to_be_visible()
    expect(note).to_be_hidden()


def test_clearing_lets_go_of_every_thumbnail(captions: CaptionPage, photos: dict[str, Path]) -> None:
    captions.page.evaluate("""() => {
        window.held = new Set();
        const {createObjectURL: create, revokeObjectURL: revoke} = URL;
        URL.createObjectURL = (blob) => { const url = create(blob); held.add(url); return url; };
        URL.revokeObjectURL = (url) => { held.delete(url); revoke(url); };
    }""")
    captions.pick(*photos.values())
    captions.wait_until_settled()
    assert captions.page.evaluate("held.size") == len(photos)
    captions.page.get_by_role("button", name="Clear").click()
    expect(captions.page.locator("#invitation")).to_be_visible()
    expect(captions.plates).to_have_count(0)
    assert captions.page.evaluate("held.size") == 0


WATCH_LOAD = """() => {
    const plates = document.getElementById('plates');
    const note = () => {
        const working = plates.querySelectorAll("[data-state='working']").length;
        window.peak = Math.max(window.peak, working);
    };
    window.peak = 0;
    new MutationObserver(note).observe(plates, {subtree: true, childList: true, attributes: true});
}"""


def refuse_once(captions: CaptionPage, *, retry_after_s: int) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(
            status=TOO_MANY_REQUESTS,
            headers={"Retry-After": str(retry_after_s), "Content-Type": "application/problem+json"},
            body=json.dumps(BUSY),
        )

    captions.page.route(CAPTIONS, refuse, times=1)


def _sent_options(request: Request) -> dict[str, str]:
    body = (request.post_data_buffer or b"").decode(errors="replace")
    boundary = request.headers["content-type"].partition("boundary=")[2]
    parts = [part.partition("\r\n\r\n") for part in body.split(f"--{boundary}")]
    fields = {head.partition('name="')[2].partition('"')[0]: text.strip() for head, _, text in parts if text}
    return {name: text for name, text in fields.items() if name != "image"}
