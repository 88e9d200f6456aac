"""Which moments of a report are history: what changed, not what merely went on."""

import re
from dataclasses import dataclass, field

from pd_autoscaler.model.decision import Hold
from pd_autoscaler.model.report import Outcome, Report
from pd_autoscaler.model.wording import VERBS, ending, sentence, thing


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history: its kind, the words, and the same as data."""

    kind: str
    text: str
    data: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Told:
    """What history said last, so that it is not said again every cycle.

    Alarms are told apart without the seconds they count.
    """

    hold: str = ""
    alarms: dict[str, str] = field(default_factory=dict)


def events_of(report: Report, told: Told) -> tuple[list[Event], Told]:
    """Return what is new in a report, and what has been told with it."""
    events = [
        Event(
            "move",
            f"{move.role} {move.node_id}: {move.before} -> {move.after}"
            f"{f' ({move.why})' if move.why else ''}",
            {
                "node": move.node_id,
                "role": move.role.value,
                "before": move.before.value,
                "after": move.after.value,
                "why": move.why,
                "before_s": move.before_s,
            },
        )
        for move in report.moves
    ]
    events += [_ended(outcome) for outcome in report.outcomes]
    hold = _hold(report, told)
    if hold and hold != told.hold:
        events.append(_held(report, hold))
    alarms = {_without_seconds(alarm): alarm for alarm in report.alarms}
    events += [Event("alarm", text) for key, text in alarms.items() if key not in told.alarms]
    events += [
        Event("alarm_over", f"over: {text}")
        for key, text in told.alarms.items()
        if key not in alarms
    ]
    return events, Told(hold, alarms)


def _hold(report: Report, told: Told) -> str:
    if isinstance(report.guarded, Hold):
        return report.guarded.reason.value
    # A cycle that leaves the target as it is between two holds of one reason is no news.
    return "" if report.target != report.snapshot.target else told.hold


def _held(report: Report, reason: str) -> Event:
    detail = report.guarded.detail if isinstance(report.guarded, Hold) else ""
    data: dict[str, object] = {
        "reason": reason,
        "detail": detail,
        "asked": str(report.decision),
        "standing": str(report.target),
    }
    return Event("hold", f"{reason}{f': {detail}' if detail else ''}", data)


def _ended(outcome: Outcome) -> Event:
    word = type(outcome).__name__.lower()
    data: dict[str, object] = {
        "verb": VERBS[type(outcome.action)],
        "node": thing(outcome.action),
        "outcome": word,
        "took_s": outcome.took_s,
    }
    return Event(word, f"{sentence(outcome.action)}: {ending(outcome)}", data)


def _without_seconds(text: str) -> str:
    return re.sub(r"\b[\d.]+ s\b", "# s", text)
