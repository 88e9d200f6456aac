"""Who may write, what a browser may do, and how every refusal looks."""

import hmac
import ipaddress
import json
import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from pd_autoscaler.errors import (
    ConfigError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)

log = logging.getLogger(__name__)

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class RefusedError(Exception):
    """An answer that is not 2xx: its status, and one sentence that names the value and the fix."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status = status
        self.headers = headers or {}


def as_json(
    data: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return an answer that no cache keeps."""
    return web.Response(
        text=json.dumps(data, allow_nan=False, separators=(",", ":")),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as `{"error": one sentence}` with the status that fits it."""
    try:
        return await handler(request)
    except RefusedError as refusal:
        return _refused(refusal.status, str(refusal), refusal.headers)
    except web.HTTPException as error:
        return _refused(error.status, _sentence(error, request), _kept(error))
    except ConfigError as error:
        return _refused(400, str(error))
    except PermanentError as error:
        return _refused(409, str(error))
    except TransientError as error:
        return _refused(503, str(error), {"Retry-After": "1"})
    except OutcomeUnknownError as error:
        return _refused(504, str(error))
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return _refused(500, f"{request.path}: an unexpected error; the daemon's log has it")


def guarded_writes(token: str | None) -> Middleware:
    """Return the middleware that lets only those write who may.

    With a token, its bearer. Without one, this machine alone, and not through a name: a web page
    whose name was pointed at loopback (DNS rebinding) would pass for the same origin. JSON alone
    is taken, because a form of a foreign page can send anything else without asking first.
    """
    expected = None if token is None else f"Bearer {token}".encode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD", "OPTIONS"}:
            if expected is None:
                _require_this_machine(request)
            else:
                _require_token(request, expected)
            _require_json(request)
        return await handler(request)

    return guard


async def secure(_request: web.Request, response: web.StreamResponse) -> None:
    """Put the security headers on every answer."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def _require_token(request: web.Request, expected: bytes) -> None:
    given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(given, expected):
        what = "a wrong bearer token" if given else "no bearer token"
        raise RefusedError(
            401,
            f"{request.path} was asked with {what}; send the daemon's admin token as "
            "'Authorization: Bearer TOKEN' (pd-autoscaler: --token or PD_AUTOSCALER_TOKEN)",
            {"WWW-Authenticate": 'Bearer realm="pd-autoscaler"'},
        )


def _require_this_machine(request: web.Request) -> None:
    if not _is_loopback(request.remote or "") or not _is_loopback(_host_of(request.host)):
        raise RefusedError(
            403,
            f"{request.path} was asked by {request.remote} for host {request.host!r}; without an "
            "admin token only this machine may write, by a loopback address: set admin.token",
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise RefusedError(
            403, f"{request.path} was asked by a page of {origin!r}; ask from the daemon's own page"
        )


def _require_json(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise RefusedError(
            415,
            f"{request.path} takes JSON alone and was sent {request.content_type!r}; "
            "send 'Content-Type: application/json'",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_of(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _sentence(error: web.HTTPException, request: web.Request) -> str:
    if isinstance(error, web.HTTPNotFound):
        return f"{request.path} is not known here; GET / is the page, GET /v1/state the state"
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        return f"{request.path} does not take {error.method}; use {allowed}"
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"{request.path} was sent too large a body; a command is a few dozen bytes"
    return f"{request.path}: {error.reason}"


def _kept(error: web.HTTPException) -> dict[str, str]:
    return {name: error.headers[name] for name in ("Allow",) if name in error.headers}


def _refused(status: int, error: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return as_json({"error": error}, status=status, headers=headers)
