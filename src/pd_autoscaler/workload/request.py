"""Requests: what a workload is made of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """One request: when it arrives (seconds after the workload's start) and its token counts.

    `cached_tokens` is the part of the input that a prefix cache holds already.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
