"""Rates: how fast requests enter one node, and how fast it makes tokens."""

from pd_autoscaler.core.windows import View, inside
from pd_autoscaler.model.node import Role

TOKENS = {Role.PROMPT: "prompt_tokens", Role.DECODER: "generation_tokens"}
"""The counter of each role's own tokens: those computed, those generated."""


def arrival_rate(seen: View) -> float | None:
    """Return requests per second where they enter, None if that is unknown.

    Where the engine does not count them, entered is finished plus the change of what is inside:
    under back-pressure completions alone say that the cluster is big enough.
    """
    received = seen.rate("requests_received")
    if received is not None:
        return received
    ends = seen.ends(lambda page: "requests_finished" in page.counters and inside(page) is not None)
    if ends is None:
        return None
    first, last = ends
    finished = last.counters["requests_finished"] - first.counters["requests_finished"]
    entered = finished + (inside(last) or 0.0) - (inside(first) or 0.0)
    return max(0.0, entered) / (last.at_s - first.at_s)


def token_rate(seen: View, role: Role, *, keep_s: float) -> float | None:
    """Return the role's own tokens per second at one node, None if that is unknown.

    A counter comes first, the engine's own average (`token_rate`) where there is none that can be
    told by. `keep_s` is how much history there can be.
    """
    name = TOKENS[role]
    is_lumpy = name in seen.history.lumpy
    rate = _lumpy_rate(seen, name, keep_s=keep_s) if is_lumpy else seen.rate(name)
    return seen.mean("token_rate") if rate is None else rate


def _lumpy_rate(seen: View, name: str, *, keep_s: float) -> float | None:
    """Return the rate of a counter that grows only when a request ends, None if that is unknown.

    Over less than a request takes, such a counter may stand still under full load; so it is read
    over the mean duration at least, or over all that is kept where that is shorter or unknown.
    """
    newest = seen.last
    if newest is None or not seen.inside:
        return None
    at_s, history = newest.at_s, seen.history
    duration_s = history.over(now_s=at_s, window_s=keep_s).mean_observed("duration_s")
    needed_s = min(keep_s, max(seen.window_s, keep_s if duration_s is None else duration_s))
    span = history.over(now_s=at_s, window_s=needed_s).grown(name)
    if span is None or span.seconds < needed_s:
        return None
    if span.delta == 0 and inside(newest) != 0:
        return None
    return span.delta / span.seconds
