"""What only a simulated node has: its library's own table, and faults at run time.

For checks and demonstrations of the embedded cluster; no product code asks for any of it, as no
real node has it.
"""

import math
from typing import Any, Protocol

from aiohttp import web

from pd_autoscaler.datadist.simulated import SimulatedDataDist
from pd_autoscaler.embedded.engine_request import BadRequestError

KINDS = ("hang", "fail", "delay", "release", "clear")


class Slowable(Protocol):
    """An engine whose steps can be stretched."""

    slowness: float


def add_routes(app: web.Application, engine: Slowable, datadist: SimulatedDataDist) -> None:
    """Add `GET /sim/entities` and `POST /sim/faults` to an engine's app.

    Entities: `{"cluster_id", "entities": [ids], "handshakes": [inside, waiting]}`. Faults: either
    `{"slowness": 2.0}`, which multiplies the time of every step, or `{"kind", "verb",
    "cluster_id", "code", "delay_s"}` for calls of verb `link` or `unlink` to one cluster id: kind
    `hang` (until `release`), `fail` with a `code`, `delay` by `delay_s`; `release` lets hanging
    calls go on, `clear` removes every fault, both of one `cluster_id` or of all.
    """

    async def entities(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "cluster_id": datadist.cluster_id,
                "entities": list(datadist.entities()),
                "handshakes": list(datadist.handshakes()),
            }
        )

    async def faults(http: web.Request) -> web.Response:
        try:
            body = await http.json()
        except ValueError as error:
            raise BadRequestError(f"the body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise BadRequestError("the body must be an object")
        if "slowness" in body:
            engine.slowness = _number(body, "slowness")
        if "kind" in body:
            _set_fault(datadist, body)
        return web.json_response({"slowness": engine.slowness})

    app.router.add_get("/sim/entities", entities)
    app.router.add_post("/sim/faults", faults)


def _set_fault(datadist: SimulatedDataDist, body: dict[str, Any]) -> None:
    """Set or remove one of the library's faults."""
    kind, verb, cluster_id = body["kind"], body.get("verb"), body.get("cluster_id")
    if cluster_id is not None and type(cluster_id) is not int:
        raise BadRequestError("cluster_id must be a whole number")
    if kind == "release":
        datadist.faults.release(cluster_id)
        return
    if kind == "clear":
        datadist.faults.clear(cluster_id)
        return
    if verb not in {"link", "unlink"} or cluster_id is None:
        raise BadRequestError("verb (link or unlink) and cluster_id must be given")
    match kind:
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
