"""Images by URL, fetched so that nobody can use this service to reach what only it can reach.

https and public addresses alone: a host is looked up once, all its addresses are checked, and the connection
goes to one of those; a redirect is a new URL, checked as the first. No proxy, no cookies, no credentials.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit

from service.errors import ImageUrlError, ServiceError, UrlFetchingDisabledError
from service.https_get import Answer, GetError, Target, get
from service.images import too_many_bytes
from service.public_address import NoPublicAddressError, resolve_public

MAX_REDIRECTS = 3
MAX_URL_CHARACTERS = 4096

_PORT = 443
_AT_ONCE = 8
_REDIRECTS = (301, 302, 303, 307, 308)
_BYTES_OF_ANY_KIND = ("application/octet-stream", "binary/octet-stream")
_PATH_CHARACTERS = "/%:@!$&'()*+,;=~-._?"

Resolve = Callable[[str, int], Awaitable[list[str]]]
Take = Callable[[int], None]


@dataclass(frozen=True)
class FetchLimits:
    """For one URL, redirects included."""

    max_bytes: int
    timeout_s: float


class ImageFetcher:
    """Fetches image URLs, a few at a time.

    Args:
        resolve: host and port to addresses that may be connected to.
        port: the only one that is connected to.
    """

    def __init__(
        self,
        limits: FetchLimits,
        *,
        resolve: Resolve = resolve_public,
        tls: ssl.SSLContext | None = None,
        port: int = _PORT,
    ) -> None:
        self.limits = limits
        self._resolve = resolve
        self._tls = tls or ssl.create_default_context()
        self._port = port
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def fetch(self, url: str, take: Take) -> bytes:
        """The bytes behind a URL.

        Args:
            take: called with the number of bytes that came; raises where there are too many.

        Raises:
            ServiceError: not a URL to fetch, no answer in time, no image, too many bytes.
        """
        async with self._places:
            try:
                async with asyncio.timeout(self.limits.timeout_s):
                    return await self._follow(url, take)
            except TimeoutError as error:
                raise ImageUrlError(f"the URL did not answer within {self.limits.timeout_s:g} s") from error
            except (GetError, NoPublicAddressError) as error:
                raise ImageUrlError(str(error)) from error

    async def _follow(self, url: str, take: Take) -> bytes:
        for _ in range(1 + MAX_REDIRECTS):
            async with get(await self._target(url), self._tls) as answer:
                location = answer.header("location")
                if answer.status not in _REDIRECTS or not location:
                    return await self._image(answer, take)
                url = urljoin(url, location)
        raise ImageUrlError(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _target(self, url: str) -> Target:
        host, path = self._checked(url)
        return Target(host, self._port, path, await self._resolve(host, self._port))

    def _checked(self, url: str) -> tuple[str, str]:
        """Host and path of a URL that may be fetched; the parts of it that we send are those we checked."""
        if len(url) > MAX_URL_CHARACTERS or any(character <= " " or character == "\x7f" for character in url):
            _refuse(f"it has blanks, control characters or more than {MAX_URL_CHARACTERS} characters")
        try:
            parts = urlsplit(url)
            port = parts.port
            host = (parts.hostname or "").rstrip(".").encode("idna").decode()
        except ValueError:
            _refuse("it is not a URL")
        if parts.scheme != "https":
            _refuse("it does not begin with https://")
        if parts.username is not None or parts.password is not None:
            _refuse("it names a user or a password")
        if not host or "%" in host:
            _refuse("it names no host")
        if port not in (None, self._port):
            _refuse(f"it names another port than {self._port}")
        path = quote(parts.path or "/", safe=_PATH_CHARACTERS)
        return host, f"{path}?{quote(parts.query, safe=_PATH_CHARACTERS)}" if parts.query else path

    async def _image(self, answer: Answer, take: Take) -> bytes:
        media_type = answer.header("content-type").partition(";")[0].strip().lower()
        stated = answer.header("content-length")
        if answer.status != 200:
            raise ImageUrlError(f"the URL answered with status {answer.status}")
        if answer.header("content-encoding") not in ("", "identity"):
            raise ImageUrlError("the URL answered with compressed content, which was not asked for")
        if not media_type.startswith("image/") and media_type not in _BYTES_OF_ANY_KIND:
            raise ImageUrlError("the URL answered with something that it does not call an image")
        if stated.isdecimal() and int(stated) > self.limits.max_bytes:
            raise too_many_bytes(int(stated), self.limits.max_bytes)
        content = bytearray()
        async for chunk in answer.body():
            take(len(chunk))
            content += chunk
            if len(content) > self.limits.max_bytes:
                raise too_many_bytes(len(content), self.limits.max_bytes)
        return bytes(content)


async def fetch_each(
    urls: Sequence[str | None], fetcher: ImageFetcher | None, take: Take
) -> list[bytes | ServiceError | None]:
    """What came of each URL, in order; None where there is none. The first errors do not stop the others."""

    async def outcome(url: str | None) -> bytes | ServiceError | None:
        if url is None:
            return None
        if fetcher is None:
            return UrlFetchingDisabledError(
                "this service does not fetch URLs (SEMICAP_FETCH_URLS); send the image itself as `data`"
            )
        try:
            return await fetcher.fetch(url, take)
        except ServiceError as error:
            return error

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(outcome(url)) for url in urls]
    return [task.result() for task in running]


def _refuse(reason: str) -> NoReturn:
    raise ImageUrlError(f"the URL is not fetched: {reason}")
