"""The library object's life: new, initialising, ready, finalised."""

import logging
from collections.abc import Awaitable, Callable, Mapping

from pd_autoscaler.agent.native_calls import NativeCalls
from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.table import LinkTable
from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.datadist.status import verdict
from pd_autoscaler.errors import ConfigError, OutcomeUnknownError, TransientError
from pd_autoscaler.model.facts import AgentPhase
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.model.node import Role
from pd_autoscaler.threads import Raised, Returned

log = logging.getLogger(__name__)

_NO_LISTEN = "role: this agent has no listen address, and a prompt needs one for its decoders"

Answer = Callable[[RefusedError | None], None]
Work = Callable[[], Awaitable[None]]


class Life:
    """Moves the object from phase to phase; no two of its calls are ever under way together."""

    def __init__(
        self,
        calls: NativeCalls,
        table: LinkTable,
        *,
        role: Role | None,
        listen: str | None,
        options: Mapping[str, object],
        register_memory: Callable[[], None],
        is_initialised: bool,
    ) -> None:
        self.phase = AgentPhase.READY if is_initialised else AgentPhase.NEW
        self.role = role
        self.port: int | None = None
        self._calls = calls
        self._table = table
        self._only_role = role
        self._listen = None if listen is None else parsed_listen(listen)
        self._options = options
        self._register_memory = register_memory
        self._is_ending = False
        if is_initialised and self._listen is not None:
            self.port = self._listen[1] or None

    def is_ready_as(self, role: Role) -> bool:
        """Whether nothing is left to do for this role; refuse if ready in the other."""
        if self.phase is not AgentPhase.READY or self._is_ending:
            return False
        if self.role not in {None, role}:
            raise RefusedError("already_initialised", f"this node is ready as {self.role}")
        if role is Role.PROMPT and self.port is None:
            raise RefusedError("bad_request", _NO_LISTEN)
        self.role = role
        return True

    def check_ready(self) -> None:
        """Refuse unless links can be made and dropped."""
        if self.phase is not AgentPhase.READY:
            raise RefusedError("not_ready", f"the library is {self.phase}, not ready")
        if self._is_ending:
            raise RefusedError("not_ready", "the library is being finalised")

    def begin_init(self, role: Role, *, deadline_s: float, on_late: Answer) -> Work:
        """Move to initialising and return the work that leads to ready, or refuse."""
        if self._only_role not in {None, role}:
            raise RefusedError("bad_request", f"role: this engine can only be {self._only_role}")
        if role is Role.PROMPT and self._listen is None:
            raise RefusedError("bad_request", _NO_LISTEN)
        if self.phase is AgentPhase.INITIALISING or self._is_ending:
            raise RefusedError("not_ready", "another call about the library is under way")
        self.phase = AgentPhase.INITIALISING
        self.role = role

        def late(end: Returned[int | None] | Raised) -> None:
            if isinstance(end, Returned):
                self._became_ready(end.value)
                on_late(None)
            else:
                self._became_new()
                on_late(_failed("init", end.error))

        async def work() -> None:
            try:
                port = await self._calls.init(
                    self._options,
                    listen=self._listen if role is Role.PROMPT else None,
                    register_memory=self._register_memory,
                    deadline_s=deadline_s,
                    on_late=late,
                )
            except OutcomeUnknownError as error:
                raise RefusedError("deadline", f"init: {error}") from error
            except Exception as error:
                self._became_new()
                raise _failed("init", error) from error
            self._became_ready(port)

        return work

    def begin_finalize(self, *, deadline_s: float, on_late: Answer) -> Work:
        """Keep new calls out and return the work that leads to finalised, or refuse.

        Finalising beside another call is a use-after-free in some releases of the library and
        waits without end in others (hicann/hixl, commit fd62689).
        """
        hung = len(self._calls.hung)
        # A call is under way from its ticket on, a little before it is in flight.
        in_flight = max(self._calls.in_flight, self._table.under_way - hung)
        if in_flight or hung:
            raise RefusedError(
                "hung_calls",
                f"{in_flight} calls in flight and {hung} hung: the library must not be finalised "
                "beside them; if they do not end, end the process",
            )
        if self._is_ending or self.phase is not AgentPhase.READY:
            raise RefusedError("not_ready", "another call about the library is under way")
        self._is_ending = True

        def late(end: Returned[None] | Raised) -> None:
            if isinstance(end, Returned):
                self._became_finalised()
                on_late(None)
            else:
                self._is_ending = False
                on_late(_failed("finalize", end.error))

        async def work() -> None:
            try:
                await self._calls.finalize(deadline_s=deadline_s, on_late=late)
            except OutcomeUnknownError as error:
                raise RefusedError("deadline", f"finalize: {error}") from error
            except Exception as error:
                self._is_ending = False
                raise _failed("finalize", error) from error
            self._became_finalised()

        return work

    def _became_ready(self, port: int | None) -> None:
        self.phase = AgentPhase.READY
        self.port = port
        log.info("ready as %s, listening on %s", self.role, port or "nothing")

    def _became_new(self) -> None:
        self.phase = AgentPhase.NEW
        self.role = self._only_role

    def _became_finalised(self) -> None:
        self.phase = AgentPhase.FINALISED
        self._is_ending = False
        self.port = None
        self._table.clear()
        log.info("finalised")


def parsed_listen(listen: str) -> tuple[str, int]:
    """Split "ip:port" or raise ConfigError; the library takes IPv4 addresses only."""
    ip, _, port = listen.rpartition(":")
    if not ip or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f'listen is {listen!r}; it must be "ip:port", such as "10.0.0.7:26000"')
    return ip, int(port)


def _failed(verb: str, error: Exception) -> RefusedError:
    if isinstance(error, TransientError):
        return RefusedError("no_free_slot", f"{verb}: {error}")
    code = error.code if isinstance(error, DataDistError) else ""
    is_wrong = isinstance(error, TypeError | ValueError | ConfigError)
    if is_wrong or (code and verdict(code, "link") is Verdict.CONFIG):
        # What the agent was configured with is wrong: the same call will fail again.
        return RefusedError("library_failed", f"{verb}: {code} {error}", status=422)
    return RefusedError("library_failed", f"{verb}: {code} {error!r}")
