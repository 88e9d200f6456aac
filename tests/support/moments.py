"""Moments: snapshots of a fleet as a policy meets them, said in a line."""

from collections.abc import Sequence
from typing import Any

from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, Limits, Snapshot
from tests.support.pages import node

Told = dict[str, Any]
"""One node's signals by their names."""

CAPACITY = (
    NodeCapacity(role=Role.PROMPT, node_class="vllm", prefill_tokens_per_s=4000.0),
    # At 50 ms a token a batch of 100 at a context of 1100 tokens, 2000 tokens a second.
    NodeCapacity(
        role=Role.DECODER,
        node_class="vllm",
        step_base_s=0.028,
        step_per_request_s=0.00011,
        step_per_token_s=1e-7,
    ),
)
"""A prompt node computes four prompts of 1000 tokens a second, a decoder ends ten of 200 tokens."""

DEMAND = Demand(
    requests_per_s=Signal(10.0, 0.0),
    input_len=Signal(1000.0, 0.0),
    output_len=Signal(200.0, 0.0),
    output_len_sq=Signal(40000.0, 0.0),
)


def loads(*values: float | None, name: str) -> list[Told]:
    """Name one load of several nodes."""
    return [{name: None if value is None else Signal(value, 0.0)} for value in values]


def moment(
    prompts: Sequence[Told | None],
    decoders: Sequence[Told | None],
    *,
    now_s: float = 1000.0,
    target: Target | None = None,
    coming: Sequence[tuple[str, Role]] = (),
    limits: Limits | None = None,
    demand: Demand = DEMAND,
    capacity: Sequence[NodeCapacity] = CAPACITY,
    bottleneck: Bottleneck = Bottleneck.NONE,
    roles: tuple[Told, Told] = ({}, {}),
) -> Snapshot:
    """Show serving nodes by their signals; None is one that was never heard of."""
    nodes: list[Node] = []
    signals: dict[str, NodeSignals] = {}
    for role, told in ((Role.PROMPT, prompts), (Role.DECODER, decoders)):
        for index, values in enumerate(told):
            nodes.append(node(f"{role}-{index}", role))
            if values is not None:
                signals[nodes[-1].id] = NodeSignals(
                    node_id=nodes[-1].id, engine="vllm", age_s=0.0, is_fresh=True, **values
                )
    nodes += [node(name, role, state=NodeState.STARTING) for name, role in coming]
    heard = [sum(values is not None for values in told) for told in (prompts, decoders)]
    return Snapshot(
        now_s=now_s,
        now_unix_s=now_s,
        target=target or Target(len(prompts), len(decoders)),
        nodes=tuple(nodes),
        prompt=RoleSignals(serving=len(prompts), fresh=heard[0], **roles[0]),
        decoder=RoleSignals(serving=len(decoders), fresh=heard[1], **roles[1]),
        node_signals=signals,
        attribution=Attribution(bottleneck, "as seen"),
        limits=limits or Limits(),
        demand=demand,
        capacity=tuple(capacity),
    )
