"""Scraping: every node's own page, each under its own deadline."""

import logging
import zlib
from collections.abc import Mapping, Sequence

import aiohttp
import anyio

from pd_autoscaler.adapters.metrics.profiles.profile import Profile
from pd_autoscaler.model.node import Node
from pd_autoscaler.model.signals import Reading

log = logging.getLogger(__name__)

_HEADERS = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding": "gzip"}
# Deadlines are this module's: the session's own would end a scrape with another error.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


class ScrapeError(Exception):
    """A page that did not come; the message is what an operator reads."""


class Scraper:
    """A MetricsSource that asks each node for its page over HTTP; it never raises.

    The session is the caller's to close. The start of each scrape is delayed by up to `jitter_s`,
    always the same for one node id, so that a fleet is not asked at one instant. `deadline_s` is
    one target's time from then to its last byte, waiting for one of the `concurrency_max` slots
    included: a read takes no longer than both together. `size_max_bytes` bounds a page after
    decompression. Nodes without a metrics URL are left out.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        profile: Profile,
        *,
        deadline_s: float = 3.0,
        size_max_bytes: int = 4 * 1024 * 1024,
        concurrency_max: int = 100,
        jitter_s: float = 0.0,
    ) -> None:
        self._session = session
        self._profile = profile
        self._deadline_s = deadline_s
        self._size_max_bytes = size_max_bytes
        self._concurrency_max = concurrency_max
        self._jitter_s = jitter_s
        self._errors: dict[str, str] = {}
        self._failing_since_s: dict[str, float] = {}
        self._hung: set[str] = set()
        self._failures = 0
        self._bytes_read = 0

    @property
    def errors(self) -> Mapping[str, str]:
        """The last error of each node that did not answer the last time it was asked."""
        return dict(self._errors)

    @property
    def failures(self) -> int:
        """Scrapes that failed so far."""
        return self._failures

    @property
    def bytes_read(self) -> int:
        """Bytes of pages read so far, decompressed."""
        return self._bytes_read

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return one reading per node that answered with a readable page; others are absent."""
        asked = [node for node in nodes if node.metrics_url]
        for gone in self._errors.keys() - {node.id for node in asked}:
            del self._errors[gone], self._failing_since_s[gone]
            self._hung.discard(gone)
        # Nodes that hung the last time must not keep the slots from those that answer.
        asked.sort(key=lambda node: node.id in self._hung)
        readings: dict[str, Reading] = {}
        slots = anyio.Semaphore(self._concurrency_max)
        async with anyio.create_task_group() as group:
            for node in asked:
                group.start_soon(self._scrape, node, slots, readings, name=f"scrape {node.id}")
        return {node.id: readings[node.id] for node in nodes if node.id in readings}

    async def _scrape(
        self, node: Node, slots: anyio.Semaphore, readings: dict[str, Reading]
    ) -> None:
        await anyio.sleep(delay_s(node.id, self._jitter_s))
        never_asked = True
        try:
            with anyio.move_on_after(self._deadline_s) as deadline:
                async with slots:
                    never_asked = False
                    readings[node.id] = await self._reading(node)
                    self._hung.discard(node.id)
            if deadline.cancelled_caught:
                if not never_asked:
                    self._hung.add(node.id)
                what = "not asked" if never_asked else "no whole page"
                raise ScrapeError(f"{what} within {self._deadline_s:g} s")
        except (ScrapeError, aiohttp.ClientError, OSError, ValueError) as error:
            self._failed(node, error)
        else:
            self._worked(node)

    async def _reading(self, node: Node) -> Reading:
        page = await self._page(node.metrics_url)
        self._bytes_read += len(page)
        return self._profile.reading(
            page, node_id=node.id, role=node.role, at_s=anyio.current_time()
        )

    async def _page(self, url: str) -> bytes:
        async with self._session.get(
            url, headers=_HEADERS, allow_redirects=False, timeout=_NO_TIMEOUT
        ) as answer:
            if 300 <= answer.status < 400:
                where = answer.headers.get("Location", "nowhere")
                raise ScrapeError(f"HTTP {answer.status} to {where}; redirects are not followed")
            if answer.status != 200:
                raise ScrapeError(f"HTTP {answer.status}")
            page = bytearray()
            async for piece in answer.content.iter_any():
                page += piece
                if len(page) > self._size_max_bytes:
                    raise ScrapeError(f"page is larger than {self._size_max_bytes} bytes")
            return bytes(page)

    def _failed(self, node: Node, error: Exception) -> None:
        self._failures += 1
        self._errors[node.id] = f"{node.metrics_url}: {str(error) or type(error).__name__}"
        if node.id not in self._failing_since_s:
            self._failing_since_s[node.id] = anyio.current_time()
            log.warning("metrics of %s failing: %s", node.id, self._errors[node.id])

    def _worked(self, node: Node) -> None:
        self._errors.pop(node.id, None)
        since_s = self._failing_since_s.pop(node.id, None)
        if since_s is not None:
            log.info("metrics of %s back after %.0fs", node.id, anyio.current_time() - since_s)


def delay_s(node_id: str, jitter_s: float) -> float:
    """Return this node's share of the jitter: 0 to `jitter_s`, the same in every process."""
    return zlib.crc32(node_id.encode()) / 2**32 * jitter_s
