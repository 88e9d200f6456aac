"""Every call into the library, each in a thread and under a deadline."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import anyio

from pd_autoscaler.agent.object_calls import Address, initialised, switched
from pd_autoscaler.agent.table import Verb
from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistError
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError
from pd_autoscaler.model.node import Role
from pd_autoscaler.threads import Raised, Returned, Threads

_FAILED = "LLM_FAILED"

LINK_SLOTS = 16
"""Calls in flight per endpoint: what the library itself runs at once (hicann/hixl
src/llm_datadist/link_mgr/llm_link_manager.cc)."""

log = logging.getLogger(__name__)

T = TypeVar("T")
OnLate = Callable[[Returned[T] | Raised], None]
OnLateCode = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class HungCall:
    """A call past its deadline and still inside the library; `began_s` is monotonic."""

    verb: str
    cluster_ids: tuple[int, ...]
    began_s: float


class NativeCalls:
    """The library object behind slots: 16 for links, one more for forced unlinks, one for the rest.

    A call past its deadline raises OutcomeUnknownError and stays in `hung`, with its slot, until
    it returns; one that found no slot in time raises TransientError.
    """

    def __init__(self, datadist: DataDist, *, link_slots: int = LINK_SLOTS) -> None:
        self._datadist = datadist
        self._links = Threads("datadist-link", link_slots)
        self._forced = Threads("datadist-force-unlink", 1)
        self._whole = Threads("datadist-object", 1)
        self._hung: dict[int, HungCall] = {}
        self._waiting = 0

    @property
    def in_flight(self) -> int:
        """Calls before their deadline, those that wait for a slot among them."""
        return self._waiting

    @property
    def hung(self) -> tuple[HungCall, ...]:
        """Calls past their deadline, oldest first."""
        return tuple(self._hung.values())

    @property
    def is_exhausted(self) -> bool:
        """Whether every link slot hangs: only a new process frees them."""
        return self._links.is_exhausted

    async def link(
        self,
        cluster: Cluster,
        *,
        timeout_ms: int,
        deadline_s: float,
        on_late: OnLateCode,
    ) -> str:
        """Link one cluster and return the status code's name; `on_late` gets that of a late end."""
        return await self._status(
            self._links,
            Verb.LINK,
            cluster,
            lambda: self._datadist.link_clusters([cluster], timeout_ms),
            deadline_s=deadline_s,
            on_late=on_late,
        )

    async def unlink(
        self,
        cluster: Cluster,
        *,
        force: bool,
        timeout_ms: int,
        deadline_s: float,
        on_late: OnLateCode,
    ) -> str:
        """Unlink one cluster and return the status code's name; `on_late` as for `link`.

        A forced unlink has a slot of its own; should that one hang, it takes a link's.
        """
        is_reserved = force and not self._forced.is_exhausted
        return await self._status(
            self._forced if is_reserved else self._links,
            Verb.FORCE_UNLINK if force else Verb.UNLINK,
            cluster,
            lambda: self._datadist.unlink_clusters([cluster], timeout_ms, force),
            deadline_s=deadline_s,
            on_late=on_late,
        )

    async def init(
        self,
        options: Mapping[str, object],
        *,
        listen: Address | None,
        register_memory: Callable[[], None],
        deadline_s: float,
        on_late: OnLate[int | None],
    ) -> int | None:
        """Initialise the library, then register memory; return the port that it listens on."""
        work = partial(
            initialised, self._datadist, options, listen=listen, register_memory=register_memory
        )
        return await self._tracked(
            self._whole, "init", (), work, deadline_s=deadline_s, on_late=on_late
        )

    async def switch_role(
        self,
        role: Role,
        *,
        listen: Address | None,
        back: tuple[Role, Address | None],
        take_role: Callable[[Role], None],
        deadline_s: float,
        on_late: OnLate[int | None],
    ) -> int | None:
        """Switch the library's role, then the engine's; return the port that it listens on.

        The caller sees to it that no other call is inside.
        """
        work = partial(
            switched, self._datadist, role, listen=listen, back=back, take_role=take_role
        )
        return await self._tracked(
            self._whole, "switch_role", (), work, deadline_s=deadline_s, on_late=on_late
        )

    async def finalize(self, *, deadline_s: float, on_late: OnLate[None]) -> None:
        """Finalise the library; the caller sees to it that no other call is inside."""
        await self._tracked(
            self._whole,
            "finalize",
            (),
            self._datadist.finalize,
            deadline_s=deadline_s,
            on_late=on_late,
        )

    async def _status(
        self,
        threads: Threads,
        verb: Verb,
        cluster: Cluster,
        call: Callable[[], tuple[str, list[str]]],
        *,
        deadline_s: float,
        on_late: OnLateCode,
    ) -> str:
        def late(end: Returned[str] | Raised) -> None:
            on_late(end.value if isinstance(end, Returned) else _FAILED)

        try:
            return await self._tracked(
                threads,
                verb.value,
                (cluster.cluster_id,),
                lambda: _code_of(call, f"{verb} of cluster {cluster.cluster_id}"),
                deadline_s=deadline_s,
                on_late=late,
            )
        except PermanentError as error:
            log.error("%s of cluster %d: %s", verb, cluster.cluster_id, error)
            return _FAILED

    async def _tracked(
        self,
        threads: Threads,
        verb: str,
        cluster_ids: tuple[int, ...],
        work: Callable[[], T],
        *,
        deadline_s: float,
        on_late: OnLate[T],
    ) -> T:
        began_s = anyio.current_time()
        hung = HungCall(verb, cluster_ids, began_s)

        def late(end: Returned[T] | Raised) -> None:
            self._hung.pop(id(hung), None)
            log.warning("%s of %s returned late: %s", verb, list(cluster_ids), end)
            on_late(end)

        self._waiting += 1
        try:
            return await threads.run(work, deadline_s=deadline_s, on_late=late)
        except OutcomeUnknownError:
            self._hung[id(hung)] = hung
            log.warning("%s of %s hangs after %gs", verb, list(cluster_ids), deadline_s)
            raise
        finally:
            self._waiting -= 1


def _code_of(call: Callable[[], tuple[str, list[str]]], what: str) -> str:
    """Make a call for one cluster and return its status; what it raises becomes a status, too."""
    try:
        overall, each = call()
    except DataDistError as error:
        log.warning("%s raised: %s", what, error)
        return error.code
    except (TypeError, ValueError) as error:
        log.warning("%s raised: %s", what, error)
        return "LLM_PARAM_INVALID"
    except Exception:
        log.exception("%s raised", what)
        return _FAILED
    # The list may be empty after an early failure.
    return each[0] if each else overall
