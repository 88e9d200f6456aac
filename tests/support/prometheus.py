"""A real Prometheus over the daemon's metrics, and what a dashboard would ask it."""

import math
import os
import re
import socket
import subprocess
import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
import yaml

from tests.support.processes import end

PROMETHEUS = Path("/usr/bin/prometheus")
PROMTOOL = Path("/usr/bin/promtool")
SCRAPE_S = 1
WITHIN_S = 45.0
POLL_S = 0.2

_COMPARISON = re.compile(r"\s*(?:[=!]=|[<>]=?)\s*[0-9.]+")
_ABSENT = re.compile(r"absent\((.*)\)")


def need(program: Path) -> None:
    """Skip the test without this program, or fail it where the program is required."""
    if program.exists():
        return
    if "prometheus" in os.environ.get("PD_AUTOSCALER_REQUIRE_PARTS", "").split(","):
        pytest.fail(f"{program} is required here and is not there: install prometheus")
    pytest.skip(f"{program} is not there: install prometheus to test rules and dashboards")


def as_grafana_asks(expr: str, *, instance: str, step_s: int = SCRAPE_S) -> str:
    """Put in what Grafana would for its variables, at this step and our scrape interval."""
    rate_interval_s = max(step_s + SCRAPE_S, 4 * SCRAPE_S)
    expr = expr.replace("$__rate_interval", f"{rate_interval_s}s")
    expr = expr.replace("$__interval", f"{step_s}s").replace("$instance", instance)
    assert "$" not in expr, expr
    return expr


def left_side(expr: str) -> str:
    """Return what an alert compares, without the comparison: it has a value in calm as well."""
    return _COMPARISON.sub("", _ABSENT.sub(r"\1", expr))


def impatient(rules: Path, target: Path) -> Path:
    """Write the rules anew with alerts that fire at once; their real patience is unit-tested."""
    told = yaml.safe_load(rules.read_text())
    for group in told["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    target.write_text(yaml.safe_dump(told))
    return target


class Prometheus:
    """A running Prometheus and how to ask it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = self._url = url
        self._session = session

    async def ask(self, path: str, **parameters: str | float) -> Any:
        """Read the data of an answer; what Prometheus refuses fails the test."""
        async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            told = await answer.json()
            assert told["status"] == "success", (parameters, told)
            return told["data"]

    async def now(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression now: the labels and the value of each of its series."""
        told = await self.ask("query", query=expr)
        return [(row["metric"], float(row["value"][1])) for row in told["result"]]

    async def has_data(self, expr: str, *, past_s: float = 0.0) -> bool:
        """Whether an expression has a number now or, as a curve, somewhere in the past."""
        if not past_s:
            return any(math.isfinite(value) for _, value in await self.now(expr))
        _, end_s = (await self.ask("query", query="time()"))["result"]
        span = {"start": float(end_s) - past_s, "end": float(end_s), "step": SCRAPE_S}
        told = await self.ask("query_range", query=expr, **span)
        return any(math.isfinite(float(v)) for row in told["result"] for _, v in row["values"])

    async def unanswered(self, queries: Iterable[tuple[str, str, float]]) -> list[str]:
        """Ask until all had a number, bounded; return those that had none, by who asks what."""
        silent = list(queries)
        with anyio.move_on_after(WITHIN_S):
            while True:
                silent = [q for q in silent if not await self.has_data(q[1], past_s=q[2])]
                if not silent:
                    break
                await anyio.sleep(SCRAPE_S)  # Until there is more to be asked about.
        return [f"{who}: {expr}" for who, expr, _ in silent]

    async def firing(self) -> list[dict[str, str]]:
        """Return the labels of the alerts that fire."""
        alerts = (await self.ask("alerts"))["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    async def until(self, holds: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait, bounded, until something holds."""
        with anyio.move_on_after(WITHIN_S):
            while True:
                if await holds():
                    return
                await anyio.sleep(POLL_S)  # Another process: there is nothing to be woken by.
        raise AssertionError(f"never came true: {what}; firing: {await self.firing()}")


@asynccontextmanager
async def prometheus(
    tmp_path: Path, session: aiohttp.ClientSession, *, scraped: str, rules: Path
) -> AsyncIterator[Prometheus]:
    """Run a Prometheus that scrapes host:port with these rules; on leaving it has ended."""
    jobs = [{"job_name": "pd-autoscaler", "static_configs": [{"targets": [scraped]}]}]
    every = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    config = tmp_path / "prometheus.yml"
    config.write_text(
        yaml.safe_dump({"global": every, "rule_files": [str(rules)], "scrape_configs": jobs})
    )
    address = f"127.0.0.1:{_free_port()}"
    process = await anyio.open_process(
        _command(config, tmp_path / "prometheus", address),
        stdin=subprocess.DEVNULL,
        stdout=None,
        stderr=None,
    )
    try:
        await ready(f"http://{address}", session)
        running = Prometheus(f"http://{address}", session)
        # It scrapes only seconds after it is ready, and rates need what was there before a change.
        await running.until(lambda: running.has_data("up == 1"), f"{scraped} is scraped")
        yield running
    finally:
        await end(process, within_s=WITHIN_S)


class ServedPages:
    """A page at a port of its own, served from a thread, so that it outlives one test's loop."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.address = f"127.0.0.1:{server.server_address[1]}"
        self.version = 0
        self._page: bytes | None = None

    @property
    def page(self) -> bytes | None:
        """The page with its version as one more metric; None is an engine that fails."""
        return self._page

    @page.setter
    def page(self, page: bytes | None) -> None:
        self.version += 1
        marked = f"page_version {self.version}\n".encode()
        self._page = None if page is None else page + marked


@contextmanager
def serving_page() -> Iterator[ServedPages]:
    """Serve a page on loopback; there is none until a test sets one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = served.page
            self.send_response(500 if page is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = ServedPages(server)
        thread = threading.Thread(target=server.serve_forever, name=f"page {served.address}")
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join(WITHIN_S)


@contextmanager
def watched_pages(
    folder: Path, *, count: int, extra: Callable[[Sequence[str]], Sequence[Mapping[str, object]]]
) -> Iterator[tuple[str, list[ServedPages]]]:
    """Run a Prometheus over pages of a test's own: the job `engines`, and those of `extra`.

    Yields its URL, and the pages.
    """
    need(PROMETHEUS)
    with ExitStack() as stack:
        pages = [stack.enter_context(serving_page()) for _ in range(count)]
        addresses = [page.address for page in pages]
        engines = {"job_name": "engines", "static_configs": [{"targets": addresses}]}
        every = {"scrape_interval": f"{SCRAPE_S}s"}
        config = folder / "prometheus.yml"
        jobs = [engines, *extra(addresses)]
        config.write_text(yaml.safe_dump({"global": every, "scrape_configs": jobs}))
        address = f"127.0.0.1:{_free_port()}"
        process = stack.enter_context(
            subprocess.Popen(_command(config, folder / "data", address), stdin=subprocess.DEVNULL)
        )
        stack.callback(_ended, process)
        yield f"http://{address}", pages


def _ended(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _command(config: Path, data: Path, address: str) -> list[str]:
    return [
        str(PROMETHEUS),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]


async def ready(url: str, session: aiohttp.ClientSession) -> None:
    """Wait, bounded, until a Prometheus answers."""
    with anyio.fail_after(WITHIN_S):
        while True:
            try:
                async with session.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await anyio.sleep(POLL_S)  # It does not say so by itself.


def _free_port() -> int:
    """Return a port that was free just now: Prometheus would not say which one it took."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
