"""What the embedded router counted, and each request that it lost."""

from collections import deque
from dataclasses import asdict, dataclass

FAILURES_MAX = 1000
"""How many failures are kept; the count goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterFailure:
    """One request that did not get its answer; `at_s` is monotonic.

    `node_id` is the node that failed it (empty: there was none to ask), `prompt_node_id` and
    `decoder_node_id` are the nodes it was on by then. Stages: route, prompt, pull, decode.
    """

    request_id: str
    stage: str
    code: str
    node_id: str
    prompt_node_id: str
    decoder_node_id: str
    error: str
    at_s: float

    def wire(self) -> dict[str, object]:
        """Return the body of the client's error answer."""
        return asdict(self)


class RouterLog:
    """Counts of requests, and the newest failures."""

    def __init__(self) -> None:
        self.requests = 0
        self.completed = 0
        self.refused = 0
        self.client_gone = 0
        self.failed = 0
        self.retried = 0
        self.waiting = 0
        self.failures: deque[RouterFailure] = deque(maxlen=FAILURES_MAX)

    def add(self, failure: RouterFailure) -> None:
        """Keep a failure."""
        self.failed += 1
        self.failures.append(failure)

    def wire(self) -> dict[str, object]:
        """Return everything, failures oldest first.

        `requests` = completed + refused (bad requests) + client_gone + failed + those under way.
        `retried` counts connections that were refused and tried elsewhere.
        """
        return {
            "requests": self.requests,
            "completed": self.completed,
            "refused": self.refused,
            "client_gone": self.client_gone,
            "failed": self.failed,
            "retried": self.retried,
            "waiting": self.waiting,
            "failures": [failure.wire() for failure in self.failures],
        }
