"""What a run prints: whole lines in a pipe, no torn ones in a terminal of any width."""

import io
import logging
import re
from dataclasses import replace

import pytest
from rich.console import Console

from pd_autoscaler.cli.progress import Progress, summary_lines
from pd_autoscaler.model.decision import Hold, HoldReason, Target
from pd_autoscaler.model.node import NodeState, Role
from pd_autoscaler.model.report import Move, Report
from tests.support.admin import a_rich_report

NUMBERS = {
    "state": "running",
    "ok": 12_345,
    "failed": 0,
    "in_flight": 57,
    "recent_ttft_p95_s": 9.43,
}
WHY = "+1 prompt: every node's queue is at or above 5 (queue 8 a node, TTFT p95 2.32 s)"
DETAIL = "prompt is short (every queue is at or above 5), waiting: 1 prompt node coming"


def a_report(after_s: float = 0.0) -> Report:
    report = a_rich_report()
    wanted = replace(report.target, prompt=report.target.prompt + 1, why=WHY)
    return replace(
        report,
        snapshot=replace(report.snapshot, now_s=report.snapshot.now_s + after_s),
        target=Target(wanted.prompt, wanted.decoder, WHY),
        guarded=Hold(HoldReason.POLICY_HELD, DETAIL),
        moves=(
            Move("prompt-3", Role.PROMPT, NodeState.LINKING, NodeState.SERVING, "published"),
            Move("p\x1b[31m", Role.PROMPT, NodeState.SERVING, NodeState.GONE, "not listed"),
        ),
        alarms=("3 nodes wait for 17 s for something that has a rather long name " * 3,),
    )


def shown(*, width: int, is_terminal: bool) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=is_terminal,
        width=width,
        markup=False,
        emoji=False,
        highlight=False,
        color_system=None,
    )
    progress = Progress(console)
    progress.load(NUMBERS)
    for after_s in (0.0, 1.0, 6.0):
        progress.append(a_report(after_s))
    progress.close()
    return file.getvalue()


def test_in_a_pipe_each_change_is_one_line_and_the_state_comes_now_and_then() -> None:
    lines = shown(width=80, is_terminal=False).splitlines()

    assert all(re.match(r" +\d+\.\ds  \S", line) for line in lines)
    said = [line[10:] for line in lines]
    assert said[0] == "the load begins"
    assert said.count("prompt-3    serving  published") == 3
    assert "hold policy_held: prompt is short, waiting: 1 prompt node coming" in said
    assert sum("hold " in line for line in said) == 1
    assert sum("ALARM" in line for line in said) == 1
    assert not any("TTFT p95 2.32" in line for line in said)
    states = [line for line in said if line.startswith("prompt ")]
    assert len(states) == 2  # At 0 s and at 6 s.
    assert all(line.endswith("12345 ok, 0 failed, 57 open | TTFT p95 9.4s") for line in states)


@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_in_a_terminal_no_line_is_longer_than_it_is_wide(width: int) -> None:
    text = shown(width=width, is_terminal=True)

    assert "\x1b[31m" not in text
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    assert max(len(line.rstrip()) for line in visible.split("\n")) <= width
    # What goes on below a line stands below its words.
    rest = [line for line in visible.split("\n") if line.strip() and not re.match(r" *\d", line)]
    assert rest
    assert all(line.startswith(" " * 10) for line in rest)


def test_log_lines_go_through_the_same_door() -> None:
    file = io.StringIO()
    progress = Progress(Console(file=file, markup=False, width=80))
    log = logging.Logger("test")
    log.addHandler(progress.handler())
    try:
        raise ValueError("no such thing")
    except ValueError:
        log.exception("it failed")

    lines = file.getvalue().splitlines()
    assert lines[0] == "    0.0s  it failed"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: no such thing"


def test_a_summary_without_a_controller_says_what_it_knows() -> None:
    summary = {
        "requests_offered": 10,
        "requests_failed": 3,
        "requests_lost_on_killed_nodes": 2,
        "requests_unfinished": 1,
        "ttft_p50_s": 0.25,
        "ttft_p95_s": 1.5,
        "tpot_p50_s": None,
        "tpot_p95_s": None,
        "nodes_started": 3,
        "nodes_stopped": 1,
        "nodes_killed": 1,
        "node_seconds": 61.7,
        "links_leaked": None,
        "failures": [{"stage": "decoder", "code": "http_500", "node_id": "d1", "count": 3}],
    }

    assert summary_lines(summary) == [
        "requests   10 offered, 3 failed (2 on killed nodes), 1 unfinished",
        "TTFT       p50 250 ms, p95 1500 ms",
        "TPOT       p50 -, p95 -",
        "nodes      3 started, 1 stopped, 1 killed, 62 node-seconds",
        "links      unknown leaked",
        "failures   3 at decoder: http_500",
    ]
