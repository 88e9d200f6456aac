"""One node of the simulated world."""

import math
from dataclasses import dataclass
from enum import StrEnum

from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.fleet.process import Process


class Life(StrEnum):
    """What became of a node in the world, whoever knows of it."""

    STARTING = "starting"
    UP = "up"
    DEAD = "dead"
    GONE = "gone"


@dataclass(slots=True, kw_only=True)
class SimNode:
    """A node as it is; times are virtual seconds.

    `role` is the one it has now, `made_as` the one its provider made it in and lists it with.
    `is_broken` says that a fault gave the controller reason to treat the node as lost (last at
    `broken_at_s`), so what it does to the node is excused until the node is published again.
    `held_until_s` is until when a request stays inside whatever its engine does. From `made_at_s`
    to `gone_at_s` it is paid for.
    """

    id: str
    role: Role
    made_as: Role
    can_switch_role: bool = False
    request_id: str = ""
    life: Life = Life.STARTING
    process: Process | None = None
    listed_at_s: float = 0.0
    unlisted_at_s: float = math.inf
    is_stopping: bool = False
    is_broken: bool = False
    broken_at_s: float = -math.inf
    booted_at_s: float = 0.0
    agent_back_s: float = 0.0
    metrics_back_s: float = 0.0
    agent_seen_s: float = 0.0
    metrics_seen_s: float = 0.0
    withdrawn_at_s: float = -math.inf
    held_until_s: float = -math.inf
    made_at_s: float = 0.0
    gone_at_s: float = math.inf

    @property
    def is_up(self) -> bool:
        """Whether its process runs."""
        return self.life is Life.UP and self.process is not None and self.process.is_alive

    @property
    def is_there(self) -> bool:
        """Whether it takes up an accelerator."""
        return self.life in {Life.STARTING, Life.UP}

    def broke(self, now_s: float) -> None:
        """Take note of a fault after which the node may be treated as lost."""
        self.is_broken, self.broken_at_s = True, now_s
