"""Reports to test with: one written out by hand, and any that the model allows (hypothesis)."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Mode, Target
from pd_autoscaler.model.facts import EngineLoad
from pd_autoscaler.model.link import Link, LinkState
from pd_autoscaler.model.node import Endpoint, Node, NodeState, Role
from pd_autoscaler.model.plan import WAVES, Action, LinkNodes, Peer, Plan, StartNode, in_waves
from pd_autoscaler.model.report import Done, Failed, Move, Outcome, Report, Shadow, Unknown
from pd_autoscaler.model.signals import NodeSignals, RoleSignals, Signal
from pd_autoscaler.model.snapshot import Attribution, Bottleneck, LeadTime, Limits, Snapshot

START_UNIX_S = 1_700_000_000.0


def a_node(
    node_id: str, role: Role, state: NodeState = NodeState.SERVING, *, is_suspect: bool = False
) -> Node:
    """Return a node of one endpoint."""
    return Node(
        id=node_id,
        role=role,
        state=state,
        since_s=1.0,
        incarnation=f"{node_id}-i1",
        endpoints=(Endpoint(0, 2**63 + len(node_id), "10.0.0.1", 26000),),
        agent_urls=(f"http://{node_id}:9000",),
        is_suspect=is_suspect,
    )


def a_link(decoder: str, prompt: str, state: LinkState = LinkState.LINKED) -> Link:
    """Return a link between two nodes of `a_node`."""
    return Link(
        decoder=decoder,
        prompt=prompt,
        state=state,
        since_s=2.0,
        decoder_incarnation=f"{decoder}-i1",
        prompt_incarnation=f"{prompt}-i1",
    )


def a_snapshot(*, cycle: int = 1, nodes: tuple[Node, ...] | None = None) -> Snapshot:
    """Return what a calm cluster of one prompt and one decoder node looks like."""
    if nodes is None:
        nodes = (a_node("p1", Role.PROMPT), a_node("d1", Role.DECODER))
    return Snapshot(
        now_s=10.0 * cycle,
        now_unix_s=START_UNIX_S + 10.0 * cycle,
        target=Target(1, 1, "the standing one"),
        nodes=nodes,
        prompt=RoleSignals(serving=1, fresh=1, queue=Signal(3.0, 0.5)),
        decoder=RoleSignals(serving=1, fresh=1, kv_used_mean=Signal(0.25, 0.5)),
        node_signals={
            "p1": NodeSignals(node_id="p1", age_s=0.5, is_fresh=True, queue=Signal(3.0, 0.5)),
            "d1": NodeSignals(node_id="d1", age_s=1.5, is_fresh=True),
        },
        attribution=Attribution(Bottleneck.PROMPT, "queue 3 on prompt"),
        limits=Limits(prompt_max=4, decoder_max=4, nodes_max=8),
        lead_times={"start": LeadTime(30.0, 60.0, 5)},
        published=frozenset({"p1", "d1"}),
        links={LinkState.LINKED: 1},
    )


def a_report(
    *,
    cycle: int = 1,
    decision: Decision | None = None,
    outcomes: tuple[Outcome, ...] = (),
    **changes: Any,
) -> Report:
    """Return a calm cycle's report; `changes` replaces any other field."""
    decided = decision if decision is not None else Target(1, 1, "enough")
    report = Report(
        cycle=cycle,
        snapshot=a_snapshot(cycle=cycle),
        decision=decided,
        guarded=decided,
        gates=(),
        target=Target(1, 1),
        mode=Mode.ACTIVE,
        plan=Plan(),
        outcomes=outcomes,
        links=(a_link("d1", "p1"),),
        phase_s={"observe": 0.5, "decide": 0.001},
    )
    return replace(report, **changes)


def a_busy_report() -> Report:
    """Return a report in which something of every kind happened."""
    peer = Peer("p1", "p1-i1", (Endpoint(0, 7, "10.0.0.1", 26000),))
    actions: list[Action] = [StartNode(Role.PROMPT, "run-1"), LinkNodes("d1", (peer,))]
    return a_report(
        cycle=2,
        decision=Target(2, 1, "queue 3.0 per prompt node"),
        outcomes=(Done(actions[1], took_s=0.007, code="LLM_SUCCESS"),),
        target=Target(2, 1),
        plan=in_waves(actions, ("a note",)),
        moves=(Move("p1", Role.PROMPT, NodeState.LINKING, NodeState.SERVING, "all linked", 4.0),),
        alarms=("link d1-p2 failed 5 times",),
        hung_calls={"d1": 1},
    )


def newest_until(kept: Iterable[Report], at_unix_s: float | None) -> Report | None:
    """Return the newest of these reports that is not later than a moment; None is the newest."""
    fit = [r for r in kept if at_unix_s is None or r.snapshot.now_unix_s <= at_unix_s]
    return max(fit, key=lambda r: (r.snapshot.now_unix_s, r.cycle), default=None)


def holding(reason: HoldReason, *, cycle: int, detail: str = "") -> Report:
    """Return a cycle in which this reason held the target."""
    return a_report(cycle=cycle, decision=Hold(reason, detail))


def reports() -> st.SearchStrategy[Report]:
    """Draw any report that the model's types allow, infinities included."""
    # Not-a-number is unlike itself, so equality could not tell whether it came back.
    floats = st.floats(allow_nan=False)
    st.register_type_strategy(float, floats)
    outcomes = st.one_of(*map(st.from_type, (Done, Failed, Unknown)))
    return st.builds(
        Report,
        cycle=st.integers(min_value=0),
        phase_s=st.dictionaries(st.sampled_from(["observe", "decide", "act"]), floats),
        engine_load=st.dictionaries(st.text(max_size=4), st.from_type(EngineLoad), max_size=2),
        hung_calls=st.dictionaries(st.text(max_size=4), st.integers(0, 9), max_size=2),
        snapshot=st.builds(
            Snapshot,
            nodes=st.lists(st.from_type(Node), max_size=2).map(tuple),
            prompt=st.from_type(RoleSignals),
            node_signals=st.dictionaries(
                st.text(max_size=4), st.from_type(NodeSignals), max_size=2
            ),
            lead_times=st.dictionaries(st.text(max_size=4), st.from_type(LeadTime), max_size=2),
            attribution=st.from_type(Attribution),
            limits=st.from_type(Limits),
            advice=st.none() | st.from_type(Advice),
            published=st.none() | st.frozensets(st.text(max_size=4), max_size=3),
            links=st.dictionaries(st.sampled_from(LinkState), st.integers(0, 99)),
        ),
        plan=st.lists(actions(), max_size=3).map(in_waves),
        outcomes=st.lists(outcomes, max_size=2).map(tuple),
        moves=st.lists(st.from_type(Move), max_size=2).map(tuple),
        links=st.lists(st.from_type(Link), max_size=2).map(tuple),
        shadows=st.lists(st.from_type(Shadow), max_size=2).map(tuple),
    )


def actions() -> st.SearchStrategy[Action]:
    """Draw any action."""
    return st.one_of(*(st.from_type(verb) for verb in WAVES))
