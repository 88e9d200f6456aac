"""Plain CSV of requests: a column of arrival times, one of input and one of output tokens.

Column names may be those of other tools: splitwise-sim, Vidur, BurstGPT and vLLM's benchmarks among
them. Case, spaces and dashes in them do not count.
"""

import re
from collections.abc import Callable, Sequence

from pd_autoscaler.workload.rows import (
    BadRowError,
    Parser,
    Row,
    cells_of,
    number_in,
    place_of,
    time_in,
    tokens_in,
)

TIMES_S = (
    "at_s",
    "arrival_s",
    "arrival_time_s",
    "arrival_time",
    "arrival_timestamp",
    "arrived_at",
    "t_s",
    "time_s",
    "timestamp",
    "time",
)
TIMES_MS = ("at_ms", "arrival_ms", "arrival_time_ms", "timestamp_ms", "t_ms", "time_ms")
INPUTS = (
    "input_tokens",
    "prompt_tokens",
    "context_tokens",
    "contexttokens",
    "request_tokens",
    "num_prefill_tokens",
    "input_length",
    "prompt_length",
    "prompt_len",
    "prompt_size",
    "input_len",
    "isl",
)
OUTPUTS = (
    "output_tokens",
    "completion_tokens",
    "generated_tokens",
    "generatedtokens",
    "response_tokens",
    "num_decode_tokens",
    "output_length",
    "completion_length",
    "output_len",
    "token_size",
    "osl",
)
CACHED = ("cached_tokens", "input_tokens_cached", "prompt_tokens_cached", "prefix_cached_tokens")


def plainly(name: str) -> str:
    """Return a column's name with case, spaces and dashes taken out of account."""
    return re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_")


def plain_parser(header: Sequence[str]) -> Parser | None:
    """Return the parser of a CSV with a time, an input and an output column, None for any other."""
    names = [plainly(name) for name in header]
    timed = _timed(header, names)
    given, wanted, cached = (place_of(names, aliases) for aliases in (INPUTS, OUTPUTS, CACHED))
    if timed is None or given is None or wanted is None:
        return None
    count = len(names)

    def row(text: str) -> Row:
        cells = cells_of(text, count)
        made = Row(
            timed(cells),
            tokens_in(header[given], cells[given].strip()),
            tokens_in(header[wanted], cells[wanted].strip()),
            tokens_in(header[cached], cells[cached].strip(), least=0) if cached is not None else 0,
        )
        if made.cached_tokens >= made.input_tokens:
            raise BadRowError(
                f"{made.cached_tokens} cached tokens are not a part of {made.input_tokens} of "
                "input: an engine computes one at least; correct the row"
            )
        return made

    return row


def _timed(header: Sequence[str], names: Sequence[str]) -> Callable[[Sequence[str]], float] | None:
    """Return what reads the seconds out of a row's cells."""
    at = place_of(names, TIMES_S)
    if at is not None:
        return lambda cells: _moment(header[at], cells[at].strip())
    at_ms = place_of(names, TIMES_MS)
    if at_ms is not None:
        return lambda cells: number_in(header[at_ms], cells[at_ms]) / 1000
    return None


def _moment(name: str, cell: str) -> float:
    # A wall time has a date: its dashes are none of a number's.
    return time_in(name, cell) if cell[4:5] == "-" else number_in(name, cell)
