"""What the agents of a node's ranks say, and what that means for the controller."""

from collections.abc import Iterator, Sequence

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.adapters.metrics.faults import Trouble
from pd_autoscaler.agent.wire import API_VERSION, StateReply
from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.seen import AgentSeen, Answer, NodeSeen, PortSeen
from pd_autoscaler.doctor.troubles import refused, unanswered
from pd_autoscaler.model.node import RANK_SEPARATOR, Role

SETTING = "agent_urls"


def of_agents(node: NodeSeen) -> Iterator[Finding]:
    """Judge each agent, then what all of them say together."""
    if not node.agents:
        yield not_checked("agent", "no agent's address is known")
        return
    silent = [finding for agent in node.agents if (finding := _silence(agent)) is not None]
    yield from silent
    states = node.states
    if twice := _twice(node):
        yield twice
    elif not silent:
        versions = ", ".join(dict.fromkeys(state.version for state in states))
        count = "1 agent answers" if len(states) == 1 else f"{len(states)} agents answer"
        yield ok("agent", f"{count}, version {versions}")
    if states:
        yield from (_api(states), _phase(states), _endpoints(states), _hooks(states))
        yield from (_calls(states), _holder(states))


def of_ports(node: NodeSeen) -> Iterator[Finding]:
    """Judge the ports that decoders link to."""
    check = "link port"
    if why := node.skipped.get(check):
        yield not_checked(check, why)
        return
    if node.acting_role is not Role.PROMPT:
        return
    if not node.ports:
        yield not_checked(check, "no agent has named an endpoint that listens")
        return
    failed = [port for port in node.ports if port.trouble is not None]
    yield from (_port(check, port) for port in failed)
    if not failed:
        places = ", ".join(port.place for port in node.ports)
        yield ok(check, f"takes connections from this machine: {places}")


def _twice(node: NodeSeen) -> Finding | None:
    """Judge whether each rank has an agent of its own: one listed twice answers well twice."""
    urls: dict[str, list[str]] = {}
    for agent in node.agents:
        if agent.state is not None:
            urls.setdefault(agent.state.incarnation, []).append(shown(agent.url))
    several = [those for those in urls.values() if len(those) > 1]
    if not several:
        return None
    places = ", ".join(f"{' and '.join(dict.fromkeys(s))} for {len(s)} ranks" for s in several)
    seen = f"one agent answers for several ranks: {places}"
    return problem("agent", seen, f"list the agent of each rank once in {SETTING}")


def _silence(agent: AgentSeen) -> Finding | None:
    reply = agent.reply
    if isinstance(reply, Trouble):
        what = "the agent (pd_autoscaler.agent.embed in the engine)"
        return unanswered("agent", agent.url, reply, setting=SETTING, what=what)
    finding = refused("agent", agent.url, reply, setting=SETTING, token="agent.token")  # noqa: S106
    if finding is None and agent.state is None:
        fix = f"another program listens there: correct {SETTING}"
        finding = problem("agent", f"{shown(agent.url)}: no agent's answer: {agent.why_not}", fix)
    return finding


def _api(states: Sequence[StateReply]) -> Finding:
    others = sorted({state.api for state in states} - {API_VERSION})
    if others:
        seen = f"the agent speaks API {', '.join(others)}, this is {API_VERSION}"
        return problem("agent API", seen, "install the same version on node and controller")
    return ok("agent API", API_VERSION)


def _phase(states: Sequence[StateReply]) -> Finding:
    phases = {state.phase for state in states}
    if "finalised" in phases:
        seen = "its library object is finalised and cannot be initialised again"
        return problem("phase", seen, "restart the engine's process")
    if any(RANK_SEPARATOR in state.incarnation for state in states):
        seen = f"an agent's incarnation contains {RANK_SEPARATOR!r}, which separates ranks"
        return problem("phase", seen, "have the engine give its agent another incarnation")
    if "initialising" in phases:
        fix = "look again: one that stays so waits for its accelerator or its peers"
        return warning("phase", "its library is initialising just now", fix)
    if len(phases) > 1:
        fix = "the controller initialises the rest; if they stay so, see their engines' logs"
        return warning("phase", "some of its ranks are ready and others are new", fix)
    if phases == {"new"}:
        return ok("phase", "new: a controller initialises it")
    return ok("phase", "ready")


def _endpoints(states: Sequence[StateReply]) -> Finding:
    check, count = "endpoints", sum(len(state.endpoints) for state in states)
    if any(len(state.endpoints) > 1 for state in states):
        seen = f"one agent reports {max(len(state.endpoints) for state in states)} endpoints"
        return problem(check, seen, f"list the agent of each accelerator rank in {SETTING}")
    lacking = [state for state in states if state.phase == "ready" and not state.endpoints]
    if lacking:
        seen = f"{len(lacking)} of {len(states)} ranks are ready and have no endpoint"
        return problem(check, seen, "have the engine name its cluster id and address to its agent")
    if count < len(states):
        return not_checked(check, "the agents know their endpoints once they are initialised")
    shown = ", ".join(
        f"{end.ip}:{end.port}" if end.port else f"{end.ip} (does not listen)"
        for state in states
        for end in state.endpoints
    )
    return ok(check, f"{count} for {len(states)} ranks: {shown}")


def _hooks(states: Sequence[StateReply]) -> Finding:
    """Judge the fullest answer: every rank's agent is inside the same engine."""
    check = "engine hooks"
    unknown = [
        name
        for name in ("waiting", "running", "kv_unpulled")
        if all(getattr(state.engine, name) is None for state in states)
    ]
    if not unknown:
        return ok(check, "the engine tells what is inside it")
    means = (
        "draining waits until its page shows no KV in use and the router nothing on its way, or "
        "else for node.drain_deadline_s"
    )
    names = ", ".join(name.replace("kv_unpulled", "KV not pulled") for name in unknown)
    seen = f"the engine does not tell its agent: {names}; {means}"
    return warning(check, seen, "give EngineHooks.load to the agent (docs/agent.md)")


def _calls(states: Sequence[StateReply]) -> Finding:
    hung = sum(state.calls_hung for state in states)
    if hung:
        verbs = sorted({call.verb for state in states for call in state.hung})
        of = f" ({', '.join(verbs)})" if verbs else ""
        seen = f"native calls past their deadline and still inside the library: {hung}{of}"
        fix = "look at the peers they wait for; only a new process ends them: drain the node"
        return warning("native calls", seen, fix)
    return ok("native calls", f"{sum(state.calls_in_flight for state in states)} under way")


def _holder(states: Sequence[StateReply]) -> Finding:
    holders = {(state.epoch, state.holder) for state in states if state.holder}
    if len(holders) > 1:
        names = ", ".join(f"{holder} (epoch {epoch})" for epoch, holder in sorted(holders))
        fix = "end all controllers but one, and restart that one"
        return warning("controller", f"its ranks obey different controllers: {names}", fix)
    if not holders:
        return ok("controller", "none has claimed it yet")
    ((epoch, holder),) = holders
    return ok("controller", f"obeys {holder}, epoch {epoch}")


def _port(check: str, port: PortSeen) -> Finding:
    assert port.trouble is not None  # noqa: S101  # Those that failed.
    return unanswered(
        check,
        f"tcp://{port.place}",
        port.trouble,
        setting="the engine's link address",
        what="the engine's link listener",
    )


def answers_of(node: NodeSeen) -> dict[str, Answer | Trouble]:
    """Return every answer of a node by whose it is."""
    replies: dict[str, Answer | Trouble] = {}
    if node.page is not None:
        replies["engine"] = node.page.reply
    many = len(node.agents) > 1
    for rank, agent in enumerate(node.agents):
        replies[f"agent of rank {rank}" if many else "agent"] = agent.reply
    return replies
