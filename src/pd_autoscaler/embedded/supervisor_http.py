"""The supervisor's API on loopback: nodes are listed, asked for and removed by JSON."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from aiohttp import web

from pd_autoscaler.embedded.child import Child, EndedChild, Urls
from pd_autoscaler.embedded.engine_listen import bound_socket, listening
from pd_autoscaler.embedded.json_only import json_only
from pd_autoscaler.embedded.supervisor import Supervisor
from pd_autoscaler.errors import TransientError
from pd_autoscaler.model.node import Role

_REQUEST_ID_MAX = 200
_SUPERVISOR = web.AppKey("supervisor", Supervisor)


def supervisor_app(supervisor: Supervisor) -> web.Application:
    """Return the API of a supervisor.

    GET /nodes lists those that exist, POST /nodes `{"role", "request_id"}` asks for one more (202,
    `{"id"}`), DELETE /nodes/{id} removes one (204, also when it is gone), GET /ended lists the
    newest ends. Refusals are `{"error"}` with 400, 415 for a body that does not say it is JSON, or
    503 at the limit of nodes and when closing.
    """
    app = web.Application(middlewares=[json_only], client_max_size=65_536)
    app[_SUPERVISOR] = supervisor
    app.router.add_get("/nodes", _nodes)
    app.router.add_post("/nodes", _grow)
    app.router.add_delete("/nodes/{id}", _remove)
    app.router.add_get("/ended", _ended)
    return app


@asynccontextmanager
async def served(app: web.Application, *, port: int = 0) -> AsyncIterator[str]:
    """Serve an application on loopback; yield its URL (a free port unless one is given)."""
    async with listening(app, bound_socket(port)) as bound:
        yield f"http://127.0.0.1:{bound}"


async def _nodes(request: web.Request) -> web.Response:
    return web.json_response([_node_json(child) for child in request.app[_SUPERVISOR].nodes])


async def _grow(request: web.Request) -> web.Response:
    try:
        asked = await request.json()
        role = Role(asked["role"])
        request_id = asked["request_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return _refusal(400, 'give {"role": "prompt" or "decoder", "request_id": "..."}')
    if not isinstance(request_id, str) or not 0 < len(request_id) <= _REQUEST_ID_MAX:
        return _refusal(400, f"request_id: give a string of 1 to {_REQUEST_ID_MAX} characters")
    try:
        node_id = request.app[_SUPERVISOR].grow(role, request_id)
    except TransientError as error:
        return _refusal(503, str(error))
    return web.json_response({"id": node_id}, status=202)


async def _remove(request: web.Request) -> web.Response:
    request.app[_SUPERVISOR].remove(request.match_info["id"])
    return web.Response(status=204)


async def _ended(request: web.Request) -> web.Response:
    return web.json_response([_ended_json(end) for end in request.app[_SUPERVISOR].ended])


def _refusal(status: int, error: str) -> web.Response:
    return web.json_response({"error": error}, status=status)


def _node_json(child: Child) -> dict[str, Any]:
    # One that does not listen yet has none.
    urls = child.urls or Urls(agent_urls=(), engine_url="", metrics_url="")
    return {
        "id": child.id,
        "role": child.role.value,
        "request_id": child.request_id,
        **asdict(urls),
        "pid": child.pid,
        "state": child.state.value,
    }


def _ended_json(end: EndedChild) -> dict[str, Any]:
    return {**asdict(end), "lived_s": end.ended_s - end.began_s, "is_unasked": end.is_unasked}
