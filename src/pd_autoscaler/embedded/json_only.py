"""Loopback APIs that change something take JSON alone: a web page must not post to them."""

from aiohttp import web
from aiohttp.typedefs import Handler


@web.middleware
async def json_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a POST whose Content-Type is not application/json with 415.

    A page of another origin may post text and forms unasked, but no JSON, and no other method: for
    those its browser asks first, and nobody here says yes.
    """
    if request.method == "POST" and request.content_type != "application/json":
        said = {"error": "send a JSON body with the header Content-Type: application/json"}
        return web.json_response(said, status=415)
    return await handler(request)
