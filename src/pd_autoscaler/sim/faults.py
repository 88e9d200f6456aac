"""Faults: a seed decides which kinds strike in a run, and how often.

Each kind is off in half of the runs, so that some runs show one fault alone and others many
together ("swarm testing": Groce et al., ISSTA 2012).
"""

import random
from enum import StrEnum


class CallFault(StrEnum):
    """Faults that strike one call, each with a probability per call."""

    SCRAPE_FAILS = "scrape_fails"
    SCRAPE_SLOW = "scrape_slow"
    SCRAPE_PARTIAL = "scrape_partial"
    SCRAPE_STALE = "scrape_stale"
    SCRAPE_NAN = "scrape_nan"
    PAGE_PARTIAL = "page_partial"
    PROVIDER_REFUSES = "provider_refuses"
    PROVIDER_THROTTLES = "provider_throttles"
    PROVIDER_DONE_REPORTED_UNKNOWN = "provider_done_reported_unknown"
    PROVIDER_DONE_REPORTED_FAILED = "provider_done_reported_failed"
    PROVIDER_TWINS = "provider_twins"
    LIST_FAILS = "list_fails"
    LIST_DUPLICATES = "list_duplicates"
    LIST_LATE = "list_late"
    START_NEVER = "start_never"
    START_SLOW = "start_slow"
    AGENT_FAILS = "agent_fails"
    AGENT_ANSWER_LOST = "agent_answer_lost"
    INIT_FAILS = "init_fails"
    INIT_SLOW = "init_slow"
    LINK_FAILS = "link_fails"
    LINK_SLOW = "link_slow"
    LINK_HANGS = "link_hangs"
    LINK_LATE = "link_late"
    ROUTER_READ_FAILS = "router_read_fails"
    ROUTER_FAILS = "router_fails"
    ROUTER_FORGETS = "router_forgets"
    ROUTER_LATE = "router_late"
    ROUTER_ANSWER_LOST = "router_answer_lost"
    IN_FLIGHT_UNKNOWN = "in_flight_unknown"
    JOURNAL_FAILS = "journal_fails"
    POLICY_RAISES = "policy_raises"
    POLICY_NONSENSE = "policy_nonsense"
    POLICY_SLOW = "policy_slow"
    DRAIN_SLOW = "drain_slow"
    SWITCH_SLOW = "switch_slow"
    SWITCH_FAILS = "switch_fails"
    SWITCH_KILLS = "switch_kills"
    SWITCH_ANSWER_LOST = "switch_answer_lost"


class WorldFault(StrEnum):
    """Faults that happen by themselves, each so many times an hour."""

    NODE_DIES = "node_dies"
    NODE_RESTARTS = "node_restarts"
    NODE_VANISHES = "node_vanishes"
    AGENT_SILENT = "agent_silent"
    NODE_SILENT = "node_silent"
    ALL_SILENT = "all_silent"
    COUNTER_RESET = "counter_reset"
    LINK_BREAKS = "link_breaks"
    CONTROLLER_KILLED = "controller_killed"
    PAUSED = "paused"
    LEASE_LOST = "lease_lost"
    LOAD_STEP = "load_step"
    LOAD_SPIKE = "load_spike"
    LOAD_DROUGHT = "load_drought"
    LOAD_SHIFT = "load_shift"


CALL_RANGE = (0.003, 0.08)
"""Least and greatest probability of a call fault that is on."""

WORLD_RANGE = (0.7, 8.0)
"""Fewest and most world faults of one kind an hour, where the kind is on."""


class Faults:
    """What strikes in one run; every draw comes from a stream of its own, named by its use.

    `only` puts exactly these kinds on, for tests that look at one fault alone.
    """

    def __init__(self, seed: int, *, only: frozenset[str] | None = None) -> None:
        self.seed = seed
        self.is_calm = False
        self._streams: dict[str, random.Random] = {}
        swarm = self.stream("swarm")
        self.chance: dict[str, float] = {}
        self.per_hour: dict[str, float] = {}
        for kind in CallFault:
            is_on, level = swarm.getrandbits(1) == 1, _between(swarm, *CALL_RANGE)
            self.chance[kind] = level if (is_on if only is None else kind in only) else 0.0
        for fault in WorldFault:
            is_on, level = swarm.getrandbits(1) == 1, _between(swarm, *WORLD_RANGE)
            self.per_hour[fault] = level if (is_on if only is None else fault in only) else 0.0

    def stream(self, use: str) -> random.Random:
        """Return the stream of random numbers of one use, the same in every process."""
        if use not in self._streams:
            self._streams[use] = random.Random(f"{self.seed}/{use}")  # noqa: S311  # Not secret.
        return self._streams[use]

    def strikes(self, kind: CallFault) -> bool:
        """Whether a fault of this kind strikes the present call."""
        if self.is_calm or not self.chance[kind]:
            return False
        return self.stream(kind).uniform(0.0, 1.0) < self.chance[kind]

    def wait_s(self, fault: WorldFault) -> float | None:
        """Return the seconds until the next world fault of this kind, None if it is off."""
        if self.is_calm or not self.per_hour[fault]:
            return None
        return self.stream(fault).expovariate(self.per_hour[fault] / 3600.0)

    def draw_s(self, use: str, least_s: float, most_s: float) -> float:
        """Draw a duration from the stream of its use."""
        return self.stream(use).uniform(least_s, most_s)

    def on(self) -> list[str]:
        """Name the kinds that are on, with their levels."""
        levels = {**self.chance, **self.per_hour}
        return [f"{kind}={level:.3g}" for kind, level in levels.items() if level]


def _between(rng: random.Random, least: float, most: float) -> float:
    """Draw so that each order of magnitude is as likely as any other."""
    return float(least * (most / least) ** rng.uniform(0.0, 1.0))
