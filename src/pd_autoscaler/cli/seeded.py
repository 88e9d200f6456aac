"""`simulate --seed`: runs with faults and checks, one seed after the other."""

import logging
from typing import Any

import typer

from pd_autoscaler.cli.console import plain, print_json
from pd_autoscaler.sim import run
from pd_autoscaler.sim.run import Result


def run_seeds(numbers: list[int], hours: float | None, *, as_json: bool) -> None:
    """Run seeds and print each; raises typer.Exit(1) where a rule was violated."""
    # What the loop warns of is what the faults are for.
    logging.getLogger("pd_autoscaler").setLevel(logging.CRITICAL)
    hours = run.HOURS if hours is None else hours
    results = []
    for number in numbers:
        result = run.run_seed(number, hours=hours)
        results.append(result)
        if not as_json:
            _print(result, hours)
    if as_json:
        print_json({"hours": hours, "runs": [_row(result, hours) for result in results]})
    if any(not result.is_ok for result in results):
        raise typer.Exit(1)


def numbers_of(seed: int | None, seeds: str | None) -> list[int]:
    """Return the seeds that the options name; raises BadParameter for a range that is none."""
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


def _command(result: Result, hours: float) -> str:
    usual = f" --hours {hours:g}" if hours != run.HOURS else ""
    return f"pd-autoscaler simulate --seed {result.seed}{usual}"


def _row(result: Result, hours: float) -> dict[str, Any]:
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


def _print(result: Result, hours: float) -> None:
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
