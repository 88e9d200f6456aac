"""One process that holds one library, driven by JSON lines: `python datadist_child.py`.

A line `{"id": 1, "op": "link", "arguments": {…}}` is answered by `{"id": 1, "result": …}` or
`{"id": 1, "error": {"type", "message", "code"}}` when it ends. Every command runs in a thread of
its own, so a call that blocks does not block the driver. The process ends with its stdin.
"""

import json
import os
import sys
import threading
from typing import Any

from pd_autoscaler.datadist import native
from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistRole
from pd_autoscaler.datadist.simulated import LinkTiming, SimulatedDataDist, SimulatedProcess


class Driver:
    def __init__(self) -> None:
        self._process = SimulatedProcess()
        self._objects: dict[str, DataDist] = {}
        self._output = threading.Lock()

    def run(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()
        # Calls may be blocked inside the library for ever.
        os._exit(0)

    def _answer(self, request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": request["id"]}
        try:
            answer["result"] = getattr(self, request["op"])(**request["arguments"])
        except Exception as error:  # Whatever it is, the other side asserts on it.
            answer["error"] = {
                "type": type(error).__name__,
                "message": str(error),
                "code": getattr(error, "code", None),
            }
        with self._output:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()

    def create(
        self,
        *,
        implementation: str,
        module: str,
        role: Any,
        cluster_id: Any,
        timing: dict[str, float],
        name: str = "main",
    ) -> None:
        named = DataDistRole[role] if isinstance(role, str) else role
        if implementation != "simulated":
            # The stand-in lies beside this file, where Python looks first.
            self._objects[name] = native.load(module)(named, cluster_id)
        else:
            self._objects[name] = SimulatedDataDist(
                named, cluster_id, process=self._process, timing=LinkTiming(**timing)
            )

    def init(self, options: dict[str, object], name: str = "main") -> None:
        self._objects[name].init(options)

    def link(self, clusters: Any, timeout: Any, name: str = "main") -> tuple[str, list[str]]:
        return self._objects[name].link_clusters(_clusters(clusters), timeout)

    def unlink(self, clusters: Any, timeout: Any, force: Any) -> tuple[str, list[str]]:
        return self._objects["main"].unlink_clusters(_clusters(clusters), timeout, force)

    def switch_role(self, role: Any, options: Any) -> None:
        named = DataDistRole[role] if isinstance(role, str) else role
        self._objects["main"].switch_role(named, options)

    def finalize(self, name: str = "main") -> None:
        if name in self._objects:
            self._objects[name].finalize()

    def ping(self) -> str:
        return "pong"


def _clusters(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [Cluster(*item) if isinstance(item, list) else item for item in value]


if __name__ == "__main__":
    Driver().run()
