"""Image URLs: what is fetched, what is refused before a connection, and what ends a fetch."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.errors import ImageTooLargeError, ImageUrlError, QueueFullError, ServiceError
from service.fetch import MAX_REDIRECTS, FetchLimits, ImageFetcher
from service.public_address import resolve_public
from tests.service import pictures
from tests.service.conftest import MakeClient, parts_of

TLS = Path(__file__).parent / "tls"
"""A certificate authority and a certificate for photos.test and moved.test, made for these tests alone."""

PHOTO = pictures.encoded(pictures.cat(), "JPEG")
HOST = "photos.test"
MAX_BYTES = 100_000


def nothing(count: int) -> None:
    """Takes any number of bytes."""


def answer(body: bytes = PHOTO, *, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP answer; headers are named with _ for -."""
    lines = {"content_type": "image/jpeg", "content_length": str(len(body)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def redirect(location: str) -> bytes:
    return answer(b"", status="302 Found", location=location)


@dataclass
class Site:
    """A TLS server of its own on this machine, and a fetcher that finds it behind every .test name."""

    answers: dict[str, bytes]
    port: int = 0
    asked: list[str] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    hangs_after: int | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        data = self.answers[head.split(" ")[1]]
        writer.write(data[: self.hangs_after])
        await writer.drain()
        if self.hangs_after is not None:
            await reader.read()
        writer.close()

    async def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        return ["127.0.0.1"] if host.endswith(".test") else await resolve_public(host, port)

    def fetcher(self, *, timeout_s: float = 20.0, trusted: bool = True) -> ImageFetcher:
        tls = ssl.create_default_context(cafile=TLS / "ca.pem") if trusted else None
        limits = FetchLimits(max_bytes=MAX_BYTES, timeout_s=timeout_s)
        return ImageFetcher(limits, resolve=self.resolve, tls=tls, port=self.port)

    async def fetch(self, path: str, *, timeout_s: float = 20.0) -> bytes:
        return await self.fetcher(timeout_s=timeout_s).fetch(f"https://{HOST}:{self.port}{path}", nothing)


@asynccontextmanager
async def serving(answers: dict[str, bytes]) -> AsyncIterator[Site]:
    site = Site(answers)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(TLS / f"{HOST}.pem")
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


def run(answers: dict[str, bytes], work: Callable[[Site], Awaitable[object]]) -> Site:
    """Runs `work` while the site serves; the site, for what it saw."""

    async def all_of_it() -> Site:
        async with serving(answers) as site:
            await work(site)
            return site

    return asyncio.run(all_of_it())


def error_of(answers: dict[str, bytes], path: str = "/a", *, timeout_s: float = 20.0) -> ServiceError:
    """What fetching fails with."""
    caught: list[ServiceError] = []

    async def work(site: Site) -> None:
        with pytest.raises(ServiceError) as error:
            await site.fetch(path, timeout_s=timeout_s)
        caught.append(error.value)

    run(answers, work)
    return caught[0]


@pytest.mark.parametrize("kind", ["sized", "chunked", "until-the-end", "bytes"])
def test_image_is_fetched(kind: str) -> None:
    chunked = f"{len(PHOTO):x}\r\n".encode() + PHOTO + b"\r\n0\r\n\r\n"
    served = {
        "sized": answer(),
        "chunked": answer(chunked, content_length="", transfer_encoding="chunked"),
        "until-the-end": answer(content_length=""),
        "bytes": answer(content_type="application/octet-stream"),
    }[kind]

    async def work(site: Site) -> None:
        assert await site.fetch("/a") == PHOTO

    run({"/a": served}, work)


def test_request_names_the_host_and_carries_nothing_of_ours() -> None:
    async def work(site: Site) -> None:
        await site.fetch("/Ä b?q=ü#there".replace(" ", "%20"))

    (head,) = run({"/%C3%84%20b?q=%C3%BC": answer()}, work).asked
    names = {line.partition(":")[0].lower() for line in head.strip().split("\r\n")[1:]}
    assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}
    assert f"Host: {HOST}:" in head


def test_redirects_are_followed_and_each_is_looked_up_anew() -> None:
    async def work(site: Site) -> None:
        site.answers["/a"] = redirect(f"https://moved.test:{site.port}/b")
        assert await site.fetch("/a") == PHOTO
        assert site.looked_up == [HOST, "moved.test", "moved.test"]

    run({"/b": redirect("c"), "/c": answer()}, work)


def test_endless_redirects_end() -> None:
    assert f"more than {MAX_REDIRECTS} times" in error_of({"/a": redirect("/a")}).detail


@pytest.mark.parametrize(
    "location",
    [
        "http://photos.test/b",
        "https://127.0.0.1/b",
        "https://[::1]/b",
        "https://[::ffff:127.0.0.1]/b",
        "https://localhost/b",
        "https://2130706433/b",
        "https://169.254.169.254/latest/meta-data/",
        "https://user:secret@photos.test/b",
        "https://photos.test:22/b",
        "file:///etc/passwd",
        "gopher://photos.test/",
        "https://photos.test/a b",
    ],
)
def test_redirect_to_what_may_not_be_fetched_is_refused(location: str) -> None:
    async def work(site: Site) -> None:
        # The port of the redirect is that of the site, so that only the check keeps it from being asked.
        there = location.replace(".1/", f".1:{site.port}/").replace("]/", f"]:{site.port}/")
        site.answers["/a"] = redirect(there)
        with pytest.raises(ImageUrlError):
            await site.fetch("/a")
        assert len(site.asked) == 1

    run({}, work)


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (answer(b"<p>no</p>", content_type="text/html"), "does not call an image"),
        (answer(content_type=""), "does not call an image"),
        (answer(status="404 Not Found"), "status 404"),
        (answer(status="206 Partial Content"), "status 206"),
        (answer(content_encoding="gzip"), "compressed"),
        (answer(content_length=str(len(PHOTO) + 1)), "cut off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"", "cut off"),
        (answer(x_long="x" * 200_000), "not HTTP"),
        (answer(status="302 Found"), "status 302"),
    ],
)
def test_answer_that_is_no_image_is_refused(served: bytes, said: str) -> None:
    error = error_of({"/a": served})
    assert isinstance(error, ImageUrlError)
    assert said in error.detail


@pytest.mark.parametrize("kind", ["stated", "unstated"])
def test_too_many_bytes_end_the_fetch(kind: str) -> None:
    length = str(MAX_BYTES + 1) if kind == "stated" else ""
    error = error_of({"/a": answer(bytes(MAX_BYTES + 1), content_length=length)})
    assert isinstance(error, ImageTooLargeError)


def test_fetched_bytes_count_as_the_requests() -> None:
    taken: list[int] = []

    def take(count: int) -> None:
        taken.append(count)
        if sum(taken) > 1000:
            raise QueueFullError("too many bytes in flight")

    async def work(site: Site) -> None:
        with pytest.raises(QueueFullError):
            await site.fetcher().fetch(f"https://{HOST}:{site.port}/a", take)

    run({"/a": answer()}, work)
    assert sum(taken) > 1000


@pytest.mark.parametrize("hangs_after", [0, 20, 500])
def test_answer_that_stops_coming_is_given_up(hangs_after: int) -> None:
    async def work(site: Site) -> None:
        site.hangs_after = hangs_after
        with pytest.raises(ImageUrlError, match=r"within 0\.5 s"):
            await site.fetch("/a", timeout_s=0.5)

    run({"/a": answer()}, work)


def test_certificate_that_nobody_vouches_for_is_refused() -> None:
    async def work(site: Site) -> None:
        with pytest.raises(ImageUrlError, match="no secure connection"):
            await site.fetcher(trusted=False).fetch(f"https://{HOST}:{site.port}/a", nothing)
        with pytest.raises(ImageUrlError, match="no secure connection"):
            await site.fetcher().fetch(f"https://other.test:{site.port}/a", nothing)

    assert run({"/a": answer()}, work).asked == []


def test_urls_are_refused_where_fetching_is_off(client: TestClient) -> None:
    response = client.post("/v1/captions", json={"images": [{"url": "https://example.org/cat.jpg"}]})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:semicap:problem:url-fetching-disabled"
    assert "SEMICAP_FETCH_URLS" in response.json()["detail"]


@pytest.mark.parametrize(
    "url", ["https://localhost/cat.jpg", "http://example.org/cat.jpg", "https://[::1]/", "x" * 5000]
)
def test_service_with_fetching_on_refuses_what_is_not_public(make_client: MakeClient, url: str) -> None:
    response = make_client(fetch_urls=True).post("/v1/captions", json={"images": [{"url": url}]})
    assert response.status_code == 422
    assert response.json()["type"] == "urn:semicap:problem:image-url-failed"


def test_fetched_image_gets_its_caption_beside_one_that_failed(make_client: MakeClient) -> None:
    client = make_client(fetch_urls=True)
    fetcher = parts_of(client).fetcher
    assert fetcher is not None

    async def fetch(url: str, take: Callable[[int], None]) -> bytes:
        if url.endswith("missing"):
            raise ImageUrlError("the URL answered with status 404")
        take(len(PHOTO))
        return PHOTO

    images = [{"url": f"https://{HOST}/cat"}, {"url": f"https://{HOST}/missing"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetcher, "fetch", fetch)
        response = client.post("/v1/captions?strategy=greedy", json={"images": images})
    assert response.status_code == 200, json.dumps(response.json())
    first, second = response.json()["results"]
    assert first["captions"][0]["text"]
    assert second["error"]["type"] == "urn:semicap:problem:image-url-failed"
    same = client.post("/v1/captions?strategy=greedy", content=PHOTO, headers={"Content-Type": "image/jpeg"})
    assert first["captions"] == same.json()["results"][0]["captions"]
