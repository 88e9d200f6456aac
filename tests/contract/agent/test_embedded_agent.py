"""The agent in a thread of an engine that has no event loop."""

import importlib.util
import socket
import ssl
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pd_autoscaler.agent.embed import NodeAgent
from pd_autoscaler.agent.hooks import NoHooks
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.datadist.api import Cluster, DataDistRole
from pd_autoscaler.datadist.self_connecting import SelfConnecting
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role
from tests.support.agent import OK, Caller, clusters
from tests.support.datadist_inprocess import started, until

OPTIONS = {"device_id": 0, "local_comm_res": ""}
STANDIN = Path(__file__).parents[2] / "support" / "llm_datadist_standin.py"


class Hooks(NoHooks):
    can_switch_role = True

    def __init__(self) -> None:
        self.roles: list[Role] = []

    def load(self) -> EngineWire:
        return EngineWire(waiting=1, running=2, kv_unpulled=3)

    def switch_role(self, role: Role) -> None:
        self.roles.append(role)


@pytest.fixture
def decoder() -> Iterator[SimulatedDataDist]:
    """A library object that its engine has initialised."""
    made = SimulatedDataDist(DataDistRole.DECODER, 2, process=SimulatedProcess())
    made.init(OPTIONS)
    yield made
    made.faults.clear()
    made.finalize()


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in of the real package, under its name."""
    monkeypatch.setenv("AUTO_USE_UC_MEMORY", "0")
    spec = importlib.util.spec_from_file_location("llm_datadist", STANDIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "llm_datadist", module)
    return module


def ready_prompt() -> tuple[SimulatedDataDist, int]:
    made = SimulatedDataDist(DataDistRole.PROMPT, 1, process=SimulatedProcess())
    made.init({**OPTIONS, "listen_ip_info": "127.0.0.1:0"})
    started_ = made._started
    assert started_ is not None
    assert started_.listening is not None
    return made, started_.listening.handshakes.address[1]


def towards(port: int) -> list[dict[str, Any]]:
    return [{"id": 1, "ip": "127.0.0.1", "port": port}]


def test_an_object_that_the_engine_initialised_serves_in_three_lines(
    decoder: SimulatedDataDist,
) -> None:
    with NodeAgent(decoder, Hooks(), role=Role.DECODER).start_in_thread() as agent:
        state = Caller(agent.url).state()
        assert agent.url == f"http://127.0.0.1:{agent.port}"
        assert (state.role, state.phase, state.engine.kv_unpulled) == ("decoder", "ready", 3)
        [endpoint] = state.endpoints
        assert (endpoint.cluster_id, endpoint.ip, endpoint.port) == (2, "127.0.0.1", None)
        assert state.node_id.startswith(socket.gethostname())
    with pytest.raises(urllib.error.URLError):
        Caller(agent.url).state()
    agent.stop()  # Stopped is what was asked for.


def test_the_real_librarys_object_is_taken_as_it_is(package: ModuleType) -> None:
    prompt, port = ready_prompt()
    library = package.LLMDataDist(package.LLMRole.DECODER, 2)
    config = package.LLMConfig()
    config.device_id, config.local_comm_res = 0, ""
    library.init(config.generate_options())
    hooks = Hooks()
    with NodeAgent(library, hooks, role=Role.DECODER, listen="127.0.0.1:0").start_in_thread() as up:
        caller = Caller(up.url)
        [line] = caller.post("/v1/links", clusters=towards(port)).json
        assert (line.outcome, line.code) == ("done", OK)
        assert prompt.entities() == (2,)
        assert caller.post("/v1/role", role="prompt").reason == "links_left"

        caller.post("/v1/unlinks", clusters=towards(port))
        assert caller.post("/v1/role", role="prompt").status == 200
        assert hooks.roles == [Role.PROMPT]
        assert library.role is package.LLMRole.PROMPT
        assert caller.post("/v1/finalize").status == 200
    prompt.finalize()


def test_the_agent_initialises_where_the_engine_has_not() -> None:
    made = SimulatedDataDist(DataDistRole.PROMPT, 1, process=SimulatedProcess())
    node = NodeAgent(made, listen="127.0.0.1:0", options=OPTIONS, is_initialised=False)
    with node.start_in_thread() as agent:
        caller = Caller(agent.url)
        assert caller.state().phase == "new"
        assert caller.post("/v1/init", role="prompt").status == 200
        assert caller.state().endpoints[0].port is not None
        assert caller.post("/v1/finalize").status == 200


def test_a_port_that_is_taken_is_raised_where_the_agent_is_started(
    decoder: SimulatedDataDist,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        node = NodeAgent(decoder, port=taken.getsockname()[1])
        for _ in range(2):
            with pytest.raises(OSError, match="address already in use"):
                node.start_in_thread()
    with node.start_in_thread() as agent:
        assert Caller(agent.url).state().phase == "ready"


def test_a_second_start_is_refused(decoder: SimulatedDataDist) -> None:
    node = NodeAgent(decoder)
    with node.start_in_thread() as agent:
        with pytest.raises(RuntimeError, match="started before"):
            node.start_in_thread()
        assert Caller(agent.url).state().phase == "ready"
        assert agent.is_alive
    assert not agent.is_alive
    with pytest.raises(RuntimeError, match="started before"):
        node.start_in_thread()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"listen": "26000"}, "local_ip is ''"),
        ({"listen": "10.0.0.7:x"}, "listen is"),
        ({"local_comm_res": "{"}, "local_comm_res"),
        ({"host": "localhost"}, "local_ip is 'localhost'"),
        ({"host": "0.0.0.0"}, "local_ip must be given"),
        ({"local_ip": "::1"}, "local_ip is '::1'"),
    ],
)
def test_a_wrong_value_is_named_at_the_start(
    decoder: SimulatedDataDist, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        NodeAgent(decoder, **fields).start_in_thread()


def test_what_is_no_library_object_is_told_by_what_it_lacks() -> None:
    with pytest.raises(TypeError, match="dict is no LLM-DataDist object: it has no cluster_id"):
        NodeAgent({})


def test_an_agent_for_every_address_says_the_one_for_links(decoder: SimulatedDataDist) -> None:
    node = NodeAgent(decoder, host="0.0.0.0", local_ip="127.0.0.1", node_id="d1", token="s3cret")
    with node.start_in_thread() as agent:
        assert Caller(agent.url).get("/v1/state").reason == "unauthorised"
        assert Caller(agent.url, "s3cret").state().node_id == "d1"


def test_with_a_certificate_its_address_is_https(decoder: SimulatedDataDist) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with NodeAgent(decoder, ssl_context=context).start_in_thread() as agent:
        assert agent.url == f"https://127.0.0.1:{agent.port}"


@pytest.mark.parametrize(("local_comm_res", "links_max"), [("", 512), ('{"version": "1.3"}', None)])
def test_the_links_that_a_card_may_hold_are_told(
    decoder: SimulatedDataDist, local_comm_res: str, links_max: int | None
) -> None:
    with NodeAgent(decoder, local_comm_res=local_comm_res).start_in_thread() as agent:
        [endpoint] = Caller(agent.url).state().endpoints
        assert endpoint.links_max == links_max


def test_every_start_is_an_incarnation_of_its_own(decoder: SimulatedDataDist) -> None:
    seen = set()
    for _ in range(2):
        with NodeAgent(decoder).start_in_thread() as agent:
            seen.add(Caller(agent.url).state().incarnation)
    assert len(seen) == 2


def test_an_engine_tells_of_failed_transfers_from_any_thread(decoder: SimulatedDataDist) -> None:
    prompt, port = ready_prompt()
    with NodeAgent(decoder, role=Role.DECODER).start_in_thread() as agent:
        caller = Caller(agent.url)
        caller.post("/v1/links", clusters=towards(port))
        # It ran over an earlier link: this one is not that old.
        started(lambda: agent.transfer_failed(1, "LLM_TIMEOUT", lasted_s=3600)).result(60)
        assert [row.state for row in caller.state().links] == ["linked"]

        code = "LLM_SUSPECT_REMOTE_ERROR"
        started(lambda: agent.transfer_failed(1, code, lasted_s=0)).result(60)
        [row] = caller.state().links
        assert (row.state, row.code) == ("unknown", code)
    # There is nobody left to tell, and no harm in it.
    agent.transfer_failed(1, "LLM_TIMEOUT", lasted_s=0)
    prompt.finalize()


def test_stopping_answers_who_waits_and_leaves_what_hangs(decoder: SimulatedDataDist) -> None:
    decoder.faults.hang("link", 7)
    agent = NodeAgent(decoder).start_in_thread()
    caller = Caller(agent.url)
    answer = started(lambda: caller.post("/v1/links", clusters=clusters(7), deadline_s=600))
    assert decoder.faults.wait_held("link", 7, timeout_s=60)

    agent.stop()
    assert not agent.is_alive
    [line] = answer.result(60).json
    assert (line.outcome, line.code) == ("unknown", "DEADLINE")
    assert decoder.faults.held("link", 7) == 1

    # Its end finds no loop any more, and does not mind.
    decoder.faults.release()
    until(lambda: decoder.faults.held("link", 7) == 0)
    assert decoder.link_clusters([Cluster(7, "127.0.0.1", 1, "127.0.0.1")])[0] == "LLM_LINK_FAILED"


def test_the_interpreter_ends_beside_an_agent_whose_call_hangs() -> None:
    code = """
import threading
from pd_autoscaler.agent.embed import NodeAgent
from tests.support.agent import Caller, clusters
from pd_autoscaler.datadist.api import DataDistRole
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess

made = SimulatedDataDist(DataDistRole.DECODER, 2, process=SimulatedProcess())
made.init({"device_id": 0, "local_comm_res": ""})
made.faults.hang("link", 7)
caller = Caller(NodeAgent(made).start_in_thread().url)
post = lambda: caller.post("/v1/links", clusters=clusters(7), deadline_s=600)
threading.Thread(target=post, daemon=True).start()
assert made.faults.wait_held("link", 7, timeout_s=60)
print("left")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "left\n", "")


def test_an_engine_that_connects_by_itself_needs_no_library() -> None:
    transport = SelfConnecting(DataDistRole.DECODER, 2)
    with NodeAgent(transport, role=Role.DECODER).start_in_thread() as agent:
        [line] = Caller(agent.url).post("/v1/links", clusters=clusters(1)).json
        assert (line.outcome, line.code) == ("done", OK)
