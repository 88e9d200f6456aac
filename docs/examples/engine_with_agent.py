"""An engine process with the agent inside it: plain threads, no event loop of its own.

    python engine_with_agent.py decoder 2 --initialise

It prints its agent's URL as one line of JSON. Then each line of standard input stands for a
request: the main thread serves it and answers with one line. It ends with its standard input.
"""

import argparse
import json
import sys
import time
from typing import Any

from pd_autoscaler.agent.embed import NodeAgent
from pd_autoscaler.agent.wire import EngineWire
from pd_autoscaler.datadist.api import DataDistError, DataDistRole
from pd_autoscaler.datadist.simulated import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    SimulatedDataDist,
    SimulatedProcess,
)
from pd_autoscaler.model.node import Role

OPTIONS: dict[str, object] = {"device_id": 0, "local_comm_res": ""}
LISTEN = "127.0.0.1:0"
BLOCKS = 8


class Engine:
    """Computes nothing, and is also the agent's hooks: what the agent asks of an engine."""

    can_switch_role = True

    def __init__(self, role: Role, cluster_id: int) -> None:
        self.role = role
        self.served = 0
        # In a real engine this is its own LLMDataDist object, initialised and with its memory
        # registered as ever; what concerns the agent stays as it is here.
        self.datadist = SimulatedDataDist(
            DataDistRole[role.name], cluster_id, process=SimulatedProcess()
        )
        self._cache: Cache | None = None

    def load(self) -> EngineWire:
        """Tell the agent how many requests are inside: here a request is over at once."""
        return EngineWire(waiting=0, running=0, kv_unpulled=0)

    def register_memory(self) -> None:
        """Register the KV memory, once the library is initialised and before anything links."""
        self._cache = self.datadist.cache_manager.register_blocks_cache(
            CacheDesc(1, (BLOCKS, 1024), value_bytes=1),
            (),
            BlocksCacheKey(self.datadist.cluster_id),
        )

    def switch_role(self, role: Role) -> None:
        """Take the other role: the memory stays registered, and the weights are the same."""
        self.role = role

    def pull(self, cluster_id: int) -> str:
        """Pull every block of a prompt; return the status code's name."""
        if self._cache is None:
            return "LLM_KV_CACHE_NOT_EXIST"
        blocks = range(BLOCKS)
        try:
            self.datadist.cache_manager.pull_blocks(
                BlocksCacheKey(cluster_id), self._cache, blocks, blocks
            )
        except DataDistError as error:
            return error.code
        return "LLM_SUCCESS"


def main() -> None:
    """Start the agent, then serve on the main thread until standard input ends."""
    parser = argparse.ArgumentParser(description="an engine process with the agent inside it")
    parser.add_argument("role", choices=[role.value for role in Role])
    parser.add_argument("cluster_id", type=int, help="unique over every node that will ever link")
    parser.add_argument(
        "--initialise",
        action="store_true",
        help="initialise the library at once (a decoder), and not when a controller asks",
    )
    args = parser.parse_args()

    engine = Engine(Role(args.role), args.cluster_id)
    if args.initialise:
        engine.datadist.init(OPTIONS)
        engine.register_memory()

    # The agent: an engine that has initialised the library needs no `options`.
    node = NodeAgent(
        engine.datadist,
        engine,
        role=engine.role,
        listen=LISTEN,
        options=OPTIONS,
        is_initialised=args.initialise,
    )
    with node.start_in_thread() as agent:
        say({"url": agent.url})
        for line in sys.stdin:
            engine.served += 1
            answer: dict[str, Any] = {"role": engine.role.value, "served": engine.served}
            if line.strip():
                # A request that names a prompt's cluster id pulls its KV first.
                began_s = time.perf_counter()
                answer["pull"] = code = engine.pull(int(line))
                if code != "LLM_SUCCESS":
                    lasted_s = time.perf_counter() - began_s
                    agent.transfer_failed(int(line), code, lasted_s=lasted_s)
            say(answer)


def say(answer: dict[str, Any]) -> None:
    """Print one line of JSON, at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
