"""The simulated decoder engine: room, then KV over the link, then one token a step for all."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import anyio

from pd_autoscaler.embedded.engine_kv import KvBlocks
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_request import BadRequestError, Completion, KvSource
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.facts import EngineLoad


class KvPuller(Protocol):
    """What fetches a prompt's KV; see `engine_pull`."""

    async def pull(self, source: KvSource) -> None:
        """Pull and have the prompt free its copy, or raise PullError."""
        ...

    def abandon(self, source: KvSource) -> None:
        """Tell the prompt, in the background, that nobody will pull this KV."""
        ...


@dataclass(slots=True, eq=False)
class Decoding:
    """One request in the engine; `tokens` counts what it has generated so far."""

    request: Completion
    arrived_s: float
    stride: int
    tokens: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    holds_kv: bool = False
    admitted: anyio.Event = field(default_factory=anyio.Event)
    progress: anyio.Event = field(default_factory=anyio.Event)
    announced: int = 0

    @property
    def reserve(self) -> int:
        """Tokens of KV that this request may come to hold."""
        return self.request.tokens_in + self.request.tokens_out

    @property
    def is_done(self) -> bool:
        """Whether every token is there."""
        return self.tokens >= self.request.tokens_out

    def step(self) -> None:
        """Add a token; wake whoever waits at the first, at the last and once a stride."""
        self.tokens += 1
        if self.is_done or self.tokens == 1 or self.tokens - self.announced >= self.stride:
            self.announced = self.tokens
            self.progress.set()

    async def more(self, *, than: int) -> int:
        """Wait for more tokens than these, a stride at a time, and return how many there are."""
        while self.announced <= than:
            self.progress = anyio.Event()
            await self.progress.wait()
        return self.announced


class DecoderEngine:
    """Decodes in steps of the whole batch, and preempts nothing.

    KV for input and output is reserved when a request is admitted, first come, first served.
    `slowness` multiplies every step's time, `pull_delay_s` is what every pull takes longer, as over
    a link that is slow and not broken. `stride` is how many tokens a waiter is woken for.
    """

    def __init__(
        self,
        *,
        profile: EngineProfile,
        metrics: EngineMetrics,
        puller: KvPuller,
        stride: int = 8,
    ) -> None:
        self.slowness = 1.0
        self.pull_delay_s = 0.0
        self._profile = profile
        self._metrics = metrics
        self._puller = puller
        self._stride = stride
        self._kv = KvBlocks(profile)
        self._queue: deque[Decoding] = deque()
        self._pulling: list[Decoding] = []
        self._batch: list[Decoding] = []
        self._wake = anyio.Event()
        metrics.watch(self)

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return len(self._batch)

    @property
    def waiting_capacity(self) -> int:
        """Requests that wait for a place in the batch or for KV blocks."""
        return len(self._queue)

    @property
    def waiting_deferred(self) -> int:
        """Requests whose KV is on its way."""
        return len(self._pulling)

    @property
    def kv_used(self) -> float:
        """Share of KV reserved."""
        return self._kv.used

    def load(self) -> EngineLoad:
        """Return what is inside; the node is idle when all of it is zero."""
        waiting = len(self._queue) + len(self._pulling)
        return EngineLoad(waiting=waiting, running=len(self._batch), kv_unpulled=0)

    @asynccontextmanager
    async def decoding(self, request: Completion) -> AsyncIterator[Decoding]:
        """Wait for room, pull the KV, and decode for as long as the block runs.

        Raises BadRequestError for a request that can never fit and PullError when the KV does not
        come; leaving the block early drops the request.
        """
        source = request.source
        if source is None:
            raise BadRequestError("a decoder needs kv_transfer_params with do_remote_prefill")
        item = Decoding(request, anyio.current_time(), self._stride)
        if not self._kv.can_ever_hold(item.reserve):
            self._puller.abandon(source)
            raise BadRequestError(f"{item.reserve} tokens exceed this node's KV")
        await self._admitted(item, source)
        try:
            await self._pulled(item, source)
            try:
                self._batch.append(item)
                self._wake.set()
                yield item
            finally:
                if item in self._batch:
                    self._batch.remove(item)
                    self._metrics.requests_ended["abort"].inc()
        finally:
            self._free(item)

    def _free(self, item: Decoding) -> None:
        """Give a request's KV back, once, and let in who waited for it."""
        if item.holds_kv:
            item.holds_kv = False
            self._kv.give_back(item.reserve)
        self._admit()

    async def _admitted(self, item: Decoding, source: KvSource) -> None:
        """Wait in line for a place in the batch and for KV blocks."""
        self._queue.append(item)
        self._admit()
        is_in = False
        try:
            await item.admitted.wait()
            is_in = True
        finally:
            if not is_in:
                self._leave_line(item)
                self._puller.abandon(source)
                self._metrics.requests_ended["abort"].inc()
        self._metrics.queue_s.observe(anyio.current_time() - item.arrived_s)

    def _leave_line(self, item: Decoding) -> None:
        """Undo a wait that was cut short, even at the moment of admission."""
        if item in self._queue:
            self._queue.remove(item)
        else:
            self._pulling.remove(item)
        self._free(item)

    def _admit(self) -> None:
        """Let in from the head of the line whoever has room."""
        while self._queue:
            item = self._queue[0]
            inside = len(self._pulling) + len(self._batch)
            if inside >= self._profile.batch_max or not self._kv.has_room(item.reserve):
                return
            self._queue.popleft()
            self._kv.take(item.reserve)
            item.holds_kv = True
            self._pulling.append(item)
            item.admitted.set()

    async def _pulled(self, item: Decoding, source: KvSource) -> None:
        """Fetch the KV; a failure or a caller who leaves frees the prompt's copy, too."""
        ending = "abort"
        try:
            if self.pull_delay_s:
                await anyio.sleep(self.pull_delay_s)
            await self._puller.pull(source)
            ending = ""
        except Exception:
            ending = "error"
            raise
        finally:
            self._pulling.remove(item)
            if ending:
                self._puller.abandon(source)
                self._metrics.requests_ended[ending].inc()
        self._metrics.prompt_tokens.inc(item.request.tokens_in)
        source_tokens = self._metrics.prompt_tokens_by_source["external_kv_transfer"]
        source_tokens.inc(item.request.tokens_in)

    async def run(self) -> None:
        """Step for ever; cancel to stop."""
        due_s = 0.0
        while True:
            if not self._batch:
                self._wake = anyio.Event()
                await self._wake.wait()
            batch = tuple(self._batch)
            context = sum(item.request.tokens_in + item.tokens for item in batch)
            step_s = self._profile.decode_step_s(len(batch), context) * self.slowness
            # Steps follow each other without the timer's own lateness adding up; after a longer
            # stall they start anew rather than catch up.
            now_s = anyio.current_time()
            due_s = (due_s if due_s > now_s - step_s else now_s) + step_s
            await anyio.sleep_until(due_s)
            self._step(batch)

    def _step(self, batch: tuple[Decoding, ...]) -> None:
        """Give each request of the batch that is still there one token."""
        now_s = anyio.current_time()
        present = [item for item in batch if item in self._batch]
        for item in present:
            item.step()
            if item.tokens == 1:
                item.first_s = now_s
                self._metrics.first_token_s.observe(now_s - item.arrived_s)
            else:
                self._metrics.token_s.observe(now_s - item.last_s)
            item.last_s = now_s
            if item.is_done:
                self._batch.remove(item)
                self._observe(item, now_s=now_s)
                self._free(item)
        self._metrics.generation_tokens.inc(len(present))

    def _observe(self, item: Decoding, *, now_s: float) -> None:
        """Count one finished request."""
        metrics, out = self._metrics, item.request.tokens_out
        decode_s = now_s - item.first_s
        metrics.requests_ended["length"].inc()
        metrics.prefill_s.observe(0)
        metrics.decode_s.observe(decode_s)
        metrics.request_s.observe(now_s - item.arrived_s)
        metrics.mean_token_s.observe(decode_s / (out - 1) if out > 1 else 0)
        metrics.tokens_in.observe(item.request.tokens_in)
        metrics.tokens_out.observe(out)
