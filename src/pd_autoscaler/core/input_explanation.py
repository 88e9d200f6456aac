"""Explanations of what a decision saw: each signal with value, unit and age, or as unknown."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pd_autoscaler.core.scene import spoken
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Snapshot

NODES_TOLD = 5
"""Most nodes that are told one by one."""

CLASSES_TOLD = 6
"""Most classes of nodes whose capacity is told."""


AGE_APART_S = 1.0
"""Ages that differ by less are told as one: no decision hangs on it."""


@dataclass(frozen=True, slots=True)
class Input:
    """One signal: its field, its words and unit, and the roles of which it is missed if unknown.

    Of a mean square (tokens²) the root is told.
    """

    name: str
    words: str
    unit: str
    roles: tuple[Role, ...] = (Role.PROMPT, Role.DECODER)


_P, _D = (Role.PROMPT,), (Role.DECODER,)

ROLE_INPUTS: tuple[tuple[Input, ...], ...] = (
    (
        Input("queue", "queue", "requests"),
        Input("running", "running", "requests"),
        Input("transfer_wait", "waiting for KV", "requests", _D),
        Input("kv_export_backlog", "KV not pulled yet", "requests", _P),
    ),
    (
        Input("queue_time_p95_s", "queue time p95", "s", _P),
        Input("ttft_p95_s", "TTFT p95", "s", _P),
        Input("tpot_p95_s", "TPOT p95", "s", _D),
        Input("kv_used_mean", "KV used", "%"),
        Input("kv_used_max", "KV used at the fullest", "%"),
    ),
    (
        Input("arrival_rate", "arrivals", "requests/s", _P),
        Input("token_rate", "own tokens", "tokens/s"),
        Input("preempt_rate", "preemptions", "/s", _D),
        Input("transfer_failure_rate", "failed KV transfers", "/s"),
        Input("kv_expired_rate", "KV never pulled", "/s", _P),
    ),
    (
        Input("uncached_share", "input in no prefix cache", "%", _P),
        Input("input_len", "mean input", "tokens", _P),
        Input("input_len_sq", "RMS input", "tokens²", _P),
        Input("output_len", "mean output", "tokens", _D),
        Input("output_len_sq", "RMS output", "tokens²", _D),
    ),
)
"""The signals of a role, a line of the explanation for each group."""

UNTOLD_WORDS = {"ttft_s": "first-token latencies", "tpot_s": "latencies between tokens"}
"""What a page should have, and is missed apart from nothing having been observed."""

DEMAND_INPUTS: tuple[Input, ...] = (
    Input("requests_per_s", "arrivals", "requests/s"),
    Input("input_len", "mean input", "tokens"),
    Input("input_len_sq", "RMS input", "tokens²"),
    Input("output_len", "mean output", "tokens"),
    Input("output_len_sq", "RMS output", "tokens²"),
    Input("uncached_share", "input in no prefix cache", "%"),
    Input("decode_running", "in decoding", "requests"),
    Input("decode_tokens", "KV held by decoders", "tokens"),
)


def role_lines(snapshot: Snapshot, role: Role, *, passed_s: float) -> list[str]:
    """Say what is known of a role: from how many nodes, read how, and each signal.

    Ages are counted on by `passed_s`.
    """
    signals = snapshot.of(role)
    serving = _serving(snapshot, role)
    if not signals.serving:
        return [f"no {role} node serves, so nothing is known of their load"]
    source = f"from {signals.fresh} of {signals.serving} serving nodes"
    lines = [f"{source}, {_engines(snapshot, serving)}"]
    for group in ROLE_INPUTS:
        lines += _values(signals, group, passed_s, fresh=signals.fresh)
    lines += [
        f"no page has {UNTOLD_WORDS[name]} (renamed? `doctor` tells)"
        for name in sorted(signals.untold)
    ]
    inputs = [i for group in ROLE_INPUTS for i in group if role in i.roles]
    return [*lines, *_unknown(signals, inputs)]


def doubtful_lines(snapshot: Snapshot) -> list[str]:
    """Say of each serving node that is not fresh why it is not believed, the longest first."""
    found = []
    for role in Role:
        for node in _serving(snapshot, role):
            signals = snapshot.node_signals.get(node.id)
            if signals is not None and signals.is_fresh:
                continue
            age_s = None if signals is None else signals.age_s
            doubt = signals.doubt if signals is not None else ""
            text = f"{node.id} ({role}): {doubt or 'not looked at yet'}"
            found.append((-math.inf if age_s is None else -age_s, text))
    return capped([text for _, text in sorted(found)], NODES_TOLD)


def demand_lines(demand: Demand, *, passed_s: float) -> list[str]:
    """Say what users ask for, as far as it is known."""
    known = _values(demand, DEMAND_INPUTS, passed_s)
    return [*known, *_unknown(demand, DEMAND_INPUTS)] if known else ["unknown yet"]


def capacity_lines(capacity: Sequence[NodeCapacity]) -> list[str]:
    """Say what one node of each class was seen to do."""
    return capped([_capacity(one) for one in capacity], CLASSES_TOLD) or ["nothing learnt yet"]


def capped(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, and how many more there are."""
    left = len(lines) - most
    return [*lines[:most], *([f"and {left} more"] if left > 0 else [])]


def _serving(snapshot: Snapshot, role: Role) -> list[Node]:
    return [n for n in snapshot.nodes if n.role is role and n.state is NodeState.SERVING]


def _engines(snapshot: Snapshot, nodes: Iterable[Node]) -> str:
    """Say with which engine profiles pages are read, the most used first."""
    found = (snapshot.node_signals.get(node.id) for node in nodes)
    names = Counter(signals.engine if signals else "" for signals in found)
    unknown = names.pop("", 0)
    if not names:
        return "engine not recognised yet"
    said = [f"{name} ({n})" if len(names) > 1 or unknown else name for name, n in _ranked(names)]
    return f"read as {', '.join([*said, *([f'not recognised ({unknown})'] if unknown else [])])}"


def _ranked(names: Counter[str]) -> list[tuple[str, int]]:
    return sorted(names.items(), key=lambda item: (-item[1], item[0]))


def _known(source: RoleSignals | Demand, name: str) -> Signal | None:
    signal: Signal | None = getattr(source, name)
    return signal if signal is not None and math.isfinite(signal.value) else None


def _values(
    source: RoleSignals | Demand, inputs: Iterable[Input], passed_s: float, *, fresh: int = 0
) -> list[str]:
    """Return one line of all values that are known; ages that are nearly equal are said once.

    Of a value that not all `fresh` nodes tell it is said how many do.
    """
    known = [(i, s) for i in inputs if (s := _known(source, i.name)) is not None]
    if not known:
        return []
    ages = [signal.age_s + passed_s for _, signal in known]
    told = [f"{i.words} {_value(s, i.unit)}{_from_some(s, fresh)}" for i, s in known]
    if max(ages) - min(ages) < AGE_APART_S:
        at_most = "" if _age(min(ages)) == _age(max(ages)) else "up to "
        return [f"{', '.join(told)} ({at_most}{_age(max(ages))} old)"]
    return [", ".join(f"{text} ({_age(age)} old)" for text, age in zip(told, ages, strict=True))]


def _from_some(signal: Signal, fresh: int) -> str:
    return f" from {signal.nodes} of {fresh}" if 0 < signal.nodes < fresh else ""


def _age(age_s: float) -> str:
    return f"{age_s:.1f} s" if age_s < 1 else spoken(age_s)


def _unknown(source: RoleSignals | Demand, inputs: Iterable[Input]) -> Iterator[str]:
    names = [i.words for i in inputs if _known(source, i.name) is None]
    if names:
        yield f"unknown: {', '.join(names)}"


def _value(signal: Signal, unit: str) -> str:
    mark = "at least " if signal.is_lower_bound else ""
    match unit:
        case "s":
            return mark + brief(signal.value)
        case "%":
            return f"{mark}{100 * signal.value:.3g} %"
        case "/s":
            return f"{mark}{number(signal.value)}/s"
        case "tokens²":
            return f"{mark}{number(math.sqrt(max(0.0, signal.value)))} tokens"
        case _:
            return f"{mark}{number(signal.value)} {unit}"


def number(value: float) -> str:
    """Return a number with three digits, or whole with commas where it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def brief(seconds: float) -> str:
    """Return a short time in the unit that suits it, from nanoseconds on."""
    if abs(seconds) >= 1 or not seconds:
        return f"{number(seconds)} s"
    unit, factor = next((u, f) for u, f in _PARTS if abs(seconds) >= 1 / f or f == _FINEST)
    return f"{seconds * factor:.3g} {unit}"


_FINEST = 1e9
_PARTS = (("ms", 1e3), ("\N{MICRO SIGN}s", 1e6), ("ns", _FINEST))


def _capacity(one: NodeCapacity) -> str:
    name = f"{one.role} node{f' ({one.node_class})' if one.node_class else ''}"
    does = _prefill(one) if one.role is Role.PROMPT else _step(one)
    parts = [f"{one.samples} samples"]
    if one.rejected:
        parts.append(f"{one.rejected} outliers left out")
    if one.error is not None:
        parts.append(f"off by {100 * one.error:.2g} % of late")
    return f"{name}: {does} ({', '.join(parts)})"


def _prefill(one: NodeCapacity) -> str:
    if one.prefill_tokens_per_s is None:
        return "not seen busy yet"
    return f"computes {number(one.prefill_tokens_per_s)} prompt tokens/s"


def _step(one: NodeCapacity) -> str:
    each = (
        (one.step_base_s, ""),
        (one.step_per_request_s, " a request"),
        (one.step_per_token_s, " a token of KV"),
    )
    known = [f"{brief(value)}{per}" for value, per in each if value is not None]
    return f"a step takes {' + '.join(known)}" if len(known) == len(each) else "step not learnt yet"
