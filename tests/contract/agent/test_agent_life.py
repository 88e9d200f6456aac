"""An agent's library object from new to finalised, over real HTTP."""

import socket

import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.agent.listening import parsed_listen
from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.wire import EngineWire, FinalizeRequest, LinksRequest
from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from tests.support.agent import INCARNATION, Agent, FakeDataDist, Held, agent, clusters
from tests.support.clock import Clock

DEADLINE_S = 30.0


class Hooks(NoHooks):
    """An engine that counts, and whose hooks can block or fail."""

    def __init__(self, datadist: FakeDataDist) -> None:
        self.datadist = datadist
        self.held: Held | None = None
        self.error: Exception | None = None

    def load(self) -> EngineWire:
        if self.held is not None:
            self.held.block()
        if self.error is not None:
            raise self.error
        return EngineWire(waiting=1, running=2)

    def register_memory(self) -> None:
        self.datadist.calls.append(("register", 0))
        if self.error is not None:
            raise self.error


async def begin(running: Agent, path: str, held: Held, clock: Clock, **fields: str) -> None:
    """Make a call that is inside the library when its deadline passes."""

    async def post() -> None:
        answer = await running.post(path, deadline_s=DEADLINE_S, **fields)
        assert (answer.status, answer.reason) == (504, "deadline")

    async with anyio.create_task_group() as group:
        group.start_soon(post)
        await held.entered()
        clock.advance(DEADLINE_S)


async def test_a_new_agent_says_who_it_is() -> None:
    async with agent(FakeDataDist(), ready_as=None) as running:
        state = await running.state()
    assert (state.node_id, state.incarnation, state.phase) == ("n1", INCARNATION, "new")
    assert (state.role, state.endpoints, state.links, state.epoch) == (None, [], [], 0)


async def test_a_prompt_listens_on_a_port_that_it_reports() -> None:
    datadist = FakeDataDist(cluster_id=42)
    async with agent(datadist, ready_as="prompt") as running:
        state = await running.state()
    [endpoint] = state.endpoints
    assert (state.role, state.phase, endpoint.cluster_id) == ("prompt", "ready", 42)
    assert datadist.options == [{"device_id": 0, "listen_ip_info": f"127.0.0.1:{endpoint.port}"}]


async def test_a_decoder_does_not_listen() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, ready_as="decoder") as running:
        [endpoint] = (await running.state()).endpoints
    assert endpoint.port is None
    assert datadist.options == [{"device_id": 0}]


async def test_a_picked_port_that_is_taken_is_replaced_once() -> None:
    datadist = FakeDataDist()
    datadist.errors["init"] = [DataDistError("bind", "LLM_FAILED")]
    async with agent(datadist, ready_as="prompt") as running:
        assert (await running.state()).phase == "ready"
    assert datadist.count("init") == 2


async def test_a_given_port_that_is_taken_is_a_failure() -> None:
    datadist = FakeDataDist()
    datadist.errors["init"] = [DataDistError("bind", "LLM_FAILED")]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with agent(datadist, listen=listen, ready_as=None) as running:
            answer = await running.post("/v1/init", role="prompt")
            assert (answer.status, answer.reason) == (500, "library_failed")
            assert (await running.state()).phase == "new"
            assert (await running.post("/v1/init", role="prompt")).status == 200
    assert datadist.options[-1]["listen_ip_info"] == listen


async def test_a_configuration_error_is_not_worth_a_retry() -> None:
    datadist = FakeDataDist()
    datadist.errors["init"] = [DataDistError("device_id", "LLM_PARAM_INVALID")]
    async with agent(datadist, ready_as=None) as running:
        answer = await running.post("/v1/init", role="decoder")
    assert (answer.status, answer.reason) == (422, "library_failed")
    assert "LLM_PARAM_INVALID" in answer.json["error"]


async def test_memory_is_registered_after_init_and_before_ready() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Hooks(datadist)):
        assert datadist.calls == [("init", 0), ("register", 0)]


async def test_memory_that_cannot_be_registered_undoes_the_init() -> None:
    datadist = FakeDataDist()
    hooks = Hooks(datadist)
    hooks.error = RuntimeError("no such buffer")
    async with agent(datadist, hooks=hooks, ready_as=None) as running:
        answer = await running.post("/v1/init", role="decoder")
        assert (answer.status, answer.reason) == (500, "library_failed")
        assert "no such buffer" in answer.json["error"]
        assert datadist.calls[-1] == ("finalize", 0)
        assert (await running.state()).phase == "new"

        hooks.error = None
        assert (await running.post("/v1/init", role="decoder")).status == 200


async def test_init_in_the_role_it_has_is_a_success_and_in_the_other_is_refused() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, ready_as="decoder") as running:
        assert (await running.post("/v1/init", role="decoder")).status == 200
        other = await running.post("/v1/init", role="prompt")
        assert (other.status, other.reason) == (409, "already_initialised")
    assert datadist.count("init") == 1


@pytest.mark.parametrize(
    ("role", "listen", "said"),
    [(Role.DECODER, "127.0.0.1:0", "only be decoder"), (None, None, "no listen address")],
)
async def test_an_engine_that_cannot_be_a_prompt_says_so(
    role: Role | None, listen: str | None, said: str
) -> None:
    async with agent(FakeDataDist(), role=role, listen=listen, ready_as=None) as running:
        answer = await running.post("/v1/init", role="prompt")
    assert (answer.status, answer.reason) == (400, "bad_request")
    assert said in answer.json["error"]


async def test_an_init_past_its_deadline_becomes_ready_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, ready_as=None) as running:
        held = datadist.hold("init")
        await begin(running, "/v1/init", held, clock, role="decoder", key="once")
        assert (await running.state()).phase == "initialising"
        assert (await running.get("/healthz")).status == 503

        for key, status, reason in [("once", 504, "deadline"), ("other", 503, "not_ready")]:
            answer = await running.post("/v1/init", role="decoder", key=key)
            assert (answer.status, answer.reason) == (status, reason)
        links = await running.post("/v1/links", clusters=clusters(1))
        assert (links.status, links.reason) == (503, "not_ready")

        held.release()
        while (await running.state()).phase != "ready":
            await anyio.lowlevel.checkpoint()
        assert (await running.post("/v1/init", role="decoder", key="once")).status == 200
    assert datadist.count("init") == 1


async def test_a_failed_init_is_not_repeated_under_its_key() -> None:
    datadist = FakeDataDist()
    datadist.errors["init"] = [DataDistError("device", "LLM_FAILED")]
    async with agent(datadist, ready_as=None) as running:
        for _ in range(2):
            answer = await running.post("/v1/init", role="decoder", key="once")
            assert answer.reason == "library_failed"
        assert datadist.count("init") == 1
        assert (await running.post("/v1/init", role="decoder", key="again")).status == 200


async def test_finalize_ends_the_object_and_its_links() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        await running.links(1)
        for _ in range(2):
            assert (await running.post("/v1/finalize")).status == 200
        state = await running.state()
        assert (state.phase, state.links) == ("finalised", [])
        assert datadist.count("finalize") == 1
        refused = await running.post("/v1/links", clusters=clusters(1))
        assert (refused.status, refused.reason) == (503, "not_ready")


async def test_finalize_is_refused_while_a_call_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("link", 1)
        async with running.streaming(
            "/v1/links", clusters=clusters(1), deadline_s=DEADLINE_S
        ) as stream:
            await held.entered()
            in_flight = await running.post("/v1/finalize")
            clock.advance(DEADLINE_S)
            await stream.line()
        hung = await running.post("/v1/finalize")
        for answer in (in_flight, hung):
            assert (answer.status, answer.reason) == (409, "hung_calls")
        assert datadist.count("finalize") == 0

        held.release("LLM_FAILED")
        while (await running.state()).calls_hung:
            await anyio.lowlevel.checkpoint()
        assert (await running.post("/v1/finalize")).status == 200


async def test_finalize_sees_calls_that_were_begun_a_moment_ago() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        lines = running.service.links(
            LinksRequest.model_validate(running.fields(clusters=clusters(1)))
        )
        with pytest.raises(RefusedError, match="1 calls in flight"):
            await running.service.finalize(FinalizeRequest.model_validate(running.fields()))
        assert [line.outcome async for line in lines] == ["done"]


async def test_an_object_that_the_engine_initialised_is_ready_at_once() -> None:
    datadist = FakeDataDist(cluster_id=42)
    async with agent(
        datadist, listen="127.0.0.1:26000", ready_as=None, is_initialised=True
    ) as running:
        [endpoint] = (await running.state()).endpoints
        assert (endpoint.cluster_id, endpoint.port) == (42, 26000)
        assert (await running.links(1))[1].outcome == "done"

        assert (await running.post("/v1/init", role="prompt")).status == 200
        assert (await running.state()).role == "prompt"
    assert datadist.count("init") == 0


async def test_an_object_that_does_not_listen_cannot_become_a_prompt() -> None:
    async with agent(FakeDataDist(), listen=None, ready_as=None, is_initialised=True) as running:
        assert (await running.post("/v1/init", role="prompt")).reason == "bad_request"
        assert (await running.post("/v1/init", role="decoder")).status == 200


async def test_an_agent_that_is_not_running_takes_nothing_on() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, ready_as=None) as running:
        running.service.stop()
        for _ in range(2):
            answer = await running.post("/v1/init", role="decoder")
            assert (answer.status, answer.reason) == (503, "not_ready")
        assert (await running.state()).phase == "new"


async def test_nothing_begins_while_the_object_is_being_finalised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist) as running:
        held = datadist.hold("finalize")
        await begin(running, "/v1/finalize", held, clock, key="once")
        for path in ("/v1/links", "/v1/unlinks"):
            answer = await running.post(path, clusters=clusters(1), force=True)
            assert (answer.status, answer.reason) == (503, "not_ready")

        held.release()
        while (await running.state()).phase != "finalised":
            await anyio.lowlevel.checkpoint()
        assert (await running.post("/v1/finalize", key="once")).status == 200
    assert datadist.calls == [("init", 0), ("finalize", 0)]


async def test_the_state_shows_the_engines_load() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Hooks(datadist)) as running:
        assert (await running.state()).engine == EngineWire(waiting=1, running=2)


async def test_an_engine_that_does_not_answer_is_unknown_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    hooks = Hooks(datadist)
    async with agent(datadist, hooks=hooks) as running:
        hooks.held = Held()
        async with anyio.create_task_group() as group:
            group.start_soon(running.state)
            await hooks.held.entered()
            clock.advance(DEADLINE_S)
        # Its thread still blocks: no second one is started, nobody waits.
        assert (await running.state()).engine == EngineWire()
        hooks.held.release()


async def test_an_engine_whose_hook_fails_is_unknown() -> None:
    datadist = FakeDataDist()
    hooks = Hooks(datadist)
    async with agent(datadist, hooks=hooks) as running:
        hooks.error = KeyError("waiting")
        assert (await running.state()).engine == EngineWire()


def test_no_hooks_register_nothing_and_know_nothing() -> None:
    hooks = NoHooks()
    hooks.register_memory()
    assert hooks.load() == EngineWire()


@pytest.mark.parametrize("listen", ["26000", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":1"])
def test_a_listen_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="ip:port"):
        parsed_listen(listen)
