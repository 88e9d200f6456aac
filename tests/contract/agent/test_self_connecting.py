"""Engines that connect by themselves: the same Protocol, with nothing to link."""

from pathlib import Path
from typing import Any

import pytest

from pd_autoscaler.agent.embed import NodeAgent
from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistRole
from pd_autoscaler.datadist.self_connecting import SelfConnecting
from pd_autoscaler.model.node import Role
from tests.support.agent import OK, Caller, agent, clusters

PAGE = Path(__file__).parents[3] / "docs" / "agent.md"
PEERS = [Cluster(7, "127.0.0.1", 26000), Cluster(8)]


class Switching(NoHooks):
    can_switch_role = True

    def switch_role(self, role: object) -> None:
        return None


def made() -> SelfConnecting:
    return SelfConnecting(DataDistRole.DECODER, 2)


def test_it_keeps_the_promises_of_the_protocol() -> None:
    library = made()
    datadist: DataDist = library
    assert datadist.cluster_id == 2
    for _ in range(2):
        # Before init, and again after finalize: the engine's transport is there all along.
        assert datadist.link_clusters(PEERS, 1) == (OK, [OK, OK])
        assert datadist.link_clusters(PEERS) == (OK, [OK, OK])
        assert datadist.unlink_clusters(PEERS, force=True) == (OK, [OK, OK])
        assert datadist.unlink_clusters([]) == ("LLM_PARAM_INVALID", [])
        datadist.switch_role(DataDistRole.PROMPT, {"llm.listenIpInfo": "127.0.0.1:1"})
        assert library.role is DataDistRole.PROMPT
        with pytest.raises(TypeError):
            datadist.switch_role(2)  # type: ignore[arg-type]  # That is the point.
        datadist.init({})
        datadist.init({})
        datadist.finalize()
        datadist.finalize()


def test_a_role_must_be_a_role() -> None:
    with pytest.raises(TypeError, match="DataDistRole"):
        SelfConnecting(1, 2)  # type: ignore[arg-type]  # That is the point.


def test_what_the_page_shows_starts_an_agent_that_links_and_switches() -> None:
    [shown] = [
        block.partition("```")[0]
        for block in PAGE.read_text().split("```python\n")
        if "SelfConnecting(" in block
    ]
    names: dict[str, Any] = {"NodeAgent": NodeAgent, "Role": Role}
    exec(shown, names | {"my_id": 2, "my_hooks": Switching()}, names)
    with names["agent"] as running:
        caller = Caller(running.url)
        [line] = caller.post("/v1/links", clusters=clusters(7)).json
        assert line.outcome == "done"
        assert caller.post("/v1/role", role="prompt").status == 200
        assert caller.state().role == "prompt"


@pytest.mark.parametrize("is_initialised", [True, False])
def test_an_agent_beside_it_needs_no_address_for_either_role(is_initialised: bool) -> None:
    library = made()
    node = NodeAgent(library, Switching(), role=Role.DECODER, is_initialised=is_initialised)
    with node.start_in_thread() as running:
        caller = Caller(running.url)
        assert caller.post("/v1/init", role="decoder").status == 200
        assert "role" in caller.state().capabilities
        # A prompt beside such an engine has no port to give.
        for path in ("/v1/links", "/v1/unlinks"):
            lines = caller.post(path, clusters=[{"id": 7}, *clusters(8)]).json
            assert {line.outcome for line in lines} == {"done"}

        for role in (DataDistRole.PROMPT, DataDistRole.DECODER):
            assert caller.post("/v1/role", role=role.name.lower()).status == 200
            assert (caller.state().role, library.role) == (role.name.lower(), role)
        assert caller.post("/v1/finalize").status == 200


@pytest.mark.parametrize("is_initialised", [True, False])
def test_a_prompt_beside_it_is_ready_without_an_address(is_initialised: bool) -> None:
    with NodeAgent(made(), is_initialised=is_initialised).start_in_thread() as running:
        caller = Caller(running.url)
        assert caller.post("/v1/init", role="prompt").status == 200
        state = caller.state()
        assert (state.role, state.phase) == ("prompt", "ready")
        assert [endpoint.port for endpoint in state.endpoints] == [None]


async def test_an_address_that_was_given_is_not_shown_as_listened_on() -> None:
    async with agent(made(), listen="127.0.0.1:0", ready_as="prompt") as running:
        [endpoint] = (await running.state()).endpoints
        assert endpoint.port is None
