"""An agent whose engine takes the other role, over real HTTP."""

import anyio
import anyio.lowlevel
import pytest

from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.wire import LinksRequest, StateReply, SwitchRoleRequest
from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.model.node import Role
from tests.support.agent import Agent, FakeDataDist, Held, agent, clusters
from tests.support.clock import Clock

DEADLINE_S = 30.0


class Switching(NoHooks):
    """An engine that takes either role, or raises what a test says."""

    can_switch_role = True

    def __init__(self) -> None:
        self.roles: list[Role] = []
        self.error: BaseException | None = None

    def switch_role(self, role: Role) -> None:
        self.roles.append(role)
        if self.error is not None:
            raise self.error


def listens_on(port: int | None) -> dict[str, str]:
    return {"llm.listenIpInfo": f"127.0.0.1:{port}"}


def port_of(state: StateReply) -> int | None:
    [endpoint] = state.endpoints
    return endpoint.port


async def begin(running: Agent, held: Held, clock: Clock, role: str, key: str) -> None:
    """Ask for a role; the library holds the call past its deadline."""

    async def post() -> None:
        answer = await running.post("/v1/role", role=role, key=key, deadline_s=DEADLINE_S)
        assert (answer.status, answer.reason) == (504, "deadline")

    async with anyio.create_task_group() as group:
        group.start_soon(post)
        await held.entered()
        clock.advance(DEADLINE_S)


async def test_a_decoder_becomes_a_prompt_that_listens_and_a_decoder_again() -> None:
    datadist, engine = FakeDataDist(), Switching()
    async with agent(datadist, hooks=engine) as running:
        answer = await running.post("/v1/role", role="prompt")
        state = StateReply.model_validate(answer.json)
        assert (answer.status, state.role, state.phase) == (200, "prompt", "ready")
        assert port_of(state) is not None

        assert (await running.post("/v1/role", role="decoder")).status == 200
        assert ((await running.state()).role, port_of(await running.state())) == ("decoder", None)
    assert engine.roles == [Role.PROMPT, Role.DECODER]
    assert datadist.switches == [("PROMPT", listens_on(port_of(state))), ("DECODER", None)]


async def test_only_an_engine_that_can_says_that_it_can() -> None:
    for hooks, listen, can in [
        (Switching(), "127.0.0.1:0", True),
        (Switching(), None, False),
        (NoHooks(), "127.0.0.1:0", False),
        (None, "127.0.0.1:0", False),
    ]:
        async with agent(FakeDataDist(), hooks=hooks, listen=listen) as running:
            assert ("role" in (await running.state()).capabilities) == can


async def test_the_role_that_it_has_is_a_success_without_a_call() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Switching()) as running:
        assert (await running.post("/v1/role", role="decoder")).status == 200
    async with agent(datadist, hooks=NoHooks()) as running:
        assert (await running.post("/v1/role", role="decoder")).status == 200
    assert datadist.switches == []


async def test_a_role_that_an_engine_was_made_for_does_not_keep_it_from_switching() -> None:
    async with agent(FakeDataDist(), role=Role.DECODER, hooks=Switching()) as running:
        assert (await running.post("/v1/role", role="prompt")).status == 200
        assert (await running.state()).role == "prompt"


async def test_an_engine_that_was_switched_is_initialised_again_in_the_role_that_it_took() -> None:
    async with agent(FakeDataDist(), role=Role.DECODER, hooks=Switching()) as running:
        await running.post("/v1/role", role="prompt")
        await running.post("/v1/finalize")
        assert (await running.post("/v1/init", role="decoder")).reason == "bad_request"
        assert (await running.post("/v1/init", role="prompt")).status == 200


@pytest.mark.parametrize(
    ("hooks", "listen", "said"),
    [(NoHooks(), "127.0.0.1:0", "without a restart"), (Switching(), None, "no listen address")],
)
async def test_an_engine_that_cannot_switch_refuses_for_good(
    hooks: NoHooks, listen: str | None, said: str
) -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=hooks, listen=listen) as running:
        answer = await running.post("/v1/role", role="prompt")
        assert (answer.status, answer.reason) == (422, "cannot_switch")
        assert said in answer.json["error"]
        assert (await running.state()).role == "decoder"
    assert datadist.switches == []


async def test_only_what_is_ready_can_switch() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Switching(), ready_as=None) as running:
        new = await running.post("/v1/role", role="prompt")
        await running.post("/v1/init", role="decoder")
        await running.post("/v1/finalize")
        finalised = await running.post("/v1/role", role="decoder")
        for answer in (new, finalised):
            assert (answer.status, answer.reason) == (503, "not_ready")
    assert datadist.switches == []


async def test_links_that_are_left_are_worth_a_retry() -> None:
    datadist, engine = FakeDataDist(), Switching()
    datadist.errors["switch_role"] = [DataDistError("linked with 7", "LLM_EXIST_LINK")]
    async with agent(datadist, hooks=engine, listen="127.0.0.1:26000") as running:
        answer = await running.post("/v1/role", role="prompt")
        assert (answer.status, answer.reason) == (503, "links_left")
        assert (await running.state()).role == "decoder"
        assert engine.roles == []

        assert (await running.post("/v1/role", role="prompt")).status == 200
        assert port_of(await running.state()) == 26000


async def test_rows_of_the_role_that_was_are_gone_with_it() -> None:
    datadist = FakeDataDist()
    datadist.codes["link", 1] = "LLM_LINK_FAILED"
    async with agent(datadist, hooks=Switching()) as running:
        await running.links(1)
        assert await running.table() == {1: ("failed", "LLM_LINK_FAILED")}
        await running.post("/v1/role", role="prompt")
        assert await running.table() == {}


async def test_a_library_that_was_not_initialised_for_switching_is_asked_once() -> None:
    datadist, engine = FakeDataDist(), Switching()
    datadist.errors["switch_role"] = [DataDistError("an option", "LLM_FEATURE_NOT_ENABLED")]
    async with agent(datadist, hooks=engine, ready_as="prompt") as running:
        assert "role" in (await running.state()).capabilities
        for _ in range(2):
            answer = await running.post("/v1/role", role="decoder")
            assert (answer.status, answer.reason) == (422, "cannot_switch")
            assert "an option" in answer.json["error"]
            assert "role" not in (await running.state()).capabilities
        assert ((await running.state()).role, engine.roles) == ("prompt", [])
    assert len(datadist.switches) == 1


async def test_switching_is_refused_while_a_call_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, hooks=Switching()) as running:
        held = datadist.hold("link", 1)
        async with running.streaming(
            "/v1/links", clusters=clusters(1), deadline_s=DEADLINE_S
        ) as stream:
            await held.entered()
            in_flight = await running.post("/v1/role", role="prompt")
            clock.advance(DEADLINE_S)
            await stream.line()
        hung = await running.post("/v1/role", role="prompt")
        for answer in (in_flight, hung):
            assert (answer.status, answer.reason) == (409, "hung_calls")
        assert datadist.switches == []

        held.release("LLM_FAILED")
        while (await running.state()).calls_hung:
            await anyio.lowlevel.checkpoint()
        assert (await running.post("/v1/role", role="prompt")).status == 200


async def test_a_call_that_was_begun_a_moment_ago_is_seen() -> None:
    async with agent(FakeDataDist(), hooks=Switching()) as running:
        fields = running.fields(clusters=clusters(1))
        lines = running.service.links(LinksRequest.model_validate(fields))
        with pytest.raises(RefusedError, match="1 calls in flight"):
            await running.service.switch_role(
                SwitchRoleRequest.model_validate(running.fields(role="prompt"))
            )
        assert [line.outcome async for line in lines] == ["done"]


async def test_nothing_begins_while_the_role_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, datadist = Clock(monkeypatch), FakeDataDist()
    async with agent(datadist, hooks=Switching()) as running:
        held = datadist.hold("switch_role")
        await begin(running, held, clock, "prompt", "once")

        state = await running.state()
        assert (state.role, state.phase, port_of(state)) == ("decoder", "ready", None)
        assert [call.verb for call in state.hung] == ["switch_role"]
        assert (await running.get("/healthz")).status == 503
        for path in ("/v1/links", "/v1/unlinks", "/v1/init", "/v1/role"):
            answer = await running.post(path, role="decoder", clusters=clusters(1), force=True)
            assert (answer.status, answer.reason) == (503, "not_ready"), path
        assert (await running.post("/v1/finalize")).reason == "hung_calls"

        # The repeat of the call finds it, and how it ended at last.
        repeat = await running.post("/v1/role", role="prompt", key="once")
        assert (repeat.status, repeat.reason) == (504, "deadline")
        held.release()
        while (await running.state()).role != "prompt":
            await anyio.lowlevel.checkpoint()
        assert port_of(await running.state()) is not None
        assert (await running.post("/v1/role", role="prompt", key="once")).status == 200
    assert len(datadist.switches) == 1


async def test_a_switch_that_fails_late_leaves_the_role_and_the_node_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, datadist, engine = Clock(monkeypatch), FakeDataDist(), Switching()
    engine.error = RuntimeError("no scheduler for it")
    async with agent(datadist, hooks=engine, ready_as="prompt") as running:
        port = port_of(await running.state())
        held = datadist.hold("switch_role")
        await begin(running, held, clock, "decoder", "once")

        held.release()
        while (await running.state()).calls_hung:
            await anyio.lowlevel.checkpoint()
        state = await running.state()
        assert (state.role, port_of(state)) == ("prompt", port)
        late = await running.post("/v1/role", role="decoder", key="once")
        assert (late.status, late.reason) == (500, "library_failed")
        assert (await running.unlinks(1, force=True))[1].outcome == "done"
    assert datadist.switches == [("DECODER", None), ("PROMPT", listens_on(port))]


@pytest.mark.parametrize("error", [RuntimeError("no scheduler for it"), SystemExit(3)])
async def test_an_engine_that_cannot_follow_takes_the_library_back(error: BaseException) -> None:
    datadist, engine = FakeDataDist(), Switching()
    engine.error = error
    async with agent(datadist, hooks=engine, ready_as="prompt") as running:
        before = await running.state()
        answer = await running.post("/v1/role", role="decoder")
        assert (answer.status, answer.reason) == (500, "library_failed")
        assert repr(error)[:-2] in answer.json["error"]
        after = await running.state()
        assert (after.role, after.endpoints) == ("prompt", before.endpoints)

        engine.error = None
        assert (await running.post("/v1/role", role="decoder")).status == 200
    assert datadist.switches == [
        ("DECODER", None),
        ("PROMPT", listens_on(port_of(before))),
        ("DECODER", None),
    ]


async def test_a_prompt_that_cannot_listen_again_is_deaf_and_can_be_switched_to_itself() -> None:
    datadist, engine = FakeDataDist(), Switching()
    engine.error = RuntimeError("no scheduler for it")
    async with agent(datadist, hooks=engine, ready_as="prompt") as running:
        await running.state()
        held = datadist.hold("switch_role")
        async with anyio.create_task_group() as group:
            answers = []

            async def switch() -> None:
                answers.append(await running.post("/v1/role", role="decoder"))

            group.start_soon(switch)
            await held.entered()
            datadist.errors["switch_role"] = [DataDistError("taken", "LLM_FAILED")]
            held.release()
        assert (answers[0].status, answers[0].reason) == (500, "library_failed")
        assert "cannot be undone" in answers[0].json["error"]
        state = await running.state()
        assert (state.role, port_of(state)) == ("prompt", None)

        engine.error = None
        assert (await running.post("/v1/role", role="prompt")).status == 200
        assert port_of(await running.state()) is not None


async def test_a_picked_port_that_is_taken_is_replaced_once() -> None:
    datadist = FakeDataDist()
    datadist.errors["switch_role"] = [DataDistError("bind", "LLM_FAILED")]
    async with agent(datadist, hooks=Switching()) as running:
        assert (await running.post("/v1/role", role="prompt")).status == 200
        assert datadist.switches[-1] == ("PROMPT", listens_on(port_of(await running.state())))
    assert len(datadist.switches) == 2


async def test_a_repeat_under_its_key_switches_once() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Switching()) as running:
        for _ in range(2):
            assert (await running.post("/v1/role", role="prompt", key="once")).status == 200
        other = await running.post("/v1/role", role="decoder", key="once")
        assert (other.status, other.reason) == (400, "bad_request")
    assert len(datadist.switches) == 1


async def test_a_controller_that_was_replaced_switches_nothing() -> None:
    datadist = FakeDataDist()
    async with agent(datadist, hooks=Switching()) as running:
        new = await running.post("/v1/role", role="prompt", epoch=2, holder="c2")
        old = await running.post("/v1/role", role="decoder", epoch=1, holder="c1")
        rival = await running.post("/v1/role", role="decoder", epoch=2, holder="c1")
        assert (new.status, old.reason, rival.reason) == (200, "fenced", "fenced")
        state = await running.state()
    assert (state.role, state.epoch, state.holder) == ("prompt", 2, "c2")


async def test_an_object_that_the_engine_initialised_can_switch() -> None:
    datadist = FakeDataDist()
    async with agent(
        datadist,
        role=Role.DECODER,
        listen="127.0.0.1:26000",
        hooks=Switching(),
        ready_as=None,
        is_initialised=True,
    ) as running:
        assert port_of(await running.state()) is None
        assert (await running.post("/v1/role", role="prompt")).status == 200
        assert port_of(await running.state()) == 26000
    assert datadist.calls == [("switch_role", 0)]
