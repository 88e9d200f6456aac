"""The mesh, whatever befalls it: deaths, restarts, calls that fail, hang or come late.

A story is a fleet and what befalls it. After the story nothing goes wrong any more, and the mesh
must become whole. A story that breaks a rule is printed as it would be written here.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, product

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pd_autoscaler.agent.table import Verb
from pd_autoscaler.core import lifecycle, mesh, outcomes, planner
from pd_autoscaler.core.fleet import Fleet, things
from pd_autoscaler.core.link_limits import load_of
from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.core.rules import GuardRules, LinkRules, NodeRules, Rules
from pd_autoscaler.core.sight import Leave
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.link import LinkState, Verdict
from pd_autoscaler.model.node import OUTWARD, NodeState, Role
from pd_autoscaler.model.plan import (
    Action,
    DrainNode,
    FinalizeNode,
    InitNode,
    LinkNodes,
    Peer,
    PublishNode,
    StartNode,
    StopNode,
    SwitchRole,
    UnlinkNodes,
    WithdrawNode,
)
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.model.snapshot import Limits
from tests.support.mesh_world import (
    DEADLINE_STEPS,
    FOR_EVER,
    HUNG_MAX,
    Call,
    Fate,
    MeshWorld,
    Process,
    Switch,
    SwitchFate,
    WorldNode,
    are_linked,
)

RANKS_MAX = 3
CALM_STEPS = 120
QUIET_STEPS = 4
LOST_STEPS = 5
"""After so many steps a call whose answer was lost is given up."""
SWITCH_WAIT_STEPS = 20
"""So long an event waits for a node that is between its roles."""
_S = NodeState
_RESTARTED = frozenset({_S.FAILED, _S.STARTING, _S.INITIALISING})
"""States of a node whose process, or one of them, is no more: what was inside is lost."""
WANTED = frozenset({_S.LINKING, _S.SERVING})


# What may befall a fleet; a node is named by its role and a number among those that run


@dataclass(frozen=True)
class Pass:
    steps: int


@dataclass(frozen=True)
class NextCall:
    fate: Fate
    steps: int


@dataclass(frozen=True)
class NextAnswer:
    """The next action is refused before it began, or its answer is lost."""

    is_lost: bool


@dataclass(frozen=True)
class Dies:
    role: Role
    number: int
    is_listed: bool


@dataclass(frozen=True)
class Restarts:
    role: Role
    number: int
    rank: int | None
    keeps_id: bool
    steps: int


@dataclass(frozen=True)
class FallsSilent:
    role: Role
    number: int
    steps: int
    metrics_too: bool


@dataclass(frozen=True)
class Wanted:
    prompt: int
    decoder: int


@dataclass(frozen=True)
class Shifts:
    """One node more is wanted of a role, and one less of the other."""

    to: Role


@dataclass(frozen=True)
class NextSwitch:
    """What becomes of the next rank's switch."""

    fate: SwitchFate
    steps: int


@dataclass(frozen=True)
class AtSwitch:
    """While a node is between its roles a rank of it restarts, or the controller (None)."""

    rank: int | None
    steps: int


@dataclass(frozen=True)
class TransferFailed:
    """For so many steps every transfer over the link of a pair times out, after `lasts` steps."""

    prompt: int
    decoder: int
    steps: int
    lasts: int = 0


@dataclass(frozen=True)
class RouterLags:
    """The router lists the next node that it is to withdraw for some steps more."""

    steps: int


@dataclass(frozen=True)
class RouterListsAgain:
    number: int


@dataclass(frozen=True)
class Requested:
    prompt: int
    decoder: int
    steps: int


@dataclass(frozen=True)
class ControllerRestarts:
    pass


@dataclass(frozen=True)
class TakesId:
    """A node restarts with the cluster id that another node has."""

    role: Role
    number: int
    of_role: Role
    of_number: int


Event = (
    Pass
    | NextCall
    | NextAnswer
    | Dies
    | Restarts
    | FallsSilent
    | Wanted
    | Shifts
    | NextSwitch
    | AtSwitch
    | TransferFailed
    | RouterLags
    | RouterListsAgain
    | Requested
    | ControllerRestarts
    | TakesId
)


@dataclass(frozen=True, kw_only=True)
class Story:
    """A fleet, by the ranks of its nodes, and what befalls it."""

    prompts: list[int]
    decoders: list[int]
    mapping: RankMapping = RankMapping.MODULO
    in_flight_max: int = 16
    links_max: int | None = None
    can_switch_role: bool = False
    knows_role: bool = False
    slots: int = 16
    nodes_max: int = 10
    events: list[Event] = field(default_factory=list)


def rules_of(story: Story) -> Rules:
    return Rules(
        node=NodeRules(
            start_timeout_s=20,
            init_timeout_s=15,
            drain_deadline_s=8,
            unlink_deadline_s=15,
            switch_timeout_s=10,
            stop_timeout_s=5,
            lost_after_s=5,
            retry_s=0.5,
            retry_max_s=3,
        ),
        link=LinkRules(
            attempts_max=3,
            backoff_s=1,
            backoff_max_s=4,
            join_deadline_s=20,
            in_flight_max=story.in_flight_max,
            ranks=story.mapping,
        ),
        guard=GuardRules(limits=Limits(nodes_max=story.nodes_max)),
    )


@dataclass(slots=True, eq=False)
class Errand:
    """An action under way; `calls` are its native calls by peer, `outcome` how it ends else.

    `switches` are those of each rank.
    """

    action: Action
    calls: dict[str, list[Call]] = field(default_factory=dict)
    switches: list[Switch] = field(default_factory=list)
    outcome: Outcome | None = None
    due: int = 0

    @property
    def is_over(self) -> bool:
        """Whether all of it has ended."""
        return not self.calls and not self.switches and self.outcome is None

    def ended(self, step: int) -> Iterator[Outcome]:
        """Yield what has ended since the last time, each pair of a call by itself."""
        if self.outcome is not None:
            if step >= self.due:
                yield self.outcome
                self.outcome, self.calls, self.switches = None, {}, []
            return
        if self.switches and all(switch.has_answer for switch in self.switches):
            yield _switched(self.action, self.switches)
            self.switches = []
        for name, calls in list(self.calls.items()):
            if all(call.answer is not None or not call.process.is_alive for call in calls):
                del self.calls[name]
                yield _ending(_part(self.action, name), calls)


class Play:
    """A story played: the world, and the pure half of the control loop over it."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.rules = rules_of(story)
        self.world = MeshWorld(slots=story.slots, knows_role=story.knows_role)
        for role, counts in ((Role.PROMPT, story.prompts), (Role.DECODER, story.decoders)):
            for ranks in counts:
                self._add(role, ranks)
        self.target = Target(len(story.prompts), len(story.decoders))
        self.fleet = Fleet()
        self.errands: list[Errand] = []
        self.answers: list[bool] = []
        self.thieves: list[WorldNode] = []
        self.quiet = 0
        self.is_new = True
        self.seen: Counter[str] = Counter()
        self.doubted: dict[tuple[str, str], tuple[int, int]] = {}

    def _add(self, role: Role, ranks: int, request_id: str = "") -> None:
        story = self.story
        self.world.add(
            role,
            ranks,
            links_max=story.links_max,
            request_id=request_id,
            can_switch_role=story.can_switch_role,
        )

    def run(self) -> None:
        for befalling in self.story.events:
            self._befall(befalling)
        self._calm()
        for _ in range(CALM_STEPS):
            self.cycle()
            if self.quiet >= QUIET_STEPS and not any(self.unsettled()):
                return
        now_s = self.world.now_s
        waits = mesh.waits(self.fleet, self.busy, self.rules.link, now_s=now_s)
        troubles = "\n".join([*self.unsettled(), *map(str, waits)])
        states = " ".join(f"{n.id}={n.state}" for n in self.fleet.nodes.values())
        pytest.fail(f"not whole after {CALM_STEPS} steps of calm:\n{troubles}\n{states}")

    def _calm(self) -> None:
        """End what goes wrong; who took another's id comes back with one of its own.

        A provider that listed dead nodes for ever would leave a mass failure for ever.
        """
        world = self.world
        for told in (world.fates, world.switch_fates, world.failing, world.lingering):
            told.clear()
        world.withdraw_lag = 0
        self.answers.clear()
        for node in world.nodes.values():
            node.silent_until = node.mute_until = 0
            node.is_listed = node.is_listed and node.is_up
        for node in world.nodes.values():
            is_past_help = any(_hangs_for_ever(process) for process in node.processes)
            if node.is_up and (node in self.thieves or is_past_help):
                world.restart(node, ranks=_ranks(node), keeps_id=False, down=1)

    def _befall(self, event: Event) -> None:
        world = self.world
        match event:
            case Pass(steps):
                for _ in range(steps):
                    self.cycle()
            case Wanted(prompt, decoder):
                self.target = Target(prompt, decoder)
            case Shifts(to):
                more = 1 if to is Role.PROMPT else -1
                shifted = Target(self.target.prompt + more, self.target.decoder - more)
                self.target = shifted if min(shifted.prompt, shifted.decoder) else self.target
            case ControllerRestarts():
                self._restart()
            case AtSwitch(rank, steps):
                self._befall_switch(rank, steps)
            case Dies() | Restarts() | FallsSilent() | TakesId():
                node = world.pick(event.role, event.number)
                if node is not None:
                    self._befall_node(event, node)
            case NextCall() | NextSwitch() | NextAnswer():
                self._foretell(event)
            case _:
                self._befall_requests(event)

    def _foretell(self, event: NextCall | NextSwitch | NextAnswer) -> None:
        match event:
            case NextCall(fate, steps):
                self.world.fates.append((fate, steps))
            case NextSwitch(fate, steps):
                self.world.switch_fates.append((fate, steps))
            case NextAnswer(is_lost):
                self.answers.append(is_lost)

    def _befall_requests(
        self, event: Requested | TransferFailed | RouterLags | RouterListsAgain
    ) -> None:
        world = self.world
        match event:
            case Requested(prompt, decoder, steps):
                world.request(prompt, decoder, steps)
            case TransferFailed(prompt, decoder, steps, lasts):
                pair = world.pick(Role.PROMPT, prompt), world.pick(Role.DECODER, decoder)
                if pair[0] is not None and pair[1] is not None:
                    world.transfers_fail(pair[0], pair[1], steps, lasts=lasts)
            case RouterLags(steps):
                world.withdraw_lag = steps
            case RouterListsAgain(number):
                world.list_again(number)

    def _befall_switch(self, rank: int | None, steps: int) -> None:
        for _ in range(SWITCH_WAIT_STEPS):
            if any(n.state is _S.SWITCHING for n in self.fleet.nodes.values()):
                break
            self.cycle()
        for _ in range(steps):
            self.cycle()
        between = [n.id for n in self.fleet.nodes.values() if n.state is _S.SWITCHING]
        for node in [self.world.nodes[i] for i in between if i in self.world.nodes]:
            if rank is None:
                self.seen["the controller restarted in a switch"] += 1
                self._restart()
                return
            self.seen["a process restarted in a switch"] += 1
            ranks = [rank % len(node.processes)]
            self.world.restart(node, ranks=ranks, keeps_id=False, down=1)

    def _befall_node(self, event: Dies | Restarts | FallsSilent | TakesId, node: WorldNode) -> None:
        world = self.world
        match event:
            case Dies(is_listed=is_listed):
                world.kill(node)
                node.is_listed = is_listed
            case Restarts(rank=rank, keeps_id=keeps_id, steps=steps):
                count = len(node.processes)
                ranks = _ranks(node) if rank is None else [rank % count]
                world.restart(node, ranks=ranks, keeps_id=keeps_id, down=steps)
            case FallsSilent(steps=steps, metrics_too=metrics_too):
                node.silent_until = world.step + steps
                node.mute_until = node.silent_until if metrics_too else 0
            case TakesId(of_role=of_role, of_number=of_number):
                other = world.pick(of_role, of_number)
                if other is not None and other is not node:
                    world.restart(node, ranks=_ranks(node), keeps_id=True, down=1)
                    node.processes[0].cluster_id = other.processes[0].cluster_id
                    self.thieves.append(node)

    def _restart(self) -> None:
        """Begin with a new controller that has what the journal keeps of the last cycle."""
        if self.is_new:
            return
        self.is_new = True
        old, now_s = self.fleet, self.world.now_s
        leaving = {n.id: n for n in old.nodes.values() if n.state in OUTWARD}
        self.fleet = Fleet(
            linked=old.linked,
            request_count=old.request_count,
            leaving=frozenset(leaving),
            inherited=frozenset(leaving),
            former=frozenset(old.nodes),
            next_roles={n.id: n.next_role for n in leaving.values() if n.next_role},
        )
        for node in old.nodes.values():
            if node.id == node.request_id:
                start = StartNode(node.role, node.id)
                self.fleet, _ = outcomes.begun(self.fleet, start, now_s=now_s)
        self.errands.clear()
        self.doubted.clear()

    # One cycle

    def cycle(self) -> None:
        world, rules = self.world, self.rules
        now_s = world.now_s
        ended = [outcome for errand in self.errands for outcome in errand.ended(world.step)]
        self.errands = [e for e in self.errands if not e.is_over]
        fleet = outcomes.all_ended(self.fleet, ended, rules, now_s=now_s)
        fleet, _, _ = lifecycle.observed(fleet, world.facts(), rules)
        plan = planner.planned(
            fleet, self.target, rules, busy=self.busy, leave=Leave(), now_s=now_s
        )
        self._check_plan(fleet, plan.actions)
        self.is_new = False
        self.fleet, _ = outcomes.all_begun(fleet, plan.actions, now_s=now_s)
        for action in plan.actions:
            self.errands.append(self._begun(action, fleet))
        self._check_calls()
        self._check_links()
        self._check_patience()
        self.seen["between two roles"] += any(n.role is None for n in world.nodes.values())
        world.go_on()
        self.quiet = 0 if plan.actions or ended else self.quiet + 1

    @property
    def busy(self) -> frozenset[str]:
        actions = chain.from_iterable(
            [_part(e.action, name) for name in e.calls] or [e.action] for e in self.errands
        )
        return frozenset(chain.from_iterable(map(things, actions)))

    def _begun(self, action: Action, fleet: Fleet) -> Errand:
        is_lost = self.answers.pop(0) if self.answers else None
        due = self.world.step + 1
        if is_lost is False:
            return Errand(action, outcome=Failed(action, "HTTP 503"), due=due)
        errand = Errand(action, due=due)
        if isinstance(action, LinkNodes | UnlinkNodes):
            self._call(errand, fleet)
        elif isinstance(action, SwitchRole):
            self._switch(errand, action)
        else:
            errand.outcome = self._done(action)
        if is_lost and not isinstance(errand.outcome, Failed):
            errand.outcome, errand.due = Unknown(action, "no answer"), due + LOST_STEPS
        return errand

    def _call(self, errand: Errand, fleet: Fleet) -> None:
        action = errand.action
        assert isinstance(action, LinkNodes | UnlinkNodes)
        at = action.decoder_id if isinstance(action, LinkNodes) else action.node_id
        node, peers = self.world.nodes[at], _peers(action)
        refusal = self._refusal(node, fleet.nodes[at].incarnation)
        if refusal:
            errand.outcome = Failed(action, refusal, retryable="incarnation" not in refusal)
            return
        verb = Verb.LINK
        if isinstance(action, UnlinkNodes):
            verb = Verb.FORCE_UNLINK if action.force else Verb.UNLINK
        for peer in peers:
            errand.calls[peer.node_id] = [
                self.world.call(node.processes[rank], verb, far, peer.incarnation)
                for rank, far in peer.calls
            ]

    def _switch(self, errand: Errand, action: SwitchRole) -> None:
        node = self.world.nodes[action.node_id]
        refusal = self._refusal(node, self.fleet.nodes[node.id].incarnation)
        if refusal:
            is_late = "incarnation" not in refusal
            errand.outcome = Failed(action, refusal, retryable=is_late)
            return
        self.seen["switch"] += 1
        errand.switches = [self.world.begin_switch(p, action.role) for p in node.processes]

    def _refusal(self, node: WorldNode, incarnation: str) -> str:
        step = self.world.step
        if not node.is_up or node.up_at > step or node.silent_until > step:
            return "connection refused"
        return "" if node.incarnation == incarnation else "another incarnation"

    def _done(self, action: Action) -> Outcome:
        """Do what is no link call at once, and return how it ends."""
        world = self.world
        match action:
            case StartNode(role=role, request_id=request_id):
                counts = self.story.prompts if role is Role.PROMPT else self.story.decoders
                self._add(role, counts[0], request_id)
            case StopNode(node_id=node_id) if node_id in world.nodes:
                world.remove(world.nodes[node_id])
            case PublishNode(node_id=node_id):
                world.publish(node_id)
            case WithdrawNode(node_id=node_id) | DrainNode(node_id=node_id):
                world.withdraw(node_id)
            case InitNode() | FinalizeNode():
                node = world.nodes[action.node_id]
                refusal = self._refusal(node, self.fleet.nodes[node.id].incarnation)
                refusal, is_final = (refusal, False) if refusal else world.ask(node, action)
                if refusal:
                    return Failed(action, refusal, retryable=not is_final)
            case _:
                pass
        return Done(action)

    # Rules that hold all the way

    def _check_plan(self, fleet: Fleet, actions: tuple[Action, ...]) -> None:
        """Calls name ids that were reported; no link in use is cut; no shared id is linked."""
        shared = self._shared_ids()
        for action in actions:
            match action:
                case LinkNodes(decoder_id=decoder_id, prompts=prompts):
                    own = set(fleet.nodes[decoder_id].cluster_ids)
                    for peer in prompts:
                        far = {endpoint.cluster_id for _, endpoint in peer.calls}
                        assert far <= self.world.told_ids, f"nobody reported {action}"
                        assert not shared & (own | far), f"{action}: an id of two nodes"
                case UnlinkNodes(node_id=node_id, peers=peers):
                    for peer in peers:
                        far = {endpoint.cluster_id for _, endpoint in peer.calls}
                        assert far <= self.world.told_ids, f"nobody reported {action}"
                        self._check_unlink(fleet, node_id, peer)
                case _:
                    pass

    def _shared_ids(self) -> set[int]:
        """Return the ids that two live nodes report, as far as both answer now."""
        step = self.world.step
        owners: Counter[int] = Counter()
        for node in self.world.nodes.values():
            if node.is_listed and not self._refusal(node, node.incarnation) and node.up_at <= step:
                is_ready = all(p.phase is AgentPhase.READY for p in node.processes)
                owners.update({p.cluster_id for p in node.processes} if is_ready else ())
        return {cluster_id for cluster_id, count in owners.items() if count > 1}

    def _check_unlink(self, fleet: Fleet, node_id: str, peer: Peer) -> None:
        """Whoever a call is meant for, it cuts off whom the library knows by that id."""
        one = self.world.nodes[node_id]
        cut = {(one.processes[rank].incarnation, far.cluster_id) for rank, far in peer.calls}
        for other in self.world.nodes.values():
            if self.world.using(one, other) and any(
                (p.incarnation, q.cluster_id) in cut and are_linked(p, q)
                for p, q in product(one.processes, other.processes)
            ):
                self._check_cut(fleet, one, other)

    def _check_cut(self, fleet: Fleet, one: WorldNode, other: WorldNode) -> None:
        links = fleet.links
        link = links.get((one.id, other.id)) or links.get((other.id, one.id))
        ends = [fleet.nodes[n.id] for n in (one, other) if n.id in fleet.nodes]
        is_excused = (
            (link is not None and link.state is LinkState.SUSPECT)
            or any(n.state in _RESTARTED for n in ends)
            or any("drain deadline" in n.why for n in ends if n.state is _S.UNLINKING)
        )
        assert is_excused, f"{one.id} cuts {other.id} off with a request inside: {link}"

    def _check_calls(self) -> None:
        for node in self.world.nodes.values():
            for process in node.processes:
                # A normal unlink holds a thread at the prompt endpoint, as a link call does.
                for verb in (Verb.LINK, *[Verb.UNLINK] * process.listens):
                    count = self.world.calls_at(process, verb)
                    assert count <= self.story.in_flight_max, f"{count} {verb} calls at {node.id}"

    def _check_patience(self) -> None:
        """A pair whose transfers go on to fail is not cut and linked again, again and again."""
        world = self.world
        pairs = {
            (near.incarnation, far.incarnation)
            for decoder, prompt in world.failing
            for near, far in product(world.nodes[decoder].processes, world.nodes[prompt].processes)
        }
        self.doubted = {p: self.doubted.get(p, (world.step, world.made[p])) for p in pairs}
        for pair, (began, count) in self.doubted.items():
            made = world.made[pair] - count
            self.seen["linked again"] = max(self.seen["linked again"], made)
            steps = world.step - began
            assert made <= _again_max(steps), f"{pair} linked {made} times in {steps} steps"

    def _check_links(self) -> None:
        """No call is begun beyond a card's limit; one that succeeds late may still exceed it."""
        links_max, step = self.story.links_max, self.world.step
        alive = [p for n in self.world.nodes.values() for p in n.processes if p.is_alive]
        calls = [c for p in alive for c in p.calls if c.ticket.verb is Verb.LINK and not c.is_hung]
        begun = {p for c in calls if c.expires == step + DEADLINE_STEPS for p in self._ends(c)}
        for process in begun if links_max is not None else ():
            up = {id(p) for p in alive if p is not process and are_linked(process, p)}
            up |= {id(p) for c in calls if process in self._ends(c) for p in self._ends(c)}
            count = len(up - {id(process)})
            assert links_max is None or count <= links_max, f"{count} links: {process.incarnation}"

    def _ends(self, call: Call) -> tuple[Process, ...]:
        far = self.world.at(call.address)
        return (call.process, far) if far is not None else (call.process,)

    # The rule that holds at the end

    def unsettled(self) -> Iterator[str]:
        """Yield what keeps the mesh from being whole, and nothing beside it."""
        nodes = self.world.nodes
        known = [n.id for n in self.fleet.nodes.values() if n.state in WANTED]
        made, unmade = self._pairs([nodes[i] for i in known if i in nodes])
        for decoder, prompt in unmade:
            if not (self._is_full(decoder, prompt, made) or self._is_full(prompt, decoder, made)):
                yield f"{decoder.id} and {prompt.id} are not linked"
        for node in nodes.values():
            held = [(p, far) for p in node.processes if p.is_alive for far in p.entities]
            for process, far in held:
                if (process.incarnation, far) not in made:
                    yield f"{process.incarnation} holds a stale entry for {far}"
            if node.is_up and node.id not in known:
                yield f"{node.id} runs and is in no mesh"
            elif node.is_up and node.role is not self.fleet.nodes[node.id].role:
                yield f"{node.id} is a {node.role}"
        # Of one that was gone before this controller began nobody knows any more.
        for node_id in (self.world.published & self.fleet.former).difference(known):
            yield f"the router lists {node_id}, which is in no mesh"

    def _pairs(
        self, nodes: list[WorldNode]
    ) -> tuple[set[tuple[str, int]], list[tuple[WorldNode, WorldNode]]]:
        """Return the entries of all whole pairs, and the pairs that are not whole."""
        made: set[tuple[str, int]] = set()
        unmade: list[tuple[WorldNode, WorldNode]] = []
        prompts = [node for node in nodes if node.role is Role.PROMPT]
        for decoder, prompt in product([n for n in nodes if n.role is Role.DECODER], prompts):
            pairs = _process_pairs(self.story.mapping, decoder, prompt)
            if all(are_linked(d, p) for d, p in pairs):
                made |= {(d.incarnation, p.cluster_id) for d, p in pairs}
                made |= {(p.incarnation, d.cluster_id) for d, p in pairs}
            else:
                unmade.append((decoder, prompt))
        return made, unmade

    def _is_full(self, node: WorldNode, other: WorldNode, made: set[tuple[str, int]]) -> bool:
        """Whether a node's busiest card cannot take the links of a pair with another node."""
        links_max = self.story.links_max
        if links_max is None:
            return False
        counts = Counter(incarnation for incarnation, _ in made)
        load = load_of(self.story.mapping, self.fleet.nodes[node.id], len(other.processes))
        return max(counts[p.incarnation] for p in node.processes) + load > links_max


def _again_max(steps: int) -> int:
    """Return how often a pair may be linked again: soon at first, then with `backoff_max_s`."""
    return 4 + steps // 5


def _hangs_for_ever(process: Process) -> bool:
    """Whether only a new process can make all links again."""
    stuck = Counter(c.ticket.cluster_id for c in process.calls if c.ends >= FOR_EVER)
    return sum(stuck.values()) >= process.slots or any(n >= HUNG_MAX for n in stuck.values())


def _process_pairs(
    mapping: RankMapping, decoder: WorldNode, prompt: WorldNode
) -> list[tuple[Process, Process]]:
    pairs = rank_pairs(mapping, len(decoder.processes), len(prompt.processes))
    return [(decoder.processes[d], prompt.processes[p]) for d, p in pairs]


def _ranks(node: WorldNode) -> list[int]:
    return list(range(len(node.processes)))


def _peers(action: Action) -> tuple[Peer, ...]:
    match action:
        case LinkNodes(prompts=peers) | UnlinkNodes(peers=peers):
            return peers
        case _:
            return ()


def _part(action: Action, name: str) -> Action:
    match action:
        case LinkNodes(prompts=peers):
            return replace(action, prompts=tuple(p for p in peers if p.node_id == name))
        case UnlinkNodes(peers=peers):
            return replace(action, peers=tuple(p for p in peers if p.node_id == name))
        case _:
            return action


def _switched(action: Action, switches: list[Switch]) -> Outcome:
    """Return what the ranks' answers mean for their node: the worst of them."""
    if any(switch.answer is None for switch in switches):
        return Unknown(action, "deadline")
    answers = {switch.answer for switch in switches if switch.answer}
    final = answers & {"hung_calls", "cannot_switch"}
    if final:
        return Failed(action, final.pop(), retryable=False)
    return Failed(action, answers.pop()) if answers else Done(action)


def _ending(part: Action, calls: list[Call]) -> Outcome:
    lines = [call.answer for call in calls if call.answer is not None]
    if len(lines) < len(calls):
        return Unknown(part, "connection reset")
    for line in lines:
        if line.outcome == "unknown":
            return Unknown(part, line.code)
    for line in lines:
        if line.outcome == "failed":
            return Failed(part, line.code, verdict=Verdict(line.verdict), code=line.code)
    return Done(part, code=lines[0].code if lines else "")


# Stories


small = st.integers(0, 3)
roles = st.sampled_from(Role)
steps = st.integers(1, 9)
long = st.sampled_from([15, 40, FOR_EVER])
EVENTS: list[st.SearchStrategy[Event]] = [
    st.builds(Pass, st.integers(1, 3)),
    st.builds(Pass, steps),
    st.builds(NextCall, st.sampled_from(Fate), steps),
    st.builds(NextCall, st.just(Fate.HANGS), long),
    st.builds(NextAnswer, st.booleans()),
    st.builds(Requested, small, small, st.integers(1, 20)),
    st.builds(Dies, roles, small, st.booleans()),
    st.builds(Restarts, roles, small, st.none() | small, st.booleans(), steps),
    st.builds(FallsSilent, roles, small, steps, st.booleans()),
    st.builds(ControllerRestarts),
    st.builds(TakesId, roles, small, roles, small),
    st.builds(TransferFailed, small, small, st.sampled_from([1, 5, 40]), st.integers(0, 2)),
    st.builds(RouterLags, steps),
    st.builds(RouterListsAgain, small),
]
WANTED_EVENTS: list[st.SearchStrategy[Event]] = [
    st.builds(Wanted, st.integers(1, 4), st.integers(1, 4)),
]
SWITCH_EVENTS: list[st.SearchStrategy[Event]] = [
    st.builds(Shifts, roles),
    st.builds(NextSwitch, st.sampled_from(SwitchFate), steps),
    st.builds(AtSwitch, st.none() | small, st.integers(0, 3)),
]


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Draw a story; where nodes can switch roles, mostly one whose budget is full."""
    can_switch_role = draw(st.booleans())
    is_full = can_switch_role and draw(st.sampled_from([True, True, True, False]))
    ranks = st.lists(st.integers(1, RANKS_MAX), min_size=2 if is_full else 1, max_size=4)
    prompts, decoders = draw(ranks), draw(ranks)
    if is_full and draw(st.booleans()):
        # One role can take the other's place in every mapping.
        prompts, decoders = ([prompts[0]] * len(nodes) for nodes in (prompts, decoders))
    kinds = EVENTS + (SWITCH_EVENTS * 2 if is_full else WANTED_EVENTS)
    events = draw(st.lists(st.one_of(kinds), min_size=8, max_size=40))
    if is_full:
        # The mesh is whole before it is shifted.
        fates = draw(st.lists(SWITCH_EVENTS[1], max_size=2))
        events = [Pass(7), *fates, Shifts(draw(roles)), draw(SWITCH_EVENTS[2]), *events]
    in_flight_max = draw(st.sampled_from([RANKS_MAX, 4, 16]))
    return Story(
        prompts=prompts,
        decoders=decoders,
        mapping=draw(st.sampled_from(RankMapping)),
        in_flight_max=in_flight_max,
        links_max=draw(st.sampled_from([None, 3, 5])),
        can_switch_role=can_switch_role,
        knows_role=draw(st.booleans()),
        slots=draw(st.sampled_from([16, in_flight_max])),
        nodes_max=len(prompts) + len(decoders) if is_full else draw(st.integers(6, 10)),
        events=events,
    )


STORIES = stories()


@pytest.mark.timeout(600)  # A failure is made as small as can be before it is told.
@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(story=STORIES)
def test_whatever_befalls_a_fleet_its_mesh_becomes_whole_and_no_link_in_use_is_cut(
    story: Story,
) -> None:
    play = Play(story)
    play.run()
    for what, count in play.seen.items():
        event(f"{what}: {'some' if count else 'none'}")


def played(*events: Event, ranks: int = 1) -> Play:
    """Play a story of a full budget: two prompt nodes and two decoders that can switch roles."""
    story = Story(
        prompts=[ranks] * 2,
        decoders=[ranks] * 2,
        can_switch_role=True,
        nodes_max=4,
        events=[Pass(7), *events],
    )
    play = Play(story)
    play.run()
    return play


@pytest.mark.parametrize("to", Role)
@pytest.mark.parametrize("ranks", [1, RANKS_MAX])
def test_the_stories_reach_role_switches_and_what_befalls_a_node_within_one(
    to: Role, ranks: int
) -> None:
    to_and_fro = played(Shifts(to), Pass(9), Shifts(to.other), Pass(9), ranks=ranks)
    assert (to_and_fro.seen["switch"], to_and_fro.world.switched) == (2, 2 * ranks)

    for fate in set(SwitchFate) - {SwitchFate.PASSES}:
        # The last rank's switch goes wrong when the others' do not.
        fine = [NextSwitch(SwitchFate.PASSES, 1)] * (ranks - 1)
        ill = played(*fine, NextSwitch(fate, 6), Shifts(to), Pass(9), ranks=ranks)
        assert ill.seen["switch"]
        assert bool(ill.seen["between two roles"]) is (ranks > 1), fate

    deposed = played(Shifts(to), AtSwitch(None, 0), ranks=ranks)
    assert deposed.seen["the controller restarted in a switch"]
    reborn = played(Shifts(to), AtSwitch(0, 0), ranks=ranks)
    assert reborn.seen["a process restarted in a switch"]


@pytest.mark.parametrize("lasts", [0, 1, 2])
def test_a_pair_whose_transfers_go_on_to_fail_is_linked_again_ever_less_often(lasts: int) -> None:
    steps = 100
    play = played(TransferFailed(0, 0, steps, lasts), Pass(steps))
    assert 3 < play.seen["linked again"] <= _again_max(steps)
