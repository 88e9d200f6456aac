"""The simulated decoder engine over HTTP: room, pull, steps, and how each of them fails."""

import json
import threading

import aiohttp
import anyio
import pytest

from pd_autoscaler.engine_model.profile import profile_of
from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.model.facts import EngineLoad
from tests.support.engine import TINY, Bench, FailingWorkers, Served, bench, until

IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)
SLOW = profile_of({"decode_base_s": 60.0}, TINY)
"""Never ends a step within a test."""


async def _pair(b: Bench, **decoder: object) -> tuple[Served, Served]:
    prompt = await b.prompt(profile_of({"kv_tokens": 4096}, TINY))
    return prompt, await b.decoder(**decoder)  # type: ignore[arg-type]


async def _decode(
    b: Bench, prompt: Served, decoder: Served, *, tokens: int = 48, out: int = 5
) -> tuple[int, dict[str, object]]:
    transfer = await b.prefilled(prompt, tokens)
    return await b.post(
        decoder.url, prompt_tokens=tokens, max_tokens=out, kv_transfer_params=transfer
    )


async def _page(b: Bench, served: Served) -> list[str]:
    async with b.session.get(f"{served.url}/metrics") as answer:
        return (await answer.text()).splitlines()


async def test_a_linked_decoder_pulls_frees_the_prompt_and_generates() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        status, body = await _decode(b, prompt, decoder, tokens=48, out=5)
        assert status == 200
        assert body["usage"] == {"prompt_tokens": 48, "completion_tokens": 5, "total_tokens": 53}
        assert body["choices"] == [
            {"index": 0, "text": " tok" * 5, "logprobs": None, "finish_reason": "length"}
        ]
        assert decoder.link.pulled == ["p1-1"]
        assert prompt.prompt.load() == IDLE
        assert decoder.decoder.load() == IDLE
        assert decoder.decoder.kv_used == 0


async def test_an_unlinked_decoder_fails_the_request_visibly() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        decoder.link.is_linked = False
        status, body = await _decode(b, prompt, decoder)
        assert status == 502
        assert body == {
            "error": "KV was not pulled: cluster 1 is not linked",
            "node_id": "d1",
            "stage": "pull",
            "code": "LLM_NOT_YET_LINK",
            "prompt_node_id": "p1",
            "prompt_cluster_id": 1,
        }
        assert decoder.decoder.kv_used == 0
        # The decoder knows that nobody will pull, and tells the prompt.
        await until(lambda: prompt.prompt.load() == IDLE)
        assert (
            'vllm:request_success_total{engine="0",finished_reason="error",model_name="tiny"} 1.0'
            in await _page(b, decoder)
        )


async def test_a_library_that_is_not_initialised_fails_the_request_visibly() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        decoder.link.fails = lambda _: RuntimeError("llm datadist is not initialized")
        status, body = await _decode(b, prompt, decoder)
        assert (status, body["code"]) == (502, "NOT_INITIALISED")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OutcomeUnknownError("no answer within 10s"), "PULL_DEADLINE"),
        (TransientError("not begun within 10s"), "PULL_NOT_BEGUN"),
    ],
    ids=["hangs", "no thread"],
)
async def test_a_pull_that_misses_its_deadline_fails_the_request(
    error: Exception, code: str
) -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, workers=FailingWorkers(error))
        status, body = await _decode(b, prompt, decoder)
        assert (status, body["code"]) == (502, code)
        assert decoder.decoder.load() == IDLE
        await until(lambda: prompt.prompt.load() == IDLE)


async def test_kv_that_expired_before_the_pull_is_not_mistaken_for_the_requests() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        transfer = await b.prefilled(prompt, 48)
        assert prompt.prompt.release(str(transfer["request_id"]))
        status, body = await b.post(
            decoder.url, prompt_tokens=48, max_tokens=5, kv_transfer_params=transfer
        )
        assert (status, body["code"]) == (502, "LLM_KV_CACHE_NOT_EXIST")


async def test_a_prompt_that_died_after_the_pull_does_not_fail_the_request() -> None:
    async with bench() as b:
        async with bench() as other:
            prompt = await other.prompt()
            transfer = await other.prefilled(prompt, 48)
        decoder = await b.decoder()
        status, _ = await b.post(
            decoder.url, prompt_tokens=48, max_tokens=5, kv_transfer_params=transfer
        )
        assert status == 200


async def test_a_request_without_room_waits_and_the_line_keeps_its_order() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, profile=SLOW)
        ended: list[int] = []

        async def ask(tokens: int) -> None:
            await _decode(b, prompt, decoder, tokens=tokens, out=16)
            ended.append(tokens)

        async with anyio.create_task_group() as group:
            # Twenty blocks: 15 are taken; ten do not fit, and the two behind them must wait, too.
            for tokens, running, waiting in ((224, 1, 0), (144, 1, 1), (16, 1, 2)):
                group.start_soon(ask, tokens)
                await until(
                    lambda r=running, w=waiting: (  # type: ignore[misc]
                        decoder.decoder.load() == EngineLoad(waiting=w, running=r, kv_unpulled=0)
                    )
                )
            assert decoder.decoder.kv_used == 15 / 20
            # What waits for a decoder's room still holds its KV on the prompt.
            assert prompt.prompt.load().kv_unpulled == 2
            lines = await _page(b, decoder)
            by_reason = 'vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason='
            assert f'{by_reason}"capacity"}} 2.0' in lines
            assert f'{by_reason}"deferred"}} 0.0' in lines
            assert 'vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0' in lines
            group.cancel_scope.cancel()
        await until(lambda: decoder.decoder.load() == IDLE)


async def test_room_that_a_leaving_client_gives_back_is_used_at_once() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, profile=SLOW)
        async with anyio.create_task_group() as first, anyio.create_task_group() as second:
            first.start_soon(_decode, b, prompt, decoder)
            await until(lambda: decoder.decoder.running == 1)
            for _ in range(4):
                second.start_soon(_decode, b, prompt, decoder)
            await until(lambda: decoder.decoder.running == 4)
            await until(lambda: decoder.decoder.waiting_capacity == 1)
            first.cancel_scope.cancel()
            await until(lambda: decoder.decoder.waiting_capacity == 0)
            second.cancel_scope.cancel()
        await until(lambda: decoder.decoder.load() == IDLE)
        assert decoder.decoder.kv_used == 0
        await until(lambda: prompt.prompt.load() == IDLE)


async def test_a_client_that_leaves_during_the_pull_frees_both_ends() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        may_end = threading.Event()

        def hang(_: object) -> None:
            may_end.wait()

        decoder.link.fails = hang
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_decode, b, prompt, decoder)
                await until(lambda: decoder.decoder.waiting_deferred == 1)
                assert (
                    'vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",'
                    'reason="deferred"} 1.0' in await _page(b, decoder)
                )
                group.cancel_scope.cancel()
            await until(lambda: decoder.decoder.load() == IDLE)
            await until(lambda: prompt.prompt.load() == IDLE)
        finally:
            may_end.set()


async def test_a_stream_brings_every_token_and_its_end() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, stride=4)
        transfer = await b.prefilled(prompt, 48)
        body = {
            "prompt_tokens": 48,
            "max_tokens": 10,
            "stream": True,
            "kv_transfer_params": transfer,
        }
        async with b.session.post(f"{decoder.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            assert answer.content_type == "text/event-stream"
            events = (await answer.text()).strip().split("\n\n")
        assert events[-1] == "data: [DONE]"
        chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
        counts = [chunk["choices"][0]["text"].count(" tok") for chunk in chunks]
        # The first token alone, then a stride at a time, then the rest.
        assert counts == [1, 4, 4, 1]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [
            *[None] * 3,
            "length",
        ]
        assert chunks[-1]["usage"]["completion_tokens"] == 10


async def test_the_header_comes_once_the_kv_is_there() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, profile=SLOW)
        transfer = await b.prefilled(prompt, 48)
        body = {"prompt_tokens": 48, "max_tokens": 5, "kv_transfer_params": transfer}
        async with b.session.post(f"{decoder.url}/v1/completions", json=body) as answer:
            assert answer.status == 200
            assert prompt.prompt.load() == IDLE
            answer.close()
        await until(lambda: decoder.decoder.load() == IDLE)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"kv_transfer_params": None}, "do_remote_prefill"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 300}, "exceed"),
        ({"kv_transfer_params": {"do_remote_prefill": True}}, "remote_engine_id"),
        ({"kv_transfer_params": 5}, "object"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(body: dict[str, object], what: str) -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        transfer = await b.prefilled(prompt, 48)
        whole = {
            "prompt_tokens": 48,
            "max_tokens": 5,
            "kv_transfer_params": transfer,
            **body,
        }
        status, answer = await b.post(decoder.url, **whole)
        assert status == 400
        assert what in str(answer["error"])


async def test_a_request_that_never_fits_does_not_leave_its_kv_at_the_prompt() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        status, _ = await _decode(b, prompt, decoder, tokens=48, out=300)
        assert status == 400
        await until(lambda: prompt.prompt.load() == IDLE)


async def test_a_decoders_page_counts_tokens_and_the_gaps_between_them() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        await _decode(b, prompt, decoder, tokens=48, out=5)
        await _decode(b, prompt, decoder, tokens=32, out=3)
        lines = await _page(b, decoder)
        labels = '{engine="0",model_name="tiny"}'
        source = '{engine="0",model_name="tiny",source='
        for line in (
            f"vllm:generation_tokens_total{labels} 8.0",
            # One gap less than tokens, for each request.
            f"vllm:inter_token_latency_seconds_count{labels} 6.0",
            f"vllm:time_to_first_token_seconds_count{labels} 2.0",
            f"vllm:request_queue_time_seconds_count{labels} 2.0",
            f"vllm:prompt_tokens_total{labels} 80.0",
            f'vllm:prompt_tokens_by_source_total{source}"external_kv_transfer"}} 80.0',
            f'vllm:prompt_tokens_by_source_total{source}"local_compute"}} 0.0',
            f"vllm:request_generation_tokens_sum{labels} 8.0",
            f"vllm:request_prompt_tokens_sum{labels} 80.0",
            f"vllm:num_preemptions_total{labels} 0.0",
            'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 2.0',
        ):
            assert line in lines


async def test_a_slow_engine_is_slow_on_purpose() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b)
        decoder.decoder.slowness = 60_000.0
        async with anyio.create_task_group() as group:
            group.start_soon(_decode, b, prompt, decoder)
            await until(lambda: decoder.decoder.running == 1)
            group.cancel_scope.cancel()
        await until(lambda: decoder.decoder.load() == IDLE)


async def test_a_stream_that_its_client_drops_frees_the_batch() -> None:
    async with bench() as b:
        prompt, decoder = await _pair(b, profile=profile_of({"batch_max": 1}, TINY))
        transfer = await b.prefilled(prompt, 48)
        decoder.decoder.slowness = 30.0
        body = {
            "prompt_tokens": 48,
            "max_tokens": 200,
            "stream": True,
            "kv_transfer_params": transfer,
        }
        async with aiohttp.ClientSession() as session:
            answer = await session.post(f"{decoder.url}/v1/completions", json=body)
            await answer.content.readany()
            answer.close()
        await until(lambda: decoder.decoder.load() == IDLE)
        assert decoder.decoder.kv_used == 0
