"""Queueing: waits at a pool of servers, and how many servers a load needs; pure numbers.

A load is in servers: arrivals a second times seconds of service each, so that a load of 3 keeps
three servers busy on average. Nothing here raises: a load that is no number needs every server.
"""

import math
from statistics import NormalDist

_NORMAL = NormalDist()


def erlang_c(servers: int, load: float) -> float:
    """Return the share of arrivals that wait at M/M/k (Erlang's C formula); 1 where it overflows.

    By the recursion of Erlang's B formula, which is stable for any number of servers (Whitt,
    IEOR 6707 notes on the Erlang B and C formulas, 2002).
    """
    if not 0 < load < servers:
        return 0.0 if load == 0 and servers > 0 else 1.0
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return _waits(blocked, servers, load)


def wait_mean_s(servers: int, load: float, *, service_s: float, variability: float = 1.0) -> float:
    """Return the mean seconds of wait at GI/G/k, by Allen and Cunneen; infinite if it overflows.

    `variability` is half of the squared coefficients of variation of the times between arrivals and
    of the services: 1 for M/M/k, 0.5 for M/D/k.
    """
    if not 0 <= load < servers:
        return math.inf
    return erlang_c(servers, load) * service_s / (servers - load) * variability


def wait_tail(
    servers: int, load: float, *, wait_s: float, service_s: float, variability: float = 1.0
) -> float:
    """Return the share of arrivals at GI/G/k that wait longer; exact for M/M/k."""
    return _tail(erlang_c(servers, load), servers, load, wait_s / (service_s * variability))


def servers_for_wait(
    load: float,
    *,
    wait_s: float,
    service_s: float,
    variability: float,
    late_share: float,
    servers_max: int,
) -> int:
    """Return the fewest servers at which at most `late_share` wait longer than `wait_s`.

    Never fewer than 1, nor more than `servers_max`, where that is too few to keep the wait.
    """
    if not load < servers_max:
        return max(1, servers_max)
    if not load > 0:
        return 1
    pace = wait_s / (service_s * variability) if service_s * variability > 0 else math.inf
    blocked = 1.0
    for count in range(1, servers_max + 1):
        blocked = load * blocked / (count + load * blocked)
        is_enough = count > load and (
            _tail(_waits(blocked, count, load), count, load, pace) <= late_share
        )
        if is_enough:
            return count
    return max(1, servers_max)


def staffed(load: float, *, deviations: float) -> float:
    """Return the servers for a load and its swings: square-root staffing.

    So many standard deviations above the mean of an infinite pool with Poisson arrivals (Halfin and
    Whitt, 1981).
    """
    return load + deviations * math.sqrt(max(0.0, load))


def deviations_for(share: float) -> float:
    """Return how many standard deviations above its mean a normal load stays below, so often.

    At least 0: half of the time a load is above its mean.
    """
    return max(0.0, _NORMAL.inv_cdf(share))


def _waits(blocked: float, servers: int, load: float) -> float:
    """Return Erlang's C from Erlang's B."""
    return servers * blocked / (servers - load * (1.0 - blocked))


def _tail(waits: float, servers: int, load: float, pace: float) -> float:
    return min(1.0, waits * math.exp(-max(0.0, (servers - load) * pace)))
