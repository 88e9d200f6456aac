"""`pd-autoscaler simulate`: the production loop in virtual time, over traces or under faults."""

from pathlib import Path
from typing import Annotated

import typer

from pd_autoscaler.cli.console import AsJson

POLICIES = "slo,queue-pressure,hpa,static-first-hour"


def register(app: typer.Typer) -> None:
    """Add simulate."""
    app.command()(simulate)


def simulate(  # noqa: PLR0913  # Each parameter is an option of the command.
    *,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Replay this workload: recorded requests, or a table of rates.",
            show_default=False,
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            metavar="S1..S12",
            help="Replay a named scenario instead; may be repeated. S3, S6, S7 and S8 are "
            "generated, the others need --data.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="The folder with the traces of the scenarios.")
    ] = Path(),
    policies: Annotated[str, typer.Option(help="The policies to compare, by name.")] = POLICIES,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[POLICY:]NAME=VALUE",
            help="A parameter of the policies, or of one of them; may be repeated.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs of each policy, a seed each.")
    ] = 3,
    slo: Annotated[str, typer.Option(help="The latency targets: chat, long or relaxed.")] = "chat",
    profile: Annotated[
        str, typer.Option(help="The engines: a known profile's name, or a file.")
    ] = "llama-2-70b-h100",
    nodes_mean: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1000,
            help="Scale the rate so that this many nodes are needed on average.",
            show_default="8 for a scenario, a trace as it is",
        ),
    ] = None,
    lead_s: Annotated[
        float, typer.Option(min=0.0, max=86_400.0, help="Seconds until a new node may link.")
    ] = 155.0,
    link_s: Annotated[
        float, typer.Option(min=0.0, max=600.0, help="Seconds that a link takes.")
    ] = 1.0,
    period_s: Annotated[
        float, typer.Option(min=1.0, max=600.0, help="The loop's period, in seconds.")
    ] = 10.0,
    budget_minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Begin no further run after this time.", show_default=False),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write a report that opens offline to this file.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Faults instead: run this one seed.", show_default=False)
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="A..B",
            help="Faults instead: run seeds A to B, both included.",
            show_default=False,
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.05, max=1000, help="Simulated hours of faults.  [default: 1]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the daemon's loop against a simulated fleet, in virtual time.

    With --trace or --scenario policies are compared: the same requests, engines, delays and loop
    for each of them; what it cost, and how many requests were in time.

    Without, a seed decides which faults strike, and when; after them comes calm, in which the fleet
    must settle. The same seed gives the same run and digest. Exit code 1: a rule was violated.
    """
    from pd_autoscaler.cli import extra  # noqa: PLC0415  # --help must not pay for it

    extra.require_simulation()
    has_workload = trace is not None or bool(scenario)
    if has_workload and (seed is not None or seeds is not None or hours is not None):
        raise typer.BadParameter(
            "--seed, --seeds and --hours are of runs with faults; with --trace or --scenario the "
            "number of seeds is --runs"
        )
    if not has_workload:
        from pd_autoscaler.cli import seeded  # noqa: PLC0415  # as above

        seeded.run_seeds(seeded.numbers_of(seed, seeds), hours, as_json=as_json)
        return
    from pd_autoscaler.cli import contest  # noqa: PLC0415  # as above

    asked = contest.Asked(
        workloads=[str(path) for path in [trace] if path] + list(scenario or []),
        setting=contest.setting_of(
            data,
            profile=profile,
            slo=slo,
            nodes_mean=nodes_mean,
            lead_s=lead_s,
            link_s=link_s,
            period_s=period_s,
        ),
        policies=contest.policies_of(policies, param or []),
        runs=runs,
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        html=html,
    )
    contest.held(asked, as_json=as_json)
