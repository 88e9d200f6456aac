"""Reading a workload from any file: recorded requests, or rates that requests are drawn from."""

import math
from array import array
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Arrivals, Counts
from pd_autoscaler.workload.drawn import drawn
from pd_autoscaler.workload.formats import FIX_FORMAT, Numbered, is_rate_table, numbered, rows
from pd_autoscaler.workload.mooncake import BLOCK_TOKENS
from pd_autoscaler.workload.prefix_cache import PrefixCache
from pd_autoscaler.workload.rate_table import rates_in
from pd_autoscaler.workload.reshaping import clipped, thinned


def read_arrivals(
    path: Path | str,
    *,
    seed: int = 0,
    tokens_max: int | None = None,
    requests_max: int | None = None,
    cache_tokens: float = math.inf,
) -> Arrivals:
    """Read any workload file; the format is told from what it holds (see `formats.FIX_FORMAT`).

    Recorded requests come in order of arrival, the first one at 0 s; of a table of rates requests
    are drawn with `seed`. Prompts whose blocks the trace names hit a prefix cache of `cache_tokens`
    that all prompt nodes share. Where there are more requests than `requests_max`, a share of them
    is kept at random (of a trace, also by `seed`; about as many of a table). Counts above
    `tokens_max` are clipped. Raises ConfigError naming file, line, value and fix for whatever
    cannot be read.
    """
    if requests_max is not None and requests_max < 1:
        raise ConfigError(f"requests_max is {requests_max}: give 1 or more, or leave it out")
    generator = np.random.default_rng(seed)
    lines = numbered(path)
    first = next(lines, None)
    if first is None:
        raise ConfigError(f"{path}: holds no request: {FIX_FORMAT}")
    lines = chain((first,), lines)
    if is_rate_table(first.text):
        rates = rates_in(path, lines)
        if requests_max is not None and rates.requests > requests_max:
            rates = rates.thinned(requests_max / rates.requests)
        arrivals = drawn(rates, generator)
    else:
        arrivals = _recorded(path, lines, cache_tokens)
        if requests_max is not None and len(arrivals) > requests_max:
            arrivals = thinned(arrivals, requests_max / len(arrivals), generator)
    return clipped(arrivals, tokens_max=tokens_max)


def _recorded(path: Path | str, lines: Iterator[Numbered], cache_tokens: float) -> Arrivals:
    at_s, given, wanted, cached = array("d"), array("q"), array("q"), array("q")
    blocks: list[tuple[int | str, ...]] = []
    for row in rows(path, lines):
        at_s.append(row.at_s)
        given.append(row.input_tokens)
        wanted.append(row.output_tokens)
        cached.append(row.cached_tokens)
        blocks.append(row.blocks)
    if not at_s:
        raise ConfigError(f"{path}: holds no request: {FIX_FORMAT}")
    times = np.frombuffer(at_s, np.float64)
    order = np.argsort(times, kind="stable")
    inputs, outputs, hits = (np.frombuffer(c, np.int64)[order] for c in (given, wanted, cached))
    if any(blocks):
        hits = _hits(inputs, [blocks[number] for number in order], cache_tokens)
    return Arrivals(times[order] - times[order[0]], inputs, outputs, hits)


def _hits(inputs: Counts, blocks: list[tuple[int | str, ...]], cache_tokens: float) -> Counts:
    cache = PrefixCache(cache_tokens, block_tokens=BLOCK_TOKENS)
    pairs = zip(blocks, inputs.tolist(), strict=True)
    return np.array([cache.cached_tokens(names, tokens) for names, tokens in pairs], np.int64)
