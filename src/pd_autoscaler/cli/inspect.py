"""Commands that show what the running daemon does and did."""

import time
from typing import Annotated

import typer

from pd_autoscaler.cli.console import (
    DEFAULT_URL,
    AsJson,
    Json,
    Token,
    Url,
    ask,
    console,
    duration,
    plain,
    print_json,
)
from pd_autoscaler.cli.moments import moment_of

MODES = {
    "active": "",
    "paused": "the policy does not move the target, repairs go on; 'pd-autoscaler resume' ends it",
    "stopped": "no action is taken at all; 'pd-autoscaler resume' ends it",
    "advisory": "it decides and reports, and never acts (loop.advisory)",
}


def register(app: typer.Typer) -> None:
    """Add status, explain and history."""
    app.command()(status)
    app.command()(explain)
    app.command()(history)


def status(
    with_links: Annotated[bool, typer.Option("--links", help="Show the link matrix.")] = False,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show targets, the last decision and why, nodes and links."""
    state = ask(url, token, lambda daemon: daemon.state())
    links = ask(url, token, lambda daemon: daemon.links()) if with_links else None
    if as_json:
        print_json(state if links is None else {**state, "links": links})
        return
    from pd_autoscaler.cli import tables  # noqa: PLC0415  # --help must not pay for it

    out = console()
    mode = state["mode"]
    meaning = f" - {MODES[mode]}" if MODES.get(mode) else ""
    age = duration(state["age_s"])
    out.print(f"pd-autoscaler {state['version']}, cycle {state['cycle']} ({age} ago)")
    out.print(f"mode       {mode}{meaning}", style=None if mode == "active" else "yellow")
    for alarm in state["alarms"]:
        out.print(f"ALARM      {plain(alarm)}", style="bold red")
    out.print(tables.counts(state))
    for line in _decision_lines(state):
        out.print(line)
    out.print(tables.nodes(state))
    for line in tables.remarks(state):
        out.print(line)
    out.print(tables.links_line(state))
    if links is not None and links["is_meshed"]:
        out.print(tables.matrix(links))
        out.print(tables.legend())
        if not links["is_complete"]:
            out.print("too many pairs to show all: those that are linked are left out")
        for line in tables.troubled(links):
            out.print(line)


def explain(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NODE | DECODER PROMPT",
            help="As 'status' names them; none: the scaling, and every pair that is not up.",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="A past cycle: unix seconds, ISO 8601, HH:MM[:SS] of today, or 10m, 2h ago.",
            show_default=False,
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Say why it scaled or did not, or why a node does not serve or a pair is not linked.

    What was decided from which signals and what stands in the way; what was tried and how it
    ended, what comes next and when.
    """
    asked = _asked(names or [])
    at_unix_s = None if at is None else moment_of(at, now_unix_s=_now_unix_s())
    if at_unix_s is not None:
        asked["at_unix_s"] = repr(at_unix_s)
    answer = ask(url, token, lambda daemon: daemon.explain(**asked))
    if as_json:
        print_json(answer)
        return
    from pd_autoscaler.cli import explained  # noqa: PLC0415  # --help must not pay for it

    out = console()
    for line in explained.explanations(answer, asked_unix_s=at_unix_s):
        out.print(line, soft_wrap=True)


def history(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many.")] = 20,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List what changed last: decisions, moves and outcomes.

    The newest comes first.
    """
    answer = ask(url, token, lambda daemon: daemon.history(limit=limit))
    if as_json:
        print_json(answer)
        return
    from pd_autoscaler.cli import tables  # noqa: PLC0415  # --help must not pay for it

    if answer["entries"]:
        console().print(tables.entries(answer["entries"]))
    else:
        typer.echo("nothing has changed yet")


def _asked(names: list[str]) -> dict[str, str]:
    match names:
        case []:
            return {}
        case [node]:
            return {"node": node}
        case [decoder, prompt]:
            return {"decoder": decoder, "prompt": prompt}
        case _:
            raise typer.BadParameter(f"{len(names)} names: give a node, or a decoder and a prompt")


def _now_unix_s() -> float:
    return time.time()  # noqa: TID251  # "10m ago" is by the clock of whoever types it.


def _decision_lines(state: Json) -> list[str]:
    lines = [f"policy     {_decision(state['decision'])}"]
    lines += _guard_lines(state)
    lines += [f"shadow     {_shadow(shadow)}" for shadow in state["shadows"]]
    fault = state["attribution"]
    lines.append(f"bottleneck {fault['bottleneck']}{_after(': ', fault['evidence'])}")
    lines += [f"doing      {action['text']}" for wave in state["plan"]["waves"] for action in wave]
    lines += [f"not done   {note}" for note in state["plan"]["notes"]]
    return [plain(line) for line in lines]


def _decision(decision: Json) -> str:
    if decision["kind"] == "hold":
        return f"hold ({decision['reason']}){_after(': ', decision['detail'])}"
    return f"{decision['prompt']}P:{decision['decoder']}D{_after(': ', decision['why'])}"


def _shadow(shadow: Json) -> str:
    target, guarded = shadow["target"], shadow["guarded"]
    said = _decision(guarded) if guarded["kind"] == "hold" else guarded["why"]
    return f"{shadow['name']} {target['prompt']}P:{target['decoder']}D{_after(': ', said)}"


def _guard_lines(state: Json) -> list[str]:
    """Say what the guard left, and each gate; what a gate says with its numbers is said once."""
    guarded, gates = state["guarded"], state["gates"]
    if guarded == state["decision"]:
        lines = ["guard      as the policy"]
    elif any(gate["detail"] and gate["detail"] in guarded.get("detail", "") for gate in gates):
        lines = [f"guard      {_decision({**guarded, 'detail': ''})}"]
    else:
        lines = [f"guard      {_decision(guarded)}"]
    # Where the policy holds, its hold is the only gate.
    is_held = state["decision"]["kind"] == "hold"
    return lines if is_held else [*lines, *(f"gate       {_gate(gate)}" for gate in gates)]


def _gate(gate: Json) -> str:
    role = f" ({gate['role']})" if gate["role"] else ""
    return f"{gate['reason']}{role}{_after(': ', gate['detail'])}"


def _after(mark: str, text: str) -> str:
    return f"{mark}{text}" if text else ""
