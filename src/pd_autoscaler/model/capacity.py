"""Demand and capacity: what the service is asked for, and what one node of each class can do."""

from dataclasses import dataclass

from pd_autoscaler.model.node import Role
from pd_autoscaler.model.signals import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What users ask for, smoothed; None is unknown, never zero.

    `requests_per_s` is read where requests enter. Lengths are in tokens, `*_len_sq` the means of
    their squares; `uncached_share` (0 to 1) is the part of prompt tokens that no prefix cache had;
    `decode_running` counts the requests in the batches of all decoders, `decode_tokens` the tokens
    of KV that they hold.
    """

    requests_per_s: Signal | None = None
    input_len: Signal | None = None
    input_len_sq: Signal | None = None
    output_len: Signal | None = None
    output_len_sq: Signal | None = None
    uncached_share: Signal | None = None
    decode_running: Signal | None = None
    decode_tokens: Signal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeCapacity:
    """What one node of a role and class was seen to do, learnt from its pages.

    `node_class` names nodes alike (engine and KV size). A prompt node computes
    `prefill_tokens_per_s` (None until one was seen busy or a prior was given); a decode step of B
    requests with K tokens of KV takes `step_base_s` + `step_per_request_s` * B +
    `step_per_token_s` * K. `batch_max` and `tokens_max` are the largest B and K that were seen:
    beyond them a step is a guess. `kv_tokens` is how many tokens of KV it has room for, None where
    its pages do not say. `samples` were taken in, `rejected` were outliers, `error` is the
    typical relative error of late.
    """

    role: Role
    node_class: str
    prefill_tokens_per_s: float | None = None
    step_base_s: float | None = None
    step_per_request_s: float | None = None
    step_per_token_s: float | None = None
    batch_max: float | None = None
    tokens_max: float | None = None
    kv_tokens: float | None = None
    samples: int = 0
    rejected: int = 0
    error: float | None = None

    def step_s(self, batch: float, kv_tokens: float) -> float | None:
        """Return the seconds of one decode step, None where that was not learnt."""
        if None in (self.step_base_s, self.step_per_request_s, self.step_per_token_s):
            return None
        return (
            (self.step_base_s or 0.0)
            + (self.step_per_request_s or 0.0) * batch
            + (self.step_per_token_s or 0.0) * kv_tokens
        )
