"""The simulated library alone: what needs delays, faults or a look into its tables."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from pd_autoscaler.datadist.api import Cluster, DataDistError, DataDistRole
from pd_autoscaler.datadist.simulated import (
    Faults,
    LinkTiming,
    SimulatedDataDist,
    SimulatedProcess,
)
from tests.support.datadist_inprocess import IP, TIMING, Room, started, until
from tests.support.datadist_peers import refusing, silent
from tests.support.datadist_process import CALL_TIMEOUT_S

SUCCESS = ("LLM_SUCCESS", ["LLM_SUCCESS"])
LONG_MS = 60_000


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


def test_both_ends_record_a_link_under_the_others_real_id(room: Room) -> None:
    prompt, decoder = room.prompt(1), room.decoder(2)
    wrong = Cluster(777, IP, room.towards(prompt).port, IP)

    assert decoder.link_clusters([wrong], 200) == SUCCESS
    assert (decoder.entities(), prompt.entities()) == ((1,), (2,))
    assert decoder.unlink_clusters([wrong], 200) == SUCCESS
    assert (decoder.entities(), prompt.entities()) == ((1,), ())


def test_one_call_links_sixteen_clusters_at_a_time(room: Room) -> None:
    decoder = room.decoder(1)
    with silent(IP) as peer, ExitStack() as connections:
        ip, port = peer.address
        clusters = [Cluster(number, ip, port, IP) for number in range(100, 117)]
        linking = started(lambda: decoder.link_clusters(clusters, LONG_MS))
        first = [connections.enter_context(peer.accept()) for _ in range(16)]
        assert not peer.has_caller()
        first[0].close()
        connections.enter_context(peer.accept())
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == ("LLM_FAILED", ["LLM_FAILED"] * 17)


def test_communicators_are_initialised_one_at_a_time_in_a_process(room: Room) -> None:
    prompts = [room.prompt(1), room.prompt(2)]
    process = SimulatedProcess()
    decoder = room.decoder(3, process=process)
    clusters = [room.towards(prompt) for prompt in prompts]

    with process.comm_init:
        linking = started(lambda: decoder.link_clusters(clusters, LONG_MS))
        until(lambda: all(prompt.handshakes() == (1, 0) for prompt in prompts))
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == ("LLM_SUCCESS", ["LLM_SUCCESS"] * 2)


def test_preparing_one_link_does_not_hold_another_back(room: Room) -> None:
    process = SimulatedProcess()
    slow, quick, decoder = room.prompt(1, process=process), room.prompt(2), room.decoder(3)

    with process.comm_init:
        linking = started(lambda: decoder.link_clusters([room.towards(slow)], LONG_MS))
        until(lambda: slow.handshakes() == (1, 0))
        assert decoder.link_clusters([room.towards(quick)], LONG_MS) == SUCCESS
        assert not linking.done()

    assert linking.result(CALL_TIMEOUT_S) == SUCCESS


def test_twenty_decoders_at_one_prompt_are_served_sixteen_at_a_time(room: Room) -> None:
    process = SimulatedProcess()
    prompt = room.prompt(1, process=process)
    decoders = [room.decoder(number) for number in range(2, 22)]
    target = [room.towards(prompt)]

    with process.comm_init:
        linking = [started(partial(decoder.link_clusters, target, LONG_MS)) for decoder in decoders]
        until(lambda: sum(prompt.handshakes()) == 20)
        until(lambda: prompt.handshakes() == (16, 4))
        assert not any(future.done() for future in linking)

    assert [future.result(CALL_TIMEOUT_S) for future in linking] == [SUCCESS] * 20
    assert prompt.entities() == tuple(range(2, 22))


@pytest.mark.parametrize(
    ("timeout_ms", "rounding_s", "budget_s"),
    [(1, 1.0, 1.0), (1000, 1.0, 1.0), (1001, 1.0, 2.0), (300, 0.1, 0.3), (310, 0.1, 0.4)],
)
def test_preparing_may_take_the_timeout_rounded_up(
    timeout_ms: int, rounding_s: float, budget_s: float
) -> None:
    timing = LinkTiming(rounding_s=rounding_s)

    assert timing.prepare_budget_s(timeout_ms) == pytest.approx(budget_s)


def test_a_link_that_prepares_longer_than_its_timeout_times_out(room: Room) -> None:
    prompt = room.prompt(1)
    decoder = room.decoder(2, timing=LinkTiming(prepare_s=60.0, rounding_s=0.05))

    linked = decoder.link_clusters([room.towards(prompt)], 50)

    assert linked == ("LLM_TIMEOUT", ["LLM_TIMEOUT"])
    assert decoder.entities() == ()


def test_a_link_that_prepares_within_the_rounded_timeout_succeeds(room: Room) -> None:
    prompt = room.prompt(1)
    decoder = room.decoder(2, timing=LinkTiming(init_s=0.01, prepare_s=0.02, rounding_s=30.0))

    assert decoder.link_clusters([room.towards(prompt)], 1) == SUCCESS


async def test_giving_up_on_a_blocked_call_does_not_end_it(room: Room) -> None:
    process = SimulatedProcess()
    decoder = room.decoder(1, process=process)
    with silent(IP) as peer:
        ip, port = peer.address
        clusters = [Cluster(100, ip, port, IP)]
        call = asyncio.ensure_future(asyncio.to_thread(decoder.link_clusters, clusters, 100))
        await asyncio.to_thread(peer.accept)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert process.calls == 1

    await asyncio.to_thread(until, lambda: process.calls == 0)


def test_a_hanging_link_hangs_until_released_and_blocks_nothing_else(room: Room) -> None:
    faults = Faults()
    first, second = room.prompt(1), room.prompt(2)
    decoder = room.decoder(3, faults=faults)
    faults.hang("link", 1)

    linking = started(lambda: decoder.link_clusters([room.towards(first)], 200))
    assert faults.wait_held("link", 1, timeout_s=CALL_TIMEOUT_S)
    assert decoder.link_clusters([room.towards(second)], 200) == SUCCESS
    assert decoder.unlink_clusters([Cluster(1)], 200, force=True) == SUCCESS
    assert not linking.done()
    faults.release(2)
    assert faults.held("link", 1) == 1
    faults.release(1)

    assert linking.result(CALL_TIMEOUT_S) == SUCCESS
    assert faults.held("link", 1) == 0


def test_a_hanging_unlink_keeps_the_link_and_a_forced_one_passes_it(room: Room) -> None:
    prompt, decoder = room.prompt(1), room.decoder(2)
    decoder.link_clusters([room.towards(prompt)], 200)
    decoder.faults.hang("unlink", 1)

    unlinking = started(lambda: decoder.unlink_clusters([room.towards(prompt)], 200))
    assert decoder.faults.wait_held("unlink", 1, timeout_s=CALL_TIMEOUT_S)
    assert (decoder.entities(), prompt.entities()) == ((1,), (2,))
    assert decoder.unlink_clusters([Cluster(1)], 200, force=True) == SUCCESS
    assert (decoder.entities(), prompt.entities()) == ((), (2,))
    decoder.faults.release()

    assert unlinking.result(CALL_TIMEOUT_S) == SUCCESS
    assert prompt.entities() == ()


def test_a_failing_cluster_fails_until_it_is_cleared(room: Room) -> None:
    first, second, decoder = room.prompt(1), room.prompt(2), room.decoder(3)
    decoder.faults.fail("link", 1, "LLM_SUSPECT_REMOTE_ERROR")
    both = [room.towards(first), room.towards(second)]

    failed = decoder.link_clusters(both, 200)
    assert failed == ("LLM_SUSPECT_REMOTE_ERROR", ["LLM_SUSPECT_REMOTE_ERROR", "LLM_SUCCESS"])
    decoder.faults.clear(2)
    assert decoder.link_clusters(both[:1], 200)[0] == "LLM_SUSPECT_REMOTE_ERROR"
    decoder.faults.clear(1)
    assert decoder.link_clusters(both[:1], 200) == SUCCESS


def test_a_delayed_link_still_succeeds(room: Room) -> None:
    prompt, decoder = room.prompt(1), room.decoder(2)
    decoder.faults.delay("link", 1, 0.01)

    assert decoder.link_clusters([room.towards(prompt)], 200) == SUCCESS


def test_a_peer_that_is_finalised_in_the_middle_fails_the_link(room: Room) -> None:
    process = SimulatedProcess()
    prompt, decoder = room.prompt(1, process=process), room.decoder(2)

    with process.comm_init:
        linking = started(lambda: decoder.link_clusters([room.towards(prompt)], LONG_MS))
        until(lambda: prompt.handshakes() == (1, 0))
        finalizing = started(prompt.finalize)
        assert linking.result(CALL_TIMEOUT_S) == ("LLM_FAILED", ["LLM_FAILED"])

    finalizing.result(CALL_TIMEOUT_S)
    assert decoder.entities() == ()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b'{"type": "connect"}\n',
        b'{"type": "connect", "cluster_id": 1, "data": 3, "caches": 4}\n',
        b'{"type": "disconnect", "cluster_id": []}\n',
        b"x" * 100_000,
    ],
    ids=["http", "list", "empty greeting", "wrong greeting", "wrong id", "endless line"],
)
def test_a_stranger_on_the_port_changes_nothing(room: Room, said: bytes) -> None:
    prompt, decoder = room.prompt(1), room.decoder(2)
    with socket.create_connection((IP, room.towards(prompt).port)) as stranger:
        with suppress(OSError):  # It may be cut off in the middle of a word.
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
        until(lambda: prompt.handshakes() == (0, 0))

    assert decoder.link_clusters([room.towards(prompt)], 200) == SUCCESS


def test_an_address_in_use_refuses_init_and_leaves_the_process_free(room: Room) -> None:
    process = SimulatedProcess()
    refused = SimulatedDataDist(DataDistRole.PROMPT, 1, process=process, timing=TIMING)
    with refusing(IP) as (ip, port), pytest.raises(DataDistError) as caught:
        refused.init({"device_id": 0, "local_comm_res": "", "listen_ip_info": f"{ip}:{port}"})
    assert caught.value.code == "LLM_FAILED"

    other = SimulatedDataDist(DataDistRole.DECODER, 2, process=process)
    other.init({"device_id": 0, "local_comm_res": ""})
    other.finalize()


@pytest.mark.parametrize(
    "options",
    [
        {"device_id": 0},
        {"device_id": 0, "enable_cache_manager": False, "local_comm_res": ""},
        {"device_id": 0, "local_comm_res": "", "transfer_backend": "hixl"},
    ],
)
def test_a_mode_that_is_not_simulated_is_refused(options: dict[str, object]) -> None:
    made = SimulatedDataDist(DataDistRole.DECODER, 1, process=SimulatedProcess())

    with pytest.raises(DataDistError, match="is simulated") as caught:
        made.init(options)

    assert caught.value.code == "LLM_FEATURE_NOT_ENABLED"


def test_the_cache_manager_alone_is_enough_for_the_simulated_mode() -> None:
    made = SimulatedDataDist(DataDistRole.DECODER, 1, process=SimulatedProcess())

    made.init({"device_id": 0, "enable_cache_manager": True})
    made.finalize()
