"""A bucket for tests: what S3's protocol needs for listing, reading and small writes, over a real socket."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "photos"
PAGE = 3
"""Keys in one answer to a listing."""


class S3(ThreadingHTTPServer):
    """Objects of one bucket; `denied` are keys that nobody may read.

    The next write of a key in `unanswered` is made and answered as failed.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.denied: set[str] = set()
        self.unanswered: set[str] = set()
        self.modified: dict[str, int] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What leads obstore's s3:// here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_REGION": "us-east-1",
        }

    def put(self, key: str, data: bytes) -> None:
        """Writes an object, a minute later than what was there."""
        self.objects[key] = data
        self.modified[key] = self.modified.get(key, 1_700_000_000) + 60

    def listing(self, *, prefix: str, after: str) -> bytes:
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_iso(self.modified[key])}</LastModified>"
            f"<ETag>x</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in keys[:PAGE]
        )
        more = len(keys) > PAGE
        token = f"<NextContinuationToken>{escape(keys[PAGE - 1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{contents}</ListBucketResult>"
        ).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        _, key, _ = self._asked()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["If-None-Match"] == "*" and key in self.server.objects:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
            return
        self.server.put(key, data)
        self._answer(500 if key in self.server.unanswered else 200, b"")
        self.server.unanswered.discard(key)

    def do_GET(self) -> None:
        bucket, key, query = self._asked()
        if bucket != BUCKET:
            self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        elif not key:
            after = query.get("continuation-token", [""])[0]
            self._answer(200, self.server.listing(prefix=query.get("prefix", [""])[0], after=after))
        elif key in self.server.denied:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        elif key in self.server.objects:
            self._answer(200, self.server.objects[key], modified=self.server.modified[key])
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def _asked(self) -> tuple[str, str, dict[str, list[str]]]:
        """Bucket, key and query."""
        parts = urlsplit(self.path)
        _, bucket, *rest = unquote(parts.path).split("/", 2)
        return bucket, rest[0] if rest else "", parse_qs(parts.query)

    def _answer(self, status: int, body: bytes, *, modified: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(modified, usegmt=True))
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@contextmanager
def running_s3() -> Iterator[S3]:
    """An S3 server until the block ends."""
    server = S3()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
