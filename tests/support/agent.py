"""An agent on loopback beside a library whose calls block until a test lets them go."""

import asyncio
import itertools
import json
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import aiohttp
import anyio

from pd_autoscaler.agent.hooks import EngineHooks
from pd_autoscaler.agent.http import build_app, serve
from pd_autoscaler.agent.service import AgentService
from pd_autoscaler.agent.wire import ClusterLine, StateReply
from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistRole
from pd_autoscaler.model.node import Role

INCARNATION = "boot-1"
OK = "LLM_SUCCESS"


class Held:
    """A native call that has been entered and does not return until `release`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = threading.Event()
        self._code = OK
        self._entered = anyio.Event()

    def release(self, code: str = OK) -> None:
        """Let the call return this code."""
        self._code = code
        self._go.set()

    async def entered(self) -> None:
        """Wait until the call is inside the library."""
        await self._entered.wait()

    def block(self) -> str:
        """Be inside: called in the library's thread."""
        self._loop.call_soon_threadsafe(self._entered.set)
        self._go.wait(60)
        return self._code


class FakeDataDist:
    """Answers LLM_SUCCESS at once, unless a test holds a call or sets a code for it."""

    def __init__(self, cluster_id: int = 900) -> None:
        self.calls: list[tuple[str, int]] = []
        self.options: list[Mapping[str, object]] = []
        self.switches: list[tuple[str, Mapping[str, str] | None]] = []
        self.codes: dict[tuple[str, int], str] = {}
        self.errors: dict[str, list[Exception]] = {}
        self._held: dict[tuple[str, int], Held] = {}
        self._all_held: list[Held] = []
        self._cluster_id = cluster_id

    def hold(self, verb: str, cluster_id: int = 0) -> Held:
        """Hold the next call of this verb to this cluster, or of one about the whole object.

        Verbs are link, unlink and force; init, finalize and switch_role.
        """
        held = self._held[verb, cluster_id] = Held()
        self._all_held.append(held)
        return held

    def release_all(self) -> None:
        """Let every call that is still inside return, so that no thread outlives its test."""
        for held in self._all_held:
            held.release()

    def count(self, verb: str, cluster_id: int = 0) -> int:
        """How often a call was made."""
        return self.calls.count((verb, cluster_id))

    @property
    def cluster_id(self) -> int:
        return self._cluster_id

    def init(self, options: Mapping[str, object]) -> None:
        self.options.append(dict(options))
        self._enter("init", 0)

    def finalize(self) -> None:
        self._enter("finalize", 0)

    def link_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000
    ) -> tuple[str, list[str]]:
        return self._each("link", clusters)

    def unlink_clusters(
        self, clusters: Sequence[Cluster], timeout: int = 3000, force: bool = False
    ) -> tuple[str, list[str]]:
        return self._each("force" if force else "unlink", clusters)

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        self.switches.append((role.name, switch_options))
        self._enter("switch_role", 0)

    def _each(self, verb: str, clusters: Sequence[Cluster]) -> tuple[str, list[str]]:
        [cluster] = clusters
        code = self._enter(verb, cluster.cluster_id)
        return code, [code]

    def _enter(self, verb: str, cluster_id: int) -> str:
        self.calls.append((verb, cluster_id))
        if errors := self.errors.get(verb):
            raise errors.pop(0)
        held = self._held.pop((verb, cluster_id), None)
        if held is not None:
            return held.block()
        return self.codes.get((verb, cluster_id), OK)


@dataclass
class Answer:
    """An HTTP answer: its status and its JSON."""

    status: int
    json: Any

    @property
    def reason(self) -> str:
        """The reason of an error."""
        reason: str = self.json["reason"]
        return reason


@dataclass
class Agent:
    """An agent under test, asked over real HTTP."""

    service: AgentService
    session: aiohttp.ClientSession
    url: str
    keys: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def fields(self, **fields: Any) -> dict[str, Any]:
        """Return a request's fields: a good fence, and a key of its own unless one is given."""
        fence = {"epoch": 1, "holder": "c1", "incarnation": INCARNATION}
        return fence | {"key": f"k{next(self.keys)}"} | fields

    async def post(self, path: str, **fields: Any) -> Answer:
        """POST a request to the end of its answer; a stream becomes a list of lines."""
        async with self.session.post(f"{self.url}{path}", json=self.fields(**fields)) as response:
            if response.content_type == "application/x-ndjson":
                lines = [ClusterLine.model_validate_json(raw) async for raw in response.content]
                return Answer(response.status, lines)
            return Answer(response.status, await response.json())

    async def get(self, path: str) -> Answer:
        """GET a JSON page."""
        async with self.session.get(f"{self.url}{path}") as response:
            return Answer(response.status, await response.json())

    async def state(self) -> StateReply:
        """Read the agent's state."""
        return StateReply.model_validate((await self.get("/v1/state")).json)

    async def table(self) -> dict[int, tuple[str, str]]:
        """Read the link table: state and code by cluster id."""
        return {row.cluster_id: (row.state, row.code) for row in (await self.state()).links}

    async def metrics(self) -> str:
        """Read the metrics page."""
        async with self.session.get(f"{self.url}/metrics") as response:
            return await response.text()

    async def links(self, *cluster_ids: int, **fields: Any) -> dict[int, ClusterLine]:
        """Link clusters and wait for every answer."""
        answer = await self.post("/v1/links", clusters=clusters(*cluster_ids), **fields)
        assert answer.status == 200, answer
        return {line.id: line for line in answer.json}

    async def unlinks(self, *cluster_ids: int, **fields: Any) -> dict[int, ClusterLine]:
        """Unlink clusters and wait for every answer."""
        answer = await self.post("/v1/unlinks", clusters=clusters(*cluster_ids), **fields)
        assert answer.status == 200, answer
        return {line.id: line for line in answer.json}

    @asynccontextmanager
    async def streaming(self, path: str, **fields: Any) -> AsyncIterator["Stream"]:
        """POST a request and read its answer line by line."""
        async with self.session.post(f"{self.url}{path}", json=self.fields(**fields)) as response:
            assert response.status == 200
            yield Stream(response)


@dataclass
class Stream:
    """An answer that is being read."""

    response: aiohttp.ClientResponse

    async def line(self) -> ClusterLine:
        """Wait for the next line."""
        return ClusterLine.model_validate_json(await self.response.content.readline())


class Caller:
    """Asks an agent from a thread that has no event loop."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._keys = itertools.count(1)

    def get(self, path: str) -> Answer:
        """GET a JSON page."""
        return self._asked(path, None)

    def state(self) -> StateReply:
        """Read the agent's state."""
        return StateReply.model_validate(self.get("/v1/state").json)

    def post(self, path: str, **fields: Any) -> Answer:
        """POST a request that means the process that is there; a stream becomes a list of lines."""
        fence = {"epoch": 1, "holder": "c1", "incarnation": self.state().incarnation}
        body = fence | {"key": f"k{next(self._keys)}"} | fields
        return self._asked(path, json.dumps(body).encode())

    def _asked(self, path: str, body: bytes | None) -> Answer:
        request = urllib.request.Request(f"{self.url}{path}", body, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text = response.read()
                if response.headers.get_content_type() == "application/x-ndjson":
                    lines = [ClusterLine.model_validate_json(raw) for raw in text.splitlines()]
                    return Answer(response.status, lines)
                return Answer(response.status, json.loads(text))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.loads(error.read()))


def clusters(*cluster_ids: int) -> list[dict[str, Any]]:
    """Return a request's clusters."""
    return [
        {"id": cluster_id, "ip": "127.0.0.1", "port": 26000, "incarnation": f"p{cluster_id}"}
        for cluster_id in cluster_ids
    ]


@asynccontextmanager
async def agent(
    datadist: DataDist,
    *,
    role: Role | None = None,
    listen: str | None = "127.0.0.1:0",
    hooks: EngineHooks | None = None,
    token: str | None = None,
    link_slots: int = 16,
    ready_as: str | None = "decoder",
    is_initialised: bool = False,
    options: Mapping[str, object] = MappingProxyType({"device_id": 0}),
) -> AsyncIterator[Agent]:
    """Run an agent on loopback, initialised unless `ready_as` is None."""
    service = AgentService(
        datadist,
        node_id="n1",
        role=role,
        listen=listen,
        options=options,
        hooks=hooks,
        incarnation=INCARNATION,
        local_ip="127.0.0.1",
        link_slots=link_slots,
        is_initialised=is_initialised,
    )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            serve(build_app(service, token)) as port,
            aiohttp.ClientSession(headers=headers) as session,
        ):
            running = Agent(service, session, f"http://127.0.0.1:{port}")
            if ready_as is not None:
                answer = await running.post("/v1/init", role=ready_as)
                assert answer.status == 200, answer
            yield running
    finally:
        if isinstance(datadist, FakeDataDist):
            datadist.release_all()
