"""Links: one decoder node to one prompt node, and the table of states they move through."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from pd_autoscaler.errors import TransitionError


class LinkState(StrEnum):
    """What is known of a pair.

    `suspect` means that one end may hold an entry which the other lacks (a restarted peer, a call
    whose outcome is unknown): only a forced unlink on both ends leads out of it.
    """

    ABSENT = "absent"
    LINKING = "linking"
    LINKED = "linked"
    UNLINKING = "unlinking"
    FAILED = "failed"
    SUSPECT = "suspect"


_L = LinkState

LINK_MOVES: Mapping[LinkState, frozenset[LinkState]] = MappingProxyType(
    {
        # Adopting what somebody else did, or is doing, is a move, too.
        _L.ABSENT: frozenset({_L.LINKING, _L.LINKED, _L.UNLINKING, _L.SUSPECT, _L.FAILED}),
        _L.LINKING: frozenset({_L.LINKED, _L.ABSENT, _L.FAILED, _L.SUSPECT}),
        _L.LINKED: frozenset({_L.UNLINKING, _L.ABSENT, _L.SUSPECT}),
        _L.UNLINKING: frozenset({_L.ABSENT, _L.LINKED, _L.SUSPECT, _L.LINKING}),
        _L.FAILED: frozenset({_L.LINKING, _L.LINKED, _L.ABSENT, _L.SUSPECT}),
        _L.SUSPECT: frozenset({_L.ABSENT, _L.UNLINKING, _L.LINKED, _L.LINKING, _L.FAILED}),
    }
)


class Verdict(StrEnum):
    """What a status code of the native library means for whoever called."""

    SUCCESS = "success"
    RETRY = "retry"
    FORCE = "force"
    REPLACE = "replace"
    CONFIG = "config"


@dataclass(frozen=True, slots=True)
class Wait:
    """Why no link call is made now for a wanted pair that is not up.

    `until_s` is when that ends by itself (monotonic); None if something else must change first.
    `is_barred` says that a limit or an id that is not its owner's alone stands in the way.
    """

    decoder: str
    prompt: str
    why: str
    until_s: float | None = None
    is_barred: bool = False


Pair = tuple[str, str]
"""(decoder node id, prompt node id)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One pair as the controller knows it; times are monotonic seconds.

    `attempts` counts failures, and doubts of a link that was up, since it was last up for long;
    `retry_at_s` is when the next try is due.
    The link is up when all its endpoint links are; `endpoints_up` counts those of them that are.
    """

    decoder: str
    prompt: str
    state: LinkState
    since_s: float
    attempts: int = 0
    code: str = ""
    why: str = ""
    retry_at_s: float = 0.0
    decoder_incarnation: str = ""
    prompt_incarnation: str = ""
    endpoints_up: int = 0

    @property
    def pair(self) -> Pair:
        """The two node ids, decoder first."""
        return (self.decoder, self.prompt)

    def moved_to(self, state: LinkState, *, now_s: float, why: str = "", code: str = "") -> "Link":
        """Return this link in its new state, or raise TransitionError if no such move exists."""
        if state is self.state:
            return replace(self, why=why or self.why, code=code or self.code)
        if state not in LINK_MOVES[self.state]:
            raise TransitionError(
                f"link {self.decoder}-{self.prompt}: {self.state} -> {state} is not a move"
            )
        return replace(self, state=state, since_s=now_s, why=why, code=code)
