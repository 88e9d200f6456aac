"""The simulated prompt engine: one batch at a time, KV held until a decoder has pulled it."""

import logging
from collections import deque
from dataclasses import dataclass, field

import anyio

from pd_autoscaler.embedded.engine_kv import KvBlocks
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_request import BadRequestError, Completion
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.facts import EngineLoad

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Prefill:
    """One request on its way through the engine."""

    request_id: str
    tokens: int
    arrived_s: float
    done: anyio.Event = field(default_factory=anyio.Event)
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class _Held:
    """KV that no decoder has pulled yet."""

    tokens: int
    expires_s: float


class PromptEngine:
    """Prefills first come, first served, in batches up to a budget of tokens.

    A request's KV stays until `release` or until the profile's `kv_hold_s` is over; without room
    for the request at the head the queue waits, so slow decoders make this queue grow.
    `slowness` multiplies every step's time.
    """

    def __init__(self, *, engine_id: str, profile: EngineProfile, metrics: EngineMetrics) -> None:
        self.slowness = 1.0
        self.expired = 0
        self._engine_id = engine_id
        self._profile = profile
        self._metrics = metrics
        self._kv = KvBlocks(profile)
        self._queue: deque[_Prefill] = deque()
        self._batch: tuple[_Prefill, ...] = ()
        self._held: dict[str, _Held] = {}
        self._wake = anyio.Event()
        self._count = 0
        metrics.watch(self)

    @property
    def running(self) -> int:
        """Requests in prefill."""
        return len(self._batch)

    @property
    def waiting_capacity(self) -> int:
        """Requests that wait for the batch or for KV."""
        return len(self._queue)

    @property
    def waiting_deferred(self) -> int:
        """Nothing on a prompt node waits for another node's KV."""
        return 0

    @property
    def kv_used(self) -> float:
        """Share of KV in use, what is held for decoders included."""
        return self._kv.used

    def load(self) -> EngineLoad:
        """Return what is inside; the node is idle when all of it is zero."""
        return EngineLoad(
            waiting=len(self._queue), running=len(self._batch), kv_unpulled=len(self._held)
        )

    async def prefill(self, request: Completion) -> str:
        """Compute a prompt's KV and hold it; return the id under which it is released.

        Raises BadRequestError for a prompt that can never fit. When the caller is cancelled, the
        request and its KV are dropped.
        """
        if not self._kv.can_ever_hold(request.tokens_in):
            raise BadRequestError(f"{request.tokens_in} tokens exceed this node's KV")
        self._count += 1
        item = _Prefill(f"{self._engine_id}-{self._count}", request.tokens_in, anyio.current_time())
        self._queue.append(item)
        self._wake.set()
        is_answered = False
        try:
            await item.done.wait()
            is_answered = True
        finally:
            if not is_answered:
                self._drop(item)
        return item.request_id

    def release(self, request_id: str) -> bool:
        """Free the KV of a request that was pulled; False if it is not (or no longer) held."""
        held = self._held.pop(request_id, None)
        if held is None:
            return False
        self._kv.give_back(held.tokens)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Prefill for ever; cancel to stop."""
        while True:
            self._expire()
            batch = self._next_batch()
            if batch:
                await self._compute(batch)
            else:
                await self._wait()

    def _next_batch(self) -> tuple[_Prefill, ...]:
        """Take from the head of the queue what fits into the budget and into KV."""
        batch: list[_Prefill] = []
        tokens = 0
        while self._queue:
            item = self._queue[0]
            is_over = tokens + item.tokens > self._profile.prefill_tokens_max
            # A prompt longer than the whole budget goes alone.
            if (batch and is_over) or not self._kv.has_room(item.tokens):
                break
            self._kv.take(item.tokens)
            tokens += item.tokens
            batch.append(self._queue.popleft())
        return tuple(batch)

    async def _compute(self, batch: tuple[_Prefill, ...]) -> None:
        """Prefill one batch and hold its KV."""
        began_s = anyio.current_time()
        self._batch = batch
        tokens = sum(item.tokens for item in batch)
        squares = sum(item.tokens**2 for item in batch)
        await anyio.sleep(self._profile.prefill_s(tokens, squares) * self.slowness)
        self._batch = ()
        now_s = anyio.current_time()
        for item in batch:
            if item.is_gone:
                self._kv.give_back(item.tokens)
                continue
            self._held[item.request_id] = _Held(item.tokens, now_s + self._profile.kv_hold_s)
            self._observe(item, began_s=began_s, now_s=now_s)
            item.done.set()

    def _observe(self, item: _Prefill, *, began_s: float, now_s: float) -> None:
        """Count one finished prefill, as vLLM counts a request of one output token."""
        metrics = self._metrics
        metrics.prompt_tokens.inc(item.tokens)
        metrics.prompt_tokens_by_source["local_compute"].inc(item.tokens)
        metrics.generation_tokens.inc()
        metrics.requests_ended["length"].inc()
        metrics.first_token_s.observe(now_s - item.arrived_s)
        metrics.queue_s.observe(began_s - item.arrived_s)
        metrics.prefill_s.observe(now_s - began_s)
        metrics.decode_s.observe(0)
        metrics.request_s.observe(now_s - item.arrived_s)
        metrics.mean_token_s.observe(0)
        metrics.tokens_in.observe(item.tokens)
        metrics.tokens_out.observe(1)

    def _drop(self, item: _Prefill) -> None:
        """Forget a request whose caller is gone."""
        item.is_gone = True
        if item in self._queue:
            self._queue.remove(item)
            self._metrics.requests_ended["abort"].inc()
        elif not self.release(item.request_id):
            # Still in the batch: its KV is given back when the batch ends.
            self._metrics.requests_ended["abort"].inc()
        self._wake.set()

    def _expire(self) -> None:
        """Free KV that nobody pulled in time; holds are in order of their expiry."""
        now_s = anyio.current_time()
        while self._held:
            request_id, held = next(iter(self._held.items()))
            if held.expires_s > now_s:
                break
            self.release(request_id)
            self.expired += 1
            log.warning("%s was never pulled; its KV is freed", request_id)

    async def _wait(self) -> None:
        """Wait until something changed or the oldest hold expires."""
        oldest = next(iter(self._held.values()), None)
        left_s = None if oldest is None else max(oldest.expires_s - anyio.current_time(), 0)
        with anyio.move_on_after(left_s):
            await self._wake.wait()
        self._wake = anyio.Event()
