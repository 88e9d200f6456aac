"""One request to the router and its answer, measured from the client's side."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import anyio
from aiohttp.http_exceptions import HttpProcessingError

from pd_autoscaler.workload.request import Request

_BODY_MAX_BYTES = 65_536
_TEXT_MAX = 100
CLIENT = "client"
"""The stage of failures that no server named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """An answer that came whole; seconds. `tpot_s` is None where all tokens came at once."""

    ttft_s: float
    tpot_s: float | None
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An answer that did not come whole; times are monotonic seconds.

    `stage`, `code`, `node_id` (that failed it) and `prompt_id` (that holds its KV) are the router's
    words; the ids are empty where it said none.
    """

    sent_at_s: float
    failed_at_s: float
    stage: str
    code: str
    node_id: str = ""
    prompt_id: str = ""


class _BrokenError(Exception):
    """A server gave an error instead of an answer, or ended its answer too early."""

    def __init__(self, stage: str, code: str, said: Mapping[str, Any] | None = None) -> None:
        super().__init__(code)
        self.stage, self.code = stage, code
        self.node_id, self.prompt_id = (
            _text((said or {}).get(k)) for k in ("node_id", "prompt_id")
        )


async def exchanged(
    session: aiohttp.ClientSession, url: str, request: Request, *, due_s: float, limit_s: float
) -> Served | Failure:
    """Send a request and read its stream; every way in which that can fail is a Failure.

    Times count from `due_s`, when the request should have been sent: a late sender hides nothing.
    An answer that is not whole after `limit_s` seconds has failed.
    """
    sent_at_s = anyio.current_time()
    body = {
        "prompt_tokens": request.input_tokens,
        "max_tokens": request.output_tokens,
        "stream": True,
    }
    broken: _BrokenError
    try:
        with anyio.fail_after(limit_s):
            async with session.post(url, json=body) as response:
                if response.status != 200:
                    raise await _refused(response)
                return await _streamed(response, due_s=due_s)
    except _BrokenError as error:
        broken = error
    except aiohttp.ClientConnectorError:
        broken = _BrokenError(CLIENT, "router_unreachable")
    except TimeoutError:
        broken = _BrokenError(CLIENT, "no_whole_answer_in_time")
    except (aiohttp.ClientError, OSError):
        broken = _BrokenError(CLIENT, "broken_stream")
    return Failure(
        sent_at_s=sent_at_s,
        failed_at_s=anyio.current_time(),
        stage=broken.stage,
        code=broken.code,
        node_id=broken.node_id,
        prompt_id=broken.prompt_id,
    )


async def _refused(response: aiohttp.ClientResponse) -> _BrokenError:
    try:
        said = json.loads(await response.content.read(_BODY_MAX_BYTES))
    except (ValueError, RecursionError):
        said = None
    return _error_of(said, code=f"http_{response.status}")


def _error_of(said: object, *, code: str) -> _BrokenError:
    """Read an error object, flat or under the key `error`; `code` where it has none of its own."""
    inner = said.get("error") if isinstance(said, dict) else None
    fields = inner if isinstance(inner, dict) else said
    if not isinstance(fields, dict):
        return _BrokenError(CLIENT, code)
    return _BrokenError(
        _text(fields.get("stage")) or CLIENT, _text(fields.get("code")) or code, fields
    )


def _text(value: object) -> str:
    return str(value)[:_TEXT_MAX] if isinstance(value, str | int) else ""


async def _streamed(response: aiohttp.ClientResponse, *, due_s: float) -> Served:
    """Read server-sent events up to `[DONE]`; an event may hold several tokens."""
    first_at_s = last_at_s = 0.0
    first = tokens = 0
    try:
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line.removeprefix(b"data:").strip()
            if data == b"[DONE]":
                break
            more = _tokens_of(json.loads(data))
            if more:
                last_at_s = anyio.current_time()
            if not tokens:
                first, first_at_s = more, last_at_s
            tokens += more
        else:
            # An end without its mark; the router's header says who was to give the answer.
            decoder = {"node_id": response.headers.get("X-Decoder-Node", "")}
            raise _BrokenError("decode", "broken_stream", decoder)
    except (ValueError, RecursionError, HttpProcessingError) as error:
        # No JSON, or a line without end.
        raise _BrokenError(CLIENT, "unreadable_stream") from error
    if not tokens:
        raise _BrokenError(CLIENT, "no_token")
    rest = tokens - first
    tpot_s = (last_at_s - first_at_s) / rest if rest else None
    return Served(ttft_s=first_at_s - due_s, tpot_s=tpot_s, tokens=tokens)


def _tokens_of(event: object) -> int:
    """Count an event's tokens: as it says itself, else the words of its choices."""
    if not isinstance(event, dict):
        raise ValueError("an event is not an object")
    if "error" in event:
        raise _error_of(event, code="broken_stream")
    said = event.get("tokens")
    if isinstance(said, int) and said >= 0:
        return said
    choices = event.get("choices")
    texts = [c.get("text") for c in choices or () if isinstance(c, dict)]
    return sum(max(1, len(text.split())) for text in texts if isinstance(text, str) and text)
