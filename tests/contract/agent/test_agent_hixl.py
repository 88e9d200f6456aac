"""Agents beside a library on the hixl backend: it listens in either role, and never elsewhere."""

from collections.abc import Mapping

import pytest

from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.agent.wire import StateReply
from pd_autoscaler.datadist.api import DataDistError, DataDistRole
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from tests.support.agent import FakeDataDist, agent

HIXL: dict[str, object] = {"device_id": 0, "local_comm_res": "", "transfer_backend": "hixl"}


class HixlDataDist(FakeDataDist):
    """Refuses what the real one refuses about where it listens."""

    def __init__(self, listens_on: str | None = None) -> None:
        super().__init__()
        self.listens_on = listens_on

    def init(self, options: Mapping[str, object]) -> None:
        if "listen_ip_info" not in options:
            raise DataDistError("llm.listenIpInfo is not configured", "LLM_PARAM_INVALID")
        super().init(options)
        self.listens_on = str(options["listen_ip_info"])

    def switch_role(
        self, role: DataDistRole, switch_options: Mapping[str, str] | None = None
    ) -> None:
        super().switch_role(role, switch_options)
        if (switch_options or {}).get("llm.listenIpInfo") != self.listens_on:
            raise DataDistError("the address cannot change", "LLM_FEATURE_NOT_ENABLED")


class Switching(NoHooks):
    """An engine that takes either role, or raises what a test says."""

    can_switch_role = True

    def __init__(self) -> None:
        self.error: Exception | None = None

    def switch_role(self, role: Role) -> None:
        if self.error is not None:
            raise self.error


def place_of(state: StateReply) -> str:
    [endpoint] = state.endpoints
    return f"{endpoint.ip}:{endpoint.port}"


@pytest.mark.parametrize("role", list(Role))
async def test_either_role_listens_from_the_start_and_keeps_its_address(role: Role) -> None:
    datadist = HixlDataDist()
    async with agent(datadist, hooks=Switching(), options=HIXL, ready_as=role.value) as running:
        state = await running.state()
        assert "role" in state.capabilities
        assert place_of(state) == datadist.listens_on
        for taken in (role.other, role):
            assert (await running.post("/v1/role", role=taken.value)).status == 200
            assert place_of(await running.state()) == datadist.listens_on
    assert [options["listen_ip_info"] for options in datadist.options] == [datadist.listens_on]


async def test_an_engine_that_cannot_follow_takes_the_library_back_where_it_was() -> None:
    datadist, engine = HixlDataDist(), Switching()
    engine.error = RuntimeError("no scheduler for it")
    async with agent(datadist, hooks=engine, options=HIXL, ready_as="prompt") as running:
        answer = await running.post("/v1/role", role="decoder")
        assert (answer.status, answer.reason) == (500, "library_failed")
        state = await running.state()
        assert (state.role, place_of(state)) == ("prompt", datadist.listens_on)
    kept = {"llm.listenIpInfo": datadist.listens_on}
    assert datadist.switches == [("DECODER", kept), ("PROMPT", kept)]


async def test_an_object_that_is_finalised_may_listen_elsewhere_the_next_time() -> None:
    datadist = HixlDataDist()
    async with agent(datadist, options=HIXL) as running:
        await running.post("/v1/finalize")
        assert [endpoint.port for endpoint in (await running.state()).endpoints] == [None]
        assert (await running.post("/v1/init", role="prompt")).status == 200
        assert place_of(await running.state()) == datadist.listens_on


async def test_an_agent_that_initialises_must_have_an_address_for_either_role() -> None:
    with pytest.raises(ConfigError, match="listen must be given"):
        async with agent(HixlDataDist(), options=HIXL, listen=None, ready_as=None):
            pass


@pytest.mark.parametrize("role", list(Role))
async def test_an_adopted_object_can_switch_where_its_address_is_known(role: Role) -> None:
    datadist, place = HixlDataDist("127.0.0.1:26000"), "127.0.0.1:26000"
    async with agent(
        datadist,
        role=role,
        hooks=Switching(),
        options=HIXL,
        listen=place,
        ready_as=None,
        is_initialised=True,
    ) as running:
        assert place_of(await running.state()) == place
        assert (await running.post("/v1/role", role=role.other.value)).status == 200
        assert place_of(await running.state()) == place


@pytest.mark.parametrize("listen", [None, "127.0.0.1:0"])
async def test_an_adopted_object_whose_address_is_not_known_cannot_switch(
    listen: str | None,
) -> None:
    datadist = HixlDataDist("127.0.0.1:26000")
    async with agent(
        datadist,
        role=Role.DECODER,
        hooks=Switching(),
        options=HIXL,
        listen=listen,
        ready_as="decoder",
        is_initialised=True,
    ) as running:
        assert "role" not in (await running.state()).capabilities
        answer = await running.post("/v1/role", role="prompt")
        assert (answer.status, answer.reason) == (422, "cannot_switch")
    assert datadist.switches == []


async def test_an_agent_that_was_not_told_of_the_backend_learns_it_once() -> None:
    datadist = HixlDataDist("127.0.0.1:26000")
    async with agent(
        datadist,
        role=Role.PROMPT,
        hooks=Switching(),
        listen="127.0.0.1:26000",
        ready_as="prompt",
        is_initialised=True,
    ) as running:
        for _ in range(2):
            answer = await running.post("/v1/role", role="decoder")
            assert (answer.status, answer.reason) == (422, "cannot_switch")
            assert "cannot change" in answer.json["error"]
        assert "role" not in (await running.state()).capabilities
    assert datadist.switches == [("DECODER", None)]
