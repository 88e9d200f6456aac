"""Pulls over links: the simulated library's own data plane."""

from collections.abc import Iterator

import pytest

from pd_autoscaler.datadist.api import Cluster, DataDistError, DataDistRole
from pd_autoscaler.datadist.simulated import (
    BlocksCacheKey,
    Cache,
    CacheDesc,
    LinkTiming,
    SimulatedDataDist,
    SimulatedProcess,
)
from tests.support.datadist_inprocess import Room, started, until
from tests.support.datadist_peers import idle_connections
from tests.support.datadist_process import CALL_TIMEOUT_S

SUCCESS = ("LLM_SUCCESS", ["LLM_SUCCESS"])
DESC = CacheDesc(2, (10, 16, 8), value_bytes=2)
NEVER = LinkTiming(rounding_s=0.1, bandwidth_byte_per_s=1e-6)


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


def registered(prompt: SimulatedDataDist) -> SimulatedDataDist:
    prompt.cache_manager.register_blocks_cache(DESC, (1, 2), BlocksCacheKey(prompt.cluster_id))
    return prompt


def linked(room: Room, prompt: SimulatedDataDist, decoder: SimulatedDataDist) -> Cache:
    assert decoder.link_clusters([room.towards(prompt)], 200) == SUCCESS
    return decoder.cache_manager.register_blocks_cache(DESC)


def code_of(decoder: SimulatedDataDist, prompt_id: int, cache: Cache, block: int = 0) -> str:
    with pytest.raises(DataDistError) as caught:
        decoder.cache_manager.pull_blocks(BlocksCacheKey(prompt_id), cache, [block], [0])
    return caught.value.code


def test_a_linked_decoder_pulls_blocks(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2)
    cache = linked(room, prompt, decoder)

    decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, [0, 9], [3, 4])


def test_a_block_is_as_large_as_its_tensors() -> None:
    assert (DESC.block_count, DESC.block_bytes) == (10, 2 * 16 * 8 * 2)
    assert LinkTiming(bandwidth_byte_per_s=1024.0).transfer_s(DESC.block_bytes) == 0.5
    assert LinkTiming().transfer_s(DESC.block_bytes) == 0.0


def test_pulling_needs_a_link_at_this_end(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2)
    cache = linked(room, prompt, decoder)
    decoder.unlink_clusters([Cluster(1)], 200, force=True)

    assert code_of(decoder, 1, cache) == "LLM_NOT_YET_LINK"


def test_pulling_needs_a_link_at_the_other_end(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2, sync_kv_timeout=50)
    cache = linked(room, prompt, decoder)
    prompt.unlink_clusters([Cluster(2)], 200, force=True)

    assert code_of(decoder, 1, cache) == "LLM_TIMEOUT"


def test_pulling_from_a_dead_prompt_times_out(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2, sync_kv_timeout=50)
    cache = linked(room, prompt, decoder)
    prompt.finalize()

    assert code_of(decoder, 1, cache) == "LLM_TIMEOUT"
    assert decoder.entities() == (1,)


def test_a_stale_link_to_a_restarted_prompt_pulls_nothing_until_linked_again(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2, sync_kv_timeout=50)
    cache = linked(room, prompt, decoder)
    prompt.finalize()
    again = registered(room.prompt(1))

    assert code_of(decoder, 1, cache) == "LLM_TIMEOUT"
    decoder.unlink_clusters([Cluster(1)], 200, force=True)
    linked(room, again, decoder)
    decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, [0], [0])


def test_what_is_registered_after_the_link_is_not_reachable_over_it(room: Room) -> None:
    prompt, decoder = room.prompt(1), room.decoder(2)
    cache = linked(room, prompt, decoder)
    registered(prompt)

    assert code_of(decoder, 1, cache) == "LLM_KV_CACHE_NOT_EXIST"


@pytest.mark.parametrize(
    ("source", "target"), [([10], [0]), ([0], [10]), ([-1], [0]), ([0, 1], [0])]
)
def test_blocks_that_are_not_there_are_refused(
    room: Room, source: list[int], target: list[int]
) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2)
    cache = linked(room, prompt, decoder)

    with pytest.raises(DataDistError) as caught:
        decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, source, target)

    assert caught.value.code == "LLM_PARAM_INVALID"


def test_a_pull_that_takes_longer_than_its_timeout_fails(room: Room) -> None:
    prompt = registered(room.prompt(1, timing=NEVER))
    decoder = room.decoder(2, sync_kv_timeout=50)
    cache = linked(room, prompt, decoder)

    assert code_of(decoder, 1, cache) == "LLM_TIMEOUT"


def test_a_pull_within_the_bandwidth_succeeds(room: Room) -> None:
    timing = LinkTiming(bandwidth_byte_per_s=DESC.block_bytes * 100.0)
    prompt, decoder = registered(room.prompt(1, timing=timing)), room.decoder(2)
    cache = linked(room, prompt, decoder)

    decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, [0], [0])


def test_a_pull_takes_no_handshake_slot(room: Room) -> None:
    prompt, decoder = registered(room.prompt(1)), room.decoder(2)
    cache = linked(room, prompt, decoder)
    target = room.towards(prompt)
    assert target.ip is not None
    assert target.port is not None

    with idle_connections((target.ip, target.port), 16):
        until(lambda: prompt.handshakes() == (16, 0))
        decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, [0], [0])


@pytest.mark.parametrize("force", [True, False])
def test_an_unlink_waits_for_the_pull_in_flight(room: Room, force: bool) -> None:
    prompt = registered(room.prompt(1, timing=NEVER))
    decoder = room.decoder(2, sync_kv_timeout=60_000)
    cache = linked(room, prompt, decoder)
    assert decoder._started is not None
    table = decoder._started.end.entities
    entity = table.find(1)
    assert entity is not None

    pulling = started(lambda: decoder.cache_manager.pull_blocks(BlocksCacheKey(1), cache, [0], [0]))
    until(entity.pulling.locked)
    unlinking = started(lambda: decoder.unlink_clusters([room.towards(prompt)], 200, force=force))
    until(table._mutex.locked)
    if not force:
        # The prompt has dropped its end and said so; only the decoder's own end still waits.
        until(lambda: prompt.entities() == () and prompt.handshakes() == (0, 0))
    assert not unlinking.done()
    prompt.finalize()

    with pytest.raises(DataDistError, match="timed out"):
        pulling.result(CALL_TIMEOUT_S)
    assert unlinking.result(CALL_TIMEOUT_S) == SUCCESS
    assert decoder.entities() == ()


def test_there_is_no_cache_manager_before_init() -> None:
    made = SimulatedDataDist(DataDistRole.DECODER, 1, process=SimulatedProcess())

    with pytest.raises(RuntimeError, match="not initialized"):
        _ = made.cache_manager


def test_addresses_must_match_the_tensors(room: Room) -> None:
    decoder = room.decoder(1)

    with pytest.raises(DataDistError, match="3 addresses for 2 tensors"):
        decoder.cache_manager.register_blocks_cache(DESC, (1, 2, 3))
