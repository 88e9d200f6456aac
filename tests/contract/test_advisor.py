"""The advisor over real HTTP: what it is asked, what is kept of its answers, what is refused."""

import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pd_autoscaler import app
from pd_autoscaler.adapters.advisor import ANSWER_BYTES_MAX, HttpAdvisor
from pd_autoscaler.adapters.workers import ThreadWorkers
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.report import Report
from pd_autoscaler.policies.advisor_wire import Request
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.settings import Settings
from tests.support.ports_fakes import FakeWorld, Rig, virtually
from tests.support.reports import a_report

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "advisor.py"


def answer(prompt: object = 3, decoder: object = 2, **more: object) -> web.Response:
    return web.json_response({"prompt": prompt, "decoder": decoder, **more})


Reply = Callable[[], web.StreamResponse | Awaitable[web.StreamResponse]]


@dataclass
class Service:
    """Answers as it is told, and keeps what it was asked."""

    reply: Reply = answer
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    strayed: int = 0
    asked: anyio.Event = field(default_factory=anyio.Event)

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        self.asked.set()
        reply = self.reply()
        return reply if isinstance(reply, web.StreamResponse) else await reply

    async def stray(self, _: web.Request) -> web.StreamResponse:
        self.strayed += 1
        return answer(9, 9)


@asynccontextmanager
async def served(service: Service) -> AsyncIterator[str]:
    listening = web.Application(client_max_size=2**24)
    listening.router.add_post("/decide", service.take)
    listening.router.add_route("*", "/elsewhere", service.stray)
    async with TestServer(listening) as server:
        yield str(server.make_url("/decide"))


@asynccontextmanager
async def advised(
    url: str,
    *,
    deadline_s: float = 20.0,
    age_max_s: float = 60.0,
    token: str | None = None,
    on_failure: Callable[[], None] = lambda: None,
) -> AsyncIterator[HttpAdvisor]:
    async with aiohttp.ClientSession() as session, anyio.create_task_group() as group:
        advisor = HttpAdvisor(
            url,
            session=session,
            workers=ThreadWorkers(slots=1),
            deadline_s=deadline_s,
            age_max_s=age_max_s,
            token=token,
            on_failure=on_failure,
        )
        group.start_soon(advisor.run)
        yield advisor
        group.cancel_scope.cancel()


def now_report(*, ago_s: float = 0.0, cycle: int = 1) -> Report:
    report = a_report(cycle=cycle)
    now_s = anyio.current_time() - ago_s
    return replace(report, snapshot=replace(report.snapshot, now_s=now_s))


async def until(is_so: Callable[[], object]) -> None:
    with anyio.fail_after(30):
        while not is_so():
            await anyio.wait_all_tasks_blocked()
            await anyio.lowlevel.checkpoint()


def counts(advice: Advice | None) -> tuple[int, int] | None:
    return None if advice is None else (advice.prompt, advice.decoder)


async def test_it_is_shown_the_cycle_as_it_ended_and_its_answer_comes_back_aged() -> None:
    service = Service(reply=lambda: answer(4, 3, why="more is coming"))
    async with served(service) as url, advised(url, token="not for others") as advisor:
        assert advisor.advice is None
        report = replace(now_report(ago_s=7.0, cycle=12), target=Target(3, 3))
        stale = replace(report.snapshot, advice=Advice(1, 1))
        advisor.append(replace(report, snapshot=stale))
        await until(lambda: advisor.advice)
        advice = advisor.advice
    assert advice is not None
    assert (counts(advice), advice.why, advice.is_fresh) == ((4, 3), "more is coming", True)
    assert 7.0 <= advice.age_s < 37.0
    assert advisor.trouble == ""
    [sent] = service.bodies
    assert (sent["api_version"], sent["cycle"]) == (1, 12)
    assert sent["snapshot"]["target"] == {"prompt": 3, "decoder": 3, "why": ""}
    assert sent["snapshot"]["advice"] is None
    assert sent.keys() == set(Request.__dataclass_fields__)
    assert service.headers[0]["Authorization"] == "Bearer not for others"
    assert service.headers[0]["Content-Type"] == "application/json"


async def test_an_answer_grows_old_with_its_snapshot() -> None:
    service = Service()
    async with served(service) as url, advised(url, age_max_s=60.0) as advisor:
        advisor.append(now_report(ago_s=61.0))
        await until(lambda: advisor.advice)
        assert advisor.advice is not None
        assert not advisor.advice.is_fresh


def large() -> web.Response:
    return web.Response(body=b'{"prompt": 1, "decoder": 1}' + b" " * ANSWER_BYTES_MAX)


def redirect() -> web.Response:
    return web.Response(status=307, headers={"Location": "/elsewhere"})


WRONG: dict[str, tuple[Reply, str]] = {
    "NaN": (lambda: web.Response(text='{"prompt": NaN, "decoder": 2}'), "NaN is no number"),
    "negative": (lambda: answer(-3), "prompt is -3"),
    "huge": (lambda: answer(10**30), "prompt is 1000000000000000000000000000000"),
    "broken": (lambda: answer(2.5), "prompt is 2.5"),
    "not JSON": (lambda: web.Response(text="3P:2D"), "the answer is not JSON"),
    "misspelt": (lambda: answer(wyh="x"), "the answer has 'wyh'"),
    "large": (large, f"larger than {ANSWER_BYTES_MAX} bytes"),
    "redirect": (redirect, "HTTP 307, and redirects are not followed"),
    "500": (lambda: web.Response(status=500, text='{"prompt": 9, "decoder": 9}'), "HTTP 500"),
    "201": (lambda: web.json_response({"prompt": 9, "decoder": 9}, status=201), "HTTP 201"),
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_answer_is_told_and_leaves_the_one_before_it(kind: str) -> None:
    reply, said = WRONG[kind]
    service, failures = Service(), list[None]()

    def failed() -> None:
        failures.append(None)

    async with served(service) as url, advised(url, on_failure=failed) as advisor:
        advisor.append(now_report())
        await until(lambda: advisor.advice)
        service.reply = reply
        advisor.append(now_report(cycle=2))
        await until(lambda: advisor.trouble)
        assert said in advisor.trouble
        assert advisor.trouble.startswith(url)
        assert counts(advisor.advice) == (3, 2)
        assert service.strayed == 0

        service.reply = lambda: answer(5, 5)
        advisor.append(now_report(cycle=3))
        await until(lambda: not advisor.trouble)
        assert counts(advisor.advice) == (5, 5)
    assert len(failures) == 1


async def test_no_content_takes_back_what_was_said() -> None:
    service = Service()
    async with served(service) as url, advised(url) as advisor:
        advisor.append(now_report())
        await until(lambda: advisor.advice)
        service.reply = lambda: web.Response(status=204)
        advisor.append(now_report(cycle=2))
        await until(lambda: advisor.advice is None)
        assert advisor.trouble == ""


async def test_who_does_not_answer_in_time_is_given_up_and_asked_of_the_newest_cycle_next() -> None:
    service, release = Service(), anyio.Event()

    async def slowly() -> web.StreamResponse:
        await release.wait()
        return answer(8, 8)

    service.reply = slowly
    async with served(service) as url, advised(url, deadline_s=0.3) as advisor:
        advisor.append(now_report(cycle=1))
        await service.asked.wait()
        for cycle in (2, 3, 4):
            advisor.append(now_report(cycle=cycle))
        service.reply = answer
        await until(lambda: advisor.advice)
        assert counts(advisor.advice) == (3, 2)
        release.set()
    assert [body["cycle"] for body in service.bodies] == [1, 4]


async def test_an_address_where_nobody_listens_is_told_without_its_password() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        async with advised(f"http://me:secret@{place}/") as advisor:
            advisor.append(now_report())
            await until(lambda: advisor.trouble)
    assert place in advisor.trouble
    assert "secret" not in advisor.trouble


class ToldAdvisor:
    """Has the advice and the trouble that a test gives it."""

    advice: Advice | None = None
    trouble: str = ""


@virtually
async def test_the_loop_follows_advice_holds_without_it_and_alarms_where_it_fails() -> None:
    told = ToldAdvisor()
    world = FakeWorld("p1", "d1")
    world.mesh()
    rig = Rig(world, policy=load_policy("http", {}), advisor=told)
    async with rig.running():
        held = await rig.report()
        assert "has given no answer" in str(held.decision)
        told.advice = Advice(1, 3, "the advisor's reasons", age_s=10.0)
        moved = await rig.at_target(1, 3)
        assert moved.snapshot.advice == told.advice
        told.trouble = "HTTP 500"
        failing = await rig.report()
        assert failing.alarms == ("the advisor cannot be read: HTTP 500",)
        assert failing.decision == Target(1, 3)


async def test_a_controller_asks_its_advisor_of_each_cycle(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        service = Service()
        async with served(service) as url:
            settings = Settings.model_validate(
                {
                    "loop": {"policy": "http"},
                    "advisor": {"url": url, "token": "t"},
                    "provider": {"url": dead},
                    "router": {"url": dead},
                    "journal": {"path": str(tmp_path / "journal.sqlite")},
                    "admin": {"port": 0},
                }
            )
            async with app.controller(settings) as running, anyio.create_task_group() as group:
                group.start_soon(running.loop.run)
                with anyio.fail_after(30):
                    await service.asked.wait()
                group.cancel_scope.cancel()
    assert service.bodies[0]["cycle"] == 1
    assert service.headers[0]["Authorization"] == "Bearer t"


async def test_the_policy_given_by_hand_needs_an_advisor_as_well(tmp_path: Path) -> None:
    loaded = Settings.model_validate({"journal": {"path": str(tmp_path / "journal.sqlite")}})
    loop = loaded.loop.model_copy(update={"policy": "http"})
    with pytest.raises(ConfigError, match=r"advisor\.url is missing"):
        async with app.controller(loaded.model_copy(update={"loop": loop})):
            pass


async def test_the_example_service_answers_what_the_adapter_takes() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await anyio.open_process([sys.executable, str(EXAMPLE), str(port)])
    try:
        async with advised(f"http://127.0.0.1:{port}/") as advisor:
            with anyio.fail_after(30):
                while (advice := advisor.advice) is None:
                    # Until it listens.
                    advisor.append(now_report())
                    await anyio.wait_all_tasks_blocked()
            assert (counts(advice), advice.why) == ((1, 1), "queue 3")
            report = now_report(cycle=99)
            silent = replace(report.snapshot.prompt, queue=None)
            advisor.append(replace(report, snapshot=replace(report.snapshot, prompt=silent)))
            await until(lambda: advisor.advice is None)
            assert advisor.trouble == ""
    finally:
        process.terminate()
        await process.aclose()
