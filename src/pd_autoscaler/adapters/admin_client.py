"""The admin API as the command line asks it; an error tells whose it is."""

import json
import os
import types
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import aiohttp

from pd_autoscaler.errors import ConfigError, OutcomeUnknownError, PermanentError, TransientError

ANSWER_BYTES_MAX = 64 * 2**20

Json = dict[str, Any]


class AdminClient:
    """The admin API at `url`; use it as an async context manager.

    Every question raises ConfigError where the daemon refused what it was given (400, 401, 403,
    404, 413, 415), TransientError where it did not answer or is not ready, OutcomeUnknownError
    where a command was sent and no answer came within `timeout_s`, PermanentError for anything
    else.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 10.0) -> None:
        self._url = _checked(url)
        self._timeout_s = timeout_s
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout_s), headers=self._headers
        )
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: types.TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def state(self) -> Json:
        """Return GET /v1/state."""
        return await self._ask("GET", "/v1/state")

    async def links(self) -> Json:
        """Return GET /v1/links."""
        return await self._ask("GET", "/v1/links")

    async def history(self, *, limit: int) -> Json:
        """Return GET /v1/history."""
        return await self._ask("GET", f"/v1/history?limit={limit}")

    async def explain(self, **asked: str) -> Json:
        """Return GET /v1/explain for `decoder` and `prompt`, for `node`, or for what is not up."""
        return await self._ask("GET", f"/v1/explain?{urlencode(asked)}")

    async def pause(self, *, everything: bool) -> Json:
        """Keep the target, or with `everything` take no action at all; return the mode."""
        return await self._ask("POST", "/v1/pause", {"all": everything})

    async def resume(self) -> Json:
        """Let the policy decide again; return the mode."""
        return await self._ask("POST", "/v1/resume", {})

    async def scale(self, *, prompt: int, decoder: int) -> Json:
        """Set the standing target and pause the policy; return the target."""
        return await self._ask("POST", "/v1/target", {"prompt": prompt, "decoder": decoder})

    async def drain(self, node_id: str) -> Json:
        """Take a node out, its replacement first."""
        return await self._ask("POST", "/v1/drain", {"node": node_id})

    async def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        if self._session is None:
            raise PermanentError("the admin client was asked outside its async with block")
        try:
            async with self._session.request(
                method, f"{self._url}{path}", json=body, allow_redirects=False
            ) as answer:
                return self._understood(answer.status, await _text(answer), path)
        except aiohttp.ClientConnectorError as error:
            raise TransientError(self._nobody(_reason(error))) from error
        except TimeoutError as error:
            raise self._silent(method, path, f"no answer within {self._timeout_s:g}s") from error
        except aiohttp.ClientError as error:
            raise self._silent(method, path, str(error) or type(error).__name__) from error

    def _understood(self, status: int, text: bytes, path: str) -> Json:
        data = _object(text)
        if status == 200 and data is not None:
            return data
        said = data.get("error") if data is not None else None
        if not isinstance(said, str):
            raise PermanentError(
                f"{self._url}{path} answered HTTP {status} and not as the admin API does; "
                "is it the daemon's admin address? (--url or PD_AUTOSCALER_URL)"
            )
        if status in {400, 401, 403, 404, 413, 415}:
            raise ConfigError(said)
        if status in {503, 429}:
            raise TransientError(said)
        if status == 504:
            raise OutcomeUnknownError(said)
        raise PermanentError(said)

    def _silent(self, method: str, path: str, why: str) -> TransientError | OutcomeUnknownError:
        if method == "GET":
            return TransientError(self._nobody(why))
        return OutcomeUnknownError(
            f"{path} was sent to {self._url} and may have happened ({why}); "
            "look at 'pd-autoscaler status' before you ask again"
        )

    def _nobody(self, why: str) -> str:
        return (
            f"no daemon answers at {self._url} ({why}); "
            "start it with 'pd-autoscaler run', or give its address by --url or PD_AUTOSCALER_URL"
        )


def _reason(error: aiohttp.ClientConnectorError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


async def _text(answer: aiohttp.ClientResponse) -> bytes:
    text = bytearray()
    async for chunk in answer.content.iter_chunked(2**16):
        text += chunk
        if len(text) > ANSWER_BYTES_MAX:
            raise PermanentError(f"{answer.url} answered with more than {ANSWER_BYTES_MAX} bytes")
    return bytes(text)


def _object(text: bytes) -> Json | None:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ConfigError(
            f"{url!r} is not the address of a daemon; give one as http://127.0.0.1:8080 "
            "(--url or PD_AUTOSCALER_URL)"
        )
    return url.rstrip("/")
