"""The engine of one node: it prefills or decodes, and can take the other role."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import anyio
from aiohttp import web
from anyio.abc import TaskGroup

from pd_autoscaler.embedded.engine_decoder import DecoderEngine, KvPuller
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
from pd_autoscaler.embedded.engine_pull import LinkPuller, RankPullError
from pd_autoscaler.embedded.engine_sim import add_routes
from pd_autoscaler.embedded.node_ranks import Ranks
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.node import Role
from pd_autoscaler.threads import Threads


class NotIdleError(Exception):
    """The engine cannot leave its role: requests are inside."""


class NodeEngine:
    """A prompt half and a decoder half behind one address and one page of counters.

    Only the half of the role it has gets requests; the other one is empty.
    """

    def __init__(
        self,
        role: Role,
        *,
        engine_id: str,
        identity: Identity,
        profile: EngineProfile,
        puller: KvPuller,
    ) -> None:
        self.role = role
        self._identity = identity
        self._profile = profile
        self._metrics = EngineMetrics(profile, model=profile.name, length_max=profile.kv_tokens)
        self._prompt = PromptEngine(engine_id=engine_id, profile=profile, metrics=self._metrics)
        self._decoder = DecoderEngine(profile=profile, metrics=self._metrics, puller=puller)
        self._rank_roles = [role] * len(identity.cluster_ids)
        self._is_flipping = False
        self._one_flip = anyio.Lock()
        self._watch()

    @property
    def slowness(self) -> float:
        """What the time of every step is multiplied by."""
        return self._prompt.slowness

    @slowness.setter
    def slowness(self, times: float) -> None:
        self._prompt.slowness = self._decoder.slowness = times

    @property
    def pull_delay_s(self) -> float:
        """What every pull takes longer, in seconds."""
        return self._decoder.pull_delay_s

    @pull_delay_s.setter
    def pull_delay_s(self, seconds: float) -> None:
        self._decoder.pull_delay_s = seconds

    def load(self) -> EngineLoad:
        """Return what is inside; the node is idle when all of it is zero."""
        prompt, decoder = self._prompt.load(), self._decoder.load()
        return EngineLoad(
            waiting=(prompt.waiting or 0) + (decoder.waiting or 0),
            running=(prompt.running or 0) + (decoder.running or 0),
            kv_unpulled=prompt.kv_unpulled,
            kv_used=max(self._prompt.kv_used, self._decoder.kv_used),
        )

    async def switch_rank(self, rank: int, role: Role) -> None:
        """Have one rank take a role; the engine takes it with the last of its ranks.

        Raises NotIdleError while requests are inside. Counters, KV memory and address stay.
        """
        async with self._one_flip:
            if role is not self.role and not self.load().is_idle:
                raise NotIdleError(
                    f"{self._identity.node_id} cannot become a {role}: {self.load()}"
                )
            self._rank_roles[rank] = role
            if role is not self.role and set(self._rank_roles) == {role}:
                await self._flip(role)

    async def _flip(self, role: Role) -> None:
        self._is_flipping = True
        try:
            await anyio.sleep(self._profile.flip_s)
            self.role = role
            self._watch()
        finally:
            self._is_flipping = False

    def _watch(self) -> None:
        self._metrics.watch(self._prompt if self.role is Role.PROMPT else self._decoder)

    async def run(self) -> None:
        """Run both halves for ever; cancel to stop."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._prompt.run)
            group.start_soon(self._decoder.run)

    def app(self) -> web.Application:
        """Serve the role it has; run it with `handler_cancellation=True`."""
        completions = {
            Role.PROMPT: prompt_completion(self._prompt, self._identity),
            Role.DECODER: decoder_completion(self._decoder, self._identity),
        }

        async def complete(http: web.Request) -> web.StreamResponse:
            # Whole before its role is looked at: from here it enters a half without a pause, so
            # none comes into a half that was just found idle and left.
            await http.read()
            if self._is_flipping:
                said = {"error": f"{self._identity.node_id} takes another role"}
                return web.json_response({**said, "code": "switching_role"}, status=503)
            return await completions[self.role](http)

        app = engine_app(self._identity, self._metrics, complete)
        add_release(app, self._prompt)
        return app


@asynccontextmanager
async def serving_engine(
    role: Role,
    ranks: Ranks,
    *,
    node_id: str,
    engine_id: str,
    profile: EngineProfile,
    group: TaskGroup,
    on_pull_failed: Callable[[RankPullError], None],
) -> AsyncIterator[tuple[NodeEngine, str]]:
    """Run an engine in `group` and serve it on a free loopback port; yield it and its URL.

    `engine_id` names this process unlike any before it.
    """
    sock = bound_socket()
    port = int(sock.getsockname()[1])
    # A second connection per pull would cost more than the release that it carries.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15)
    async with aiohttp.ClientSession(connector=connector) as session:
        engine = NodeEngine(
            role,
            engine_id=engine_id,
            identity=Identity(node_id, ranks.cluster_ids, LOOPBACK, port, profile.name),
            profile=profile,
            puller=LinkPuller(
                ranks.pull,
                workers=Threads("kv-pull", profile.batch_max),
                session=session,
                group=group,
                on_failed=on_pull_failed,
            ),
        )
        app = engine.app()
        add_routes(app, engine, ranks)
        group.start_soon(engine.run)
        async with listening(app, sock):
            yield engine, f"http://{LOOPBACK}:{port}"
