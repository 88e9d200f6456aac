"""The web page's files, read once at import and served from memory."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


def _read() -> Mapping[str, tuple[bytes, str]]:
    folder = files("pd_autoscaler.admin").joinpath("page")
    found = {}
    for file in folder.iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in _TYPES:
            found[file.name] = (file.read_bytes(), _TYPES[suffix])
    return found


FILES: Final[Mapping[str, tuple[bytes, str]]] = _read()
"""Content and media type by file name."""


def routes() -> list[web.RouteDef]:
    """Return the page at / and its parts under /page/; nothing else of the disk is served."""
    parts = [web.get(f"/page/{name}", _served(name)) for name in FILES if name != "index.html"]
    return [web.get("/", _served("index.html")), *parts]


def _served(name: str) -> Handler:
    content, media_type = FILES[name]

    async def serve_file(_request: web.Request) -> web.Response:
        return web.Response(
            body=content,
            content_type=media_type,
            charset="utf-8",
            headers={"Cache-Control": "no-cache"},
        )

    return serve_file
