"""Jobs on the page: started, followed, ended and looked at again, on a real broker and store."""

import csv
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from service.api.app import create_app
from service.registry import ServedModel
from service.settings import Settings
from tests.browser.job_page import JobPage
from tests.browser.served import served
from tests.service.jobs.fakes import InlineWorker

pytestmark = pytest.mark.browser


def test_job_is_followed_from_its_start_to_its_files(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(*many, outputs=["CSV table", "Text files (.txt)"])
    expect(jobs.heading("Captions for 12 photos")).to_be_focused()
    expect(jobs.state).to_have_text("Waiting for a worker")
    worker.do_one()
    expect(jobs.progress).to_contain_text("5 of 12")
    expect(jobs.state).to_have_text("Running")
    assert jobs.page.locator(".job-bar").evaluate("bar => bar.value") == pytest.approx(5 / 12)
    expect(jobs.results).to_have_count(5)
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    expect(jobs.progress).to_contain_text("11 captioned · 1 failed")
    expect(jobs.announcement).to_contain_text("Done. 11 captioned")
    expect(jobs.results).to_have_count(11)
    expect(jobs.results.first).to_contain_text("a picture of 60 by 48")
    expect(jobs.results.first).to_contain_text("photo-00.jpg · CLIP score 0.75")
    expect(jobs.page.get_by_role("row", name="photo-07.jpg")).to_contain_text("cannot be decoded")

    lines = [json.loads(line) for line in jobs.saved("JSON lines").splitlines()]
    assert [line["item"] for line in lines] == [number for number in range(12) if number != 7]
    assert len(list(csv.DictReader(io.StringIO(jobs.saved("CSV table").decode())))) == 11
    with tarfile.open(fileobj=io.BytesIO(jobs.saved("Text files"))) as archive:
        assert len(archive.getnames()) == 11
    (failed,) = [json.loads(line) for line in jobs.saved("Errors").splitlines()]
    assert failed["file_name"] == "photo-07.jpg"


def test_captions_stand_beside_their_photos_also_after_a_reload(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(many[3])
    worker.do_all()
    picture = jobs.results.locator("img")
    expect(picture).to_be_visible()
    jobs.page.reload()
    expect(picture).to_be_visible()  # this time the service's thumbnail
    assert picture.evaluate("image => image.naturalWidth") == 63


def test_zip_and_photos_and_long_names_become_one_dataset(
    jobs: JobPage, many: list[Path], worker: InlineWorker, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as album:
        album.write(many[0], "in the zip.jpg")
    long_name = tmp_path / f"{'überaus-langer-name-' * 8}.jpg"
    long_name.write_bytes(many[1].read_bytes())
    same_name = tmp_path / many[2].name
    same_name.write_bytes(many[3].read_bytes())
    jobs.choose(tmp_path / "album.zip", long_name)
    jobs.choose(many[2], same_name)
    expect(jobs.page.locator("#job-chosen")).to_contain_text("3 photos and 1 archive")
    jobs.press("Start job")
    expect(jobs.heading("Captions for 4 photos")).to_be_visible()
    worker.do_all()
    expect(jobs.results).to_have_count(4)
    names = {text.partition(" · ")[0] for text in jobs.page.locator(".result-meta").all_inner_texts()}
    assert names == {"in the zip.jpg", long_name.name, "photo-02.jpg", "photo-02 (2).jpg"}


def test_dropped_folder_is_taken_with_all_below_it(
    jobs: JobPage, many: list[Path], worker: InlineWorker, tmp_path: Path
) -> None:
    below = tmp_path / "holiday" / "beach"
    below.mkdir(parents=True)
    (below / "sea.jpg").write_bytes(many[0].read_bytes())
    (below.parent / "train.jpg").write_bytes(many[1].read_bytes())
    (below.parent / ".hidden").write_text("nothing to see")
    session = jobs.page.context.new_cdp_session(jobs.page)
    files = {"items": [], "files": [str(tmp_path / "holiday")], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 300, "data": files})
    expect(jobs.page.locator("#job-chosen")).to_contain_text("2 photos")
    jobs.press("Start job")
    expect(jobs.heading("Captions for 2 photos")).to_be_visible()
    worker.do_all()
    expect(jobs.page.get_by_text("holiday/beach/sea.jpg")).to_be_visible()


def test_canceled_job_keeps_what_is_done_and_goes_on_when_asked(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(*many[:7])
    worker.do_one()
    expect(jobs.progress).to_contain_text("5 of 7")
    jobs.press("Cancel")
    expect(jobs.state).to_have_text("Stopping")
    worker.do_all()
    expect(jobs.state).to_have_text("Cancelled")
    expect(jobs.progress).to_contain_text("5 captioned · 2 not done")
    assert jobs.page.locator(".job-bar").evaluate("bar => bar.value") == pytest.approx(5 / 7)
    jobs.press("Do the rest")
    expect(jobs.page.locator("#job-about")).to_contain_text("attempt 2")
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    expect(jobs.results).to_have_count(7)


def test_paused_job_rests_until_it_may_go_on(jobs: JobPage, many: list[Path], worker: InlineWorker) -> None:
    jobs.start(*many[:6])
    jobs.press("Pause")
    expect(jobs.state).to_have_text("Paused")
    worker.do_all()
    expect(jobs.progress).to_contain_text("0 of 6")
    jobs.press("Go on")
    expect(jobs.state).not_to_have_text("Paused")
    worker.do_all()
    expect(jobs.state).to_have_text("Done")


def test_retry_that_would_change_nothing_is_refused_in_words(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(many[6], many[7])
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    jobs.press("Try again what failed")
    expect(jobs.page.locator(".job-refusal")).to_be_visible()


def test_list_shows_every_job_and_moves_while_one_runs(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.start(*many[:11])
    jobs.page.get_by_role("link", name="All jobs").click()
    newest = jobs.rows.first
    expect(newest).to_contain_text("Captions for 11 photos")
    link = newest.get_by_role("link")
    link.focus()
    worker.do_one()
    expect(newest).to_contain_text("5 of 11")
    expect(link).to_be_focused()  # the row was changed, not made again
    worker.do_all()
    expect(newest).to_contain_text("Done")
    link.press("Enter")
    expect(jobs.results).to_have_count(10)
    jobs.page.go_back()
    expect(newest).to_be_visible()


def test_text_file_alone_is_refused_and_said_why(jobs: JobPage, text_file: Path) -> None:
    jobs.choose(text_file)
    jobs.press("Start job")
    expect(jobs.page.locator("#job-start-state")).to_contain_text("notes.txt")
    expect(jobs.page.get_by_role("button", name="Start job")).to_be_enabled()


def test_files_that_are_left_out_are_named_with_the_reason(
    jobs: JobPage, many: list[Path], text_file: Path, worker: InlineWorker, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "album.zip", "w") as album:
        album.write(text_file, "readme.txt")
        album.write(text_file, "__MACOSX/._in the zip.jpg")
    jobs.choose(many[0], text_file, tmp_path / "album.zip")
    expect(jobs.page.locator("#job-chosen")).to_have_text("1 photo, 1 archive and 1 other file, 0.1 MB")
    jobs.press("Start job")
    expect(jobs.heading("Captions for 1 photo")).to_be_visible()
    expect(jobs.heading("Left out of the job")).to_be_visible()
    rows = jobs.page.get_by_role("region", name="Left out of the job").locator("tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="notes.txt")).to_contain_text("Not a photo of a format that is read here.")
    expect(rows.filter(has_text="readme.txt")).to_be_visible()
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    expect(jobs.heading("Not captioned")).to_be_hidden()


def test_films_beside_the_photos_are_not_sent(jobs: JobPage, many: list[Path], tmp_path: Path) -> None:
    film = tmp_path / "clip.mp4"
    film.write_bytes(b"0" * 1000)
    jobs.choose(many[0], film)
    expect(jobs.page.get_by_text("1 film was left out: only photos are captioned.")).to_be_visible()
    expect(jobs.page.locator("#job-chosen")).to_have_text(re.compile(r"^1 photo, 0.1 MB$"))


def test_sending_takes_nobody_out_of_another_view_but_asks_before_the_page_is_left(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    jobs.page.route("**/v1/datasets", hold, times=1)
    jobs.choose(many[0])
    jobs.press("Start job")
    expect(jobs.page.locator("#job-start-state")).to_have_text("Sending")
    with jobs.page.expect_event("dialog") as dialog:
        jobs.page.close(run_before_unload=True)
    assert dialog.value.type == "beforeunload"
    dialog.value.dismiss()
    jobs.page.get_by_role("link", name="Models").click()
    with jobs.page.expect_response("**/v1/jobs/captions"):
        held[0].continue_()
    expect(jobs.announcement).to_have_text("Job started.")
    expect(jobs.heading("Models")).to_be_visible()
    jobs.page.get_by_role("link", name="Jobs").click()
    expect(jobs.rows.first).to_contain_text("Captions for 1 photo")
    worker.do_all()


def test_sending_can_be_stopped_and_begun_again(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    jobs.page.route("**/v1/datasets", lambda route: None, times=1)  # never answered
    jobs.choose(many[0])
    jobs.press("Start job")
    jobs.press("Stop sending")
    expect(jobs.page.get_by_text("Stopped. No job was started; the photos are still chosen.")).to_be_visible()
    expect(jobs.page.get_by_role("button", name="Clear")).to_be_focused()
    jobs.press("Start job")
    expect(jobs.heading("Captions for 1 photo")).to_be_visible()
    worker.do_all()


def test_start_whose_answer_is_lost_neither_sends_photos_again_nor_makes_a_second_job(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    started: list[str] = []

    def lose_answer(route: Route) -> None:
        started.append(route.fetch().json()["id"])
        route.abort()

    jobs.page.route("**/v1/jobs/captions", lose_answer, times=1)
    sent: list[str] = []
    jobs.page.on("request", lambda request: sent.append(request.url.rpartition("/")[2]))
    jobs.choose(many[0])
    jobs.press("Start job")
    expect(jobs.page.get_by_text("The service did not answer")).to_be_visible()
    jobs.press("Start job")
    expect(jobs.state).to_have_text("Waiting for a worker")
    assert sent.count("datasets") == 1
    assert jobs.page.url.endswith(f"#jobs/{started[0]}")
    worker.do_all()


def test_followed_job_survives_lost_connections(
    jobs: JobPage, many: list[Path], worker: InlineWorker
) -> None:
    losses: list[Route] = []

    def lose(route: Route) -> None:
        losses.append(route)
        route.abort()

    jobs.page.route("**/events", lose, times=1)
    jobs.start(many[0])
    expect(jobs.page.locator("#job-problem")).to_contain_text("The service did not answer")
    worker.do_all()
    expect(jobs.state).to_have_text("Done")
    expect(jobs.page.locator("#job-problem")).to_be_hidden()
    assert losses


def test_unknown_job_says_so(page: Page, job_address: str) -> None:
    page.goto(f"{job_address}/#jobs/job-of-another-day")
    expect(page.locator("#job-problem")).to_contain_text("job-of-another-day")


def test_address_that_was_cut_off_still_opens_the_page(page: Page, job_address: str) -> None:
    page.goto(f"{job_address}/#jobs/%e")
    expect(page.locator("#job-problem")).to_contain_text("There is no job")
    page.goto(f"{job_address}/#nowhere")
    expect(page.get_by_role("button", name="Choose photos")).to_be_visible()
    expect(page.get_by_role("link", name="Photos")).to_have_attribute("aria-current", "page")


def test_service_without_a_broker_says_what_is_missing(
    page: Page, tiny_model: ServedModel, tmp_path: Path
) -> None:
    with served(create_app(Settings(data_dir=tmp_path, precision="fp32"), tiny_model)) as url:
        jobs = JobPage(page, url).open()
        expect(jobs.page.locator("#jobs-problem")).to_contain_text("semicap serve")
