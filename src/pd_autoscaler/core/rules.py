"""What the pure half is told by its operator; all times in seconds."""

from dataclasses import dataclass, field

from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.model.snapshot import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRules:
    """How long a node may stay in a state, and when a silent one is lost.

    `keeps_standby`: a removed node goes back to a pool, still initialised, and is not finalised.
    """

    start_timeout_s: float = 600.0
    start_attempts_max: int = 3
    init_timeout_s: float = 120.0
    drain_deadline_s: float = 300.0
    unlink_deadline_s: float = 30.0
    switch_timeout_s: float = 60.0
    stop_timeout_s: float = 60.0
    lost_after_s: float = 30.0
    lost_share_max: float = 1 / 3
    retry_s: float = 1.0
    retry_max_s: float = 60.0
    keeps_standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRules:
    """How links are retried and how many calls may be under way.

    16 calls in flight per decoder and 16 decoders at one prompt are the library's own pools
    (hicann/hixl, `llm_link_manager.cc` and `msg_handler_plugin.cc`). `ranks` says which endpoints
    of two nodes are linked. Without `is_meshed` engines connect by themselves.
    """

    attempts_max: int = 5
    backoff_s: float = 1.0
    backoff_max_s: float = 60.0
    join_deadline_s: float = 120.0
    in_flight_max: int = 16
    ranks: RankMapping = RankMapping.MODULO
    is_meshed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRules:
    """What no policy may breach.

    With `heeds_bottleneck` a role does not grow, nor shrink, against what the attribution says.
    """

    limits: Limits = field(default_factory=Limits)
    up_window_s: float = 30.0
    down_window_s: float = 300.0
    cooldown_s: float = 120.0
    step_up_max: int = 4
    step_down_max: int = 1
    transfer_failure_share: float = 0.05
    pay_back_max_s: float = 600.0
    heeds_bottleneck: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything the planner and the life cycle go by."""

    node: NodeRules = field(default_factory=NodeRules)
    link: LinkRules = field(default_factory=LinkRules)
    guard: GuardRules = field(default_factory=GuardRules)


def backoff_s(attempts: int, first_s: float, max_s: float, *, salt: str) -> float:
    """Return the wait after this many failures: doubling, capped, spread by ±20 %.

    The spread comes from `salt`, not from a random draw, so that runs repeat.
    """
    spread = 0.8 + 0.4 * (sum(salt.encode()) % 97) / 96
    doubled_s = first_s * 2.0 ** min(max(attempts - 1, 0), 30)
    return min(max_s, doubled_s) * spread
