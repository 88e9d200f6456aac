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
    """Above what a signal counts as high; queues, waits and backlogs are per fresh node.

    `kv_used_low` and `queue_low` bound an idle decoder side and an idle queue. `pull_s` is how long
    KV may wait to be pulled, by Little's law: a busy service has many pulls under way. Of the
    requests that come in, `kv_expired_share` may expire without a pull, as those do whose users
    have gone. `links_down_share` is the part of all links, made or broken, that may be broken.
    `quorum_share` is the part of a role's serving nodes that must be fresh. Without
    `has_latencies` nothing tells how late first tokens are, and a queue is taken for a delay.
    """

    queue: float = 5.0
    ttft_p95_s: float = 1.0
    kv_used: float = 0.80
    tpot_p95_s: float = 0.050
    transfer_wait: float = 5.0
    kv_export_backlog: float = 5.0
    pull_s: float = 2.0
    kv_expired_share: float = 0.05
    queue_low: float = 1.0
    kv_used_low: float = 0.50
    links_down_share: float = 0.10
    quorum_share: float = 0.5
    has_latencies: bool = True


@dataclass(frozen=True, slots=True)
class _Sides:
    """The columns of the truth table; None is unknown.

    `is_slow` is the delay to the first token, `is_held` KV that is waiting to be pulled.
    """

    is_queue_high: bool
    is_slow: bool | None
    is_held: bool
    is_decoder_high: bool
    is_link_bad: bool
    is_idle: bool

    @property
    def also(self) -> Bottleneck | None:
        """Prompt nodes, where decoders are at fault and the prompts' delay is not their doing."""
        is_short = self.is_queue_high and self.is_slow and self.is_decoder_high and not self.is_held
        return Bottleneck.PROMPT if is_short else None


_Row = tuple[bool | None, bool | None, bool | None, bool | None, bool | None]

# Is it high or bad: prompt queue, first token's delay, KV held at prompt nodes, decoders, links.
# None is either, and unknown.
_TABLE: tuple[tuple[_Row, Bottleneck, str], ...] = (
    ((True, True, False, False, False), Bottleneck.PROMPT, "prompt nodes are short"),
    ((True, None, True, True, False), Bottleneck.DECODER, "decoders hold finished prompts back"),
    ((True, None, True, False, True), Bottleneck.LINK, "links hold finished prompts back"),
    ((True, False, False, False, False), Bottleneck.NONE, "a prompt queue without delay, watched"),
    ((False, False, False, True, False), Bottleneck.DECODER, "decoders are short"),
    ((False, False, False, False, False), Bottleneck.NONE, "both sides keep up"),
    # The same as above before a prompt queue has grown.
    ((False, None, True, True, False), Bottleneck.DECODER, "decoders leave finished prompts"),
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

    `links` counts by state the links of nodes that have served; an empty one is no evidence
    against them.
    """
    limits = thresholds or Thresholds()
    for role, signals in (("prompt", prompt), ("decoder", decoder)):
        if signals.serving == 0 or signals.fresh < limits.quorum_share * signals.serving:
            return Attribution(
                evidence=f"{signals.fresh} of {signals.serving} serving {role} nodes are fresh"
            )
    missing = _missing(prompt, decoder)
    if missing:
        return Attribution(evidence=f"unknown: {', '.join(missing)}")
    sides = _sides(prompt, decoder, links, limits)
    bottleneck, verdict = _verdict(sides)
    also = sides.also if bottleneck is Bottleneck.DECODER else None
    return Attribution(bottleneck, f"{verdict} ({_evidence(prompt, decoder, links)})", also)


def _missing(prompt: RoleSignals, decoder: RoleSignals) -> list[str]:
    """Name the columns that nothing tells of."""
    columns = {
        "prompt queue": prompt.queue,
        "prompt KV use": prompt.kv_used_mean or prompt.kv_export_backlog,
        "decoder queue": decoder.queue,
        "decoder KV use": decoder.kv_used_mean,
    }
    missing = [name for name, signal in columns.items() if signal is None]
    # A latency that no page has is not one that nobody met.
    if "ttft_s" in prompt.untold and prompt.queue_time_p95_s is None:
        missing.append("time to first token")
    if "tpot_s" in decoder.untold:
        missing.append("time per output token")
    return missing


def _sides(
    prompt: RoleSignals,
    decoder: RoleSignals,
    links: Mapping[LinkState, int],
    limits: Thresholds,
) -> _Sides:
    prompt_queue = _per_node(prompt.queue, prompt)
    decoder_queue = _per_node(decoder.queue, decoder)
    decoder_kv = decoder.kv_used_mean.value if decoder.kv_used_mean else 0.0
    is_queue_high = _is_queue_high(prompt, limits)
    has_backlog = _is_pulled_late(
        prompt.kv_export_backlog, prompt, limits.kv_export_backlog, limits
    )
    is_decoder_high = (
        decoder_kv > limits.kv_used
        or decoder_queue > limits.queue
        or bool(_is_above(decoder.tpot_p95_s, limits.tpot_p95_s))
    )
    return _Sides(
        is_queue_high=is_queue_high,
        is_slow=_is_slow(prompt, limits, is_queue_high=is_queue_high),
        is_held=has_backlog or bool(_is_above(prompt.kv_used_mean, limits.kv_used)),
        is_decoder_high=is_decoder_high,
        is_link_bad=_is_pulled_late(decoder.transfer_wait, decoder, limits.transfer_wait, limits)
        or _are_links_down(links, limits)
        # Decoders have room and still do not fetch, or gave up fetching: what is between is bad.
        or (has_backlog and not is_decoder_high)
        or _expires(prompt, limits),
        is_idle=prompt_queue <= limits.queue_low
        and decoder_queue <= limits.queue_low
        and decoder_kv <= limits.kv_used_low,
    )


def _is_queue_high(prompt: RoleSignals, limits: Thresholds) -> bool:
    """Whether many prompts wait, or few wait long: those make as long a wait as many short ones."""
    queue = _per_node(prompt.queue, prompt)
    # Where nobody tells the time in the queue, first tokens that are late while prompts wait do.
    waited = prompt.queue_time_p95_s or prompt.ttft_p95_s
    waits_long = bool(_is_above(waited, limits.ttft_p95_s))
    return queue > limits.queue or (waits_long and queue > limits.queue_low)


def _is_slow(prompt: RoleSignals, limits: Thresholds, *, is_queue_high: bool) -> bool | None:
    """Whether first tokens are late; the time in the queue is part of that, and enough to tell."""
    known = [
        _is_above(signal, limits.ttft_p95_s)
        for signal in (prompt.ttft_p95_s, prompt.queue_time_p95_s)
    ]
    if True in known:
        return True
    if not limits.has_latencies:
        return is_queue_high
    if prompt.ttft_p95_s is None and not is_queue_high:
        # No first token in the window and nobody waiting for one is an idle side, not a blind one.
        return False
    return next((is_high for is_high in known if is_high is not None), None)


def _is_pulled_late(
    waiting: Signal | None, role: RoleSignals, count: float, limits: Thresholds
) -> bool:
    """Whether more than `count` a node wait for a pull, and each for longer than it may take."""
    if waiting is None or _per_node(waiting, role) <= count:
        return False
    arrivals = role.arrival_rate
    return arrivals is None or waiting.value > limits.pull_s * arrivals.value


def _expires(prompt: RoleSignals, limits: Thresholds) -> bool:
    expired, arrivals = prompt.kv_expired_rate, prompt.arrival_rate
    if expired is None or arrivals is None:
        return False
    return expired.value > limits.kv_expired_share * arrivals.value


def _verdict(sides: _Sides) -> tuple[Bottleneck, str]:
    seen = (
        sides.is_queue_high,
        sides.is_slow,
        sides.is_held,
        sides.is_decoder_high,
        sides.is_link_bad,
    )
    for row, bottleneck, verdict in _TABLE:
        if all(wanted is None or wanted is is_so for wanted, is_so in zip(row, seen, strict=True)):
            if bottleneck is Bottleneck.NONE and sides.is_idle:
                return Bottleneck.IDLE, "both sides have room"
            return bottleneck, verdict
    return Bottleneck.UNKNOWN, _puzzle(sides)


def _puzzle(sides: _Sides) -> str:
    """Say what does not fit where no row of the table does."""
    if sides.is_link_bad:
        return "links are down or slow, and what waits for them is not clear"
    if sides.is_queue_high:
        if sides.is_slow is None:
            return "prompts wait, and nothing tells for how long"
        return "prompts wait behind KV that is held, and still come through quickly"
    if sides.is_held:
        return "prompt nodes hold KV though no prompt waits"
    if sides.is_slow is None:
        return "hardly a prompt waits, and nothing tells how late first tokens are"
    # What is left is a slow first token without a queue to speak of.
    return "first tokens are late though hardly a prompt waits: long prompts, or a past burst"


def _evidence(prompt: RoleSignals, decoder: RoleSignals, links: Mapping[LinkState, int]) -> str:
    parts = [
        _shown("prompt queue a node", prompt.queue, of=prompt),
        _shown("TTFT p95", prompt.ttft_p95_s, unit=" s"),
        _shown("prompt KV", prompt.kv_used_mean),
        _shown("decoder KV", decoder.kv_used_mean),
        _shown("decoder queue a node", decoder.queue, of=decoder),
        _shown("TPOT p95", decoder.tpot_p95_s, unit=" s"),
        _shown("waiting for KV a node", decoder.transfer_wait, of=decoder),
    ]
    # What not every engine tells is named where it is told.
    if prompt.queue_time_p95_s is not None:
        parts.append(_shown("prompt queue time p95", prompt.queue_time_p95_s, unit=" s"))
    if prompt.kv_export_backlog is not None:
        parts.append(_shown("KV not pulled a node", prompt.kv_export_backlog, of=prompt))
    if prompt.kv_expired_rate is not None and prompt.kv_expired_rate.value > 0:
        parts.append(_shown("KV never pulled", prompt.kv_expired_rate, unit=" a second"))
    if links:
        down = links.get(LinkState.FAILED, 0) + links.get(LinkState.SUSPECT, 0)
        parts.append(f"{down} links down, {links.get(LinkState.LINKED, 0)} up")
    return ", ".join(parts)


def _shown(
    name: str, signal: Signal | None, *, unit: str = "", of: RoleSignals | None = None
) -> str:
    """Say a signal, `of` a role as its share a node."""
    if signal is None:
        return f"{name} unknown"
    mark = "at least " if signal.is_lower_bound else ""
    value = signal.value if of is None else _per_node(signal, of)
    return f"{name} {mark}{value:.3g}{unit}"


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
    return 0.0 if signal is None else signal.value / max(1, signal.nodes or role.fresh)


def _are_links_down(links: Mapping[LinkState, int], limits: Thresholds) -> bool:
    """Whether so many links are broken that requests must meet it; one pair of many is repaired."""
    down = links.get(LinkState.FAILED, 0) + links.get(LinkState.SUSPECT, 0)
    up = links.get(LinkState.LINKED, 0)
    return down > limits.links_down_share * (down + up) and (down > 1 or not up)
