"""Joining: who may be published beside whom, and who gives way where a link cannot be had."""

from collections import Counter
from collections.abc import Iterator

from pd_autoscaler.core import mesh
from pd_autoscaler.core.sight import Sight, pair_of
from pd_autoscaler.model.link import LinkState, Pair
from pd_autoscaler.model.node import COMING, LEAVING, Node, NodeState, Role
from pd_autoscaler.model.plan import Action, DrainNode, PublishNode, WithdrawNode

_S = NodeState


def publications(sight: Sight) -> Iterator[Action]:
    """Publish, one after the other, nodes whose links to all published ones are up."""
    fleet = sight.fleet
    if fleet.published is None or not fleet.is_synced:
        return
    found = (*fleet.of(Role.PROMPT, {_S.LINKING}), *fleet.of(Role.DECODER, {_S.LINKING}))
    # Whoever gave way to a newcomer comes after it, or it would be back before the newcomer is in.
    joining = sorted(found, key=lambda node: node.served_at_s is not None)
    listed = [n for n in fleet.nodes.values() if n.id in fleet.published]
    # A node that the router still lists though it is dead, restarted or gone asks for no links; one
    # that was found and never answered does.
    past = {_S.FAILED, _S.UNLINKING, _S.SWITCHING, _S.STOPPING}
    usable = [n for n in listed if n.state not in past and n.id not in fleet.withdrawing]
    sight.published.update({n.id: n for n in usable})
    # The router may list what it was told of, or is being told of, at any moment.
    coming = [n for n in joining if n.id in fleet.publishing or not sight.is_free(n)]
    sight.published.update({n.id: n for n in coming})
    for node in joining:
        is_told = node.id in fleet.publishing and sight.is_free(node)
        if (node.id in sight.published and not is_told) or node.is_suspect:
            continue
        if node.id in fleet.withdrawing:
            continue
        down = sight.unlinked_from(node)
        if not down:
            sight.published[node.id] = node
            yield PublishNode(node.id)
        elif sight.is_stuck(node):
            yield from _give_way(sight, node, down)


def _give_way(sight: Sight, newcomer: Node, down: list[Node]) -> Iterator[Action]:
    """Withdraw the one published node that cannot link a newcomer, if the rest carry its load."""
    blocker = down[0]
    others = sum(n.role is blocker.role for n in sight.published.values())
    link = sight.fleet.links.get(pair_of(newcomer, blocker))
    if link is None or link.state not in {LinkState.FAILED, LinkState.SUSPECT}:
        return
    if newcomer.served_at_s is not None:
        # It gave way itself: it does not push out whom it gave way to.
        return
    if mesh.is_barred(sight.fleet, link, sight.rules.link):
        # Neither of them can do anything about a limit.
        return
    if len(down) == 1 and others > 2 and blocker.role in sight.leave.spare:
        if blocker.state is _S.SERVING and sight.is_free(blocker):
            sight.notes.append(f"{blocker.id} cannot link {newcomer.id}: it is withdrawn")
            yield WithdrawNode(blocker.id)
        return
    names = ", ".join(n.id for n in down[:4])
    sight.notes.append(f"{newcomer.id} waits: no link to {names}, and those cannot be spared")


def replacements(sight: Sight) -> Iterator[Action]:
    """Give up one node that cannot be linked to most of its peers, so that another can come.

    So does one that served, was withdrawn for want of a link and cannot get it back.
    """
    failing = _failing(sight)
    if not failing:
        return
    rules = sight.rules.link
    for role in Role:
        for node in sight.fleet.of(role, {_S.LINKING}):
            waited_s = sight.now_s - node.since_s
            pairs = [link.pair for link in mesh.links_of(sight.fleet, node)]
            count = sum(pair in failing for pair in pairs)
            is_hopeless = 2 * count > len(pairs) or (count and node.served_at_s is not None)
            if is_hopeless and waited_s > 2 * rules.join_deadline_s and sight.is_free(node):
                what = "most of its peers" if 2 * count > len(pairs) else "all that serve"
                yield DrainNode(node.id, f"cannot be linked to {what}")
                return


def partings(sight: Sight) -> Iterator[Action]:
    """Withdraw one end of a pair that serves and cannot be linked again, if the rest carry on.

    A router may pair any two published nodes: every request on this pair fails.
    """
    serving = {n.id: n for r in Role for n in sight.fleet.of(r, {_S.SERVING})}
    failing = [pair for pair in _failing(sight) if set(pair) <= serving.keys()]
    count = Counter(node_id for pair in failing for node_id in pair)
    # Whoever fails most goes; of two alike the decoder, as a prompt node links to every decoder.
    for node_id in sorted(count, key=lambda i: (-count[i], serving[i].role is Role.PROMPT)):
        node = serving[node_id]
        others = sum(n.role is node.role for n in serving.values()) - 1
        if others and node.role in sight.leave.spare and sight.is_free(node):
            sight.notes.append(f"{node_id} cannot be linked to all it serves with: it is withdrawn")
            yield WithdrawNode(node_id)
            return


def _failing(sight: Sight) -> set[Pair]:
    """Name the pairs that stay down, unless another node is coming or leaving just now.

    Where over a third of all pairs fail, the fault is not a node's.
    """
    fleet, rules = sight.fleet, sight.rules.link
    if any(not sight.is_stuck(n) for role in Role for n in fleet.of(role, COMING | LEAVING)):
        return set()
    failing = {
        pair
        for pair, link in fleet.links.items()
        if link.attempts >= rules.attempts_max and link.state is not LinkState.LINKED
    }
    return failing if 3 * len(failing) <= len(fleet.links) else set()
