"""The embedded prompt engine in virtual time."""

import anyio
import pytest

from pd_autoscaler.embedded.engine_metrics import EngineMetrics
from pd_autoscaler.embedded.engine_prompt import PromptEngine
from pd_autoscaler.embedded.engine_request import Completion
from pd_autoscaler.engine_model.profile import EngineProfile, profile_of
from pd_autoscaler.sim import loop

LOOKING_BACK = profile_of({"prefill_attention_s": 1e-6})


async def _lasted_s(profile: EngineProfile, prompts: tuple[int, ...]) -> float:
    """Return how long an engine takes to prefill these prompts in one batch."""
    metrics = EngineMetrics(profile, model="tiny", length_max=4096)
    engine = PromptEngine(engine_id="p1", profile=profile, metrics=metrics)
    began_s = anyio.current_time()
    async with anyio.create_task_group() as running:
        async with anyio.create_task_group() as asked:
            for tokens in prompts:
                asked.start_soon(
                    engine.prefill, Completion(model="tiny", tokens_in=tokens, tokens_out=1)
                )
            running.start_soon(engine.run)
        lasted_s = anyio.current_time() - began_s
        running.cancel_scope.cancel()
    return lasted_s


@pytest.mark.parametrize("prompts", [(2000,), (1000, 500, 500)])
def test_a_long_prompt_takes_longer_than_short_ones_of_as_many_tokens(
    prompts: tuple[int, ...],
) -> None:
    lasted_s = loop.run(lambda: _lasted_s(LOOKING_BACK, prompts))

    squares = sum(tokens**2 for tokens in prompts)
    assert lasted_s == pytest.approx(LOOKING_BACK.prefill_s(2000) + 1e-6 * squares)
