"""Scraping: every node's own page, each under its own deadline."""

import zlib
from collections.abc import Mapping, Sequence

import aiohttp
import anyio
from yarl import URL

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.metrics.bodies import ACCEPTED, FetchError, body_of
from pd_autoscaler.adapters.metrics.complaints import Complaints
from pd_autoscaler.adapters.metrics.connection import checked
from pd_autoscaler.adapters.metrics.faults import words
from pd_autoscaler.adapters.metrics.profiles import ProfileBook
from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Node
from pd_autoscaler.model.signals import Reading

# Text first: some engines answer OpenMetrics to whoever says that word at all.
_HEADERS = {"Accept": "text/plain;version=0.0.4;q=1,*/*;q=0.1", "Accept-Encoding": ACCEPTED}
# Deadlines are this module's: the session's own would end a scrape with another error.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REDIRECTS_MAX = 3


class Scraper:
    """A MetricsSource that asks each node for its page over HTTP; it never raises.

    The session must be one of `metrics_session`, and is the caller's to close. The start of each
    scrape is delayed by up to `jitter_s`, always the same for one node id, so that a fleet is not
    asked at one instant. `deadline_s` is one target's time from then to its last byte, waiting for
    one of the `concurrency_max` slots and redirects included: a read takes no longer than both
    together. `size_max_bytes` bounds a page, unpacked too. The `token` goes to the hosts of the
    nodes' own metrics URLs alone. Nodes without a metrics URL are left out.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        book: ProfileBook,
        *,
        deadline_s: float = 3.0,
        size_max_bytes: int = 10_000_000,
        concurrency_max: int = 100,
        jitter_s: float = 0.0,
        token: str | None = None,
    ) -> None:
        self._session = checked(session)
        self._book = book
        self._deadline_s = deadline_s
        self._size_max_bytes = size_max_bytes
        self._concurrency_max = concurrency_max
        self._jitter_s = jitter_s
        self._headers = dict(_HEADERS)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._complaints = Complaints()
        self._hung: set[str] = set()
        self._pages = self._failures = self._page_bytes = 0

    @property
    def errors(self) -> Mapping[str, str]:
        """The last error of each node that did not answer the last time it was asked."""
        return self._complaints.errors

    @property
    def scraped(self) -> Scraped:
        """What has been read so far; the bytes are those of unpacked pages."""
        return Scraped(pages=self._pages, failures=self._failures, page_bytes=self._page_bytes)

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return one reading per node that answered with a readable page; others are absent."""
        asked = [node for node in nodes if node.metrics_url]
        ids = {node.id for node in asked}
        self._complaints.keep(ids)
        self._hung &= ids
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
        is_last = node.id in self._hung
        await anyio.sleep(self._jitter_s if is_last else delay_s(node.id, self._jitter_s))
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
                raise FetchError(f"{what} within {self._deadline_s:g} s")
        except (FetchError, aiohttp.ClientError, OSError, ValueError) as error:
            self._failures += 1
            why = f"{shown(node.metrics_url)}: {words(error)}"
            self._complaints.failed(node.id, why)
        else:
            self._pages += 1
            self._complaints.worked(node.id)

    async def _reading(self, node: Node) -> Reading:
        page = await self._page(URL(node.metrics_url))
        at_s = anyio.current_time()
        self._page_bytes += len(page)
        profile = self._book.chosen(node, page)
        return profile.reading(page, node_id=node.id, role=node.role, at_s=at_s)

    async def _page(self, url: URL) -> bytes:
        for _ in range(REDIRECTS_MAX + 1):
            async with self._session.get(
                url, headers=self._headers, allow_redirects=False, timeout=_NO_TIMEOUT
            ) as answer:
                if answer.status == 200:
                    return await self._whole_page(answer)
                if answer.status not in REDIRECTS:
                    raise FetchError(f"HTTP {answer.status}{_hint(answer.status)}")
                url = followed(url, answer)
        raise FetchError(f"more than {REDIRECTS_MAX} redirects")

    async def _whole_page(self, answer: aiohttp.ClientResponse) -> bytes:
        page = await body_of(answer, size_max_bytes=self._size_max_bytes)
        is_open_metrics = answer.content_type == "application/openmetrics-text"
        if is_open_metrics and not page.rstrip(b"\n").endswith(b"# EOF"):
            raise FetchError(f"page of {len(page)} bytes is cut short: it has no # EOF")
        return page


def followed(url: URL, answer: aiohttp.ClientResponse) -> URL:
    """Return where a redirect leads on the same server, or there with TLS; FetchError elsewhere."""
    where = answer.headers.get("Location", "")
    target = url.join(URL(where))
    is_same = (target.scheme, target.port) == (url.scheme, url.port) or target.scheme == "https"
    if not where or target.host != url.host or not is_same:
        place = shown(where)[:200] or "nowhere"
        raise FetchError(f"HTTP {answer.status} to {place}; redirects elsewhere are not followed")
    # Those of the node's own URL; a Location's would be somebody else's.
    return target.with_user(url.user).with_password(url.password)


def _hint(status: int) -> str:
    return ": scrape.token is missing or not the right one" if status in {401, 403} else ""


def delay_s(node_id: str, jitter_s: float) -> float:
    """Return this node's share of the jitter: 0 to `jitter_s`, the same in every process."""
    return zlib.crc32(node_id.encode()) / 2**32 * jitter_s
