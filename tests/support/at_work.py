"""Snapshots of nodes at work, as engines of a known profile would show them."""

from pd_autoscaler.engine_model.known import KNOWN
from pd_autoscaler.model.capacity import Demand, NodeCapacity
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Node, NodeState, Role
from pd_autoscaler.model.signals import NodeSignals, Signal
from pd_autoscaler.model.snapshot import LeadTime, Snapshot

H100 = KNOWN["llama-2-70b-h100"].profile


def signal(value: float) -> Signal:
    return Signal(value, 1.0)


def snapshot(
    now_s: float, *, running: float, used: float, capacity: tuple[NodeCapacity, ...] = ()
) -> Snapshot:
    """Return a prompt node that is full and a decoder at work, as H100 nodes would show them."""
    nodes = tuple(
        Node(id=role.value, role=role, state=NodeState.SERVING, since_s=0.0) for role in Role
    )
    rate = running / H100.decode_step_s(round(running), round(used * 1_300_000))
    seen = {
        "prompt": NodeSignals(
            node_id="prompt", is_fresh=True, queue=signal(3), token_rate=signal(9000)
        ),
        "decoder": NodeSignals(
            node_id="decoder",
            is_fresh=True,
            running=signal(running),
            kv_used=signal(used),
            token_rate=signal(rate),
        ),
    }
    return Snapshot(
        now_s=now_s,
        now_unix_s=now_s,
        target=Target(1, 1),
        nodes=nodes,
        node_signals=seen,
        demand=Demand(input_len=signal(1000), input_len_sq=signal(2e6)),
        capacity=capacity,
        lead_times={"start": LeadTime(33.0, 40.0, 5), "switch": LeadTime(2.0, 3.0, 2)},
    )


LEARNT = (
    NodeCapacity(
        role=Role.DECODER,
        node_class="vllm/1.3M",
        step_base_s=0.03,
        step_per_request_s=2e-4,
        step_per_token_s=1.8e-7,
        samples=50,
    ),
    NodeCapacity(role=Role.DECODER, node_class="vllm/20k", samples=0),
    NodeCapacity(role=Role.PROMPT, node_class="vllm", prefill_tokens_per_s=10_000, samples=9),
)
LOADS = [(1, 0.02), (64, 0.05), (20, 0.3), (100, 0.6), (40, 0.1)]
