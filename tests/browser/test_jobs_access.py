"""The views of jobs and models for everyone, and the whole way through a job with a real worker."""

from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.browser.caption_page import CaptionPage
from tests.browser.job_page import JobPage
from tests.browser.test_access import FOCUS_RING, MAX_TAB_STOPS, is_focused, overflow, tab_to
from tests.integration.service_process import Service
from tests.service.jobs.fakes import InlineWorker

pytestmark = pytest.mark.browser


def test_job_works_by_keyboard_alone(jobs: JobPage, many: list[Path], worker: InlineWorker) -> None:
    page = jobs.page
    page.locator(".skip-link").focus()
    tab_to(page, page.get_by_role("link", name="Jobs"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Choose photos or a zip"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(many[:6])
    expect(jobs.announcement).to_contain_text("6 photos")
    tab_to(page, page.get_by_label("CSV table"))
    page.keyboard.press("Space")
    tab_to(page, page.get_by_role("button", name="Start job"))
    page.keyboard.press("Enter")
    expect(jobs.heading("Captions for 6 photos")).to_be_focused()
    tab_to(page, page.get_by_role("button", name="Pause"))
    page.keyboard.press("Enter")
    expect(jobs.announcement).to_have_text("Paused.")
    expect(jobs.heading("Captions for 6 photos")).to_be_focused()  # its button is gone
    tab_to(page, page.get_by_role("button", name="Go on"))
    page.keyboard.press("Enter")
    expect(jobs.state).not_to_have_text("Paused")
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    tab_to(page, page.get_by_role("link", name="CSV table"))
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith("captions.csv")


def test_every_stop_of_the_tab_key_is_visible_in_a_job(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(*many[6:8], outputs=["CSV table"])
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    expect(jobs.results).to_have_count(1)
    last = jobs.page.get_by_role("link", name="Metrics")
    for _ in range(MAX_TAB_STOPS):
        jobs.page.keyboard.press("Tab")
        assert jobs.page.evaluate(FOCUS_RING), jobs.page.evaluate("document.activeElement.outerHTML")
        if is_focused(last):
            return
    pytest.fail(f"the last link was not reached within {MAX_TAB_STOPS} stops")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_axe_finds_nothing_serious_in_any_view_and_nothing_overflows(
    jobs: JobPage,
    many: list[Path],
    worker: InlineWorker,
    axe: str,
    colours: Literal["light", "dark"],
    width: int,
) -> None:
    page = jobs.page
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=colours, reduced_motion="reduce")
    seen = CaptionPage(page, jobs.address)
    jobs.choose(*many[5:8])
    assert _faults(seen, axe) == []
    jobs.press("Start job")
    expect(jobs.state).to_have_text("Waiting for a worker")
    assert _faults(seen, axe) == []
    worker.do_all()
    expect(jobs.results).to_have_count(2)
    expect(jobs.page.get_by_role("row", name="photo-07.jpg")).to_be_visible()
    assert _faults(seen, axe) == []
    page.get_by_role("link", name="Models").click()
    page.get_by_text("Model card").first.click()
    expect(page.locator(".card-text").first).to_contain_text("tiny")
    assert _faults(seen, axe) == []


def test_buttons_are_large_enough_for_a_finger_in_jobs(jobs: JobPage, many: list[Path]) -> None:
    """24 pixels, WCAG 2.2 target size."""
    jobs.page.set_viewport_size({"width": 360, "height": 740})
    jobs.choose(many[0])
    targets = jobs.page.locator("button:visible, .tick:visible, .views a:visible").all()
    boxes = [target.bounding_box() for target in targets]
    assert len(boxes) > 8
    assert all(box and box["height"] >= 24 and box["width"] >= 24 for box in boxes)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_photos_become_captions_by_the_worker_of_semicap_serve(
    page: Page, tiny_checkpoint: Path, tmp_path: Path, many: list[Path]
) -> None:
    service = Service(tiny_checkpoint, tmp_path / "data", SEMICAP_PRECISION="fp32")
    try:
        page.set_default_timeout(300_000)
        page.goto(f"http://127.0.0.1:{service.port}", timeout=300_000)
        jobs = JobPage(page, f"http://127.0.0.1:{service.port}").open()
        copies = [tmp_path / f"{copy}-{path.name}" for copy in range(3) for path in many if path != many[7]]
        for copy in copies:
            copy.write_bytes((many[0].parent / copy.name[2:]).read_bytes())
        jobs.start(*copies[:30])
        expect(jobs.state).to_have_text("Done", timeout=300_000)
        expect(jobs.progress).to_contain_text("30 captioned")
        assert len(jobs.saved("JSON lines").splitlines()) == 30
        expect(jobs.results.first.locator("img")).to_be_visible()
    finally:
        service.end()


def _faults(seen: CaptionPage, axe: str) -> list[str]:
    wide = overflow(seen.page)
    return [*seen.violations(axe), *([f"{wide} pixels too wide"] if wide else [])]
