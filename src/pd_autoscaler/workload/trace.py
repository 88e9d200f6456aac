"""Recorded requests of real services, one at a time; without numpy, for the embedded cluster."""

import math
from pathlib import Path

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.formats import FIX_FORMAT, numbered, rows
from pd_autoscaler.workload.request import Request


def read_trace(path: Path | str, *, tokens_max: int | None = None) -> tuple[Request, ...]:
    """Read a trace file into requests in order of arrival, the first one at 0 seconds.

    Token counts above `tokens_max` are clipped to it; without it they stay as they are.
    Raises ConfigError naming file, line and fix for whatever cannot be read.
    """
    top = math.inf if tokens_max is None else tokens_max
    if top < 1:
        raise ConfigError(f"tokens_max is {tokens_max}: give 1 or more, or leave it out")
    read = sorted(rows(path, numbered(path)), key=lambda row: row.at_s)
    if not read:
        raise ConfigError(f"{path}: holds no request: {FIX_FORMAT}")
    first_s = read[0].at_s
    return tuple(
        Request(
            row.at_s - first_s,
            int(min(row.input_tokens, top)),
            int(min(row.output_tokens, top)),
            int(min(row.cached_tokens, min(row.input_tokens, top) - 1)),
        )
        for row in read
    )
