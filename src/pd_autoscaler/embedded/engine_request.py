"""The part of OpenAI's completions API that the simulated engine understands."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TOKENS_DEFAULT = 16
"""OpenAI's default of `max_tokens`."""

CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English; the simulated engine has no tokeniser."""


class BadRequestError(ValueError):
    """The body asks for something that this engine cannot do; the message says what."""


@dataclass(frozen=True, slots=True)
class KvSource:
    """Where a prompt's KV waits: the answer of a prompt node's engine, the request of a decoder.

    `cluster_ids` are the prompt's in rank order: each rank holds its share of the KV. `host` and
    `port` are the prompt engine's HTTP address, where the KV is given back.
    """

    engine_id: str
    cluster_ids: tuple[int, ...]
    host: str
    port: int
    request_id: str
    tokens: int

    def wire(self) -> dict[str, object]:
        """Return the `kv_transfer_params` of a prompt's answer."""
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": self.engine_id,
            # What a reader that knows nodes of one rank only looks for.
            "remote_cluster_id": self.cluster_ids[0],
            "remote_cluster_ids": list(self.cluster_ids),
            "remote_host": self.host,
            "remote_port": self.port,
            "request_id": self.request_id,
            "tokens": self.tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One request: tokens in, tokens out, and where its KV is if another node computed it."""

    model: str
    tokens_in: int
    tokens_out: int
    is_stream: bool = False
    wants_remote_decode: bool = False
    source: KvSource | None = None


def completion_of(body: object) -> Completion:
    """Read a request body, or raise BadRequestError.

    `prompt_tokens` is an extension: a count in place of a prompt of that length, so that a load
    generator need not send megabytes.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    transfer = body.get("kv_transfer_params") or {}
    if not isinstance(transfer, dict):
        raise BadRequestError("kv_transfer_params must be an object")
    if body.get("n", 1) != 1:
        raise BadRequestError("n must be 1")
    is_stream = body.get("stream", False)
    if not isinstance(is_stream, bool):
        raise BadRequestError("stream must be true or false")
    return Completion(
        model=str(body.get("model", "")),
        tokens_in=_tokens_in(body),
        tokens_out=_count(body, "max_tokens", MAX_TOKENS_DEFAULT),
        is_stream=is_stream,
        wants_remote_decode=transfer.get("do_remote_decode") is True,
        source=_source(transfer) if transfer.get("do_remote_prefill") is True else None,
    )


def _tokens_in(body: Mapping[str, Any]) -> int:
    """Return the length of the prompt in tokens."""
    if "prompt_tokens" in body:
        return _count(body, "prompt_tokens", 0)
    match body.get("prompt"):
        case str() as text if text:
            return -(-len(text) // CHARACTERS_PER_TOKEN)
        case [*ids] if ids and all(type(token) is int for token in ids):
            return len(ids)
    raise BadRequestError("prompt must be a string or a list of token ids, and not empty")


def _source(transfer: Mapping[str, Any]) -> KvSource:
    """Read where the KV is."""
    texts = {}
    for name in ("remote_engine_id", "remote_host", "request_id"):
        texts[name] = transfer.get(name)
        if not isinstance(texts[name], str) or not texts[name]:
            raise BadRequestError(f"kv_transfer_params.{name} must be a string")
    return KvSource(
        engine_id=str(texts["remote_engine_id"]),
        cluster_ids=_cluster_ids(transfer),
        host=str(texts["remote_host"]),
        port=_count(transfer, "remote_port", 0),
        request_id=str(texts["request_id"]),
        tokens=_count(transfer, "tokens", 0),
    )


def _cluster_ids(transfer: Mapping[str, Any]) -> tuple[int, ...]:
    """Read the prompt's ids by rank; a writer that knows one rank only names that one."""
    ids = transfer.get("remote_cluster_ids")
    if ids is None:
        return (_count(transfer, "remote_cluster_id", -1, least=0),)
    if not isinstance(ids, list) or not ids or not all(type(i) is int and i >= 0 for i in ids):
        raise BadRequestError("remote_cluster_ids must be a list of ids, and not empty")
    return tuple(ids)


def _count(values: Mapping[str, Any], name: str, default: int, *, least: int = 1) -> int:
    """Return a whole number of at least `least`."""
    value = values.get(name, default)
    if value is None:
        value = default
    if type(value) is not int or value < least:
        raise BadRequestError(f"{name} must be a whole number of at least {least}")
    return value
