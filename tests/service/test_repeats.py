"""Images that come again: computed once, whoever asks and whoever leaves."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from service.repeats import Repeat, Repeats
from tests.service import pictures
from tests.service.conftest import MakeClient, parts_of

PHOTO = pictures.encoded(pictures.cat(), "JPEG")
JPEG = {"Content-Type": "image/jpeg"}


class Work:
    """Work that ends when it is let, and counts how often it began."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = 0
        self.was_cancelled = False

    async def __call__(self) -> str:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return f"result {self.begun}"


def repeats(entries: int = 2, answers: list[Repeat] | None = None) -> Repeats[str]:
    told = [] if answers is None else answers
    return Repeats(entries, is_kept=lambda result: "error" not in result, on_answer=told.append)


async def started(count: int, known: Repeats[str], work: Work) -> list[asyncio.Task[tuple[str, Repeat]]]:
    waiting = [asyncio.create_task(known.get("image", work)) for _ in range(count)]
    await asyncio.sleep(0.01)
    return waiting


def test_the_same_image_in_flight_is_computed_once_and_kept() -> None:
    async def run() -> None:
        answers: list[Repeat] = []
        known, work = repeats(answers=answers), Work()
        waiting = await started(3, known, work)
        work.may_end.set()
        assert {result for result, _ in await asyncio.gather(*waiting)} == {"result 1"}
        assert await known.get("image", work) == ("result 1", "kept")
        assert answers == ["computed", "shared", "shared", "kept"]

    asyncio.run(run())


@pytest.mark.parametrize("leaving", [0, 1], ids=["the first", "a later one"])
def test_who_leaves_does_not_end_the_work_of_others(leaving: int) -> None:
    async def run() -> None:
        known, work = repeats(), Work()
        waiting = await started(2, known, work)
        waiting[leaving].cancel()
        await asyncio.sleep(0.01)
        work.may_end.set()
        assert (await waiting[1 - leaving])[0] == "result 1"
        assert not work.was_cancelled

    asyncio.run(run())


def test_when_all_have_left_the_work_ends_and_the_next_begins_anew() -> None:
    async def run() -> None:
        known, work = repeats(), Work()
        for one in await started(2, known, work):
            one.cancel()
        again = asyncio.create_task(known.get("image", work))
        await asyncio.sleep(0.01)
        assert work.was_cancelled
        work.may_end.set()
        assert await again == ("result 2", "computed")

    asyncio.run(run())


def test_what_was_used_longest_ago_goes_first_and_errors_are_not_kept() -> None:
    async def run() -> None:
        known = repeats(entries=2)

        async def of(key: str) -> Repeat:
            async def compute() -> str:
                return key

            return (await known.get(key, compute))[1]

        assert [await of(key) for key in ("a", "b", "a", "c")] == ["computed", "computed", "kept", "computed"]
        assert [await of(key) for key in ("a", "b")] == ["kept", "computed"]
        assert [await of("error") for _ in range(2)] == ["computed", "computed"]

    asyncio.run(run())


def test_work_that_raises_raises_for_all_who_wait() -> None:
    async def run() -> None:
        known = repeats()

        async def fail() -> str:
            await asyncio.sleep(0.01)
            raise ValueError("broken")

        results = await asyncio.gather(*(known.get("image", fail) for _ in range(2)), return_exceptions=True)
        assert [str(one) for one in results] == ["broken", "broken"]

    asyncio.run(run())


def encoded_images(client: TestClient) -> float:
    """Images that went through the image tower, by the service's own count."""
    count = parts_of(client).metrics.registry.get_sample_value("semicap_batch_size_sum", {"stage": "encode"})
    return count or 0.0


def test_the_same_file_is_captioned_once_and_named_as_each_request_names_it(make_client: MakeClient) -> None:
    client = make_client(repeated_images=8)
    first = client.post("/v1/captions", files={"image": ("a.jpg", PHOTO)}).json()["results"][0]
    before = encoded_images(client)
    again = client.post("/v1/captions", files=[("image", (name, PHOTO)) for name in ("b.jpg", "c.jpg")])
    assert encoded_images(client) == before
    assert [one["file_name"] for one in again.json()["results"]] == ["b.jpg", "c.jpg"]
    assert all(one["captions"] == first["captions"] for one in again.json()["results"])
    assert all(one["image"] == first["image"] for one in again.json()["results"])
    metrics = client.get("/metrics").text
    assert 'semicap_repeated_images_total{answer="kept"} 2.0' in metrics
    assert 'semicap_repeated_images_total{answer="computed"} 1.0' in metrics


@pytest.mark.parametrize(
    ("query", "computed"),
    [
        (["", "num_beams=2"], 2),
        (["strategy=sample"] * 2, 2),
        (["strategy=sample&seed=5"] * 2, 1),
        (["strategy=sample&seed=5", "strategy=sample&seed=6"], 2),
    ],
    ids=["other options", "no seed", "the same seed", "another seed"],
)
def test_only_what_would_come_out_the_same_is_not_computed(
    make_client: MakeClient, query: list[str], computed: int
) -> None:
    client = make_client(repeated_images=8)
    for asked in query:
        assert client.post(f"/v1/captions?{asked}", content=PHOTO, headers=JPEG).status_code == 200
    assert encoded_images(client) == computed


def test_a_broken_file_is_refused_each_time_and_gives_its_place_back(make_client: MakeClient) -> None:
    client = make_client(repeated_images=8)
    for _ in range(2):
        assert client.post("/v1/captions", content=PHOTO[:400], headers=JPEG).status_code == 422
    assert parts_of(client).engine.depth == 0


def test_clients_that_post_the_same_file_at_once_get_the_same_answer(make_client: MakeClient) -> None:
    client = make_client(repeated_images=8)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.post("/v1/captions", content=PHOTO, headers=JPEG), range(16))
        )
    captions = {str(answer.json()["results"][0]["captions"]) for answer in answers}
    assert len(captions) == 1
    assert encoded_images(client) == 1


def test_switched_off_every_image_is_computed(make_client: MakeClient) -> None:
    client = make_client(repeated_images=0)
    for _ in range(2):
        assert client.post("/v1/captions", content=PHOTO, headers=JPEG).status_code == 200
    assert encoded_images(client) == 2
