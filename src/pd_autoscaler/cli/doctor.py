"""`pd-autoscaler doctor`: what is wrong with a node or a whole configuration, and what to fix."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pd_autoscaler.cli.console import AsJson, print_json
from pd_autoscaler.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pd_autoscaler.doctor.diagnosis import Round
    from pd_autoscaler.doctor.findings import Diagnosis
    from pd_autoscaler.model.facts import ProvidedNode
    from pd_autoscaler.model.node import Role
    from pd_autoscaler.settings import Settings

EXIT_PROBLEMS = 1
DEADLINE_S = 60.0


def register(app: typer.Typer) -> None:
    """Add doctor."""
    app.command()(doctor)


def doctor(  # Each parameter is an option of the command.
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NODE", help="Only these; none: everything.", show_default=False),
    ] = None,
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="The controller's settings file.", show_default=False),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option("--metrics", help="One node's metrics page, instead.", show_default=False),
    ] = "",
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", help="Its agents, in rank order.", show_default=False),
    ] = None,
    role: Annotated[
        str, typer.Option("--role", help="Its role: prompt or decoder.", show_default=False)
    ] = "",
    profile: Annotated[
        str, typer.Option("--profile", help="Its engine profile.", show_default=False)
    ] = "",
    deadline_s: Annotated[
        float, typer.Option("--deadline", min=1, max=3600, help="Seconds for all checks.")
    ] = DEADLINE_S,
    as_json: AsJson = False,
) -> None:
    """Check live nodes, agents and what is around them, and say what to fix.

    It changes nothing: it reads, and connects and closes. Exit code 1 if there are problems; a
    warning is none. Tokens and certificates are those of the settings and the environment.
    """
    from pd_autoscaler import settings  # noqa: PLC0415  # --help must not pay for it
    from pd_autoscaler.cli import findings  # noqa: PLC0415  # as above

    is_one = bool(metrics or agents)
    if is_one and names:
        raise ConfigError("a NODE and --metrics or --agent: give one or the other")
    if (role or profile) and not is_one:
        raise ConfigError("--role and --profile are for --metrics and --agent: give one of these")
    loaded = settings.load(config)
    if config is None and not is_one and loaded.provider == settings.ProviderSettings():
        raise ConfigError("nothing to check: give --config FILE, or --metrics URL for one node")
    if is_one:
        one = _one(metrics, agents or [], role)
        found = _found(loaded, deadline_s, lambda made: made.of_one(*one), profile, is_one=True)
    elif names:
        found = _found(loaded, deadline_s, lambda made: made.of_nodes(names))
    else:
        found = _all(loaded, deadline_s)
    if as_json:
        print_json(findings.as_data(found))
    else:
        findings.show(found)
    if found.has_problems:
        raise typer.Exit(EXIT_PROBLEMS)


def _one(metrics: str, agents: "Sequence[str]", role: str) -> "tuple[ProvidedNode, Role | None]":
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415  # --help must not pay for it

    from pd_autoscaler.adapters.addresses import shown  # noqa: PLC0415  # as above
    from pd_autoscaler.model.facts import ProvidedNode  # noqa: PLC0415  # as above
    from pd_autoscaler.model.node import Role  # noqa: PLC0415  # as above
    from pd_autoscaler.settings.sections import HttpUrl  # noqa: PLC0415  # as above

    address = TypeAdapter[str](HttpUrl)
    for option, url in (("--metrics", metrics), *(("--agent", agent) for agent in agents)):
        try:
            address.validate_python(url or "http://none")
        except ValidationError as error:
            told = "it must be an address such as http://host:port"
            raise ConfigError(f"{option} {shown(url)!r}: {told}") from error
    if role and role not in set(Role):
        raise ConfigError(f"--role {role!r}: give prompt or decoder")
    named = Role(role) if role else None
    node = ProvidedNode(
        id=shown(metrics or agents[0]),
        # Only what is handed beside it counts: nobody may have said the role.
        role=named or Role.PROMPT,
        agent_urls=tuple(agents),
        metrics_url=metrics,
    )
    return node, named


def _found(
    loaded: "Settings",
    deadline_s: float,
    ask: "Callable[[Round], Awaitable[Diagnosis]]",
    profile: str = "",
    *,
    is_one: bool = False,
) -> "Diagnosis":
    """Make a round, showing how far it is on a terminal."""
    import anyio  # noqa: PLC0415  # --help must not pay for it

    from pd_autoscaler.app import wall_clock  # noqa: PLC0415  # as above
    from pd_autoscaler.cli.findings import counting  # noqa: PLC0415  # as above
    from pd_autoscaler.doctor import prepared  # noqa: PLC0415  # as above
    from pd_autoscaler.doctor.diagnosis import Round  # noqa: PLC0415  # as above

    reader, terms = (
        prepared.reader_of(loaded, profile=profile),
        prepared.terms_of(loaded, is_one=is_one),
    )
    with counting() as progress:
        made = Round(
            settings=loaded,
            reader=reader,
            terms=terms,
            now_unix_s=wall_clock,
            deadline_s=deadline_s,
            progress=progress,
        )

        async def asked() -> "Diagnosis":
            return await ask(made)

        return anyio.run(asked)


def _all(loaded: "Settings", deadline_s: float) -> "Diagnosis":
    from pd_autoscaler.doctor import prepared, site  # noqa: PLC0415  # --help must not pay for it

    local = list(prepared.local_findings(loaded))
    journal = site.journal_seen(loaded.journal.path)
    return _found(loaded, deadline_s, lambda made: made.of_all(local, journal))
