"""What a run shows on the terminal: each change as a line, and the state of things below them."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from pd_autoscaler.cli.console import console, duration, plain
from pd_autoscaler.model.decision import Hold, HoldReason
from pd_autoscaler.model.link import LinkState
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Report, Unknown
from pd_autoscaler.model.wording import sentence

QUIET_S = 5.0
"""Without a terminal the state is printed this often."""

_INDENT = 10
_SHOWN_MOVES = frozenset(
    {NodeState.SERVING, NodeState.DRAINING, NodeState.GONE, NodeState.FAILED, NodeState.STARTING}
)
_EVIDENCE = re.compile(r" \([^()]*\)")
"""The numbers behind a reason: history and page have them."""


class Progress:
    """A `ports.ReportSink` that prints what changed; `numbers` are the load's, as they come in."""

    def __init__(self, out: Console | None = None) -> None:
        self._out = out or console()
        self._live: Live | None = None
        self._at = f"{0:7.1f}s"
        self._began_s: float | None = None
        self._printed_s = float("-inf")
        self._held: HoldReason | None = None
        self._alarms: frozenset[str] = frozenset()
        self.numbers: dict[str, Any] = {}
        self.is_ending = False

    def append(self, report: Report) -> None:
        """Print what a report says is new."""
        now_s = report.snapshot.now_s
        self._began_s = now_s if self._began_s is None else self._began_s
        self._at = f"{now_s - self._began_s:7.1f}s"
        for line in self._changes(report):
            self.say(line)
        self._show(report)

    def load(self, numbers: dict[str, Any]) -> None:
        """Take in the load's newest numbers, and say how far it has come."""
        before, now = self.numbers.get("state", "waiting"), numbers["state"]
        self.numbers = numbers
        if before == "waiting" and now != "waiting":
            self.say("the load begins")
        if before != "draining" and now == "draining" and not self.is_ending:
            self.say(f"the load is over; answers still awaited: {numbers['in_flight']}")

    def say(self, text: str, *, below: Sequence[str] = ()) -> None:
        """Print one line, of the run's own or of others, and what belongs below it as it is."""
        self._print(plain(text))
        for line in below:
            self._out.print(plain(line), soft_wrap=True)

    def handler(self) -> logging.Handler:
        """Return a log handler whose lines do not tear the state line."""
        return _Lines(self)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, text: str) -> None:
        if self._out.is_terminal:
            # What does not fit goes on below its own beginning.
            rest = Text(f"{self._at}  {text}").wrap(self._out, self._out.width - _INDENT)
            self._out.print(rest[0], soft_wrap=True)
            for line in rest[1:]:
                self._out.print(Padding(line, (0, 0, 0, _INDENT)))
        else:
            self._out.print(f"{self._at}  {text}", soft_wrap=True)

    def _changes(self, report: Report) -> list[str]:
        lines = []
        if report.target != report.snapshot.target:
            why = _EVIDENCE.sub("", report.target.why)
            lines.append(f"target {report.snapshot.target} -> {report.target}  {why}")
        lines += [
            f"{move.node_id:11} {move.after}  {move.why}"
            for move in report.moves
            if move.after in _SHOWN_MOVES
        ]
        lines += [
            f"unknown outcome: {sentence(outcome.action)}: {outcome.why}"
            for outcome in report.outcomes
            if isinstance(outcome, Unknown)
        ]
        hold = report.guarded if isinstance(report.guarded, Hold) else None
        if hold is not None and hold.reason is not self._held and not _is_early(report, hold):
            lines.append(f"hold {hold.reason}: {_EVIDENCE.sub('', hold.detail)}")
        self._held = None if hold is None else hold.reason
        lines += [f"ALARM {alarm}" for alarm in report.alarms if _key(alarm) not in self._alarms]
        self._alarms = frozenset(map(_key, report.alarms))
        return lines

    def _show(self, report: Report) -> None:
        """Refresh the state line of a terminal, or print one now and then."""
        if self._out.is_terminal:
            texts = [f"{self._at}  {_state(report, self.numbers, brief=b)}" for b in (False, True)]
            fitting = next((t for t in texts if len(t) <= self._out.width), texts[-1])
            line = Text(fitting, no_wrap=True, overflow="ellipsis")
            if self._live is None:
                self._live = Live(line, console=self._out, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(line, refresh=True)
        elif report.snapshot.now_s - self._printed_s >= QUIET_S:
            self._printed_s = report.snapshot.now_s
            self.say(_state(report, self.numbers))


class _Lines(logging.Handler):
    """Prints log records as lines of the run."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        said, *rest = self.format(record).splitlines() or [""]
        self._progress.say(said, below=rest)


def _is_early(report: Report, hold: Hold) -> bool:
    """Whether it holds because the first nodes are still starting, which the state line shows."""
    serving = {n.role for n in report.snapshot.nodes if n.state is NodeState.SERVING}
    return hold.reason is HoldReason.NO_METRICS and serving != set(Role)


def _key(alarm: str) -> str:
    """Return an alarm without its numbers, which change each cycle."""
    return "".join(c for c in alarm if not c.isdigit())


def _state(report: Report, numbers: dict[str, Any], *, brief: bool = False) -> str:
    """Say nodes that serve of those wanted, links and requests in one line."""
    parts = []
    for role in Role:
        counts = Counter(n.state for n in report.snapshot.nodes if n.role is role)
        serving = counts.pop(NodeState.SERVING, 0)
        others = "".join(f", {count} {state}" for state, count in sorted(counts.items()))
        parts.append(f"{role} {serving}/{report.target.of(role)}{'' if brief else others}")
    links = Counter(link.state for link in report.links)
    parts.append(f"links {links[LinkState.LINKED]}/{links.total()}")
    if numbers:
        parts.append(f"{numbers['ok']} ok, {numbers['failed']} failed, {numbers['in_flight']} open")
        if numbers.get("recent_ttft_p95_s") is not None:
            parts.append(f"TTFT p95 {duration(numbers['recent_ttft_p95_s'])}")
    return " | ".join(parts)


def summary_lines(summary: Any) -> list[str]:
    """Say a run's summary in words, for people; what only a controller knows may be missing."""

    def ms(key: str) -> str:
        value = summary.get(key)
        return "-" if value is None else f"{1000 * value:.0f} ms"

    failed, lost = summary["requests_failed"], summary["requests_lost_on_killed_nodes"]
    unfinished, leaked = summary["requests_unfinished"], summary["links_leaked"]
    rows = {
        "requests": (
            f"{summary['requests_offered']} offered, {failed} failed"
            f"{f' ({lost} on killed nodes)' if lost else ''}"
            f"{f', {unfinished} unfinished' if unfinished else ''}"
        ),
        "TTFT": f"p50 {ms('ttft_p50_s')}, p95 {ms('ttft_p95_s')}",
        "TPOT": f"p50 {ms('tpot_p50_s')}, p95 {ms('tpot_p95_s')}",
        "nodes": (
            f"{summary['nodes_started']} started, {summary['nodes_stopped']} stopped, "
            f"{summary['nodes_killed']} killed, {summary['node_seconds']:.0f} node-seconds"
        ),
    }
    leaks = f"{'unknown' if leaked is None else leaked} leaked"
    if "target_changes" in summary:
        outs, ins = summary["scale_outs"], summary["scale_ins"]
        rows["targets"] = (
            f"{summary['target_changes']} changes: prompt +{outs['prompt']} "
            f"-{ins['prompt']}, decoder +{outs['decoder']} -{ins['decoder']}"
        )
        rows["links"] = f"{summary['links_made']} made, {summary['links_failed']} failed, {leaks}"
        holds = sorted(summary["holds"].items(), key=lambda hold: -hold[1])
        rows["holds"] = ", ".join(f"{count} {reason}" for reason, count in holds) or "none"
    else:
        rows["links"] = leaks
    kinds = [f"{k['count']} at {k['stage']}: {k['code']}" for k in summary["failures"]]
    if kinds:
        more = f"; {len(kinds) - 3} more kinds" if len(kinds) > 3 else ""
        rows["failures"] = "; ".join(kinds[:3]) + more
    return [f"{name:10} {row}" for name, row in rows.items()]
