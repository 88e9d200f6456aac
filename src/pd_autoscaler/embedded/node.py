"""One node of the embedded cluster: a simulated engine with a real agent beside it.

    python -m pd_autoscaler.embedded.node --node-id p1 --role prompt --cluster-id 7

After its engine's start time it prints one JSON line (`node_id`, `role`, `agent_url`,
`engine_url`, `metrics_url`, `pid`) and serves on free loopback ports. It ends within a second of
SIGTERM, SIGINT or the end of its standard input, so it never outlives who started it.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import anyio
from aiohttp import web
from anyio.abc import TaskGroup

from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.datadist.api import DataDistRole
from pd_autoscaler.datadist.simulated import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    LinkTiming,
    SimulatedDataDist,
    SimulatedProcess,
)
from pd_autoscaler.embedded.engine_decoder import DecoderEngine
from pd_autoscaler.embedded.engine_http import Identity, decoder_app, prompt_app
from pd_autoscaler.embedded.engine_listen import LOOPBACK, bound_socket, listening
from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_prompt import PromptEngine
from pd_autoscaler.embedded.engine_pull import LinkPuller
from pd_autoscaler.embedded.engine_request import KvSource
from pd_autoscaler.embedded.engine_sim import add_routes
from pd_autoscaler.engine_model.profile import EngineProfile, profile_of
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from pd_autoscaler.threads import Threads

CLOSE_S = 0.7
"""How long closing may take; a hung native call would otherwise keep it open for ever."""

LINK_S = 0.5
"""What preparing a link takes by default; nobody has published the time on Ascend hardware."""

log = logging.getLogger(__name__)


class SimulatedNode:
    """The library object of a node and the KV memory registered on it."""

    def __init__(self, args: argparse.Namespace, profile: EngineProfile) -> None:
        self.node_id: str = args.node_id
        self.role = Role(args.role)
        self.profile = profile
        label = DataDistRole.PROMPT if self.role is Role.PROMPT else DataDistRole.DECODER
        self.datadist = SimulatedDataDist(
            label,
            args.cluster_id,
            process=SimulatedProcess(),
            timing=LinkTiming(prepare_s=args.link_s, bandwidth_byte_per_s=profile.pull_bytes_per_s),
        )
        self._cache: Cache | None = None
        self._engine: PromptEngine | DecoderEngine | None = None

    def load(self) -> EngineWire:
        """Tell the agent what is inside the engine."""
        if self._engine is None:
            return EngineWire()
        load = self._engine.load()
        return EngineWire(waiting=load.waiting, running=load.running, kv_unpulled=load.kv_unpulled)

    def register_memory(self) -> None:
        """Register the KV blocks, for the agent once it has initialised the library."""
        block_bytes = self.profile.kv_block_tokens * self.profile.kv_bytes_per_token
        desc = CacheDesc(1, (self.profile.kv_blocks, block_bytes), value_bytes=1)
        key = BlocksCacheKey(self.datadist.cluster_id)
        self._cache = self.datadist.cache_manager.register_blocks_cache(desc, (), key)

    def pull_blocks(self, source: KvSource) -> None:
        """Pull a prompt's KV; which blocks is all the same to the simulated library."""
        if self._cache is None:
            raise RuntimeError("no KV memory is registered: the library is not initialised")
        blocks = range(self.profile.blocks(source.tokens))
        self.datadist.cache_manager.pull_blocks(
            BlocksCacheKey(source.cluster_id), self._cache, blocks, blocks
        )

    @asynccontextmanager
    async def engine(self, group: TaskGroup) -> AsyncIterator[str]:
        """Run the engine and serve it; yield its URL."""
        sock = bound_socket()
        port = int(sock.getsockname()[1])
        identity = Identity(
            self.node_id, self.datadist.cluster_id, LOOPBACK, port, self.profile.name
        )
        metrics = EngineMetrics(
            self.profile, model=self.profile.name, length_max=self.profile.kv_tokens
        )
        # A second connection per pull would cost more than the release that it carries.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector) as session:
            engine, app = self._built(identity, metrics, session, group)
            self._engine = engine
            add_routes(app, engine, self.datadist)
            group.start_soon(engine.run)
            async with listening(app, sock):
                yield f"http://{LOOPBACK}:{port}"

    def _built(
        self,
        identity: Identity,
        metrics: EngineMetrics,
        session: aiohttp.ClientSession,
        group: TaskGroup,
    ) -> tuple[PromptEngine | DecoderEngine, web.Application]:
        if self.role is Role.PROMPT:
            # A restarted process must not answer for its predecessor's requests.
            engine_id = f"{self.node_id}-{os.getpid()}"
            prompt = PromptEngine(engine_id=engine_id, profile=self.profile, metrics=metrics)
            return prompt, prompt_app(prompt, identity, metrics)
        puller = LinkPuller(
            self.pull_blocks,
            workers=Threads("kv-pull", self.profile.batch_max),
            session=session,
            group=group,
        )
        decoder = DecoderEngine(profile=self.profile, metrics=metrics, puller=puller)
        return decoder, decoder_app(decoder, identity, metrics)

    def agent(self) -> web.Application:
        """Build the agent's app: the same agent as beside a real engine."""
        service = AgentService(
            self.datadist,
            node_id=self.node_id,
            role=self.role,
            listen=f"{LOOPBACK}:0" if self.role is Role.PROMPT else None,
            options={"device_id": 0, "local_comm_res": ""},
            incarnation=f"{os.getpid()}-{os.urandom(6).hex()}",
            local_ip=LOOPBACK,
            hooks=self,
        )
        return build_app(service)


async def _live(args: argparse.Namespace, profile: EngineProfile) -> None:
    """Start, serve until told to end, and close."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_signals, stop)
        group.start_soon(_watch_parent, stop)
        with anyio.move_on_after(profile.start_s):
            await stop.wait()
        if not stop.is_set():
            await _serve(SimulatedNode(args, profile), group, stop)
        group.cancel_scope.cancel()


async def _serve(node: SimulatedNode, group: TaskGroup, stop: anyio.Event) -> None:
    """Listen, say so, and serve until told to end."""
    async with node.engine(group) as engine_url, serve(node.agent()) as agent_port:
        line = {
            "node_id": node.node_id,
            "role": node.role.value,
            "agent_url": f"http://{LOOPBACK}:{agent_port}",
            "engine_url": engine_url,
            "metrics_url": f"{engine_url}/metrics",
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await stop.wait()


async def _watch_signals(stop: anyio.Event) -> None:
    """End on SIGTERM or SIGINT."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            _end(stop)


async def _watch_parent(stop: anyio.Event) -> None:
    """End when standard input does; where that is no pipe or terminal, at once."""
    stdin = sys.stdin.fileno()
    while True:
        try:
            await anyio.wait_readable(stdin)
        except PermissionError:
            log.error("standard input is no pipe: the node ends with it, so at once")
            break
        if not os.read(stdin, 4096):
            break
    _end(stop)


def _end(stop: anyio.Event) -> None:
    """Close, and see to it that the process ends even if closing hangs."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, CLOSE_S)
    stop.set()


def _parsed(argv: Sequence[str] | None) -> tuple[argparse.Namespace, EngineProfile]:
    """Read the command line; a wrong one ends the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m pd_autoscaler.embedded.node")
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--role", required=True, choices=[role.value for role in Role])
    parser.add_argument("--cluster-id", required=True, type=int, help="LLM-DataDist's id")
    parser.add_argument("--start-s", type=float, help="engine start time, over the profile's")
    parser.add_argument("--link-s", type=float, default=LINK_S, help="time to prepare a link")
    parser.add_argument("--profile", default="{}", help="JSON object over the demo profile")
    args = parser.parse_args(argv)
    try:
        values = json.loads(args.profile)
        if not isinstance(values, dict):
            raise ConfigError("it is not an object")
        if args.start_s is not None:
            values["start_s"] = args.start_s
        return args, profile_of(values)
    except (ValueError, ConfigError) as error:
        parser.error(f"--profile: {error}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a node until it is told to end; never returns."""
    args, profile = _parsed(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    code = 0
    try:
        anyio.run(_live, args, profile)
    except BaseException:
        log.exception("node %s failed", args.node_id)
        code = 1
    # Not sys.exit: a thread inside the library would keep the interpreter from ending.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
