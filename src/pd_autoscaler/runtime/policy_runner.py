"""Runs a policy under a deadline; whatever it does, the loop gets a decision."""

import logging
from typing import Any

from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.model.decision import Decision, Hold, HoldReason, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.ports import Workers

log = logging.getLogger(__name__)

_COUNT_MAX = 1_000_000
"""More nodes of a role than any fleet has: such an answer is a mistake, not a wish."""


class PolicyRunner:
    """Wraps a plug-in: an exception, a wrong answer or a missed deadline becomes a hold.

    While a call hangs no second one begins. Each new kind of failure is logged once, under `name`.
    """

    def __init__(
        self, policy: Policy, workers: Workers, *, deadline_s: float, name: str = "the policy"
    ) -> None:
        self._policy = policy
        self._workers = workers
        self._deadline_s = deadline_s
        self._name = name
        self._is_inside = False
        self._is_overdue = False
        self._failing = ""

    @property
    def is_hung(self) -> bool:
        """Whether a call is past its deadline and has not returned."""
        return self._is_inside and self._is_overdue

    async def decide(self, snapshot: Snapshot) -> Decision:
        """Return the policy's decision, or a hold that says why there is none."""
        if self._is_inside:
            return self._failed("hung", "its last call has still not returned")
        try:
            answer = await self._workers.run(
                lambda: self._call(snapshot), deadline_s=self._deadline_s
            )
        except OutcomeUnknownError:
            self._is_overdue = True
            return self._failed("hung", f"no answer within {self._deadline_s:g} s")
        except TransientError as error:
            return self._failed("not begun", str(error))
        except Exception as error:
            kind = f"it raised {type(error).__name__}"
            return self._failed(kind, f"{kind}: {error}")
        problem = _problem(answer)
        if problem:
            return self._failed("nonsense", problem)
        if self._failing:
            log.info("%s answers again", self._name)
            self._failing = ""
        assert isinstance(answer, Target | Hold)  # noqa: S101  # _problem has checked it
        return answer

    def _call(self, snapshot: Snapshot) -> object:
        self._is_inside, self._is_overdue = True, False
        try:
            return self._policy.decide(snapshot)
        except (SystemExit, KeyboardInterrupt, StopIteration) as error:
            # A plug-in that calls exit() ends itself, not the daemon.
            raise RuntimeError(f"it raised {type(error).__name__}") from error
        finally:
            self._is_inside = False

    def _failed(self, kind: str, why: str) -> Hold:
        if kind != self._failing:
            log.error("%s failed, the target is kept: %s", self._name, why)
            self._failing = kind
        return Hold(HoldReason.POLICY_FAILED, why)


def _problem(answer: Any) -> str:
    """Say what is wrong with an answer; empty if nothing is."""
    # The classes themselves: what a subclass adds or overrides nobody could store.
    if type(answer) is Hold:
        reason: Any = answer.reason
        if isinstance(reason, HoldReason) and type(answer.detail) is str:
            return ""
        return f"it returned a hold whose reason is {reason!r}, not a HoldReason with a text"
    if type(answer) is not Target:
        return f"it returned {type(answer).__name__}, not a Target or a Hold"
    if type(answer.why) is not str:
        return f"it returned a target whose why is {answer.why!r}, not text"
    counts = (answer.prompt, answer.decoder)
    if any(type(count) is not int or not 0 <= count <= _COUNT_MAX for count in counts):
        return f"it returned a target of {answer.prompt!r} prompt and {answer.decoder!r} decoder"
    return ""
