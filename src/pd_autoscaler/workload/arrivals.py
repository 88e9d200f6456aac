"""Arrivals: requests as columns, for traces of millions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.request import Request

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Requests in order of arrival: seconds from the start, and token counts, a column each.

    `cached_tokens` is the part of the input that a prefix cache holds. Raises ConfigError for
    columns of different lengths, times that go back, or counts that make no sense.
    """

    at_s: Floats
    input_tokens: Counts
    output_tokens: Counts
    cached_tokens: Counts

    def __post_init__(self) -> None:
        columns = (self.input_tokens, self.output_tokens, self.cached_tokens)
        if any(len(column) != len(self.at_s) for column in columns):
            raise ConfigError("arrivals: the columns are of different lengths")
        if not len(self):
            return
        if not np.isfinite(self.at_s).all() or (np.diff(self.at_s) < 0).any() or self.at_s[0] < 0:
            raise ConfigError("arrivals: times must be finite, not below 0, and must not go back")
        if (self.input_tokens < 1).any() or (self.output_tokens < 1).any():
            raise ConfigError("arrivals: every request has an input and an output token at least")
        if (self.cached_tokens < 0).any() or (self.cached_tokens >= self.input_tokens).any():
            raise ConfigError("arrivals: cached tokens are a part of the input, never all of it")

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def uncached_tokens(self) -> Counts:
        """Input tokens that a prompt node computes."""
        return self.input_tokens - self.cached_tokens

    @property
    def span_s(self) -> float:
        """Seconds from the start to the last arrival."""
        return float(self.at_s[-1]) if len(self) else 0.0


def arrivals_of(requests: Iterable[Request]) -> Arrivals:
    """Return requests, which must be in order of arrival, as columns."""
    rows = [(r.at_s, r.input_tokens, r.output_tokens, r.cached_tokens) for r in requests]
    at_s, given, wanted, cached = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Arrivals(
        np.array(at_s, np.float64),
        np.array(given, np.int64),
        np.array(wanted, np.int64),
        np.array(cached, np.int64),
    )
