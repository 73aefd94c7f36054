"""The page as a person sees it: the places that tests look at and act on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import FilePayload, Locator, Page, expect

FormValue = str | float | bool | bytes | FilePayload
BUSY = {"type": "urn:semicap:problem:queue-full", "title": "The service is busy", "status": 429, "detail": ""}


class CaptionPage:
    """The page at `/` in a browser."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        # Has file choosers intercepted from now on; asked for just before a key press, it may come too late.
        page.on("filechooser", lambda chooser: None)

    def open(self) -> "CaptionPage":
        self.page.goto(self.address)
        expect(self.page.locator("#model-in-use")).to_contain_text("tiny")
        return self

    def pick(self, *photos: Path) -> None:
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name="photos").first.click()
        chooser.value.set_files(list(photos))

    def drop(self, *paths: Path) -> None:
        """Drags files from outside over the page and lets go, as the browser's own input events."""
        session = self.page.context.new_cdp_session(self.page)
        files = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 300, "data": files})

    def wait_until_settled(self) -> None:
        expect(self.page.locator("#progress")).to_have_class("is-settled")

    def plate(self, file_name: str) -> Locator:
        return self.plates.filter(has=self.page.get_by_role("heading", name=file_name, exact=True))

    def choose_strategy(self, label: str) -> None:
        self.page.get_by_role("radio", name=label).check()

    def slide(self, label: str, value: float) -> None:
        self.page.get_by_role("slider", name=label).fill(str(value))

    def ask_directly(self, photo: Path, options: dict[str, str]) -> dict[str, Any]:
        """The service's own answer to what the page asks."""
        upload: FilePayload = {"name": photo.name, "mimeType": "image/png", "buffer": photo.read_bytes()}
        form: dict[str, FormValue] = {"image": upload, **options}
        response = self.page.request.post(f"{self.address}/v1/captions", multipart=form)
        answer: dict[str, Any] = response.json()
        return answer

    def violations(self, axe: str) -> Sequence[str]:
        """What axe-core finds serious or critical."""
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['html']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    @property
    def plates(self) -> Locator:
        return self.page.get_by_role("list").locator("li.plate")

    @property
    def announcement(self) -> Locator:
        return self.page.locator("#announcer")
