"""`pd-autoscaler policies`: which there are, and whether one keeps the contract."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_autoscaler.cli.console import AsJson, console, plain, print_json

if TYPE_CHECKING:
    from pd_autoscaler.policies.conformance import Verdict

_app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add policies, policies check and policies schema."""
    app.add_typer(_app, name="policies")


@_app.callback()
def policies(context: typer.Context, as_json: AsJson = False) -> None:
    """List the installed policies; check one, or print the schemas of 'http'."""
    if context.invoked_subcommand is not None:
        return
    from pd_autoscaler.policies.registry import installed  # noqa: PLC0415  # --help is quick

    found = installed()
    if as_json:
        rows = [{"name": p.name, "origin": p.origin, "points_at": p.points_at} for p in found]
        print_json({"policies": rows})
        return
    from rich import box  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415  # as above

    table = Table("policy", "comes with", "points at", box=box.SIMPLE_HEAD)
    for policy in found:
        table.add_row(policy.name, policy.origin, policy.points_at)
    console().print(table)


@_app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(help="An installed policy, or module:object here.", show_default=False),
    ],
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="A parameter as key=value; may be repeated."),
    ] = None,
    params: Annotated[
        Path | None, typer.Option("--params", help="A file of parameters (YAML or JSON).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a policy keeps the contract, with the given parameters.

    Prints each promise and where it was broken. The exit code is 1 if one was.
    """
    from pd_autoscaler.cli import policy_check  # noqa: PLC0415  # as above

    given = policy_check.parameters(params, param or [])
    checked = policy_check.Checked(name, given)
    verdicts: list[Verdict] = []
    for verdict in policy_check.verdicts(checked):
        verdicts.append(verdict)
        if not as_json:
            _show(verdict)
    is_kept = not any(verdict.violations for verdict in verdicts)
    if as_json:
        print_json(_wire(checked, verdicts, is_kept=is_kept))
    else:
        typer.echo(
            f"{plain(name)} {'keeps the contract' if is_kept else 'breaks the contract'}; the "
            f"slowest of {checked.calls} calls took {checked.slowest_s * 1000:.1f} ms"
        )
    if not is_kept:
        raise typer.Exit(1)


class Part(StrEnum):
    """What is said between the controller and an advisor."""

    REQUEST = "request"
    ANSWER = "answer"


@_app.command()
def schema(
    part: Annotated[Part, typer.Argument(help="What it is sent, or what it answers.")],
) -> None:
    """Print the JSON schema of an advisor's request or answer.

    The advisor is the service that decides for the policy 'http'.
    """
    from pd_autoscaler.policies.advisor_wire import schemas  # noqa: PLC0415  # as above

    print_json(schemas()[part])


def _show(verdict: "Verdict") -> None:
    mark = _mark(is_kept=not verdict.violations)
    typer.echo(f"{mark} {verdict.check:<20} {verdict.promise}")
    for wrong in verdict.violations:
        typer.echo(f"    {plain(wrong)}")


def _mark(*, is_kept: bool) -> str:
    import sys  # noqa: PLC0415  # as above

    mark, word = ("\N{CHECK MARK}", "kept") if is_kept else ("\N{BALLOT X}", "broken")
    try:
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return word
    return mark


def _wire(checked: Any, verdicts: "list[Verdict]", *, is_kept: bool) -> dict[str, Any]:
    return {
        "policy": checked.name,
        "params": checked.params,
        "is_kept": is_kept,
        "checks": [
            {"check": v.check, "promise": v.promise, "violations": list(v.violations)}
            for v in verdicts
        ],
        "calls": checked.calls,
        "slowest_call_s": checked.slowest_s,
    }
