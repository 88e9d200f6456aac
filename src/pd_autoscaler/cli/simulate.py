"""Commands that run the production loop in virtual time."""

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_autoscaler.cli.console import AsJson, plain, print_json

if TYPE_CHECKING:
    from pd_autoscaler.sim.run import Result


def register(app: typer.Typer) -> None:
    """Add simulate."""
    app.command()(simulate)


def simulate(
    seed: Annotated[int | None, typer.Option(help="Run this one seed.", show_default=False)] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="A..B", help="Run seeds A to B, both included.", show_default=False),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.05, max=1000, help="Simulated hours of faults.  [default: 1]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the daemon's loop against a simulated fleet with faults, in virtual time.

    A seed decides which faults strike, and when; after them comes calm, in which the fleet must
    settle. The same seed gives the same run and digest. Exit code 1: a rule was violated.
    """
    from pd_autoscaler.sim import run  # noqa: PLC0415  # --help must not pay for it

    # What the loop warns of is what the faults are for.
    logging.getLogger("pd_autoscaler").setLevel(logging.CRITICAL)
    hours = run.HOURS if hours is None else hours
    results = []
    for number in _numbers(seed, seeds):
        result = run.run_seed(number, hours=hours)
        results.append(result)
        if not as_json:
            _print(result, hours)
    if as_json:
        print_json({"hours": hours, "runs": [_row(result, hours) for result in results]})
    if any(not result.is_ok for result in results):
        raise typer.Exit(1)


def _numbers(seed: int | None, seeds: str | None) -> list[int]:
    if seed is not None and seeds is not None:
        raise typer.BadParameter("give --seed or --seeds, not both")
    if seeds is None:
        return [0 if seed is None else seed]
    first, separator, last = seeds.partition("..")
    try:
        numbers = list(range(int(first), int(last if separator else first) + 1))
    except ValueError as error:
        raise typer.BadParameter(f"--seeds wants A..B, such as 0..19, not {seeds!r}") from error
    if not numbers:
        raise typer.BadParameter(f"--seeds {seeds} names no seed: A must not be above B")
    return numbers


def _command(result: "Result", hours: float) -> str:
    from pd_autoscaler.sim import run  # noqa: PLC0415  # as above

    usual = f" --hours {hours:g}" if hours != run.HOURS else ""
    return f"pd-autoscaler simulate --seed {result.seed}{usual}"


def _row(result: "Result", hours: float) -> dict[str, Any]:
    violation = result.violation
    return {
        "seed": result.seed,
        "ok": result.is_ok,
        "digest": result.digest,
        "cycles": result.cycles,
        "controllers": result.controllers,
        "simulated_s": round(result.simulated_s, 3),
        "faults": list(result.faults),
        "violation": None
        if violation is None
        else {"what": violation.what, "at_s": violation.at_s, "cycle": violation.cycle},
        "command": _command(result, hours),
    }


def _print(result: "Result", hours: float) -> None:
    if result.violation is None:
        typer.echo(
            f"seed {result.seed}: OK, {result.cycles} cycles, {result.controllers} controller(s), "
            f"{result.simulated_s / 3600:.1f} h, digest {result.digest[:16]}"
        )
        return
    typer.echo(plain(f"seed {result.seed}: VIOLATION {result.violation.what}"))
    typer.echo(f"  in cycle {result.violation.cycle}, at {result.violation.at_s:.1f} s")
    typer.echo(f"  faults on: {', '.join(result.faults) or 'none'}")
    typer.echo("  what came before:")
    for line in result.lines[-20:]:
        typer.echo(f"    {plain(line)}")
    typer.echo(f"  to repeat it: {_command(result, hours)}")
