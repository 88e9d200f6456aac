"""The library object's life: new, initialising, ready (in one role, then the other), finalised."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

from pd_autoscaler.agent.hooks import EngineHooks
from pd_autoscaler.agent.listening import Listening
from pd_autoscaler.agent.native_calls import NativeCalls, OnLate
from pd_autoscaler.agent.object_calls import NotUndoneError
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

_NOT_ENABLED = "LLM_FEATURE_NOT_ENABLED"
_NO_LISTEN = "role: this agent has no listen address, and a prompt needs one for its decoders"

T = TypeVar("T")
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
        listening: Listening,
        options: Mapping[str, object],
        hooks: EngineHooks,
        is_initialised: bool,
    ) -> None:
        self.phase = AgentPhase.READY if is_initialised else AgentPhase.NEW
        self.role = role
        self._calls = calls
        self._table = table
        self._only_role = role
        self._listening = listening
        self._options = options
        self._hooks = hooks
        self._changing = ""
        """What is being done to an object that is ready; until it ends nothing else may begin."""
        self._never_switches = ""
        """What the library said when it refused to switch for good."""

    @property
    def port(self) -> int | None:
        """The port that the library listens on, None where it does not."""
        return self._listening.port

    @property
    def can_switch_role(self) -> bool:
        """Whether library and engine can take the other role; a prompt may have to listen."""
        can = self._hooks.can_switch_role and self._listening.suits_either_role
        return can and not self._never_switches

    def is_ready_as(self, role: Role) -> bool:
        """Whether nothing is left to do for this role; refuse if ready in the other."""
        if self.phase is not AgentPhase.READY or self._changing:
            return False
        if self.role not in {None, role}:
            raise RefusedError("already_initialised", f"this node is ready as {self.role}")
        if self._listening.is_deaf_as(role):
            raise RefusedError("bad_request", _NO_LISTEN)
        self.role = role
        return True

    def check_ready(self) -> None:
        """Refuse unless links can be made and dropped."""
        if self.phase is not AgentPhase.READY:
            raise RefusedError("not_ready", f"the library is {self.phase}, not ready")
        if self._changing:
            raise RefusedError("not_ready", f"the library is {self._changing}")

    def is_switched_to(self, role: Role) -> bool:
        """Whether this node is ready in a role, so that switching to it would change nothing."""
        is_settled = self.phase is AgentPhase.READY and not self._changing
        # A prompt that could not be switched back listens nowhere: switching again repairs it.
        return is_settled and self.role is role and not self._listening.is_deaf_as(role)

    def begin_init(self, role: Role, *, deadline_s: float, on_late: Answer) -> Work:
        """Move to initialising and return the work that leads to ready, or refuse."""
        if self._only_role not in {None, role}:
            raise RefusedError("bad_request", f"role: this engine can only be {self._only_role}")
        if self._listening.lacks_address_as(role):
            raise RefusedError("bad_request", _NO_LISTEN)
        if self.phase is AgentPhase.INITIALISING or self._changing:
            raise RefusedError("not_ready", "another call about the library is under way")
        self.phase = AgentPhase.INITIALISING
        self.role = role
        return _work(
            "init",
            lambda on_late: self._calls.init(
                self._options,
                listen=self._listening.address_as(role),
                register_memory=self._hooks.register_memory,
                deadline_s=deadline_s,
                on_late=on_late,
            ),
            ended=self._became_ready,
            failed=self._became_new,
            on_late=on_late,
        )

    def begin_switch(self, role: Role, *, deadline_s: float, on_late: Answer) -> Work:
        """Keep new calls out and return the work that leads to the other role, or refuse.

        The role is the old one until the library and the engine have both taken the new one.
        """
        if not self.can_switch_role:
            raise RefusedError("cannot_switch", self._why_it_cannot(role))
        self.check_ready()
        self._check_alone("switched to another role")
        back = (self.role or role.other, self._listening.address)
        self._changing = "taking another role"
        return _work(
            "switch_role",
            lambda on_late: self._calls.switch_role(
                role,
                listen=self._listening.address_as(role),
                back=back,
                take_role=self._hooks.switch_role,
                deadline_s=deadline_s,
                on_late=on_late,
            ),
            ended=partial(self._switched, role),
            failed=self._not_switched,
            on_late=on_late,
        )

    def begin_finalize(self, *, deadline_s: float, on_late: Answer) -> Work:
        """Keep new calls out and return the work that leads to finalised, or refuse.

        Finalising beside another call is a use-after-free in some releases of the library and
        waits without end in others (hicann/hixl, commit fd62689).
        """
        self._check_alone("finalised")
        self.check_ready()
        self._changing = "being finalised"
        return _work(
            "finalize",
            lambda on_late: self._calls.finalize(deadline_s=deadline_s, on_late=on_late),
            ended=self._became_finalised,
            failed=self._stayed,
            on_late=on_late,
        )

    def _check_alone(self, done: str) -> None:
        """Refuse while any call is inside the library."""
        hung = len(self._calls.hung)
        # A call is under way from its ticket on, a little before it is in flight.
        in_flight = max(self._calls.in_flight, self._table.under_way - hung)
        if in_flight or hung:
            raise RefusedError(
                "hung_calls",
                f"{in_flight} calls in flight and {hung} hung: the library must not be {done} "
                "beside them; if they do not end, end the process",
            )

    def _why_it_cannot(self, role: Role) -> str:
        if self._never_switches:
            return self._never_switches
        if not self._listening.suits_either_role:
            return _NO_LISTEN
        return f"role: this engine cannot become a {role} without a restart"

    def _became_ready(self, port: int | None) -> None:
        self.phase = AgentPhase.READY
        self._listening.opened(port)
        log.info("ready as %s, listening on %s", self.role, port or "nothing")

    def _switched(self, role: Role, port: int | None) -> None:
        self._changing = ""
        self.role = role
        if self._only_role is not None:
            # The engine is of this role now: it is the one to initialise it in again.
            self._only_role = role
        # The library switches with no link left: failed rows are of the role that was.
        self._table.clear()
        self._became_ready(port)

    def _stayed(self, error: Exception) -> None:
        self._changing = ""
        if isinstance(error, NotUndoneError):
            self._listening.lost()

    def _not_switched(self, error: Exception) -> None:
        self._stayed(error)
        if _code_of(error) == _NOT_ENABLED:
            # So it was initialised, and so it stays until its process ends.
            self._never_switches = f"role: the library cannot switch: {error}"

    def _became_new(self, _: Exception) -> None:
        self.phase = AgentPhase.NEW
        self.role = self._only_role

    def _became_finalised(self, _: None) -> None:
        self.phase = AgentPhase.FINALISED
        self._changing = ""
        self._listening.closed()
        self._table.clear()
        log.info("finalised")


def _work(
    verb: str,
    call: Callable[[OnLate[T]], Awaitable[T]],
    *,
    ended: Callable[[T], None],
    failed: Callable[[Exception], None],
    on_late: Answer,
) -> Work:
    """Return the work of one call; `ended` or `failed` is told how it ended, in time or late."""

    def late(end: Returned[T] | Raised) -> None:
        if isinstance(end, Returned):
            ended(end.value)
            on_late(None)
        else:
            failed(end.error)
            on_late(_failed(verb, end.error))

    async def work() -> None:
        try:
            value = await call(late)
        except OutcomeUnknownError as error:
            raise RefusedError("deadline", f"{verb}: {error}") from error
        except Exception as error:
            failed(error)
            raise _failed(verb, error) from error
        ended(value)

    return work


def _failed(verb: str, error: Exception) -> RefusedError:
    if isinstance(error, TransientError):
        return RefusedError("no_free_slot", f"{verb}: {error}")
    code = _code_of(error)
    if code == "LLM_EXIST_LINK":
        return RefusedError("links_left", f"{verb}: {error}: unlink them first, on either end")
    if code == _NOT_ENABLED and verb == "switch_role":
        return RefusedError("cannot_switch", f"{verb}: {code} {error}")
    is_wrong = isinstance(error, TypeError | ValueError | ConfigError)
    if is_wrong or (code and verdict(code, "link") is Verdict.CONFIG):
        # What the agent was configured with is wrong: the same call will fail again.
        return RefusedError("library_failed", f"{verb}: {code} {error}", status=422)
    return RefusedError("library_failed", f"{verb}: {code} {error!r}")


def _code_of(error: Exception) -> str:
    return error.code if isinstance(error, DataDistError) else ""
