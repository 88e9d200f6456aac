"""Actions and outcomes as JSON."""

from typing import Any

from pd_autoscaler.admin.numbers import seconds
from pd_autoscaler.model.plan import Action
from pd_autoscaler.model.report import Done, Failed, Outcome, Unknown
from pd_autoscaler.model.wording import VERBS, sentence


def action_view(action: Action) -> dict[str, Any]:
    """Return an action as `{"verb", "text"}`."""
    return {"verb": VERBS[type(action)], "text": sentence(action)}


def outcome_view(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as `{"outcome", "verb", "text", "why", "code", "retryable", "took_s"}`.

    `outcome` is done, failed or unknown (a deadline passed, the effect is possible).
    """
    ending: dict[str, Any]
    match outcome:
        case Done(code=code):
            ending = {"why": "", "code": code, "retryable": None}
        case Failed(why=why, code=code, retryable=retryable):
            ending = {"why": why, "code": code, "retryable": retryable}
        case Unknown(why=why):
            ending = {"why": why, "code": "", "retryable": None}
    kind = type(outcome).__name__.lower()
    view = {"outcome": kind, **action_view(outcome.action), **ending}
    return view | {"took_s": seconds(outcome.took_s)}
