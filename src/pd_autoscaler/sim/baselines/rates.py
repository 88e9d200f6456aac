"""Rates: what one profiled engine is taken to do at mean lengths, by the rules of Dynamo's planner.

ai-dynamo/dynamo 1.6.1 `planner`: the best isolated batch at mean lengths, within the latency target
if any is. There is no queueing, no spread of lengths and no headroom in it.
"""

from pd_autoscaler.engine_model.profile import EngineProfile

CANDIDATES = 128
"""Batches that are tried at most, evenly spread."""
TOKENS_MAX = 10**9
"""More tokens than any batch has: predictions are cut here."""


def prefill_s(engine: EngineProfile, tokens: float, each: float) -> float:
    """Seconds that prompts of `each` tokens, so many together, take in full batches and a rest."""
    most = engine.prefill_tokens_max
    tokens = min(tokens, TOKENS_MAX)
    full, rest = divmod(int(tokens), most)
    batches_s = full * engine.prefill_s(most) + (engine.prefill_s(rest) if rest else 0.0)
    return batches_s + engine.prefill_attention_s * tokens * min(each, TOKENS_MAX)


def prompt_requests_per_s(engine: EngineProfile, computed: float, ttft_s: float) -> float:
    """Return the best batch's requests a second of a prompt node, in time for the target if any."""
    computed = max(computed, 1.0)
    most = max(1, min(engine.batch_max, int(engine.prefill_tokens_max / computed)))
    rates = []
    for batch in _batches(most):
        took_s = max(prefill_s(engine, computed * batch, computed), 1e-6)
        rates.append((took_s <= ttft_s, batch / took_s))
    return max(rates)[1]


def decoder_tokens_per_s(engine: EngineProfile, context: float, tpot_s: float) -> float:
    """Return the best batch's output tokens a second of a decoder, in time for the target if any.

    Where no batch is in time the best of those that are not is returned, as if the target did not
    matter.
    """
    most = max(1, min(engine.batch_max, int(engine.kv_tokens / max(context, 1.0))))
    rates = []
    for batch in _batches(most):
        step_s = max(engine.decode_step_s(batch, int(min(batch * context, TOKENS_MAX))), 1e-6)
        rates.append((step_s <= tpot_s, batch / step_s))
    return max(rates)[1]


def _batches(most: int) -> list[int]:
    """Return batch sizes up to the largest one, that included."""
    step = -(-most // CANDIDATES)
    return [*range(1, most, step), most]
