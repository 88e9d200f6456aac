"""A fluid model of load: requests flow through prompt nodes, then through decoder nodes.

Queues grow while demand exceeds the capacity of the published nodes, and clients give up after
PATIENCE_S. It is coarse on purpose: it moves the signals policies read, and is cheap to step.
"""

from dataclasses import dataclass, field

from pd_autoscaler.model.node import Role

STEP_S = 2.0
PATIENCE_S = 60.0
PROMPT_TOKENS = 2000.0
TOKEN_S = 0.03


@dataclass(slots=True, kw_only=True)
class Load:
    """Requests per second asked for, and where they are.

    One prompt node finishes `prompt_rate` requests a second; a decoder holds `batch_max` requests
    for `answer_s` seconds each, TOKEN_S a token.
    """

    rate: float
    prompt_rate: float = 1.0
    prompt_s: float = 0.5
    batch_max: float = 32.0
    answer_s: float = 16.0
    now_s: float = 0.0
    queue: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))
    flow: dict[Role, float] = field(default_factory=lambda: dict.fromkeys(Role, 0.0))

    def advance(self, now_s: float, prompts: int, decoders: int) -> float:
        """Let requests flow until `now_s` over this many nodes; return the seconds that passed."""
        passed_s = now_s - self.now_s
        left_s = passed_s
        while left_s > 0:
            step_s = min(STEP_S, left_s)
            self._step(step_s, prompts, decoders)
            left_s -= step_s
        self.now_s = max(self.now_s, now_s)
        return max(passed_s, 0.0)

    def _step(self, step_s: float, prompts: int, decoders: int) -> None:
        arriving = self.rate
        capacities = {
            Role.PROMPT: prompts * self.prompt_rate,
            Role.DECODER: decoders * self.batch_max / self.answer_s,
        }
        for role, capacity in capacities.items():
            flowing = min(self.queue[role] / step_s + arriving, capacity)
            queued = self.queue[role] + (arriving - flowing) * step_s
            self.queue[role] = min(max(queued, 0.0), self.rate * PATIENCE_S)
            self.flow[role] = flowing
            arriving = flowing

    @property
    def nodes_needed(self) -> float:
        """How many nodes of both roles this load would use up, not rounded to whole ones."""
        return self.rate / self.prompt_rate + self.rate * self.answer_s / self.batch_max

    def running(self, role: Role) -> float:
        """Requests being worked on, over all nodes of a role."""
        return self.flow[role] * (self.prompt_s if role is Role.PROMPT else self.answer_s)

    def kv_used(self, role: Role, nodes: int) -> float:
        """Share of a role's KV space in use, 0 to 1; prompt nodes keep what no decoder pulled."""
        held = self.running(role)
        if role is Role.PROMPT:
            held += self.queue[Role.DECODER]
        return min(held / (max(nodes, 1) * self.batch_max), 1.0)

    def ttft_s(self) -> float:
        """Seconds to the first token of a request that arrives now."""
        waiting_s = self.queue[Role.PROMPT] / max(self.flow[Role.PROMPT], 0.01)
        return min(waiting_s, PATIENCE_S) + self.prompt_s
