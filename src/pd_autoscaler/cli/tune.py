"""`pd-autoscaler tune`: a policy's parameters for a trace, judged on what they have not seen."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_autoscaler.cli.console import AsJson, print_json

if TYPE_CHECKING:
    from pd_autoscaler.cli.tuned import Task


def register(app: typer.Typer) -> None:
    """Add tune."""
    app.command()(tune)


def tune(  # noqa: PLR0913  # Each parameter is an option of the command.
    *,
    trace: Annotated[
        Path, typer.Option(help="The recorded requests, or a table of rates.", show_default=False)
    ],
    policy: Annotated[str, typer.Option(help="The policy to tune.", show_default=False)],
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LOW..HIGH",
            help="A parameter to tune and its range; may be repeated. Without it, those that are "
            "known for the policy.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A parameter that stays as it is; may be repeated."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Sets to try.")] = 40,
    budget_minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Begin no further trial after this time.", show_default=False),
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(
            min=0.01, max=0.99, help="The share of the trace, its end, that is not tuned on."
        ),
    ] = 0.5,
    attainment: Annotated[
        float,
        typer.Option(min=0.0, max=0.9999, help="Requests with both latencies in time, wanted."),
    ] = 0.99,
    slo: Annotated[str, typer.Option(help="The latency targets: chat, long or relaxed.")] = "chat",
    profile: Annotated[
        str, typer.Option(help="The engines: a known profile's name, or a file.")
    ] = "llama-2-70b-h100",
    lead_s: Annotated[
        float, typer.Option(min=0.0, max=86400.0, help="Seconds until a new node may link.")
    ] = 155.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the search and of the runs.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the settings to this file (YAML).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search a policy's parameters for the least node-hours at the wanted attainment.

    The trace is cut in time: its first part is tuned on, and both parts show what that was worth
    against the default parameters. What is minimised is node-hours x max(1, misses / misses
    allowed) ** 2. Ctrl-C ends the search; the best so far is judged.
    """
    from pd_autoscaler.cli import extra  # noqa: PLC0415  # --help must not pay for it

    extra.require_simulation()
    from pd_autoscaler.cli import tuned  # noqa: PLC0415  # as above

    task = tuned.prepared(
        trace,
        policy,
        slo=slo,
        profile=profile,
        lead_s=lead_s,
        held_out=held_out,
        seed=seed,
        ranges=search or [],
        pairs=param or [],
        attainment_min=attainment,
    )
    if out is not None:
        tuned.check_writable(out, task)
    tried = tuned.searched(
        task, trials, budget_s=None if budget_minutes is None else 60 * budget_minutes
    )
    _show(task, tried, out, as_json=as_json)


def _show(task: "Task", tried: int, out: Path | None, *, as_json: bool) -> None:
    from pd_autoscaler.cli import tuned  # noqa: PLC0415  # as above

    verdict = task.search.verdict()
    config = tuned.config_text(task, verdict)
    if out is not None and config is not None:
        tuned.write(out, config)
    if as_json:
        print_json(tuned.document(task, verdict, tried))
        return
    tuned.print_verdict(task, verdict, tried)
    if config is None:
        typer.echo(f"{task.policy} is no policy of a daemon: there are no settings to write.")
    elif out is None:
        typer.echo(f"\n{config}", nl=False)
    else:
        typer.echo(f"{out} is written: put what it holds into your settings file.")
    sys.stdout.flush()
