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


def staffed(load: float, *, beta: float, peakedness: float = 1.0) -> float:
    """Return the servers for a load and its swings: square-root staffing.

    `beta` standard deviations above the mean, of an infinite pool that holds `peakedness` times the
    variance of Poisson arrivals (Halfin and Whitt, 1981; He, Liu and Whitt, 2016).
    """
    return load + beta * math.sqrt(max(0.0, peakedness * load))


def beta_for(shortage_cost: float) -> float:
    """Return the standard deviations to stay above a demand, from what one server too few costs.

    The newsvendor's quantile, cost / (1 + cost), of a normal demand; the cost is counted in servers
    too many. None are kept in reserve where a shortage is no dearer than an excess.
    """
    return max(0.0, _NORMAL.inv_cdf(shortage_cost / (1.0 + shortage_cost)))


def peakedness_for(dispersion: float) -> float:
    """Return the peakedness of arrivals at an infinite pool from their index of dispersion.

    That of exponential services, 1 + (c² - 1) / 2 with the index for c² (He, Liu and Whitt, 2016).
    """
    return 1.0 + max(0.0, dispersion - 1.0) / 2.0


def dispersion_at(dispersion: float, *, of_s: float, at_s: float) -> float:
    """Return the index of dispersion in windows of `at_s` from that in windows of `of_s` seconds.

    Of Poisson arrivals whose rate moves slowly: what is above 1 grows with the window.
    """
    share = min(1.0, at_s / of_s) if of_s > 0 else 1.0
    return 1.0 + max(0.0, dispersion - 1.0) * share


def _waits(blocked: float, servers: int, load: float) -> float:
    """Return Erlang's C from Erlang's B."""
    return servers * blocked / (servers - load * (1.0 - blocked))


def _tail(waits: float, servers: int, load: float, pace: float) -> float:
    return min(1.0, waits * math.exp(-max(0.0, (servers - load) * pace)))
