"""An engine process that ends with its agent running: the agent stops before the library does."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.agent import Caller
from tests.support.datadist_inprocess import started

ENGINE = """
import atexit, json, sys, urllib.error, urllib.request
from pd_autoscaler.agent.embed import NodeAgent
from pd_autoscaler.datadist.api import DataDistRole
from pd_autoscaler.datadist.simulated import SimulatedDataDist, SimulatedProcess

def say(**words):
    print(json.dumps(words), flush=True)

def finalise():
    try:
        urllib.request.urlopen(agent.url + "/healthz", timeout=30)
        say(agent="answers")
    except urllib.error.URLError as error:
        say(agent=type(error.reason).__name__, is_alive=agent.is_alive)

# As the real package does when it is imported.
atexit.register(finalise)
made = SimulatedDataDist(DataDistRole.DECODER, 2, process=SimulatedProcess())
made.init({"device_id": 0, "local_comm_res": ""})
agent = NodeAgent(made).start_in_thread()
say(url=agent.url)
sys.stdin.read()
"""


def test_an_engine_that_ends_takes_no_more_calls_before_its_library_finalises() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        subprocess.Popen(
            [sys.executable, "-c", ENGINE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        ) as child,
    ):
        try:
            assert child.stdout is not None
            caller = Caller(json.loads(child.stdout.readline())["url"])
            peer = {"id": 9, "ip": "127.0.0.1", "port": silent.getsockname()[1]}
            linked = started(lambda: caller.post("/v1/links", clusters=[peer], deadline_s=600))
            connection, _ = silent.accept()
            with connection:
                # Its call is inside the library, and nobody has stopped the agent.
                said, errors = child.communicate(timeout=60)
            assert json.loads(said) == {"agent": "ConnectionRefusedError", "is_alive": False}
            assert (child.returncode, errors) == (0, "")
            # Whoever waited was answered: the call may have taken effect.
            [line] = linked.result(60).json
            assert (line.outcome, line.code) == ("unknown", "DEADLINE")
        finally:
            child.kill()
