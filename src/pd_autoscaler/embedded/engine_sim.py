"""What only a simulated node has: its library's own tables, and faults at run time.

For checks and demonstrations of the embedded cluster; no product code asks for any of it, as no
real node has it.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

from pd_autoscaler.datadist.simulated import SimulatedDataDist
from pd_autoscaler.embedded.engine_request import BadRequestError
from pd_autoscaler.embedded.node_ranks import Ranks
from pd_autoscaler.model.node import Role

KINDS = ("hang", "fail", "delay", "cut", "release", "clear")


class SimulatedEngine(Protocol):
    """An engine whose steps can be stretched, and which may have taken the other role."""

    role: Role

    @property
    def slowness(self) -> float:
        """What the time of every step is multiplied by."""
        ...

    @slowness.setter
    def slowness(self, times: float) -> None: ...

    @property
    def pull_delay_s(self) -> float:
        """What every pull takes longer, in seconds."""
        ...

    @pull_delay_s.setter
    def pull_delay_s(self, seconds: float) -> None: ...


def add_routes(app: web.Application, engine: SimulatedEngine, ranks: Ranks) -> None:
    """Add `GET /sim/entities` and `POST /sim/faults` to an engine's app.

    Entities: `{"role", "entities": {cluster id: [peer ids]}, "handshakes": {cluster id: [inside,
    waiting]}}`, with a row for each rank. Faults: `{"slowness": 2.0}`, which multiplies the time of
    every step, `{"pull_delay_s": 3.0}`, which every pull of this decoder takes longer (0 ends it),
    or `{"kind", "verb", "cluster_id", "code", "delay_s"}` for calls of verb `link` or `unlink` to
    one cluster id: kind `hang` (until `release`), `fail` with a `code`, `delay` by `delay_s`; `cut`
    has pulls from one `cluster_id` time out until it is linked anew; `release` lets hanging calls
    go on, `clear` removes every other fault, both of one `cluster_id` or of all. A `rank` confines
    a fault to that rank.
    """

    async def entities(_: web.Request) -> web.Response:
        simulated = _simulated(ranks)
        rows = {str(cluster_id): list[int]() for cluster_id in ranks.cluster_ids}
        rows |= {str(each.cluster_id): list(each.entities()) for each in simulated}
        handshakes = {str(each.cluster_id): list(each.handshakes()) for each in simulated}
        said = {"role": engine.role.value, "entities": rows, "handshakes": handshakes}
        return web.json_response(said)

    async def faults(http: web.Request) -> web.Response:
        try:
            body = await http.json()
        except ValueError as error:
            raise BadRequestError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise BadRequestError("the body must be an object")
        if "slowness" in body:
            engine.slowness = _number(body, "slowness")
        if "pull_delay_s" in body:
            is_over = body["pull_delay_s"] == 0
            engine.pull_delay_s = 0.0 if is_over else _number(body, "pull_delay_s")
        if "kind" in body:
            _set_fault(_chosen(ranks, body), body)
        return web.json_response({"slowness": engine.slowness})

    app.router.add_get("/sim/entities", entities)
    app.router.add_post("/sim/faults", faults)


def _simulated(ranks: Ranks) -> list[SimulatedDataDist]:
    """Return the library objects that have tables and faults."""
    return [rank.datadist for rank in ranks if isinstance(rank.datadist, SimulatedDataDist)]


def _chosen(ranks: Ranks, body: dict[str, Any]) -> Sequence[SimulatedDataDist]:
    """Return the library objects that a fault is meant for."""
    simulated = _simulated(ranks)
    if not simulated:
        raise BadRequestError("this node connects by itself: it has no link calls to fail")
    number = body.get("rank")
    if number is None:
        return simulated
    if type(number) is not int or not 0 <= number < len(simulated):
        raise BadRequestError(f"rank must be a whole number below {len(simulated)}")
    return simulated[number : number + 1]


def _set_fault(chosen: Sequence[SimulatedDataDist], body: dict[str, Any]) -> None:
    """Set or remove one of the library's faults."""
    kind, cluster_id = body["kind"], body.get("cluster_id")
    if cluster_id is not None and type(cluster_id) is not int:
        raise BadRequestError("cluster_id must be a whole number")
    if kind == "release":
        for each in chosen:
            each.faults.release(cluster_id)
    elif kind == "clear":
        for each in chosen:
            each.faults.clear(cluster_id)
    elif kind == "cut":
        _cut(chosen, cluster_id)
    else:
        for each in chosen:
            _set_call_fault(each, body, cluster_id)


def _cut(chosen: Sequence[SimulatedDataDist], cluster_id: int | None) -> None:
    """Cut the pulls of every chosen rank that is linked to an id."""
    if cluster_id is None:
        raise BadRequestError("cluster_id must be given")
    linked = [each for each in chosen if cluster_id in each.entities()]
    if not linked:
        raise BadRequestError(f"cluster {cluster_id} is not linked")
    for each in linked:
        each.cache_manager.cut(cluster_id)


def _set_call_fault(
    datadist: SimulatedDataDist, body: dict[str, Any], cluster_id: int | None
) -> None:
    """Have link or unlink calls to one id fail in some way."""
    verb = body.get("verb")
    if verb not in {"link", "unlink"} or cluster_id is None:
        raise BadRequestError("verb (link or unlink) and cluster_id must be given")
    match body["kind"]:
        case "hang":
            calls = _number(body, "calls") if "calls" in body else math.inf
            datadist.faults.hang(verb, cluster_id, calls=calls)
        case "fail":
            datadist.faults.fail(verb, cluster_id, str(body.get("code", "LLM_LINK_FAILED")))
        case "delay":
            datadist.faults.delay(verb, cluster_id, _number(body, "delay_s"))
        case _:
            raise BadRequestError(f"kind must be one of {', '.join(KINDS)}")


def _number(body: dict[str, Any], name: str) -> float:
    """Return a number above zero."""
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise BadRequestError(f"{name} must be a number above 0")
    return float(value)
