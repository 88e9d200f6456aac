"""The link table: what this process's own calls did to each remote cluster, and how that ended.

The library has no query for its links (hicann/hixl docs/zh/api/python/LLMDataDist.md:
`check_link_status` is refused by the current API), so this is the only record there is.
A call may end long after its deadline, when others have been made for the same cluster; each call
therefore holds a ticket, and only the newest ticket of a row may simply move it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import count
from typing import Literal, assert_never

from pd_autoscaler.agent.wire import ClusterLine, LinkEntryWire
from pd_autoscaler.datadist.status import after_transfer
from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.link import Verdict

DEADLINE = "DEADLINE"
"""The call is past its deadline and still inside the library."""
NOT_BEGUN = "NOT_BEGUN"
"""No slot became free before the deadline; the call was never made."""
LATE_SUCCESS = "LATE_SUCCESS"
"""A call superseded by a newer one succeeded: what the library holds is not what the row said."""
CALL_IN_PROGRESS = "CALL_IN_PROGRESS"
"""Another call for this cluster, or two that hang, have not ended; no call was made."""
NOT_LINKED = "LLM_NOT_YET_LINK"
"""There was nothing to unlink; no call was made."""
NO_ADDRESS = "NO_ADDRESS"
"""The request lacks the address that the verb needs; no call was made."""
_ALREADY_LINKED = "LLM_ALREADY_LINK"

_INSIDE_MAX = 2
"""Link and unlink calls for one cluster inside the library before a further link is refused.

A pair that was cured may be linked beside the call that hangs. Should that one hang, too, the peer
is at fault, and each further try would take a slot from the links to other peers.
"""

Classify = Callable[[str, Literal["link", "unlink"]], Verdict]
"""What a status code means for the caller of a verb."""


class Verb(StrEnum):
    """The calls that change a row."""

    LINK = "link"
    UNLINK = "unlink"
    FORCE_UNLINK = "force_unlink"

    @property
    def native(self) -> Literal["link", "unlink"]:
        """The library's verb."""
        return "link" if self is Verb.LINK else "unlink"


@dataclass(frozen=True, slots=True)
class _Row:
    """`ticket` and `verb` are those of the newest call.

    `is_tainted` says that a superseded call succeeded while the newest one was under way.
    """

    state: EntryState
    since_s: float
    ticket: int
    verb: Verb
    peer_incarnation: str = ""
    code: str = ""
    is_tainted: bool = False


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call that was begun; `before` is the row as the call found it."""

    number: int
    verb: Verb
    cluster_id: int
    peer_incarnation: str
    before: _Row | None


class LinkTable:
    """Rows by remote cluster id; an absent row means not linked by this process."""

    def __init__(self, classify: Classify) -> None:
        self._classify = classify
        self._rows: dict[int, _Row] = {}
        self._under_way: dict[int, Ticket] = {}
        self._numbers = count(1)

    def begin(
        self, verb: Verb, cluster_id: int, *, peer_incarnation: str = "", now_s: float
    ) -> Ticket | ClusterLine:
        """Take a ticket for a call, or return the answer of one that must not or need not be made.

        Only a forced unlink may be made beside another call for the same cluster: it is the cure.
        After it, a link may be made beside one call that still hangs.
        """
        row = self._rows.get(cluster_id)
        if row is not None and self._is_busy(row) and verb is not Verb.FORCE_UNLINK:
            return failed(cluster_id, CALL_IN_PROGRESS, Verdict.RETRY)
        if verb is Verb.LINK and self._inside(cluster_id) >= _INSIDE_MAX:
            return failed(cluster_id, CALL_IN_PROGRESS, Verdict.RETRY)
        if row is None and verb is Verb.UNLINK:
            return done(cluster_id, NOT_LINKED)
        if verb is not Verb.LINK and row is not None:
            peer_incarnation = row.peer_incarnation
        state = EntryState.LINKING if verb is Verb.LINK else EntryState.UNLINKING
        ticket = Ticket(next(self._numbers), verb, cluster_id, peer_incarnation, row)
        self._under_way[ticket.number] = ticket
        self._put(ticket, state, "", now_s)
        return ticket

    def never_began(self, ticket: Ticket, *, now_s: float) -> ClusterLine:
        """Put the row back as the call found it: there was no call."""
        self._under_way.pop(ticket.number, None)
        if self._is_newest(ticket):
            self._restore(ticket, "", now_s)
        return failed(ticket.cluster_id, NOT_BEGUN, Verdict.RETRY)

    def expired(self, ticket: Ticket, *, now_s: float) -> ClusterLine:
        """Note that a call is past its deadline: from now on its effect is possible."""
        if self._is_newest(ticket):
            self._put(ticket, EntryState.UNKNOWN, DEADLINE, now_s)
        return unknown(ticket.cluster_id, DEADLINE)

    def ended(self, ticket: Ticket, code: str, *, now_s: float) -> ClusterLine:
        """Note how a call ended, in time or late, and return the answer it deserves."""
        self._under_way.pop(ticket.number, None)
        verdict = self._verdict(ticket, code)
        if not self._is_newest(ticket):
            return self._superseded(ticket, code, verdict, now_s)
        if self._rows[ticket.cluster_id].is_tainted:
            self._put(ticket, EntryState.UNKNOWN, LATE_SUCCESS, now_s)
            return unknown(ticket.cluster_id, LATE_SUCCESS)
        if verdict is not Verdict.SUCCESS:
            self._failed(ticket, code, verdict, now_s)
            return failed(ticket.cluster_id, code, verdict)
        match ticket.verb:
            case Verb.LINK:
                self._put(ticket, EntryState.LINKED, code, now_s)
            case Verb.UNLINK | Verb.FORCE_UNLINK:
                del self._rows[ticket.cluster_id]
            case _:
                assert_never(ticket.verb)
        return done(ticket.cluster_id, code)

    def transfer_failed(self, cluster_id: int, code: str, *, began_s: float, now_s: float) -> None:
        """Note that the engine's pull or push failed, if that says anything of the link.

        The first to say so counts: a bad link fails every transfer on it. One that began before the
        row was what it is ran over an earlier link. A row with a call under way, linking, unlinking
        or unknown, is that call's to move.
        """
        row, state = self._rows.get(cluster_id), after_transfer(code)
        if row is None or state is None or began_s < row.since_s:
            return
        if row.state is EntryState.LINKED or (row.state, state) == _FAILED_TO_UNKNOWN:
            self._rows[cluster_id] = replace(row, state=state, code=code, since_s=now_s)

    def entries(self, *, now_s: float) -> list[LinkEntryWire]:
        """Return the rows by cluster id, with the age of their last change."""
        return [
            LinkEntryWire(
                cluster_id=cluster_id,
                state=row.state.value,
                peer_incarnation=row.peer_incarnation,
                code=row.code,
                age_s=max(0.0, now_s - row.since_s),
            )
            for cluster_id, row in sorted(self._rows.items())
        ]

    def count(self, state: EntryState) -> int:
        """Count rows in a state."""
        return sum(row.state is state for row in self._rows.values())

    @property
    def under_way(self) -> int:
        """Calls that were begun and have not ended."""
        return len(self._under_way)

    def clear(self) -> None:
        """Forget everything: the library object that held the links is no more."""
        self._rows.clear()

    def _is_newest(self, ticket: Ticket) -> bool:
        row = self._rows.get(ticket.cluster_id)
        return row is not None and row.ticket == ticket.number

    def _verdict(self, ticket: Ticket, code: str) -> Verdict:
        verdict = self._classify(code, ticket.verb.native)
        known = ticket.before.peer_incarnation if ticket.before is not None else ""
        if (
            code == _ALREADY_LINKED
            and ticket.verb is Verb.LINK
            and known
            and ticket.peer_incarnation not in {"", known}
        ):
            # The library still holds the link to the peer's former process, which is no link.
            return Verdict.FORCE
        return verdict

    def _superseded(self, ticket: Ticket, code: str, verdict: Verdict, now_s: float) -> ClusterLine:
        """A newer call was made meanwhile: a success of this one may contradict what that one left.

        A link contradicts a forced unlink; an unlink contradicts a link that was made after it.
        """
        if verdict is not Verdict.SUCCESS:
            return failed(ticket.cluster_id, code, verdict)
        row = self._rows.get(ticket.cluster_id)
        newest = Verb.FORCE_UNLINK if row is None else row.verb
        if Verb.LINK not in {ticket.verb, newest}:
            return done(ticket.cluster_id, code)
        if row is not None and self._is_busy(row):
            self._rows[ticket.cluster_id] = replace(row, is_tainted=True)
        else:
            self._put(ticket, EntryState.UNKNOWN, LATE_SUCCESS, now_s)
        return unknown(ticket.cluster_id, LATE_SUCCESS)

    def _failed(self, ticket: Ticket, code: str, verdict: Verdict, now_s: float) -> None:
        if ticket.verb is Verb.LINK and code != _ALREADY_LINKED:
            self._put(ticket, EntryState.FAILED, code, now_s)
        elif ticket.verb is Verb.UNLINK and verdict is Verdict.FORCE:
            # Which ends still hold the link depends on where it broke off: after
            # LLM_UNLINK_FAILED this one does, after LLM_FAILED only the peer may.
            self._put(ticket, EntryState.UNKNOWN, code, now_s)
        else:
            self._restore(ticket, code, now_s)

    def _restore(self, ticket: Ticket, code: str, now_s: float) -> None:
        before = ticket.before
        if before is None:
            del self._rows[ticket.cluster_id]
        elif self._is_busy(before) or before.state not in _UNDER_WAY:
            self._rows[ticket.cluster_id] = replace(before, code=code or before.code)
        else:
            # The call that this one superseded has ended meanwhile; nobody noted what it left.
            self._put(ticket, EntryState.UNKNOWN, code, now_s)

    def _inside(self, cluster_id: int) -> int:
        """Count the calls for a cluster that hold a link's slot; a forced unlink has its own."""
        return sum(
            ticket.cluster_id == cluster_id and ticket.verb is not Verb.FORCE_UNLINK
            for ticket in self._under_way.values()
        )

    def _is_busy(self, row: _Row) -> bool:
        return row.ticket in self._under_way

    def _put(self, ticket: Ticket, state: EntryState, code: str, now_s: float) -> None:
        self._rows[ticket.cluster_id] = _Row(
            state, now_s, ticket.number, ticket.verb, ticket.peer_incarnation, code
        )


_FAILED_TO_UNKNOWN = (EntryState.FAILED, EntryState.UNKNOWN)
_UNDER_WAY = frozenset({EntryState.LINKING, EntryState.UNLINKING})


def done(cluster_id: int, code: str) -> ClusterLine:
    """Return the answer of a call that took effect, or need not have been made."""
    return ClusterLine(id=cluster_id, outcome="done", code=code, verdict=Verdict.SUCCESS.value)


def failed(cluster_id: int, code: str, verdict: Verdict) -> ClusterLine:
    """Return the answer of a call that took no effect."""
    return ClusterLine(id=cluster_id, outcome="failed", code=code, verdict=verdict.value)


def unknown(cluster_id: int, code: str) -> ClusterLine:
    """Return the answer of a call that may take effect yet; a forced unlink is the cure."""
    return ClusterLine(id=cluster_id, outcome="unknown", code=code, verdict=Verdict.FORCE.value)
