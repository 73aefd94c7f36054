"""The web page at / and its files, kept to this server by their headers."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB_FOLDER = Path(__file__).parent.parent / "web"

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Cache-Control": "no-cache",  # revalidated by ETag: an update never mixes old and new modules
}


class PageFiles(StaticFiles):
    """Static files with the page's headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def add_page(app: FastAPI) -> None:
    """The page at /, its other files under /web."""
    app.add_api_route(
        "/", _index, methods=["GET", "HEAD"], include_in_schema=False, response_class=Response
    )  # `ollama` begins with HEAD /
    app.mount("/web", PageFiles(directory=WEB_FOLDER), name="web")


async def _index() -> Response:
    return FileResponse(WEB_FOLDER / "index.html", headers=HEADERS)
