"""Model versions on the page, and fine-tuning jobs with their curves and verdicts.

Where a version would have to be trained first, the service's answers are given by the test.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, Request, Route, expect

from service.registry import ServedModel
from tests.browser.caption_page import CaptionPage
from tests.browser.job_page import JobPage

pytestmark = pytest.mark.browser

REFUSED = {
    "passed": False,
    "reason": "refused: the second scorer likes the new captions less",
    "checks": [
        {"name": "clip_similarity", "before": 0.61, "after": 0.64, "limit": 0.6, "passed": True},
        {"name": "second_similarity", "before": 0.49, "after": 0.41, "limit": 0.48, "passed": False},
    ],
}
JOB: dict[str, Any] = {
    "id": "job-1",
    "kind": "finetune",
    "state": "running",
    "dataset": "ds-1",
    "attempt": 1,
    "counts": {"total": 120, "done": 120, "failed": 0, "skipped": 0},
    "cancel_requested": False,
    "rate": None,
    "seconds_left": 90.0,
    "created": "2026-01-01T10:00:00Z",
    "started": "2026-01-01T10:00:05Z",
    "ended": None,
    "error": None,
    "base": "tiny:1",
    "progress": {"phase": "training", "step": 40, "steps": 100},
    "curve": [
        {"step": 1, "loss": 2.5, "clip_similarity": 0.5},
        {"step": 20, "loss": 1.75, "clip_similarity": 0.55},
        {"step": 40, "loss": 1.25, "clip_similarity": 0.6},
    ],
}
ENDED = {
    **JOB,
    "state": "succeeded",
    "ended": "2026-01-01T10:20:05Z",
    "progress": {"phase": "publishing", "step": 100, "steps": 100},
    "model": {"id": "tiny:2", "gate": REFUSED, "is_activated": False},
}
OFFERED = (
    "/v1/jobs/finetunes",
    "/v1/models/{model}/activate",
    "/v1/models/rollback",
)


def answer(route: Route, document: Any, *, status: int = 200) -> None:
    kind = "application/json" if status < 400 else "application/problem+json"
    route.fulfill(status=status, body=json.dumps(document), content_type=kind)


@pytest.fixture
def models(captions: CaptionPage) -> Page:
    """The view of models, opened from the page."""
    captions.page.get_by_role("link", name="Models").click()
    expect(captions.page.get_by_role("heading", name="Models", exact=True)).to_be_focused()
    return captions.page


@pytest.fixture
def with_versions(page: Page, address: str) -> Callable[[str], list[Request]]:
    """Opens the page at a view, on a service that has two versions, of which the gate refused one."""

    def open_at(view: str) -> list[Request]:
        changes: list[Request] = []
        active = ["tiny:1"]

        def change(route: Route) -> None:
            changes.append(route.request)
            body = route.request.post_data_json or {}
            if "activate" in route.request.url and not body.get("override"):
                answer(
                    route,
                    {"title": "The gate refused it", "status": 409, "detail": "0.49 to 0.41"},
                    status=409,
                )
                return
            active[0] = "tiny:2" if "activate" in route.request.url else "tiny:1"
            answer(route, {})

        def list_models(route: Route) -> None:
            versions = route.fetch().json()["data"][:1] * 2
            named = [
                one
                | {"id": f"tiny:{number}", "version": str(number), "is_active": active[0] == f"tiny:{number}"}
                for number, one in enumerate(versions, start=1)
            ]
            answer(
                route,
                {
                    "data": [
                        named[0] | {"origin": "shipped"},
                        named[1]
                        | {
                            "origin": "finetuned",
                            "gate": REFUSED,
                            "links": {"report_html": "/v1/models/tiny:2/report.html"},
                            "job": "job-1",
                        },
                    ]
                },
            )

        def describe(route: Route) -> None:
            described = route.fetch().json()
            described["paths"] |= {path: {"post": {}} for path in OFFERED}
            answer(route, described)

        page.route("**/openapi.json", describe)
        page.route("**/v1/models", list_models)
        page.route("**/v1/models/*/activate", change)
        page.route("**/v1/models/rollback", change)
        page.goto(f"{address}/#{view}")
        return changes

    return open_at


def test_models_are_shown_with_facts_and_card(models: Page, tiny_model: ServedModel) -> None:
    heading = models.get_by_role("heading", level=3).first
    expect(heading).to_have_text(f"tiny {tiny_model.version} answers now")
    view = models.locator("#view-models")
    expect(view).to_contain_text("stage “supervised”")
    expect(view).to_contain_text("English")
    view.get_by_text("Model card").first.click()
    expect(view.locator(".card-text").first).to_contain_text("Random weights, for tests.")


def test_shipped_version_tells_no_date_as_its_file_has_that_of_the_installation(
    page: Page, with_versions: Callable[[str], list[Request]]
) -> None:
    with_versions("models")
    expect(page.get_by_text("came with semicap")).to_have_count(1)
    expect(page.get_by_text("Written", exact=True)).to_have_count(1)


def test_models_are_shown_when_the_service_is_back(captions: CaptionPage) -> None:
    captions.page.route("**/v1/models", lambda route: route.abort(), times=1)
    captions.page.get_by_role("link", name="Models").click()
    expect(captions.page.locator("#models-problem")).to_contain_text("The service did not answer.")
    expect(captions.page.locator(".model").first).to_be_visible()
    expect(captions.page.locator("#models-problem")).to_be_hidden()


def test_card_is_laid_out_and_text_in_it_stays_text(models: Page) -> None:
    render = """async text => {
        const {markdownElements} = await import('/web/models/markdown.js');
        const card = document.createElement('div');
        card.append(...markdownElements(text));
        return card.innerHTML;
    }"""
    for text, html in (
        ("# A `b`\n\none\ntwo", "<h4>A <code>b</code></h4><p>one two</p>"),
        ("- **a**: 1\n  and 2\n- b", "<ul><li><strong>a</strong>: 1 and 2</li><li>b</li></ul>"),
        ("```\n# x\n```\ny", '<pre tabindex="0"><code># x</code></pre><p>y</p>'),
        ("[a](https://b.org/c)", '<p><a href="https://b.org/c" rel="noreferrer">a</a></p>'),
        ("[a](javascript:b) <b>c</b>", "<p>[a](javascript:b) &lt;b&gt;c&lt;/b&gt;</p>"),
        ("| a | b |\n|---|---|\n| 1 | |", "<th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td></td>"),
        ("| | |\n|---|---|\n| 1 | 2 |", "<table><tbody><tr><td>1</td><td>2</td></tr></tbody></table>"),
        ("```\nunclosed", '<pre tabindex="0"><code>unclosed</code></pre>'),
    ):
        assert html in models.evaluate(render, text)


def test_refused_version_answers_only_after_a_second_explicit_step(
    page: Page, with_versions: Callable[[str], list[Request]]
) -> None:
    changes = with_versions("models")
    version = page.locator(".model").filter(has_text="tiny 2")
    expect(version.get_by_text("Refused by its gate")).to_be_visible()
    expect(version.get_by_role("row", name="second similarity")).to_contain_text("0.41")
    expect(version.get_by_role("link", name="Report")).to_have_attribute(
        "href", "v1/models/tiny%3A2/report.html"
    )
    expect(version.get_by_role("link", name="The job that made it")).to_be_visible()
    override = version.get_by_role("button", name="Let it answer all the same")
    expect(override).to_be_hidden()
    version.get_by_role("button", name="Let it answer: tiny 2").click()
    expect(version.get_by_role("alert")).to_contain_text("0.49 to 0.41")
    expect(override).to_be_focused()
    page.keyboard.press("Enter")
    expect(version.get_by_text("answers now")).to_be_visible()
    expect(page.locator("#model-in-use")).to_contain_text("tiny 2")
    page.get_by_role("button", name="Go back to the version before").click()
    expect(page.locator(".model").filter(has_text="tiny 1").get_by_text("answers now")).to_be_visible()
    assert [request.post_data_json for request in changes[:2]] == [{"override": False}, {"override": True}]
    assert changes[2].url.endswith("/v1/models/rollback")


def test_finetune_is_asked_for_with_base_and_settings(
    page: Page, with_versions: Callable[[str], list[Request]], photos: dict[str, Path]
) -> None:
    with_versions("jobs")
    asked: list[Any] = []

    def submit(route: Route) -> None:
        asked.append(route.request.post_data_json)
        answer(route, {"title": "Too few photos", "status": 422, "detail": "at least 50"}, status=422)

    page.route("**/v1/datasets", lambda route: answer(route, {"id": "ds-1"}, status=201))
    page.route("**/v1/jobs/finetunes", submit)
    page.get_by_role("radio", name="Teach the model").check()
    expect(page.get_by_label("CSV table")).to_be_hidden()
    page.get_by_label("Start from").select_option("tiny:2")
    page.get_by_label("Steps").fill("40")
    JobPage(page, "").choose(*photos.values())
    page.get_by_role("button", name="Start job").click()
    expect(page.get_by_text("Too few photos. At least 50.")).to_be_visible()
    assert asked == [{"dataset": "ds-1", "base": "tiny:2", "settings": {"steps": 40}, "auto_activate": False}]


def test_finetune_shows_its_curves_then_the_verdict(
    page: Page, with_versions: Callable[[str], list[Request]]
) -> None:
    states = iter([JOB])
    page.route("**/v1/jobs/job-1", lambda route: answer(route, next(states, ENDED)))
    page.route(
        "**/v1/jobs/job-1/events", lambda route: route.fulfill(body="", content_type="text/event-stream")
    )
    with_versions("jobs/job-1")
    expect(page.get_by_role("heading", name="A model taught by 120 photos")).to_be_visible()
    expect(page.locator(".verdict")).to_have_text(
        "Refused by its gate The second scorer likes the new captions less."
    )
    expect(page.get_by_role("row", name="second similarity")).to_contain_text("refused")
    expect(page.get_by_role("button", name="Try again what failed")).to_be_hidden()
    expect(page.get_by_role("link", name="JSON lines")).to_have_count(0)  # it writes no captions
    loss = page.get_by_role("figure", name="Loss")
    expect(loss).to_contain_text("2.5 → 1.25")
    assert len((loss.locator("polyline").get_attribute("points") or "").split()) == 3
    page.get_by_role("link", name="Let it answer, or compare it").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_focused()


def test_service_without_finetuning_offers_none(page: Page, address: str) -> None:
    with urlopen(f"{address}/openapi.json") as response:
        described = json.load(response)
    described["paths"].pop("/v1/jobs/finetunes", None)
    page.route("**/openapi.json", lambda route: answer(route, described))
    with page.expect_response("**/openapi.json"):
        page.goto(f"{address}/#jobs")
    expect(page.get_by_role("button", name="Choose photos or a zip")).to_be_visible()
    expect(page.get_by_role("radio", name="Teach the model")).to_be_hidden()
