"""The admin API over real HTTP: each answer whole, each refusal with its sentence."""

import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from pd_autoscaler.admin.access import SECURITY_HEADERS
from pd_autoscaler.admin.links_view import links_view
from pd_autoscaler.admin.serve import serve
from pd_autoscaler.admin.state_view import state_view
from pd_autoscaler.errors import (
    ConfigError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from tests.support.admin import (
    NOW_S,
    TOKEN,
    AdminParts,
    StandInControl,
    StandInJournal,
    a_registry,
    a_rich_history,
    a_rich_report,
    served,
)

TARGET = '"prompt" (a whole number), "decoder" (a whole number)'
JSON = {"Content-Type": "application/json"}
BEARER = {**JSON, "Authorization": f"Bearer {TOKEN}"}


async def asked(
    parts: AdminParts, path: str, body: str | None = None, *, headers: dict[str, str] = JSON
) -> tuple[int, Any]:
    """Get a path, or post a body to it, and return status and JSON."""
    method = "GET" if body is None else "POST"
    async with (
        served(parts) as url,
        aiohttp.ClientSession() as session,
        session.request(method, url + path, data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def test_the_state_is_that_of_the_newest_report() -> None:
    report = a_rich_report()

    answer = await asked(AdminParts(control=StandInControl(report)), "/v1/state")

    assert answer == (200, state_view(report, now_s=NOW_S, version="1.2.3"))


async def test_the_links_are_those_of_the_newest_report() -> None:
    report = a_rich_report()
    parts = AdminParts(control=StandInControl(report), limits={"pairs_max": 3})

    answer = await asked(parts, "/v1/links")

    assert answer == (200, links_view(report, now_s=NOW_S, pairs_max=3))


@pytest.mark.parametrize("path", ["/v1/state", "/v1/links", "/v1/explain"])
async def test_before_the_first_cycle_it_says_when_to_ask_again(path: str) -> None:
    async with (
        served(AdminParts()) as url,
        aiohttp.ClientSession() as session,
        session.get(url + path) as answer,
    ):
        error = "the daemon has not ended its first cycle yet; ask again in a second"
        assert (answer.status, await answer.json()) == (503, {"error": error})
        assert answer.headers["Retry-After"] == "1"


async def test_history_gives_as_many_entries_as_were_asked_for() -> None:
    history = a_rich_history()
    parts = AdminParts(journal=StandInJournal(history))

    assert await asked(parts, "/v1/history?limit=2") == (200, {"entries": history[:2]})
    assert await asked(parts, "/v1/history") == (200, {"entries": history})


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5", "9" * 5000, "%D9%A1%00"])
async def test_a_limit_that_is_no_count_is_refused(limit: str) -> None:
    parts = AdminParts(limits={"history_max": 100})

    status, said = await asked(parts, f"/v1/history?limit={limit}")

    assert status == 400
    assert said["error"].endswith("is not a whole number from 1 to 100")


async def test_a_journal_that_cannot_be_read_is_said_to_be_so() -> None:
    journal = StandInJournal()
    journal.failure = TransientError("the journal is locked")

    answer = await asked(AdminParts(journal=journal), "/v1/history")

    assert answer == (503, {"error": "the journal is locked"})


@pytest.mark.parametrize(
    ("path", "name", "key"), [("/healthz", "healthy", "healthy"), ("/readyz", "ready", "ready")]
)
async def test_health_and_readiness_give_the_reason_of_a_no(path: str, name: str, key: str) -> None:
    parts = AdminParts()

    assert await asked(parts, path) == (200, {key: True, "reason": ""})
    setattr(parts, name, (False, "a policy call hangs"))
    assert await asked(parts, path) == (503, {key: False, "reason": "a policy call hangs"})


async def test_metrics_are_those_of_the_registry_that_was_handed_in() -> None:
    async with (
        served(AdminParts(registry=a_registry())) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/metrics") as answer,
    ):
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert await answer.text() == (
            "# HELP pd_autoscaler_nodes Nodes.\n"
            "# TYPE pd_autoscaler_nodes gauge\n"
            "pd_autoscaler_nodes 8.0\n"
        )


@pytest.mark.parametrize(
    ("path", "body", "answer", "told"),
    [
        ("/v1/pause", {"all": False}, {"mode": "paused"}, "pause everything=False"),
        ("/v1/pause", {"all": True}, {"mode": "stopped"}, "pause everything=True"),
        ("/v1/resume", {}, {"mode": "active"}, "resume"),
        (
            "/v1/target",
            {"prompt": 2, "decoder": 3},
            {"prompt": 2, "decoder": 3, "why": "an operator asked for it"},
            "scale 2P:3D",
        ),
        ("/v1/drain", {"node": "decoder-1"}, {"node": "decoder-1"}, "drain decoder-1"),
    ],
)
async def test_a_command_reaches_the_loop(
    path: str, body: dict[str, Any], answer: dict[str, Any], told: str
) -> None:
    parts = AdminParts(control=StandInControl(a_rich_report()))

    assert await asked(parts, path, json.dumps(body)) == (200, answer)
    assert parts.control.told == [told]


async def test_resume_needs_no_body() -> None:
    parts = AdminParts()

    assert await asked(parts, "/v1/resume", "") == (200, {"mode": "active"})


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/v1/pause", "{}", "/v1/pause lacks 'all'; it takes \"all\" (true or false)"),
        ("/v1/pause", '{"all": 1}', "/v1/pause: 'all' is a whole number, not true or false"),
        ("/v1/pause", "[]", "/v1/pause takes a JSON object, not a list"),
        ("/v1/resume", '{"x": 1}', "/v1/resume does not know 'x'; it takes no keys"),
        (
            "/v1/target",
            '{"prompt": 1, "decoders": 2}',
            "/v1/target does not know 'decoders'; it takes " + TARGET,
        ),
        (
            "/v1/target",
            '{"prompt": true, "decoder": 2}',
            "/v1/target: 'prompt' is true or false, not a whole number",
        ),
        (
            "/v1/target",
            '{"prompt": NaN, "decoder": 2}',
            "/v1/target: 'prompt' is a number with a fraction, not a whole number",
        ),
        (
            "/v1/target",
            '{"prompt": -1, "decoder": 2}',
            "prompt=-1 is not a count of nodes; give 0 to 1000000",
        ),
        (
            "/v1/target",
            '{"prompt": 9, "decoder": 2}',
            "prompt=9 is above guard.prompt_max=4; ask for 4 or fewer",
        ),
        ("/v1/drain", '{"node": null}', "/v1/drain: 'node' is null, not a string"),
        (
            "/v1/drain",
            '{"node": "nobody"}',
            "there is no node 'nobody'; 'pd-autoscaler status' lists them",
        ),
    ],
)
async def test_a_wrong_body_is_named_with_the_fix(path: str, body: str, error: str) -> None:
    parts = AdminParts(control=StandInControl(a_rich_report()))

    assert await asked(parts, path, body) == (400, {"error": error})
    assert parts.control.told == []


@pytest.mark.parametrize("body", ["{", "", "not json", "[" * 4000])
async def test_a_body_that_is_not_json_is_refused(body: str) -> None:
    status, said = await asked(AdminParts(), "/v1/pause", body)

    assert status == 400
    assert said["error"].startswith("/v1/pause was sent a body that is not JSON: ")


async def test_a_body_that_is_too_large_is_refused() -> None:
    answer = await asked(AdminParts(), "/v1/drain", json.dumps({"node": "x" * 5000}))

    error = "/v1/drain was sent too large a body; a command is a few dozen bytes"
    assert answer == (413, {"error": error})


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded"])
async def test_what_a_browser_form_can_send_changes_nothing(content_type: str) -> None:
    parts = AdminParts()

    status, said = await asked(
        parts, "/v1/pause", '{"all": true}', headers={"Content-Type": content_type}
    )

    assert status == 415
    assert said["error"] == (
        f"/v1/pause takes JSON alone and was sent {content_type!r}; "
        "send 'Content-Type: application/json'"
    )
    assert parts.control.told == []


@pytest.mark.parametrize("path", ["/v1/pause", "/v1/resume", "/v1/target", "/v1/drain"])
@pytest.mark.parametrize(
    ("given", "what"),
    [
        (None, "no bearer token"),
        ("Bearer wrong", "a wrong bearer token"),
        (f"Basic {TOKEN}", "a wrong bearer token"),
        ("Bearer caf\u00e9", "a wrong bearer token"),
    ],
)
async def test_with_a_token_configured_every_write_needs_it(
    path: str, given: str | None, what: str
) -> None:
    parts = AdminParts(token=TOKEN)
    headers = JSON if given is None else {**JSON, "Authorization": given}

    answer = await asked(parts, path, "{}", headers=headers)

    assert answer == (
        401,
        {
            "error": f"{path} was asked with {what}; send the daemon's admin token as "
            "'Authorization: Bearer TOKEN' (pd-autoscaler: --token or PD_AUTOSCALER_TOKEN)"
        },
    )
    assert parts.control.told == []


async def test_with_the_right_token_writes_pass_and_reads_need_none() -> None:
    parts = AdminParts(control=StandInControl(a_rich_report()), token=TOKEN)

    assert await asked(parts, "/v1/resume", "{}", headers=BEARER) == (200, {"mode": "active"})
    assert (await asked(parts, "/v1/state", headers={}))[0] == 200


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8080", "10.1.2.3", "[", ""])
async def test_without_a_token_a_name_pointed_at_loopback_cannot_write(host: str) -> None:
    parts = AdminParts()

    status, said = await asked(parts, "/v1/resume", "{}", headers={**JSON, "Host": host})

    assert status == 403
    assert said["error"].endswith(
        "without an admin token only this machine may write, by a loopback address: set admin.token"
    )
    assert parts.control.told == []


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080"])
async def test_without_a_token_this_machine_may_write(host: str) -> None:
    answer = await asked(AdminParts(), "/v1/resume", "{}", headers={**JSON, "Host": host})

    assert answer == (200, {"mode": "active"})


async def test_without_a_token_another_machine_cannot_write_but_with_one_it_can() -> None:
    @web.middleware
    async def from_afar(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(remote="10.1.2.3"))

    statuses = []
    for token in (None, TOKEN):
        app = AdminParts(token=token).app()
        app.middlewares.insert(1, from_afar)
        async with (
            serve(app, port=0) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/resume", data="{}", headers=BEARER) as answer,
        ):
            statuses.append(answer.status)

    assert statuses == [403, 200]


async def test_a_page_of_another_origin_cannot_write() -> None:
    headers = {**JSON, "Origin": "http://evil.example"}

    answer = await asked(AdminParts(), "/v1/resume", "{}", headers=headers)

    error = (
        "/v1/resume was asked by a page of 'http://evil.example'; ask from the daemon's own page"
    )
    assert answer == (403, {"error": error})


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (ConfigError("ask for fewer"), 400),
        (PermanentError("this controller is not the leader"), 409),
        (TransientError("the journal cannot be written"), 503),
        (OutcomeUnknownError("the journal did not answer"), 504),
    ],
)
async def test_what_the_loop_refuses_has_the_status_that_fits(
    refusal: Exception, status: int
) -> None:
    parts = AdminParts()
    parts.control.refusal = refusal

    assert await asked(parts, "/v1/resume", "{}") == (status, {"error": str(refusal)})


async def test_an_unexpected_error_is_logged_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = AdminParts()
    parts.control.refusal = RuntimeError("a secret of the inside")

    answer = await asked(parts, "/v1/resume", "{}")

    error = "/v1/resume: an unexpected error; the daemon's log has it"
    assert answer == (500, {"error": error})
    assert [record.getMessage() for record in caplog.records] == ["POST /v1/resume failed"]


async def test_an_unknown_path_and_a_wrong_method_say_what_there_is() -> None:
    async with served(AdminParts()) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/v2/state") as answer:
            error = "/v2/state is not known here; GET / is the page, GET /v1/state the state"
            assert (answer.status, await answer.json()) == (404, {"error": error})
        async with session.get(f"{url}/v1/pause") as answer:
            error = "/v1/pause does not take GET; use POST"
            assert (answer.status, await answer.json()) == (405, {"error": error})
            assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/v1/state", "/metrics", "/nowhere"])
async def test_every_answer_carries_the_security_headers(path: str) -> None:
    async with (
        served(AdminParts()) as url,
        aiohttp.ClientSession() as session,
        session.get(url + path) as answer,
    ):
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS


async def test_the_page_refers_to_nothing_but_its_own_parts() -> None:
    async with served(AdminParts()) as url, aiohttp.ClientSession() as session:
        async with session.get(url) as answer:
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            page = await answer.text()
        for part in ("style.css", "main.js", "icon.svg"):
            assert f'"/page/{part}"' in page
            async with session.get(f"{url}/page/{part}") as answer:
                assert answer.status == 200
        assert "://" not in page
        for escape in ("../app.py", "%2e%2e/app.py", "index.html"):
            async with session.get(f"{url}/page/{escape}") as answer:
                assert answer.status == 404


async def test_a_port_in_use_is_one_sentence_with_the_fix() -> None:
    async with served(AdminParts()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(ConfigError) as refused:
            async with serve(AdminParts().app(), port=port):
                pytest.fail("two servers listen on one port")

    assert str(refused.value) == (
        f"the admin API cannot listen on 127.0.0.1:{port}: something else does already; "
        "stop that, or set another admin.port"
    )


async def test_an_address_of_another_machine_is_one_sentence_with_the_fix() -> None:
    with pytest.raises(ConfigError) as refused:
        # 192.0.2.0/24 is kept for examples (RFC 5737): no machine has it.
        async with serve(AdminParts().app(), host="192.0.2.1", port=0):
            pytest.fail("it listens on an address that this machine does not have")

    assert str(refused.value) == (
        "the admin API cannot listen on 192.0.2.1:0: no such address on this machine; "
        "set an admin.host it has"
    )


async def test_a_server_that_has_closed_gives_its_port_back() -> None:
    async with served(AdminParts()) as url:
        port = int(url.rpartition(":")[2])

    async with serve(AdminParts().app(), port=port) as again:
        assert again == url
