"""Advice: what a service outside, the advisor, answered when it was shown an earlier snapshot."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Advice:
    """The advisor's newest answer: counts of nodes, and why.

    `age_s` counts from the snapshot that was answered; `is_fresh` is whether that is young enough
    (advisor.age_max_s).
    """

    prompt: int
    decoder: int
    why: str = ""
    age_s: float = 0.0
    is_fresh: bool = True
