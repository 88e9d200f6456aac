"""What a replay came to: a table and sentences for people, JSON for programs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from pd_autoscaler.admin.decision_view import decision_view, shadow_view, target_view
from pd_autoscaler.cli.console import console, duration, plain
from pd_autoscaler.cli.tables import moment
from pd_autoscaler.model.decision import Decision, Hold
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.replay import Compared, Side, Span, Tally

if TYPE_CHECKING:
    from pd_autoscaler.cli.replay import Asked

Json = dict[str, Any]

OPEN_LOOP = (
    "open loop: what was recorded does not react to what is decided now; 'pd-autoscaler simulate' "
    "closes the loop"
)


def show(asked: "Asked", tally: Tally, unreadable: list[str], *, limit: int) -> None:
    """Print the first differences and what it comes to."""
    out = console()
    for line in _head(asked, tally):
        out.print(plain(line), soft_wrap=True)
    if tally.spans and limit:
        out.print(_table(tally.spans[:limit]))
    more = len(tally.spans) - limit
    if more > 0 and limit:
        out.print(f"{more} more such times; --limit shows more of them, --json all")
    for line in _lines(tally, unreadable):
        out.print(plain(line), soft_wrap=True)


def wire(asked: "Asked", tally: Tally, unreadable: list[str]) -> Json:
    """Return everything for programs; keys that end in `_unix_s` are wall time."""
    return {
        "journal": str(asked.journal),
        "policy": asked.policy,
        "params": dict(asked.params),
        "config": None if asked.config is None else str(asked.config),
        "limits": "recorded" if asked.config is None else "config",
        "is_open_loop": True,
        "is_anchored": asked.is_anchored,
        "from_unix_s": tally.from_unix_s,
        "until_unix_s": tally.until_unix_s,
        "cycles": tally.cycles,
        "differing_cycles": tally.differing,
        "controller_starts": tally.runs,
        "policy_failures": tally.failures,
        "policy_failure": tally.failure,
        "unreadable": len(unreadable),
        "recorded": _side(tally.recorded),
        "replayed": _side(tally.replayed),
        "differences": [_span(span) for span in tally.spans],
    }


def _head(asked: "Asked", tally: Tally) -> Iterator[str]:
    times = f"{moment(tally.from_unix_s)} to {moment(tally.until_unix_s)}"
    yield f"{tally.cycles} cycles of {asked.journal}, {times}, replayed through {asked.policy}"
    limits = "its defaults, within the limits that were recorded"
    yield f"guard      {limits if asked.config is None else f'that of {asked.config}'}"
    where = "the recorded target" if asked.is_anchored else "the target it has reached by itself"
    yield f"target     each cycle begins at {where}"
    yield OPEN_LOOP


def _table(spans: list[Span]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("from", "for", "cycle"):
        table.add_column(name, no_wrap=True, justify="left" if name == "from" else "right")
    for name in ("recorded", "because", "replayed", "because"):
        table.add_column(name, no_wrap=name != "because", overflow="fold")
    for span in spans:
        recorded, replayed = span.first.recorded, span.first.replayed
        began_unix_s = recorded.snapshot.now_unix_s
        table.add_row(
            moment(began_unix_s),
            duration(max(0.0, span.until_unix_s - began_unix_s)) if span.cycles > 1 else "1 cycle",
            str(recorded.cycle),
            str(recorded.target),
            plain(_why(recorded.guarded)),
            str(replayed.target),
            plain(_why(replayed.guarded)),
        )
    return table


def _why(decision: Decision) -> str:
    if isinstance(decision, Hold):
        return f"hold ({decision.reason}){f': {decision.detail}' if decision.detail else ''}"
    return decision.why


def _lines(tally: Tally, unreadable: list[str]) -> Iterator[str]:
    same = tally.cycles - tally.differing
    if not tally.differing:
        yield f"the same target after each of the {tally.cycles} cycles"
    else:
        times = f"{len(tally.spans)} time{'s' if len(tally.spans) != 1 else ''}"
        share = f"{tally.differing / tally.cycles:.0%}"
        yield (
            f"the same target after {same} cycles, another after {tally.differing} ({share}), "
            f"{times}"
        )
    yield from _both("moves", tally, lambda side: str(side.moves))
    yield from _both("node-hours", tally, _hours)
    yield from _both("holds", tally, _holds)
    if tally.runs > 1:
        yield f"starts     {tally.runs} of controllers: policy and guard began anew at each"
    if tally.failures:
        yield f"failed     the policy failed in {tally.failures} cycles, first: {tally.failure}"
    if unreadable:
        yield (
            f"unread     {len(unreadable)} reports cannot be read by this version, first: "
            f"{unreadable[0]}"
        )


def _both(about: str, tally: Tally, said: Any) -> Iterator[str]:
    yield f"{about:10} recorded {said(tally.recorded)}; replayed {said(tally.replayed)}"


def _hours(side: Side) -> str:
    return " and ".join(f"{side.node_hours[role]:.2f} {role}" for role in Role)


def _holds(side: Side) -> str:
    held = sorted(side.holds.items(), key=lambda item: (-item[1], item[0].value))
    return ", ".join(f"{count} {reason}" for reason, count in held) or "none"


def _side(side: Side) -> Json:
    return {
        "moves": side.moves,
        "holds": {reason.value: count for reason, count in sorted(side.holds.items())},
        "node_hours": {role.value: round(side.node_hours[role], 6) for role in Role},
        "trajectory": [
            {"at_unix_s": at_unix_s, **target_view(target)} for at_unix_s, target in side.trajectory
        ],
    }


def _span(span: Span) -> Json:
    first: Compared = span.first
    recorded = first.recorded
    return {
        "cycle": recorded.cycle,
        "from_unix_s": recorded.snapshot.now_unix_s,
        "until_unix_s": span.until_unix_s,
        "cycles": span.cycles,
        "recorded": {
            "target": target_view(recorded.target),
            "decision": decision_view(recorded.decision),
            "guarded": decision_view(recorded.guarded),
        },
        "replayed": shadow_view(first.replayed),
    }
