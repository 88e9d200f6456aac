"""What only shows where all nodes are looked at together."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.seen import NodeSeen
from pd_autoscaler.model.node import Role

SHOWN_MAX = 5


def of_fleet(nodes: Sequence[NodeSeen], *, is_meshed: bool) -> Iterator[Finding]:
    """Judge the nodes among one another; `is_meshed` says that the controller links them."""
    yield _roles(nodes)
    if any(node.states for node in nodes):
        yield _processes(nodes)
        if is_meshed:
            yield _cluster_ids(nodes)
        yield _holders(nodes)


def of_published(published: frozenset[str], nodes: Sequence[NodeSeen]) -> Finding:
    """Judge what the router sends requests to."""
    strangers = published - {node.id for node in nodes}
    if strangers:
        seen = f"the router has nodes that the provider does not list: {_some(strangers)}"
        fix = "see whether the router serves another fleet, or take them out of it"
        return warning("router", seen, fix)
    return ok("router", f"{len(published)} of {len(nodes)} nodes are published")


def _roles(nodes: Sequence[NodeSeen]) -> Finding:
    counts = {role: sum(node.acting_role is role for node in nodes) for role in Role}
    seen = f"{counts[Role.PROMPT]} prompt nodes and {counts[Role.DECODER]} decoders"
    if not nodes:
        return warning("roles", "there are no nodes", "start a node of each role")
    if not all(counts.values()):
        return warning("roles", seen, "it takes a node of each role to serve a request")
    return ok("roles", seen)


def _processes(nodes: Sequence[NodeSeen]) -> Finding:
    owners: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for state in node.states:
            owners[state.incarnation].append(node.id)
    twice = [" and ".join(dict.fromkeys(ids)) for ids in owners.values() if len(ids) > 1]
    if twice:
        seen = f"one agent answers for several ranks: of {_some(twice)}"
        return problem("processes", seen, "give each rank the agent_urls of its own agent")
    return ok("processes", f"{len(owners)} agents, each of its own")


def _cluster_ids(nodes: Sequence[NodeSeen]) -> Finding:
    owners: dict[int, list[str]] = defaultdict(list)
    for node in nodes:
        for state in node.states:
            for endpoint in state.endpoints:
                owners[endpoint.cluster_id].append(node.id)
    if not owners:
        return not_checked("cluster ids", "no agent is initialised")
    twice = [f"{i} of {' and '.join(ids)}" for i, ids in sorted(owners.items()) if len(ids) > 1]
    if twice:
        seen = f"cluster ids are used twice: {_some(twice)}"
        fix = "have each rank's engine use an id of its own: such pairs cannot be linked"
        return problem("cluster ids", seen, fix)
    return ok("cluster ids", f"{len(owners)}, all different")


def _holders(nodes: Sequence[NodeSeen]) -> Finding:
    holders = {(s.epoch, s.holder) for node in nodes for s in node.states if s.holder}
    if len(holders) > 1:
        shown = _some(f"{holder} (epoch {epoch})" for epoch, holder in sorted(holders))
        seen = f"agents obey different controllers: {shown}"
        fix = "end all but one and restart that one; nodes an old one has left are claimed anew"
        return warning("controller", seen, fix)
    return ok("controller", f"all obey {next(iter(holders))[1]}" if holders else "none yet")


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - SHOWN_MAX} more" if len(listed) > SHOWN_MAX else ""
    return ", ".join(listed[:SHOWN_MAX]) + more
