"""How long a request's link calls may take: at each endpoint 16 run at a time, the rest wait."""

from collections import Counter
from collections.abc import Iterable

from pd_autoscaler.model.plan import Peer

CALLS_AT_ONCE = 16
"""What an endpoint runs or serves at once (hicann/hixl, `llm_link_manager.cc` and
`msg_handler_plugin.cc`)."""


def call_waves(peers: Iterable[Peer]) -> int:
    """Return how many times as long as one call the calls of these peers may take, at least 1.

    It is the busiest endpoint that counts, be it one of the caller's ranks or a far one that
    several of them call.
    """
    near: Counter[int] = Counter()
    far: Counter[int] = Counter()
    for peer in peers:
        for rank, endpoint in peer.calls:
            near[rank] += 1
            far[endpoint.cluster_id] += 1
    busiest = max((*near.values(), *far.values()), default=1)
    return -(-busiest // CALLS_AT_ONCE)
