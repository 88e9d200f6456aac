"""The simulated prompt engine over HTTP: batches, held KV, and the queue that decoders cause."""

import aiohttp
import anyio
import pytest

from pd_autoscaler.engine_model.profile import profile_of
from pd_autoscaler.model.facts import EngineLoad
from tests.support.engine import TINY, Bench, Served, bench, until

IDLE = EngineLoad(waiting=0, running=0, kv_unpulled=0)


async def _release(b: Bench, prompt: Served, request_id: object) -> int:
    body = {"request_id": request_id}
    async with b.session.post(f"{prompt.url}/v1/kv/release", json=body) as answer:
        return answer.status


async def _page(b: Bench, served: Served) -> str:
    async with b.session.get(f"{served.url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await answer.text()


async def test_a_prompts_kv_is_held_until_it_is_released() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        transfer = await b.prefilled(prompt, 100)
        assert prompt.prompt.load() == EngineLoad(waiting=0, running=0, kv_unpulled=1)
        assert prompt.prompt.kv_used == 7 / 20

        assert await _release(b, prompt, transfer["request_id"]) == 200
        assert prompt.prompt.load() == IDLE
        assert prompt.prompt.kv_used == 0
        assert await _release(b, prompt, transfer["request_id"]) == 404


async def test_the_answer_says_where_the_kv_is() -> None:
    async with bench() as b:
        prompt = await b.prompt(node_id="p7", cluster_id=70)
        transfer = await b.prefilled(prompt, 33)
        port = int(prompt.url.rpartition(":")[2])
        assert transfer == {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": "p7",
            "remote_cluster_id": 70,
            "remote_cluster_ids": [70],
            "remote_host": "127.0.0.1",
            "remote_port": port,
            "request_id": "p7-1",
            "tokens": 33,
        }


async def test_kv_that_nobody_pulls_expires() -> None:
    async with bench() as b:
        prompt = await b.prompt(profile_of({"kv_hold_s": 0.01}, TINY))
        transfer = await b.prefilled(prompt, 100)
        await until(lambda: prompt.prompt.expired == 1)
        assert prompt.prompt.load() == IDLE
        assert await _release(b, prompt, transfer["request_id"]) == 404


async def test_the_queue_grows_while_held_kv_leaves_no_room_and_goes_on_in_order() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        first = await b.prefilled(prompt, 320)
        order: list[int] = []

        async def ask(tokens: int) -> None:
            await b.prefilled(prompt, tokens)
            order.append(tokens)

        async with anyio.create_task_group() as group:
            for waiting, tokens in enumerate((70, 60, 50), start=1):
                group.start_soon(ask, tokens)
                await until(lambda n=waiting: prompt.prompt.load().waiting == n)  # type: ignore[misc]
            assert prompt.prompt.load() == EngineLoad(waiting=3, running=0, kv_unpulled=1)
            page = await _page(b, prompt)
            assert 'waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 3.0' in page
            await _release(b, prompt, first["request_id"])
        # Any two of them exceed the budget of 100, so each is a batch of its own.
        assert order == [70, 60, 50]


async def test_a_batch_takes_the_head_of_the_queue_up_to_the_budget() -> None:
    async with bench() as b:
        prompt = await b.prompt(profile_of({"prefill_points": [[1, 0.2], [1000, 0.2]]}, TINY))
        sizes: list[int] = []
        async with anyio.create_task_group() as group:
            group.start_soon(b.prefilled, prompt, 10)
            await until(lambda: prompt.prompt.running == 1)
            for waiting, tokens in enumerate((50, 40, 20), start=1):
                group.start_soon(b.prefilled, prompt, tokens)
                await until(lambda n=waiting: prompt.prompt.waiting_capacity == n)  # type: ignore[misc]
            for left in (1, 0):
                await until(lambda n=left: prompt.prompt.waiting_capacity == n)  # type: ignore[misc]
                sizes.append(prompt.prompt.running)
        assert sizes == [2, 1]


async def test_a_prompt_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        await b.prefilled(prompt, 300)
        assert prompt.prompt.load().kv_unpulled == 1


async def test_a_client_that_leaves_frees_its_place_in_the_queue() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        first = await b.prefilled(prompt, 320)
        async with anyio.create_task_group() as group:
            group.start_soon(b.prefilled, prompt, 70)
            await until(lambda: prompt.prompt.waiting_capacity == 1)
            group.cancel_scope.cancel()
        await until(lambda: prompt.prompt.waiting_capacity == 0)
        await _release(b, prompt, first["request_id"])
        assert prompt.prompt.load() == IDLE
        assert 'finished_reason="abort",model_name="tiny"} 1.0' in await _page(b, prompt)


async def test_a_client_that_leaves_during_its_prefill_leaves_no_kv_behind() -> None:
    async with bench() as b:
        prompt = await b.prompt(profile_of({"prefill_points": [[1, 0.2], [1000, 0.2]]}, TINY))
        async with anyio.create_task_group() as group:
            group.start_soon(b.prefilled, prompt, 70)
            await until(lambda: prompt.prompt.running == 1)
            group.cancel_scope.cancel()
        await until(lambda: prompt.prompt.load() == IDLE)
        await until(lambda: prompt.prompt.kv_used == 0)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"prompt_tokens": 5, "max_tokens": 2}, "max_tokens=1"),
        ({"prompt_tokens": 5, "kv_transfer_params": None}, "do_remote_decode"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"prompt_tokens": True}, "prompt_tokens"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({}, "prompt"),
        ({"prompt": "hello", "n": 2}, "n must be 1"),
        ({"prompt": "hello", "stream": "yes"}, "stream"),
        ({"prompt_tokens": 321}, "exceed"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(body: dict[str, object], what: str) -> None:
    async with bench() as b:
        prompt = await b.prompt()
        whole = {"max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}, **body}
        status, answer = await b.post(prompt.url, **whole)
        assert status == 400
        assert what in str(answer["error"])


async def test_a_body_that_is_no_json_is_refused() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        async with b.session.post(f"{prompt.url}/v1/completions", data=b"{") as answer:
            assert answer.status == 400


@pytest.mark.parametrize(
    ("prompt_field", "tokens"), [("a" * 9, 3), ([5, 6, 7, 8], 4)], ids=["text", "ids"]
)
async def test_a_prompts_length_is_told_by_its_text_or_its_ids(
    prompt_field: object, tokens: int
) -> None:
    async with bench() as b:
        prompt = await b.prompt()
        _, body = await b.post(
            prompt.url,
            prompt=prompt_field,
            max_tokens=1,
            kv_transfer_params={"do_remote_decode": True},
        )
        assert body["usage"] == {
            "prompt_tokens": tokens,
            "completion_tokens": 1,
            "total_tokens": tokens + 1,
        }


async def test_a_prompt_nodes_page_counts_its_work_once_and_no_token_gaps() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        await b.prefilled(prompt, 60)
        await b.prefilled(prompt, 40)
        page = await _page(b, prompt)
        labels = '{engine="0",model_name="tiny"}'
        source = '{engine="0",model_name="tiny",source='
        for line in (
            f"vllm:prompt_tokens_total{labels} 100.0",
            f'vllm:prompt_tokens_by_source_total{source}"local_compute"}} 100.0',
            f"vllm:generation_tokens_total{labels} 2.0",
            f"vllm:time_to_first_token_seconds_count{labels} 2.0",
            f"vllm:request_queue_time_seconds_count{labels} 2.0",
            f"vllm:inter_token_latency_seconds_count{labels} 0.0",
            f"vllm:request_prompt_tokens_sum{labels} 100.0",
            f"vllm:request_generation_tokens_sum{labels} 2.0",
            f"vllm:num_requests_running{labels} 0.0",
            # 60 tokens take four blocks and 40 three, of twenty; both wait for a decoder.
            f"vllm:kv_cache_usage_perc{labels} 0.35",
            'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 2.0',
        ):
            assert line in page.splitlines()


async def test_health_answers_while_the_engine_is_full() -> None:
    async with bench() as b:
        prompt = await b.prompt()
        await b.prefilled(prompt, 320)
        async with b.session.get(f"{prompt.url}/health") as answer:
            assert await answer.json() == {"node_id": "p1"}


async def test_nothing_hears_from_a_closed_engine() -> None:
    async with bench() as b:
        prompt = await b.prompt()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(prompt.url)
