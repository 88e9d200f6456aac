"""Simulated library objects in this process, each in a simulated process of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pd_autoscaler.datadist.api import Cluster, DataDistRole
from pd_autoscaler.datadist.simulated import (
    Faults,
    LinkTiming,
    SimulatedDataDist,
    SimulatedProcess,
)
from tests.support.datadist_fleet import Fleet, LibrarySettings
from tests.support.datadist_process import CALL_TIMEOUT_S, ChildPool

T = TypeVar("T")
IP = "127.0.0.1"
TIMING = LinkTiming(rounding_s=0.1)


def started(work: Callable[[], T]) -> Future[T]:
    """Run blocking work in a thread of its own."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(fact: Callable[[], bool]) -> None:
    """Wait for a fact that becomes true by itself; fail far beyond any real wait."""
    pause = threading.Event()
    for _ in range(int(CALL_TIMEOUT_S / 0.005)):
        if fact():
            return
        pause.wait(0.005)
    raise AssertionError("it never came true")


class Room:
    """Makes endpoints for one test and finalises them behind it."""

    def __init__(self) -> None:
        self._ports = Fleet(LibrarySettings.of("simulated", {}), ChildPool())
        self._objects: list[SimulatedDataDist] = []
        self._addresses: dict[int, int] = {}

    def prompt(
        self,
        cluster_id: int,
        *,
        timing: LinkTiming = TIMING,
        process: SimulatedProcess | None = None,
    ) -> SimulatedDataDist:
        """A prompt endpoint that listens."""
        port = self._ports.port()
        self._addresses[cluster_id] = port
        made = SimulatedDataDist(
            DataDistRole.PROMPT, cluster_id, process=process or SimulatedProcess(), timing=timing
        )
        return self._kept(made, {"listen_ip_info": f"{IP}:{port}"})

    def decoder(
        self,
        cluster_id: int,
        *,
        timing: LinkTiming = TIMING,
        process: SimulatedProcess | None = None,
        faults: Faults | None = None,
        **options: object,
    ) -> SimulatedDataDist:
        """A decoder endpoint that does not listen."""
        made = SimulatedDataDist(
            DataDistRole.DECODER,
            cluster_id,
            process=process or SimulatedProcess(),
            timing=timing,
            faults=faults,
        )
        return self._kept(made, options)

    def _kept(self, made: SimulatedDataDist, options: dict[str, object]) -> SimulatedDataDist:
        made.init({"device_id": 0, "local_comm_res": "", **options})
        self._objects.append(made)
        return made

    def towards(self, prompt: SimulatedDataDist) -> Cluster:
        """A Cluster for that prompt."""
        return Cluster(prompt.cluster_id, IP, self._addresses[prompt.cluster_id], IP)

    def close(self) -> None:
        """Finalise all."""
        for made in self._objects:
            made.faults.clear()
        for made in self._objects:
            made.finalize()
