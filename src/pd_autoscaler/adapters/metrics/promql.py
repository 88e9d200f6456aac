"""A Prometheus as the source of metrics: a few questions a cycle instead of a page per node."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import anyio
import anyio.lowlevel

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.metrics.bodies import ACCEPTED, FetchError, body_of
from pd_autoscaler.adapters.metrics.complaints import Complaints
from pd_autoscaler.adapters.metrics.connection import checked
from pd_autoscaler.adapters.metrics.faults import words
from pd_autoscaler.adapters.metrics.node_labels import NodeLabels
from pd_autoscaler.adapters.metrics.profiles import Profile, ProfileBook
from pd_autoscaler.adapters.metrics.promql_answer import (
    AnswerError,
    Found,
    Sorter,
    cover,
    result_of,
    rows_of,
)
from pd_autoscaler.adapters.metrics.promql_query import Question, batches, matchers_text
from pd_autoscaler.model.facts import Scraped
from pd_autoscaler.model.node import Node, Role
from pd_autoscaler.model.signals import Reading

ROWS_AT_ONCE = 500
"""Rows that are sorted in one go: a few ms, and then whatever else waits has its turn."""

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)
_ANSWERED = frozenset({200, 400, 422, 503})
"""What the API answers with JSON that says what is wrong (prometheus/docs querying/api.md)."""

_WRONG_TOKEN = "scrape.promql.token is missing or not the right one"  # noqa: S105


@dataclass(frozen=True, slots=True)
class _Read:
    """One read: `slots` bound the questions under way, and `turn` is had by who has an answer.

    Reading an answer is work of this process: two at a time would only make each step longer.
    """

    labels: NodeLabels
    slots: anyio.Semaphore
    readings: dict[str, Reading] = field(default_factory=dict)
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class PromqlSource:
    """A MetricsSource that asks a Prometheus for the series that the engines' pages hold.

    It never raises. What is asked for is what `profiles` may read, those of the book. A reading's
    `at_s` is when Prometheus sampled the page: its age by the server's own clock, counted from
    when the question was sent. A sample that comes again is given the time it was given before.
    `deadline_s` bounds a read, `size_max_bytes` each answer; the session must be one of
    `metrics_session`, and is the caller's to close.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        book: ProfileBook,
        *,
        url: str,
        profiles: Iterable[Profile],
        node_label: str = "instance",
        matchers: Mapping[str, str] | None = None,
        token: str | None = None,
        deadline_s: float = 3.0,
        size_max_bytes: int = 10_000_000,
        concurrency_max: int = 4,
    ) -> None:
        self._session = checked(session)
        self._book = book
        self._url = url.rstrip("/")
        self._shown = shown(self._url)
        self._wanted = _wanted_of(profiles)
        self._node_label = node_label
        self._matchers = dict(matchers or {})
        self._headers = {"Accept-Encoding": ACCEPTED}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._deadline_s = deadline_s
        self._too_late = f"no whole answer within {deadline_s:g} s"
        self._size_max_bytes = size_max_bytes
        self._concurrency_max = concurrency_max
        self._server = Complaints("Prometheus")
        self._nodes = Complaints()
        self._unasked: dict[str, str] = {}
        self._dated_by: set[str] = set()
        self._given: dict[str, tuple[float, float]] = {}
        self._series: dict[str, int] = {}
        self._sorter = Sorter(node_label)
        self._pages = self._failures = self._answer_bytes = 0

    @property
    def errors(self) -> Mapping[str, str]:
        """Why each node that was absent the last time was absent."""
        unasked = {node_id: f"{self._shown}: {why}" for node_id, why in self._unasked.items()}
        return {**self._nodes.errors, **unasked}

    @property
    def scraped(self) -> Scraped:
        """What has been read so far: nodes, nodes asked for in vain, and bytes of answers."""
        return Scraped(pages=self._pages, failures=self._failures, page_bytes=self._answer_bytes)

    async def read(self, nodes: Sequence[Node]) -> Mapping[str, Reading]:
        """Return one reading per node that Prometheus has a page of; others are absent."""
        asked = [node for node in nodes if node.metrics_url]
        ids = {node.id for node in asked}
        self._nodes.keep(ids)
        self._given = {i: given for i, given in self._given.items() if i in ids}
        self._series = {i: count for i, count in self._series.items() if i in ids}
        self._unasked = dict.fromkeys(ids, self._too_late)
        now = _Read(NodeLabels(asked), anyio.Semaphore(self._concurrency_max))
        parts = list(batches(asked, self._series))
        with anyio.move_on_after(self._deadline_s):
            async with anyio.create_task_group() as group:
                for batch in parts:
                    group.start_soon(self._read_batch, batch, now)
        if self._unasked:
            if len(self._unasked) == len(ids):
                # It is down as a whole: what a question of theirs met by chance is not their own.
                self._unasked = dict.fromkeys(ids, self._first_why())
            self._server.failed(self._shown, self._first_why())
        elif asked:
            self._server.worked(self._shown)
        self._pages += len(now.readings)
        self._failures += len(ids) - len(now.readings)
        return {node.id: now.readings[node.id] for node in asked if node.id in now.readings}

    def _first_why(self) -> str:
        """Return why the server was not asked; an error says more than that time was over."""
        whys = self._unasked.values()
        return next((why for why in whys if why != self._too_late), self._too_late)

    async def _read_batch(self, batch: Sequence[Node], now: _Read) -> None:
        async with now.slots:
            try:
                found, sent_s = await self._found(batch, now)
            except (FetchError, aiohttp.ClientError, OSError, ValueError) as error:
                self._unasked |= dict.fromkeys((node.id for node in batch), words(error))
                return
            async with now.turn:
                for node in batch:
                    await anyio.lowlevel.checkpoint()
                    self._read_node(node, found.get(node.id), now, sent_s)

    def _read_node(self, node: Node, of: Found | None, now: _Read, sent_s: float) -> None:
        self._unasked.pop(node.id, None)
        if of is not None and of.samples:
            self._series[node.id] = len(of.samples)
        try:
            now.readings[node.id] = self._reading(node, of, now.labels, sent_s)
        except (FetchError, ValueError) as error:
            self._nodes.failed(node.id, f"{self._shown}: {error}")
        else:
            self._nodes.worked(node.id)

    async def _found(self, batch: Sequence[Node], now: _Read) -> tuple[dict[str, Found], float]:
        """Ask, and once more if some node has series that nothing asked the time of."""
        question = Question(
            names=self._wanted[batch[0].role],
            node_label=self._node_label,
            node_values=[value for node in batch for value in now.labels.of(node.id)],
            matchers=self._matchers,
        )
        sent_s = anyio.current_time()
        found = await self._ask(question, now)
        undated = [of for of in found.values() if of.sampled_s is None]
        if undated:
            self._dated_by |= cover(undated)
            sent_s = anyio.current_time()
            found = await self._ask(question, now)
        return found, sent_s

    async def _ask(self, question: Question, now: _Read) -> dict[str, Found]:
        form = {
            "query": question.expression(self._dated_by & set(question.names)),
            "timeout": f"{self._deadline_s:g}",
        }
        async with self._session.post(
            f"{self._url}/api/v1/query",
            data=form,
            headers=self._headers,
            allow_redirects=False,
            timeout=_NO_TIMEOUT,
        ) as answer:
            if answer.status in {401, 403}:
                raise FetchError(f"HTTP {answer.status}: {_WRONG_TOKEN}")
            if 300 <= answer.status < 400:
                where = shown(answer.headers.get("Location", "nowhere"))[:200]
                raise FetchError(f"HTTP {answer.status} to {where}; redirects are not followed")
            if answer.status not in _ANSWERED:
                raise FetchError(f"HTTP {answer.status}")
            body = await body_of(answer, size_max_bytes=self._size_max_bytes)
        self._answer_bytes += len(body)
        try:
            return await self._sorted(body, now)
        except AnswerError as error:
            raise FetchError(f"HTTP {answer.status}: {error}") from error

    async def _sorted(self, body: bytes, now: _Read) -> dict[str, Found]:
        """Read an answer by steps, between which everything else of this process goes on."""
        found: dict[str, Found] = {}
        async with now.turn:
            result = result_of(body)
            for start in range(0, len(result), ROWS_AT_ONCE):
                await anyio.lowlevel.checkpoint()
                rows = rows_of(result[start : start + ROWS_AT_ONCE])
                self._sorter.sort(rows, now.labels, found)
        return found

    def _reading(self, node: Node, of: Found | None, labels: NodeLabels, sent_s: float) -> Reading:
        if of is None or not of.samples:
            raise FetchError(self._none_of(labels.of(node.id)))
        if of.twice:
            # The same page twice: every count would be twice what it is.
            jobs = " and ".join(sorted(of.twice))
            raise FetchError(f"series of the jobs {jobs}; choose one by scrape.promql.matchers")
        at_s = self._at_s(node.id, of, sent_s)
        profile = self._book.chosen_for(node, {series.name for series, _ in of.samples})
        return profile.reading_of(of.samples, node_id=node.id, role=node.role, at_s=at_s)

    def _none_of(self, names: Sequence[str]) -> str:
        """Say which series there are none of; those of another job may well be there."""
        told = f"no series whose {self._node_label} is {' or '.join(names)}"
        if not self._matchers:
            return told
        return f"{told} and that match {matchers_text(self._matchers)} (scrape.promql.matchers)"

    def _at_s(self, node_id: str, of: Found, sent_s: float) -> float:
        """Return when a page was sampled, by the clock of this process."""
        if of.sampled_s is None:
            raise FetchError("series whose time is not known")
        age_s = of.evaluated_s - of.sampled_s
        if not math.isfinite(age_s):
            raise FetchError(f"series that are said to be {age_s} s old")
        sampled_s, at_s = self._given.get(node_id, (math.nan, 0.0))
        if sampled_s != of.sampled_s:
            at_s = sent_s - max(0.0, age_s)
            self._given[node_id] = (of.sampled_s, at_s)
        return at_s


def _wanted_of(profiles: Iterable[Profile]) -> Mapping[Role, frozenset[str]]:
    """Return what to ask for: what is read, and what engines are told apart by."""
    every = list(profiles)
    return {
        role: frozenset().union(*(p.wanted_by(role) | p.signature for p in every)) for role in Role
    }
