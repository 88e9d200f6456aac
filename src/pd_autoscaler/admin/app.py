"""The admin API: reads are a view of the newest report, writes go to the loop's Control."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from pd_autoscaler.admin import access, pages
from pd_autoscaler.admin.access import RefusedError, as_json
from pd_autoscaler.admin.bodies import body_of
from pd_autoscaler.admin.explain_view import asked_of, explain_view, past_report
from pd_autoscaler.admin.links_view import links_view
from pd_autoscaler.admin.state_view import state_view
from pd_autoscaler.model.report import Report
from pd_autoscaler.ports import Control, Journal

BODY_BYTES_MAX = 4096
HISTORY_LIMIT = 50
COUNT_MAX = 1_000_000
"""More nodes than any cluster has: a larger count is a slip of the hand."""


def build_app(
    control: Control,
    journal: Journal,
    registry: CollectorRegistry,
    *,
    version: str,
    token: str | None,
    ready: Callable[[], tuple[bool, str]],
    healthy: Callable[[], tuple[bool, str]],
    history_max: int = 1000,
    pairs_max: int = 10_000,
    explained_max: int = 20,
    clock: Callable[[], float] = anyio.current_time,
) -> web.Application:
    """Return the app that shows what the loop does and takes an operator's commands.

    `ready` and `healthy` answer with a reason where they say no. With a `token` writes need it as
    a bearer token; without one only this machine may write. `history_max` bounds one answer of
    /v1/history, `pairs_max` one of /v1/links, `explained_max` the pairs of one of /v1/explain.
    `clock` is monotonic seconds, as in a report.
    """
    admin = _Admin(
        control=control,
        journal=journal,
        registry=registry,
        version=version,
        ready=ready,
        healthy=healthy,
        history_max=history_max,
        pairs_max=pairs_max,
        explained_max=explained_max,
        clock=clock,
    )
    app = web.Application(
        middlewares=[access.errors_as_json, access.guarded_writes(token)],
        client_max_size=BODY_BYTES_MAX,
    )
    app.on_response_prepare.append(access.secure)
    app.add_routes(
        [
            web.get("/healthz", admin.get_healthz),
            web.get("/readyz", admin.get_readyz),
            web.get("/metrics", admin.get_metrics),
            web.get("/v1/state", admin.get_state),
            web.get("/v1/links", admin.get_links),
            web.get("/v1/history", admin.get_history),
            web.get("/v1/explain", admin.get_explain),
            web.post("/v1/pause", admin.post_pause),
            web.post("/v1/resume", admin.post_resume),
            web.post("/v1/target", admin.post_target),
            web.post("/v1/drain", admin.post_drain),
            *pages.routes(),
        ]
    )
    return app


@dataclass(frozen=True, kw_only=True)
class _Admin:
    control: Control
    journal: Journal
    registry: CollectorRegistry
    version: str
    ready: Callable[[], tuple[bool, str]]
    healthy: Callable[[], tuple[bool, str]]
    history_max: int
    pairs_max: int
    explained_max: int
    clock: Callable[[], float]

    async def get_healthz(self, _request: web.Request) -> web.Response:
        return _checked("healthy", self.healthy())

    async def get_readyz(self, _request: web.Request) -> web.Response:
        return _checked("ready", self.ready())

    async def get_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(
            body=encode(self.registry),
            headers={"Content-Type": content_type, "Cache-Control": "no-store"},
        )

    async def get_state(self, _request: web.Request) -> web.Response:
        report = self._latest()
        return as_json(state_view(report, now_s=self.clock(), version=self.version))

    async def get_links(self, _request: web.Request) -> web.Response:
        report = self._latest()
        return as_json(links_view(report, now_s=self.clock(), pairs_max=self.pairs_max))

    async def get_history(self, request: web.Request) -> web.Response:
        limit = _limit(request.query.get("limit", str(HISTORY_LIMIT)), limit_max=self.history_max)
        return as_json({"entries": await self.journal.history(limit=limit)})

    async def get_explain(self, request: web.Request) -> web.Response:
        past = await past_report(request.query, self.journal)
        report = past or self._latest()
        said = await explain_view(
            asked_of(request.query, report),
            report,
            self.journal,
            # A past cycle is told as it was then: its monotonic clock may be another's.
            now_s=past.snapshot.now_s if past else self.clock(),
            pairs_max=self.explained_max,
            until_unix_s=past.snapshot.now_unix_s if past else math.inf,
        )
        return as_json(said)

    async def post_pause(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"all": bool})
        mode = await self.control.pause(everything=body["all"])
        return as_json({"mode": mode.value})

    async def post_resume(self, request: web.Request) -> web.Response:
        if request.body_exists:
            await body_of(request, {})
        return as_json({"mode": (await self.control.resume()).value})

    async def post_target(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"prompt": int, "decoder": int})
        for name in ("prompt", "decoder"):
            _require_count(name, body)
        target = await self.control.scale(body["prompt"], body["decoder"])
        return as_json({"prompt": target.prompt, "decoder": target.decoder, "why": target.why})

    async def post_drain(self, request: web.Request) -> web.Response:
        body = await body_of(request, {"node": str})
        await self.control.drain(body["node"])
        return as_json({"node": body["node"]})

    def _latest(self) -> Report:
        report = self.control.latest
        if report is None:
            raise RefusedError(
                503,
                "the daemon has not ended its first cycle yet; ask again in a second",
                {"Retry-After": "1"},
            )
        return report


def _checked(name: str, answer: tuple[bool, str]) -> web.Response:
    is_so, reason = answer
    return as_json({name: is_so, "reason": reason}, status=200 if is_so else 503)


def _limit(given: str, *, limit_max: int) -> int:
    if given.isdecimal() and len(given) < 10 and 1 <= int(given) <= limit_max:
        return int(given)
    raise RefusedError(400, f"limit={given!r} is not a whole number from 1 to {limit_max}")


def _require_count(name: str, body: dict[str, Any]) -> None:
    if not 0 <= body[name] <= COUNT_MAX:
        raise RefusedError(
            400, f"{name}={body[name]} is not a count of nodes; give 0 to {COUNT_MAX}"
        )
