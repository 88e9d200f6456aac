"""The bodies of answers: read whole, unpacked here, and never more than they may be large."""

import zlib
from typing import Protocol

import aiohttp

_ANY_HEADER = zlib.MAX_WBITS | 32
"""gzip or zlib, as the first bytes say."""

ACCEPTED = "gzip"
"""What to ask for as Accept-Encoding."""


class FetchError(Exception):
    """Something that did not come as it should; the message is what an operator reads."""


class _Unpacker(Protocol):
    def more(self, piece: bytes, room: int) -> bytes:
        """Return what a piece unpacks to, at most `room` bytes."""
        ...

    def end(self) -> None:
        """Raise FetchError if more should have come."""
        ...


async def body_of(answer: aiohttp.ClientResponse, *, size_max_bytes: int) -> bytes:
    """Return an answer's unpacked body; its session must leave the unpacking to this.

    Raises FetchError on one that is larger than `size_max_bytes`, packed or unpacked, as soon as
    that is known, on one that is cut short and on a packing that was not asked for.
    """
    packing = answer.headers.get("Content-Encoding", "").strip().lower()
    unpacker = _unpacker(packing)
    body, taken = bytearray(), 0
    async for piece in answer.content.iter_any():
        taken += len(piece)
        body += unpacker.more(piece, size_max_bytes + 1 - len(body))
        if max(taken, len(body)) > size_max_bytes:
            raise FetchError(f"answer is larger than {size_max_bytes} bytes")
    if taken:
        unpacker.end()
    return bytes(body)


def _unpacker(packing: str) -> _Unpacker:
    if packing in {"", "identity"}:
        return _Plain()
    if packing in {"gzip", "x-gzip", "deflate"}:
        return _Inflated()
    raise FetchError(f"answer is packed as {packing[:40]!r}, which was not asked for")


class _Plain:
    def more(self, piece: bytes, _room: int) -> bytes:
        return piece

    def end(self) -> None:
        pass


class _Inflated:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_ANY_HEADER)

    def more(self, piece: bytes, room: int) -> bytes:
        try:
            unpacked = self._stream.decompress(piece, room)
        except zlib.error as error:
            raise FetchError(f"answer cannot be unpacked: {error}") from error
        if self._stream.unused_data:
            raise FetchError("answer goes on after the end of its compressed data")
        return unpacked

    def end(self) -> None:
        if not self._stream.eof:
            raise FetchError("answer is cut short: its compressed data has no end")
