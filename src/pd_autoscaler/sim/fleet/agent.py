"""The agent of a simulated node: native calls that take time, hang, and end late."""

from collections.abc import Sequence

from pd_autoscaler.datadist.status import verdict
from pd_autoscaler.errors import PermanentError, TransientError
from pd_autoscaler.model.facts import AgentPhase, EntryState
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.plan import Peer
from pd_autoscaler.ports import Fence
from pd_autoscaler.sim.faults import CallFault
from pd_autoscaler.sim.fleet.node import Life
from pd_autoscaler.sim.fleet.process import (
    ALREADY_LINK,
    FAILED,
    LINK_FAILED,
    SUCCESS,
    Call,
    Process,
    Row,
    Verb,
    link,
    unlink,
)
from pd_autoscaler.sim.fleet.world import World

CALL_DEADLINE_S = 10.0
"""After this the agent calls an outcome unknown; the native call goes on."""
NATIVE_TIMEOUT_S = 3.0
DEADLINE = "DEADLINE"
LATE_SUCCESS = "LATE_SUCCESS"
CALL_IN_PROGRESS = "CALL_IN_PROGRESS"
NOT_LINKED = "LLM_NOT_YET_LINK"


def admit(process: Process, fence: Fence, incarnation: str) -> None:
    """Let a call pass and remember its fence, or raise PermanentError and change nothing."""
    is_other = fence.epoch == process.epoch and process.holder not in {"", fence.holder}
    if fence.epoch < process.epoch or is_other:
        raise PermanentError(f"fenced: {process.holder} holds epoch {process.epoch}")
    if incarnation != process.incarnation:
        raise PermanentError(f"this is incarnation {process.incarnation}, not {incarnation}")
    process.epoch, process.holder = fence.epoch, fence.holder


def init(world: World, process: Process, role: Role) -> None:
    """Begin to initialise; the phase says when it is done, and goes back if it fails."""
    node = world.nodes[process.node_id]
    is_barred = role is not node.role and not node.can_switch_role
    if process.phase is AgentPhase.FINALISED or process.role not in {None, role} or is_barred:
        raise PermanentError(f"{process.node_id} was initialised as {process.role or node.role}")
    if process.phase is not AgentPhase.NEW:
        return
    process.phase = AgentPhase.INITIALISING
    faults = world.faults
    is_slow = faults.strikes(CallFault.INIT_SLOW)
    slow_s = faults.draw_s("init", 1.0, 150.0) if is_slow else 0.0
    delay_s = slow_s or world.delays.init.draw(faults.stream("init"))
    is_failing = faults.strikes(CallFault.INIT_FAILS)

    def done() -> None:
        process.phase = AgentPhase.NEW if is_failing else AgentPhase.READY
        if not is_failing and node.process is process:
            world.take_role(node, role)
        world.note(f"{process.phase} {process.node_id}")

    world.events.after(delay_s, done)


def switch_role(world: World, process: Process, role: Role) -> None:
    """Begin to take a role; refused while any link is left, as by the library (LLM_EXIST_LINK).

    `switching_to` says until when; a process that is switching to this role goes on with it.
    """
    node, faults = world.nodes[process.node_id], world.faults
    if process.phase is not AgentPhase.READY or not node.can_switch_role:
        raise PermanentError(f"{node.id} cannot switch roles")
    if role in {process.role, process.switching_to}:
        return
    if world.watch is not None:
        world.watch.switching(node, role)
    if process.under_way() or process.entities:
        raise TransientError(f"{node.id}: LLM_EXIST_LINK")
    if faults.strikes(CallFault.SWITCH_FAILS):
        if faults.stream("switch").getrandbits(1):
            raise PermanentError(f"{node.id}: the engine refuses to become {role}")
        raise TransientError(f"{node.id}: HTTP 503")
    process.switching_to = role
    is_deadly = faults.strikes(CallFault.SWITCH_KILLS)
    is_slow = faults.strikes(CallFault.SWITCH_SLOW)
    slow_s = faults.draw_s("switch", 0.2, 90.0) if is_slow else 0.0
    delay_s = slow_s or world.delays.switch.draw(faults.stream("switch"))

    def done() -> None:
        process.switching_to = None
        if not process.is_alive or process.phase is not AgentPhase.READY:
            return
        if is_deadly:
            node.broke(world.now_s)
            world.end(node, Life.DEAD)
            node.unlisted_at_s = min(node.unlisted_at_s, world.now_s + faults.draw_s("end", 5, 300))
            return
        world.take_role(node, role)
        world.switches += 1
        world.note(f"switched {node.id} {role}")

    world.events.after(delay_s, done)


def finalize(world: World, process: Process) -> None:
    """Forget every link without telling the peers; refused while a native call has not returned."""
    if any(call.is_unknown for call in process.under_way()):
        raise PermanentError(f"{process.node_id} has hung calls")
    if process.under_way():
        raise TransientError(f"{process.node_id} has calls under way")
    if process.phase is AgentPhase.FINALISED:
        return
    for cluster_id in list(process.entities):
        if world.watch is not None:
            world.watch.unlinking(process, cluster_id)
    process.phase = AgentPhase.FINALISED
    process.entities.clear()
    process.rows.clear()
    world.note(f"finalised {process.node_id}")


def calls(
    world: World, process: Process, verb: Verb, peers: Sequence[Peer], *, key: str
) -> list[Call]:
    """Begin one native call for each endpoint of these peers; a known key begins nothing."""
    if key not in process.calls:
        process.calls[key] = [
            _begin(world, process, verb, endpoint.cluster_id, peer.incarnation)
            for peer in peers
            for endpoint in peer.endpoints
        ]
    return process.calls[key]


def _begin(world: World, process: Process, verb: Verb, cluster_id: int, incarnation: str) -> Call:
    row = process.rows.get(cluster_id)
    call = Call(verb, cluster_id, incarnation, world.now_s, row)
    is_busy = row is not None and row.call is not None and not row.call.is_ended
    if is_busy and verb is not Verb.FORCE_UNLINK:
        return _answered(call, CALL_IN_PROGRESS, Verdict.RETRY)
    if row is None and verb is Verb.UNLINK:
        return _answered(call, NOT_LINKED, Verdict.SUCCESS)
    if verb is not Verb.LINK and row is not None:
        call.peer_incarnation = row.peer_incarnation
    state = EntryState.LINKING if verb is Verb.LINK else EntryState.UNLINKING
    process.rows[cluster_id] = Row(state, call.peer_incarnation, world.now_s, "", call)
    if verb is Verb.FORCE_UNLINK:
        _ended(world, process, call, "")
        return call
    world.link_calls += 1
    takes_s, code = _fate(world, process, call)
    call.ends_s = world.now_s + takes_s
    world.events.at(call.ends_s, lambda: _ended(world, process, call, code))
    world.events.after(CALL_DEADLINE_S, lambda: _expired(world, process, call))
    return call


def _fate(world: World, process: Process, call: Call) -> tuple[float, str]:
    """Draw how long a call takes and the code that a fault gives it ("" for none)."""
    faults = world.faults
    if faults.strikes(CallFault.LINK_HANGS):
        return faults.draw_s("hang", 20.0, 200.0), FAILED
    if faults.strikes(CallFault.LINK_LATE):
        return faults.draw_s("late", CALL_DEADLINE_S, 90.0), ""
    if faults.strikes(CallFault.LINK_SLOW):
        return faults.draw_s("slow", 1.0, 12.0), ""
    if call.verb is Verb.LINK and faults.strikes(CallFault.LINK_FAILS):
        return 0.01, LINK_FAILED
    server = world.by_cluster(call.cluster_id)
    if server is not None and frozenset({process.node_id, server.node_id}) in world.partitioned:
        return NATIVE_TIMEOUT_S, LINK_FAILED
    is_stale = call.cluster_id in process.entities and (
        server is None or process.cluster_id not in server.entities
    )
    if call.verb is Verb.LINK and is_stale:
        return NATIVE_TIMEOUT_S, ""
    return world.delays.link.draw(faults.stream("link")), ""


def _ended(world: World, process: Process, call: Call, fault: str) -> None:
    """Let a call take effect, unless a fault decided otherwise, and note it in the table."""
    call.is_ended = True
    if not process.is_alive or process.phase is not AgentPhase.READY:
        call.code, call.is_unknown = FAILED, True
        return
    server = world.by_cluster(call.cluster_id)
    if fault:
        code = fault
    elif call.verb is Verb.LINK:
        code = link(process, call.cluster_id, server)
    else:
        if world.watch is not None:
            world.watch.unlinking(process, call.cluster_id)
        code = unlink(process, call.cluster_id, server, force=call.verb is Verb.FORCE_UNLINK)
    world.note(f"{call.verb} {process.node_id} {call.cluster_id} {code}")
    if server is not None:
        world.flow()
        world.linked(world.nodes[process.node_id], world.nodes[server.node_id])
    call.code, call.verdict, call.is_unknown = code, _verdict(call, code), False
    row = process.rows.get(call.cluster_id)
    if row is None or row.call is not call:
        _superseded(world, process, call)
    elif call.verdict is not Verdict.SUCCESS:
        _failed(world, process, call)
    elif call.verb is Verb.LINK:
        _put(world, process, call, EntryState.LINKED, code)
    else:
        del process.rows[call.cluster_id]


def _verdict(call: Call, code: str) -> Verdict:
    known = call.before.peer_incarnation if call.before is not None else ""
    if code == ALREADY_LINK and known and call.peer_incarnation not in {"", known}:
        # Both ends hold a link, but it was made with the peer's former process.
        return Verdict.FORCE
    return verdict(code, "link" if call.verb is Verb.LINK else "unlink")


def _failed(world: World, process: Process, call: Call) -> None:
    if call.verb is Verb.LINK and call.code != ALREADY_LINK:
        _put(world, process, call, EntryState.FAILED, call.code)
    elif call.before is None:
        del process.rows[call.cluster_id]
    else:
        _put(world, process, call, call.before.state, call.code)


def _superseded(world: World, process: Process, call: Call) -> None:
    """A forced unlink came in between: what the library holds now is not what the row said."""
    if call.verb is Verb.LINK and call.code == SUCCESS:
        _put(world, process, call, EntryState.UNKNOWN, LATE_SUCCESS)
        call.is_unknown = True


def _expired(world: World, process: Process, call: Call) -> None:
    if call.is_ended:
        return
    call.is_unknown = True
    row = process.rows.get(call.cluster_id)
    if row is not None and row.call is call:
        _put(world, process, call, EntryState.UNKNOWN, DEADLINE)
    world.note(f"hung {call.verb} {process.node_id} {call.cluster_id}")


def _put(world: World, process: Process, call: Call, state: EntryState, code: str) -> None:
    process.rows[call.cluster_id] = Row(state, call.peer_incarnation, world.now_s, code, call)


def _answered(call: Call, code: str, found: Verdict) -> Call:
    call.code, call.verdict, call.is_ended = code, found, True
    return call
