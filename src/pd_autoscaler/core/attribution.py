"""Attribution: which side holds requests up, with the evidence.

The trap it is made for: a prompt node's queue also grows when decoders or links are slow, because
it keeps a prompt's KV until a decoder pulled it; more prompt nodes would make that worse.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.signals import RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Above what a signal counts as high; queues and waits are per fresh node.

    `kv_used_low` and `queue_low` bound an idle decoder side and an idle queue. `links_down_share`
    is the part of all links, made or broken, that may be broken. `quorum_share` is the part of a
    role's serving nodes that must be fresh.
    """

    queue: float = 5.0
    ttft_p95_s: float = 1.0
    kv_used: float = 0.80
    tpot_p95_s: float = 0.050
    transfer_wait: float = 5.0
    queue_low: float = 1.0
    kv_used_low: float = 0.50
    links_down_share: float = 0.10
    quorum_share: float = 0.5


@dataclass(frozen=True, slots=True)
class _Sides:
    """The columns of the truth table; None is unknown."""

    is_queue_high: bool
    is_ttft_high: bool | None
    is_kv_high: bool
    is_decoder_high: bool
    is_link_bad: bool
    is_idle: bool


_Row = tuple[bool | None, bool | None, bool | None, bool | None, bool | None]

# Is it high or bad: prompt queue, TTFT, prompt KV, decoders, links. None is either, and unknown.
_TABLE: tuple[tuple[_Row, Bottleneck, str], ...] = (
    ((True, True, False, False, False), Bottleneck.PROMPT, "prompt nodes are short"),
    ((True, None, True, True, False), Bottleneck.DECODER, "decoders hold finished prompts back"),
    ((True, None, True, False, True), Bottleneck.LINK, "links hold finished prompts back"),
    ((True, False, False, False, False), Bottleneck.NONE, "a prompt queue without delay, watched"),
    ((False, False, False, True, False), Bottleneck.DECODER, "decoders are short"),
    ((False, False, False, False, False), Bottleneck.NONE, "both sides keep up"),
    # An overloaded prompt side holds KV while it works; nobody waits to pull it.
    ((True, True, True, False, False), Bottleneck.PROMPT, "prompt nodes are short and full"),
    ((True, True, False, True, False), Bottleneck.DECODER, "both are short, decoders first"),
)


def attributed(
    prompt: RoleSignals,
    decoder: RoleSignals,
    links: Mapping[LinkState, int],
    thresholds: Thresholds | None = None,
) -> Attribution:
    """Name the bottleneck; what the table does not know, or cannot see, is UNKNOWN.

    `links` counts links by state; an empty one is no evidence against them.
    """
    limits = thresholds or Thresholds()
    for role, signals in (("prompt", prompt), ("decoder", decoder)):
        if signals.serving == 0 or signals.fresh < limits.quorum_share * signals.serving:
            return Attribution(
                evidence=f"{signals.fresh} of {signals.serving} serving {role} nodes are fresh"
            )
    missing = [
        name
        for name, signal in (
            ("prompt queue", prompt.queue),
            ("prompt KV use", prompt.kv_used_mean),
            ("decoder queue", decoder.queue),
            ("decoder KV use", decoder.kv_used_mean),
        )
        if signal is None
    ]
    if missing:
        return Attribution(evidence=f"unknown: {', '.join(missing)}")
    sides = _sides(prompt, decoder, links, limits)
    bottleneck, verdict = _verdict(sides)
    return Attribution(bottleneck, f"{verdict}: {_evidence(prompt, decoder, links)}")


def _sides(
    prompt: RoleSignals,
    decoder: RoleSignals,
    links: Mapping[LinkState, int],
    limits: Thresholds,
) -> _Sides:
    prompt_queue = _per_node(prompt.queue, prompt)
    decoder_queue = _per_node(decoder.queue, decoder)
    decoder_kv = decoder.kv_used_mean.value if decoder.kv_used_mean else 0.0
    is_queue_high = prompt_queue > limits.queue
    is_ttft_high = _is_above(prompt.ttft_p95_s, limits.ttft_p95_s)
    if is_ttft_high is None and prompt.ttft_p95_s is None and not is_queue_high:
        # No first token in the window and nobody waiting for one is an idle side, not a blind one.
        is_ttft_high = False
    return _Sides(
        is_queue_high=is_queue_high,
        is_ttft_high=is_ttft_high,
        is_kv_high=bool(_is_above(prompt.kv_used_mean, limits.kv_used)),
        is_decoder_high=decoder_kv > limits.kv_used
        or decoder_queue > limits.queue
        or bool(_is_above(decoder.tpot_p95_s, limits.tpot_p95_s)),
        is_link_bad=_per_node(decoder.transfer_wait, decoder) > limits.transfer_wait
        or _down_share(links) > limits.links_down_share,
        is_idle=prompt_queue <= limits.queue_low
        and decoder_queue <= limits.queue_low
        and decoder_kv <= limits.kv_used_low,
    )


def _verdict(sides: _Sides) -> tuple[Bottleneck, str]:
    seen = (
        sides.is_queue_high,
        sides.is_ttft_high,
        sides.is_kv_high,
        sides.is_decoder_high,
        sides.is_link_bad,
    )
    for row, bottleneck, verdict in _TABLE:
        if all(wanted is None or wanted is is_so for wanted, is_so in zip(row, seen, strict=True)):
            if bottleneck is Bottleneck.NONE and sides.is_idle:
                return Bottleneck.IDLE, "both sides have room"
            return bottleneck, verdict
    return Bottleneck.UNKNOWN, "the signals contradict each other"


def _evidence(prompt: RoleSignals, decoder: RoleSignals, links: Mapping[LinkState, int]) -> str:
    parts = [
        _shown("prompt queue a node", prompt.queue, per=prompt.fresh),
        _shown("TTFT p95", prompt.ttft_p95_s, unit=" s"),
        _shown("prompt KV", prompt.kv_used_mean),
        _shown("decoder KV", decoder.kv_used_mean),
        _shown("decoder queue a node", decoder.queue, per=decoder.fresh),
        _shown("TPOT p95", decoder.tpot_p95_s, unit=" s"),
        _shown("waiting for KV a node", decoder.transfer_wait, per=decoder.fresh),
    ]
    if links:
        down = links.get(LinkState.FAILED, 0) + links.get(LinkState.SUSPECT, 0)
        parts.append(f"{down} links down, {links.get(LinkState.LINKED, 0)} up")
    return ", ".join(parts)


def _shown(name: str, signal: Signal | None, *, unit: str = "", per: int = 1) -> str:
    if signal is None:
        return f"{name} unknown"
    mark = "at least " if signal.is_lower_bound else ""
    return f"{name} {mark}{signal.value / per:.3g}{unit}"


def _is_above(signal: Signal | None, limit: float) -> bool | None:
    if signal is None:
        return None
    if signal.value > limit:
        return True
    # At least 0.5 says nothing about a limit of 1; at least 1 is taken for more than 1.
    if signal.is_lower_bound:
        return True if signal.value == limit else None
    return False


def _per_node(signal: Signal | None, role: RoleSignals) -> float:
    return 0.0 if signal is None else signal.value / max(1, role.fresh)


def _down_share(links: Mapping[LinkState, int]) -> float:
    down = links.get(LinkState.FAILED, 0) + links.get(LinkState.SUSPECT, 0)
    known = down + links.get(LinkState.LINKED, 0)
    return down / known if known else 0.0
