"""The views of jobs and models as a person sees them."""

from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Locator, Page, expect


class JobPage:
    """The view of jobs at `/#jobs` in a browser."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        page.on("filechooser", lambda chooser: None)  # as CaptionPage does

    def open(self) -> "JobPage":
        self.page.goto(f"{self.address}/#jobs")
        expect(self.heading("Jobs")).to_be_visible()
        expect(self.page.locator("#model-in-use")).not_to_be_empty()
        return self

    def heading(self, name: str) -> Locator:
        return self.page.get_by_role("heading", name=name, exact=True)

    def choose(self, *files: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="Choose photos or a zip").click()
        chooser.value.set_files(list(files))

    def start(self, *files: Path, outputs: Sequence[str] = ()) -> None:
        """Starts a captioning job and waits for its page."""
        self.choose(*files)
        for output in outputs:
            self.page.get_by_label(output).check()
        self.page.get_by_role("button", name="Start job").click()
        expect(self.page.locator("#job-title")).to_contain_text("Captions for")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def saved(self, link: str) -> bytes:
        """The bytes of one of the job's files."""
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name=link, exact=True).click()
        return download.value.path().read_bytes()

    @property
    def job_id(self) -> str:
        return self.page.url.partition("#jobs/")[2]

    @property
    def state(self) -> Locator:
        return self.page.locator("#job .badge").first

    @property
    def progress(self) -> Locator:
        return self.page.locator(".job-progress-text")

    @property
    def results(self) -> Locator:
        return self.page.locator(".result")

    @property
    def rows(self) -> Locator:
        return self.page.locator(".job-row")

    @property
    def announcement(self) -> Locator:
        return self.page.locator("#announcer")
