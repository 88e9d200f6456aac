"""What an agent refuses, and how it says so."""

import io
import json
from typing import Any

import aiohttp
import pytest

from tests.support.agent import FakeDataDist, agent, clusters

GOOD = {"epoch": 1, "holder": "c1", "incarnation": "boot-1", "key": "k", "clusters": clusters(1)}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (without("epoch"), "epoch: Field required"),
        (without("key"), "key: Field required"),
        (without("clusters"), "clusters: Field required"),
        (GOOD | {"epoch": -1}, "epoch: Input should be greater than or equal to 0"),
        (GOOD | {"epoch": "first"}, "epoch: Input should be a valid integer"),
        (GOOD | {"holder": ""}, "holder: String should have at least 1 character"),
        (GOOD | {"key": "k" * 201}, "key: String should have at most 200 characters"),
        (GOOD | {"clusters": []}, "clusters: List should have at least 1 item"),
        (GOOD | {"clusters": [{"id": 2**64}]}, "clusters.0.id: Input should be less than"),
        (GOOD | {"clusters": [{"id": 1, "port": 0}]}, "clusters.0.port: Input should be greater"),
        (GOOD | {"clusters": clusters(1, 1)}, "clusters: an id is listed twice"),
        (GOOD | {"deadline_s": 0}, "deadline_s: Input should be greater than 0"),
        (GOOD | {"deadline_s": 1e9}, "deadline_s: is above 3600"),
        (GOOD | {"deadline_s": float("inf")}, "deadline_s: is above 3600"),
        (GOOD | {"deadline_s": float("nan")}, "deadline_s: Input should be greater than 0"),
        (GOOD | {"timeout_ms": 2**31}, "timeout_ms: is above 2147483647"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/links", "/v1/unlinks"])
async def test_a_malformed_request_is_refused_with_a_sentence(
    path: str, body: bytes | dict[str, Any], said: str
) -> None:
    datadist = FakeDataDist()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with (
        agent(datadist) as running,
        running.session.post(f"{running.url}{path}", data=data) as response,
    ):
        reply = await response.json()
    assert (response.status, reply["reason"]) == (400, "bad_request")
    assert said in reply["error"]
    assert datadist.calls == [("init", 0)]


async def test_a_body_that_is_too_large_is_refused() -> None:
    async with (
        agent(FakeDataDist()) as running,
        running.session.post(f"{running.url}/v1/links", data=io.BytesIO(b" " * 2**21)) as response,
    ):
        assert (response.status, (await response.json())["reason"]) == (413, "bad_request")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/state", 404), ("GET", "/v1/links", 405)]
)
async def test_an_unknown_path_is_answered_in_json(method: str, path: str, status: int) -> None:
    async with (
        agent(FakeDataDist()) as running,
        running.session.request(method, f"{running.url}{path}") as response,
    ):
        assert (response.status, (await response.json())["reason"]) == (status, "bad_request")


@pytest.mark.parametrize(
    "path",
    ["/v1/claim", "/v1/links", "/v1/unlinks", "/v1/init", "/v1/role", "/v1/finalize"],
)
async def test_every_change_is_fenced_and_means_one_process(path: str) -> None:
    datadist = FakeDataDist()
    fields: dict[str, Any] = {"role": "decoder", "clusters": clusters(1)}
    async with agent(datadist) as running:
        assert (await running.post("/v1/init", role="decoder", epoch=5)).status == 200
        wrongs: list[tuple[dict[str, Any], str]] = [
            ({"epoch": 4}, "fenced"),
            ({"epoch": 5, "holder": "c2"}, "fenced"),
            ({"epoch": 6, "incarnation": "boot-0"}, "incarnation_mismatch"),
        ]
        for wrong, reason in wrongs:
            answer = await running.post(path, **fields | wrong)
            assert (answer.status, answer.reason) == (409, reason)
        state = await running.state()
    assert (state.epoch, state.holder) == (5, "c1")
    assert datadist.calls == [("init", 0)]


async def test_a_claim_changes_whom_the_agent_obeys_and_nothing_else() -> None:
    datadist = FakeDataDist()
    async with agent(datadist) as running:
        before = list(datadist.calls)
        assert (await running.post("/v1/claim", epoch=3, holder="c2")).status == 200
        refused = await running.post("/v1/init", role="decoder", epoch=2)
        state = await running.state()
    assert (refused.status, refused.reason) == (409, "fenced")
    assert (state.epoch, state.holder) == (3, "c2")
    assert datadist.calls == before


async def test_a_key_that_meant_something_else_is_refused() -> None:
    async with agent(FakeDataDist()) as running:
        await running.links(1, key="once")
        for path, cluster_ids in [
            ("/v1/unlinks", [1]),
            ("/v1/links", [1, 2]),
            ("/v1/finalize", []),
        ]:
            answer = await running.post(path, key="once", clusters=clusters(*cluster_ids))
            assert (answer.status, answer.reason) == (400, "bad_request")


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "s3cret", "Basic czNjcmV0"])
async def test_without_the_token_nothing_but_the_health_is_told(header: str | None) -> None:
    async with agent(FakeDataDist(), token="s3cret") as running, aiohttp.ClientSession() as session:
        headers = {} if header is None else {"Authorization": header}
        for method, path in [
            ("GET", "/v1/state"),
            ("GET", "/metrics"),
            ("POST", "/v1/links"),
            ("GET", "/nowhere"),
        ]:
            async with session.request(method, f"{running.url}{path}", headers=headers) as response:
                assert response.status == 401
                assert (await response.json())["reason"] == "unauthorised"
        async with session.get(f"{running.url}/healthz", headers=headers) as response:
            assert response.status == 200


async def test_with_the_token_all_is_open() -> None:
    async with agent(FakeDataDist(), token="s3cret") as running:
        assert (await running.state()).phase == "ready"
        assert (await running.links(1))[1].outcome == "done"
