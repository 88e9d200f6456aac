"""Capacity: what one node of each class can do, learnt from the pages of all nodes alike.

A class is a role, an engine and a KV size. Each node gives one sample a window, and its windows do
not overlap: the same tokens counted twice would make the fit surer than the pages do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from pd_autoscaler.core.capacity_fits import (
    rate_believed,
    rate_guessed,
    step_believed,
    step_guessed,
)
from pd_autoscaler.core.capacity_samples import decode_step, prefill_rate, window_end_s
from pd_autoscaler.core.least_squares import Fit
from pd_autoscaler.core.matrices import Vector
from pd_autoscaler.core.signals import Key
from pd_autoscaler.core.windows import History
from pd_autoscaler.model.capacity import NodeCapacity
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals
from pd_autoscaler.model.snapshot import Bottleneck

CLASSES_MAX = 64
"""Classes that are remembered; the one unseen for longest goes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """What is believed of every class before its pages tell better; units of NodeCapacity.

    A step's prior is its three numbers together; with one missing the others are not used.
    """

    prefill_tokens_per_s: float | None = None
    step_base_s: float | None = None
    step_per_request_s: float | None = None
    step_per_token_s: float | None = None

    @property
    def step(self) -> Vector | None:
        """The three coefficients of a decode step."""
        known = [
            value
            for value in (self.step_base_s, self.step_per_request_s, self.step_per_token_s)
            if value is not None
        ]
        return tuple(known) if len(known) == 3 else None

    def begun(self, role: Role, *, has_kv_size: bool) -> Fit | None:
        """Return the fit of a class nobody has seen at work, None without a prior for it."""
        if role is Role.PROMPT:
            rate = self.prefill_tokens_per_s
            return None if rate is None else rate_believed(rate)
        return None if self.step is None else step_believed(self.step, has_kv_size=has_kv_size)


@dataclass(frozen=True, slots=True)
class Learnt:
    """What is known of one class; `fit` is None before there is a prior or a sample.

    `kv_tokens` is how many tokens of KV its nodes hold, 0 if they do not say.
    """

    fit: Fit | None
    seen_s: float
    kv_tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class CapacityMemory:
    """What is known of each role and class, and up to when each node's pages were used."""

    classes: Mapping[tuple[Role, str], Learnt] = field(default_factory=dict)
    used_s: Mapping[Key, float] = field(default_factory=dict)


def learnt(
    memory: CapacityMemory,
    histories: Mapping[Key, History],
    nodes: Sequence[Node],
    of_nodes: Mapping[str, NodeSignals],
    *,
    now_s: float,
    window_s: float,
    bottleneck: Bottleneck,
    priors: Priors,
) -> CapacityMemory:
    """Return the memory with what this cycle's pages teach.

    Only serving nodes that are fresh, and have served for the whole window, are believed.
    `bottleneck` is the verdict over the same window: it tells which queues at prompt nodes are
    their own. Histories must reach back `window_s` seconds and one page more.
    """
    classes = dict(memory.classes)
    used_s: dict[Key, float] = {}
    for node in nodes:
        key = (node.id, node.incarnation, node.role)
        history, signals = histories.get(key), of_nodes.get(node.id)
        if history is None or history.newest is None:
            continue
        if key in memory.used_s:
            used_s[key] = memory.used_s[key]
        if node.state is not NodeState.SERVING or signals is None or not signals.is_fresh:
            continue
        tokens = _cache_tokens(history)
        name = (node.role, node_class(signals.engine, tokens))
        of_class = classes.get(name) or _first_seen(node.role, tokens, priors, now_s)
        if of_class.seen_s < now_s:
            of_class = Learnt(of_class.fit, now_s, of_class.kv_tokens)
        classes[name] = of_class
        end_s = window_end_s(history, window_s=window_s)
        if end_s is None or end_s - max(used_s.get(key, -math.inf), node.since_s) < window_s:
            continue
        used_s[key] = end_s
        window = _Window(history, end_s, window_s, tokens, bottleneck)
        fit = _prompt_taught if node.role is Role.PROMPT else _decoder_taught
        classes[name] = replace(classes[name], fit=fit(classes[name].fit, window, now_s))
    return CapacityMemory(_newest(classes), used_s)


def capacities(memory: CapacityMemory) -> tuple[NodeCapacity, ...]:
    """Tell what one node of each class can do; None is what neither pages nor priors told."""
    return tuple(
        _capacity(role, name, known.fit, known.kv_tokens or None)
        for (role, name), known in sorted(memory.classes.items(), key=lambda item: item[0])
    )


@lru_cache(maxsize=1024)
def node_class(engine: str, cache_tokens: float) -> str:
    """Name the nodes that are alike, such as `vllm/49k`; 0 tokens of KV are unknown.

    The size is rounded to two digits: engines measure how much memory is left for KV when they
    start, and two alike differ by some blocks.
    """
    name = engine or "unknown"
    if not cache_tokens:
        return name
    size = float(f"{cache_tokens:.1e}")
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{name}/{size / unit:g}{suffix}"
    return f"{name}/{size:g}"


@dataclass(frozen=True, slots=True)
class _Window:
    history: History
    end_s: float
    window_s: float
    cache_tokens: float
    bottleneck: Bottleneck


def _prompt_taught(fit: Fit | None, window: _Window, now_s: float) -> Fit | None:
    sample = prefill_rate(
        window.history,
        end_s=window.end_s,
        window_s=window.window_s,
        bottleneck=window.bottleneck,
    )
    if sample is None:
        return fit
    known = fit or rate_guessed(sample.tokens_per_s)
    return known.taught(
        (1.0,),
        sample.tokens_per_s,
        at_s=now_s,
        window_s=window.window_s,
        is_bound=not sample.is_full,
    )


def _decoder_taught(fit: Fit | None, window: _Window, now_s: float) -> Fit | None:
    sample = decode_step(
        window.history,
        end_s=window.end_s,
        window_s=window.window_s,
        cache_tokens=window.cache_tokens,
    )
    if sample is None:
        return fit
    regressors = (1.0, sample.batch, sample.kv_tokens)
    known = fit or step_guessed(has_kv_size=window.cache_tokens > 0)
    return known.taught(regressors, sample.seconds, at_s=now_s, window_s=window.window_s)


def _first_seen(role: Role, tokens: float, priors: Priors, now_s: float) -> Learnt:
    return Learnt(priors.begun(role, has_kv_size=tokens > 0), now_s, tokens)


def _capacity(role: Role, name: str, fit: Fit | None, kv_tokens: float | None) -> NodeCapacity:
    if fit is None or fit.is_guess:
        return NodeCapacity(role=role, node_class=name, kv_tokens=kv_tokens)
    if role is Role.PROMPT:
        return NodeCapacity(
            role=role,
            node_class=name,
            samples=fit.samples,
            rejected=fit.rejected,
            error=fit.error,
            kv_tokens=kv_tokens,
            prefill_tokens_per_s=fit.values[0],
        )
    base_s, request_s, token_s = fit.values
    _, batch_max, tokens_max = fit.highest
    return NodeCapacity(
        role=role,
        node_class=name,
        samples=fit.samples,
        rejected=fit.rejected,
        error=fit.error,
        kv_tokens=kv_tokens,
        step_base_s=base_s,
        step_per_request_s=request_s,
        step_per_token_s=token_s,
        # Nothing was seen of a prior, nor of the KV of nodes that do not say how much they have.
        batch_max=batch_max or None,
        tokens_max=tokens_max or None,
    )


def _cache_tokens(history: History) -> float:
    """Return how many tokens of KV a node holds, 0 if it does not say."""
    tokens = history.newest.gauges.get("cache_tokens", 0.0) if history.newest else 0.0
    return tokens if math.isfinite(tokens) and tokens > 0 else 0.0


def _newest(classes: dict[tuple[Role, str], Learnt]) -> dict[tuple[Role, str], Learnt]:
    if len(classes) <= CLASSES_MAX:
        return classes
    by_age = sorted(classes, key=lambda name: (-classes[name].seen_s, name))
    return {name: classes[name] for name in by_age[:CLASSES_MAX]}
