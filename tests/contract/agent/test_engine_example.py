"""The documented engine process, as it stands in docs/examples, with the agent inside it."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import OK, Caller
from tests.support.datadist_inprocess import started, until

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "engine_with_agent.py"
IP = "127.0.0.1"


class EngineProcess:
    """One engine: its agent over HTTP, its main thread over its pipes."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.agent = Caller(self._said()["url"])

    def serve(self, pull: int | str = "") -> dict[str, Any]:
        """Have the main thread serve a request, and pull a prompt's KV first if one is named."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{pull}\n")
        self._child.stdin.flush()
        return self._said()

    def end(self) -> int:
        """End its standard input and return how the process ended."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        return self._child.wait(60)

    def address(self) -> dict[str, Any]:
        """Return what a peer links to."""
        [endpoint] = self.agent.state().endpoints
        return {"id": endpoint.cluster_id, "ip": endpoint.ip, "port": endpoint.port}

    def link(self, peer: dict[str, Any], **fields: Any) -> tuple[str, str]:
        """Link a peer."""
        [line] = self.agent.post("/v1/links", clusters=[peer], **fields).json
        return line.outcome, line.code

    def unlink(self, peer: dict[str, Any]) -> str:
        """Unlink a peer."""
        [line] = self.agent.post("/v1/unlinks", clusters=[peer]).json
        outcome: str = line.outcome
        return outcome

    def _said(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        said: dict[str, Any] = json.loads(self._child.stdout.readline())
        return said


@contextmanager
def running(*arguments: str) -> Iterator[EngineProcess]:
    command = [sys.executable, str(EXAMPLE), *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            yield EngineProcess(child)
        finally:
            child.kill()


@pytest.fixture
def engines() -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """A prompt that a controller initialises, and a decoder that has done so itself."""
    with ExitStack() as stack:
        prompt = stack.enter_context(running("prompt", "1"))
        decoder = stack.enter_context(running("decoder", "2", "--initialise"))
        yield prompt, decoder


def test_two_engines_are_linked_swap_roles_and_end(
    engines: tuple[EngineProcess, EngineProcess],
) -> None:
    prompt, decoder = engines
    assert (prompt.agent.state().phase, decoder.agent.state().phase) == ("new", "ready")
    assert prompt.agent.post("/v1/init", role="prompt").status == 200
    assert "role" in decoder.agent.state().capabilities

    at = prompt.address()
    assert decoder.link(at) == ("done", OK)
    assert decoder.serve(pull=1) == {"role": "decoder", "served": 1, "pull": OK}
    assert prompt.agent.post("/v1/role", role="decoder").reason == "links_left"
    assert decoder.unlink(at) == "done"

    assert prompt.agent.post("/v1/role", role="decoder").status == 200
    assert decoder.agent.post("/v1/role", role="prompt").status == 200
    assert [prompt.serve(), decoder.serve()] == [
        {"role": "decoder", "served": 1},
        {"role": "prompt", "served": 2},
    ]
    at = decoder.address()
    assert prompt.link(at) == ("done", OK)
    # What was registered before the switch is reachable after it.
    assert prompt.serve(pull=2)["pull"] == OK
    assert prompt.unlink(at) == "done"

    for engine in engines:
        assert engine.agent.post("/v1/finalize").status == 200
        assert engine.agent.state().phase == "finalised"
        assert engine.end() == 0


def test_the_engine_serves_while_a_link_call_hangs(
    engines: tuple[EngineProcess, EngineProcess],
) -> None:
    _, decoder = engines
    with socket.create_server((IP, 0)) as silent:
        peer = {"id": 9, "ip": IP, "port": silent.getsockname()[1]}
        linked = started(lambda: decoder.link(peer, deadline_s=600))
        connection, _ = silent.accept()
        with connection:
            # The library waits for a greeting that does not come; the main thread goes on.
            assert [decoder.serve()["served"] for _ in range(3)] == [1, 2, 3]
            assert decoder.agent.state().calls_in_flight == 1
            assert not linked.done()
        assert linked.result(60) == ("failed", "LLM_FAILED")


def test_an_engine_ends_with_its_input_though_a_call_hangs(
    engines: tuple[EngineProcess, EngineProcess],
) -> None:
    _, decoder = engines
    with socket.create_server((IP, 0)) as silent:
        peer = {"id": 9, "ip": IP, "port": silent.getsockname()[1]}
        linked = started(lambda: decoder.link(peer, deadline_s=600))
        connection, _ = silent.accept()
        with connection:
            assert decoder.end() == 0
            # Whoever waited was answered: the call may take effect yet.
            assert linked.result(60) == ("unknown", "DEADLINE")


def test_a_pull_that_fails_is_told_to_the_agent_by_the_engine(
    engines: tuple[EngineProcess, EngineProcess],
) -> None:
    prompt, decoder = engines
    prompt.agent.post("/v1/init", role="prompt")
    assert decoder.link(prompt.address()) == ("done", OK)
    # A prompt that dies tells nobody, and its link stays until a pull over it fails.
    prompt._child.kill()
    prompt._child.wait(60)
    code = decoder.serve(pull=1)["pull"]

    assert code == "LLM_TIMEOUT"
    until(lambda: [row.state for row in decoder.agent.state().links] == ["unknown"])
    assert [row.code for row in decoder.agent.state().links] == [code]
