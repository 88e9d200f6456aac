"""Whether the configured role, the agents' and the one that the counters show are the same."""

from collections.abc import Iterator

from pd_autoscaler.doctor import roles
from pd_autoscaler.doctor.findings import Finding, not_checked, ok, problem, warning
from pd_autoscaler.doctor.pages import Look
from pd_autoscaler.doctor.roles import Evidence
from pd_autoscaler.doctor.seen import NodeSeen
from pd_autoscaler.model.node import Role

CHECK = "role"


def of_role(node: NodeSeen) -> Iterator[Finding]:
    """Judge the agents' role against the configured one, then the counters against both."""
    named = {state.role for state in node.states}
    if len(named) > 1:
        shown = ", ".join(sorted(role or "none yet" for role in named))
        fix = "the controller sees to it when a switch is under way; else restart the engine"
        yield problem(CHECK, f"its ranks have different roles: {shown}", fix)
        return
    has_switched = node.can_switch and not node.is_role_certain
    if node.role is not None and node.agent_role not in {None, node.role} and not has_switched:
        yield _by_agent(node)
        return
    yield _by_counters(node)


def _by_agent(node: NodeSeen) -> Finding:
    """Judge an agent of another role than is configured; the counters may tell which is wrong."""
    seen = f"the agent is that of a {node.agent_role} node, and a {node.role} is expected"
    fix = "correct the role, or start the engine in the other one"
    look = _look(node)
    found = None if look is None else _newest(node, look)[0]
    if found is None or found.role is None:
        because = "there is no page to read" if found is None else found.because
        seen = f"{seen}; the counters do not tell ({because})"
        return problem(CHECK, seen, f"{fix}, or correct agent_urls")
    seen = f"{seen}; the counters show a {found.role} node ({found.because})"
    if found.role is node.role:
        fix = "correct agent_urls: the page agrees with the role; or else the role and metrics_url"
    return problem(CHECK, seen, fix)


def _by_counters(node: NodeSeen) -> Finding:
    role, look = node.acting_role, _look(node)
    said = f"a {role} node{_whence(node)}"
    if look is None:
        return ok(CHECK, said) if node.agent_role else _unseen(said if role else "")
    found, is_recent = _newest(node, look)
    if found.role is None:
        if role is None:
            return not_checked(CHECK, f"nothing tells it ({found.because}); give --role")
        return ok(CHECK, f"{said}; the counters do not tell ({found.because})")
    when = "now" if is_recent else "since its start"
    if role is None:
        return ok(CHECK, f"the counters show a {found.role} node: {found.because}")
    if found.role is not role:
        seen = f"the counters show a {found.role} node ({when}: {found.because}), and it is {said}"
        return _contradicted(node, seen, is_recent=is_recent)
    if role is Role.DECODER and look.engine == "vllm" and _prefills_itself(node, look):
        fix = (
            "see the KV connector's settings on both sides, and that the router sends it transfers"
        )
        return warning(CHECK, f"{said}; no KV ever came from a prompt node", fix)
    return ok(CHECK, f"{said}, as the counters show")


def _contradicted(node: NodeSeen, seen: str, *, is_recent: bool) -> Finding:
    if node.can_switch and not is_recent:
        fix = "nothing, if it has switched roles; look again under load"
        return warning(CHECK, seen, fix)
    what = "the role or the metrics_url"
    if node.agent_role is not None:
        what = "metrics_url or agent_urls, which may be of different nodes, or the role,"
    fix = f"correct {what} in the settings, or what the engine is started as"
    return problem(CHECK, seen, fix)


def _unseen(said: str) -> Finding:
    # What is configured alone is no check of it.
    return not_checked(CHECK, f"nothing shows {said}" if said else "nothing tells it")


def _look(node: NodeSeen) -> Look | None:
    """Return the first look at the page, None where none could be read."""
    look = None if node.page is None else node.page.look
    return None if look is None or look.reading is None else look


def _newest(node: NodeSeen, look: Look) -> tuple[Evidence, bool]:
    """Return what the time between the two pages shows, or else the time since the start."""
    later = None if node.page is None else node.page.later
    if later is not None:
        recent = roles.evidence(look.engine, roles.grown(look.engine, look.counts, later.counts))
        if recent.role is not None:
            return recent, True
    return look.evidence, False


def _whence(node: NodeSeen) -> str:
    if node.agent_role is None:
        return " as configured"
    if node.role is None:
        return " by its agent"
    if node.agent_role is not node.role:
        return f" by its agent (listed as {node.role}: it has switched)"
    return " as configured and by its agent"


def _prefills_itself(node: NodeSeen, look: Look) -> bool:
    later = None if node.page is None else node.page.later
    counts = (later or look).counts
    is_told = counts.get("finished", 0.0) >= roles.REQUESTS_MIN and "pulled" in counts
    return is_told and counts["pulled"] == 0
