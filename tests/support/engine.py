"""Simulated engines in this process, over real HTTP, with steps of milliseconds."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import anyio
import anyio.lowlevel
from aiohttp import web
from anyio.abc import TaskGroup

from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.embedded.engine_decoder import DecoderEngine
from pd_autoscaler.embedded.engine_http import (
    Identity,
    add_release,
    decoder_completion,
    engine_app,
    prompt_completion,
)
from pd_autoscaler.embedded.engine_listen import LOOPBACK, bound_socket, listening
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_prompt import PromptEngine
from pd_autoscaler.embedded.engine_pull import LinkPuller
from pd_autoscaler.embedded.engine_request import KvSource
from pd_autoscaler.engine_model.profile import DEMO, EngineProfile, profile_of
from pd_autoscaler.ports import Workers
from pd_autoscaler.threads import Threads

TINY = profile_of(
    {
        "name": "tiny",
        "prefill_points": [[1, 0.002], [1000, 0.003]],
        "prefill_tokens_max": 100,
        "decode_base_s": 0.001,
        "decode_per_request_s": 0.0,
        "decode_per_token_s": 0.0,
        "batch_max": 4,
        "kv_tokens": 320,
        "kv_block_tokens": 16,
        "kv_bytes_per_token": 16,
        "kv_hold_s": 600.0,
        "start_s": 0.0,
    },
    DEMO,
)
"""Twenty blocks of KV, batches of 100 prompt tokens, four requests in a decoder."""


T = TypeVar("T")


class FailingWorkers:
    """Runs nothing, and says why."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def run(self, work: Callable[[], T], *, deadline_s: float) -> T:
        raise self._error


class Link:
    """Stands in for the library: linked or not, and may hold pulls up."""

    def __init__(self) -> None:
        self.is_linked = True
        self.pulled: list[str] = []
        self.fails: Callable[[KvSource], Exception | None] = lambda _: None

    def pull_blocks(self, source: KvSource) -> None:
        if not self.is_linked:
            raise DataDistError(
                f"cluster {source.cluster_ids[0]} is not linked", "LLM_NOT_YET_LINK"
            )
        error = self.fails(source)
        if error is not None:
            raise error
        self.pulled.append(source.request_id)


@dataclass
class Served:
    """An engine and where it listens."""

    node_id: str
    url: str
    engine: PromptEngine | DecoderEngine
    metrics: EngineMetrics
    link: Link = field(default_factory=Link)

    @property
    def prompt(self) -> PromptEngine:
        assert isinstance(self.engine, PromptEngine)
        return self.engine

    @property
    def decoder(self) -> DecoderEngine:
        assert isinstance(self.engine, DecoderEngine)
        return self.engine


class Bench:
    """Starts engines and ends them together; `session` is a client."""

    def __init__(
        self, stack: AsyncExitStack, session: aiohttp.ClientSession, group: TaskGroup
    ) -> None:
        self.session = session
        self._stack = stack
        self._group = group

    async def prompt(
        self, profile: EngineProfile = TINY, *, node_id: str = "p1", cluster_id: int = 1
    ) -> Served:
        identity = Identity(node_id, (cluster_id,), LOOPBACK, 0, "tiny")
        metrics = EngineMetrics(profile, model="tiny", length_max=4096)
        engine = PromptEngine(engine_id=node_id, profile=profile, metrics=metrics)
        app = engine_app(identity, metrics, prompt_completion(engine, identity))
        add_release(app, engine)
        url = await self._serve(app, identity)
        self._group.start_soon(engine.run)
        return Served(node_id, url, engine, metrics)

    async def decoder(
        self,
        profile: EngineProfile = TINY,
        *,
        node_id: str = "d1",
        cluster_id: int = 101,
        stride: int = 1,
        workers: Workers | None = None,
    ) -> Served:
        link = Link()
        puller = LinkPuller(
            link.pull_blocks,
            workers=workers or Threads("kv-pull", profile.batch_max),
            session=self.session,
            group=self._group,
        )
        identity = Identity(node_id, (cluster_id,), LOOPBACK, 0, "tiny")
        metrics = EngineMetrics(profile, model="tiny", length_max=4096)
        engine = DecoderEngine(profile=profile, metrics=metrics, puller=puller, stride=stride)
        app = engine_app(identity, metrics, decoder_completion(engine, identity))
        url = await self._serve(app, identity)
        self._group.start_soon(engine.run)
        return Served(node_id, url, engine, metrics, link)

    async def _serve(self, app: web.Application, identity: Identity) -> str:
        identity.port = await self._stack.enter_async_context(listening(app, bound_socket()))
        return f"http://{LOOPBACK}:{identity.port}"

    async def post(self, url: str, **body: object) -> tuple[int, dict[str, object]]:
        """Send a completion request and read the JSON answer."""
        async with self.session.post(f"{url}/v1/completions", json=body) as answer:
            return answer.status, await answer.json()

    async def prefilled(self, prompt: Served, tokens: int) -> dict[str, object]:
        """Have a prompt computed and return its kv_transfer_params."""
        status, body = await self.post(
            prompt.url,
            prompt_tokens=tokens,
            max_tokens=1,
            kv_transfer_params={"do_remote_decode": True},
        )
        assert status == 200, body
        transfer = body["kv_transfer_params"]
        assert isinstance(transfer, dict)
        return transfer


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A bench, and its end."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        yield Bench(stack, session, group)


async def until(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until something holds; fail if it never does."""
    with anyio.fail_after(within_s):
        while not holds():
            await anyio.lowlevel.checkpoint()
