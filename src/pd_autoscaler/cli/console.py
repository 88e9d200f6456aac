"""What the commands share: the options of who is asked, and how answers are printed."""

import json
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_autoscaler.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from pd_autoscaler.adapters.admin_client import AdminClient

Json = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "PD_AUTOSCALER_URL"
PIPE_COLUMNS = 140
"""Width of tables that do not go to a terminal."""


def _not_empty(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse an address that was given and is empty: the default may be another controller."""
    source = context.get_parameter_source(parameter.name or "")
    # An empty variable counts as none for the library, so it cannot be told from the value.
    is_default = source is not None and source.name == "DEFAULT"
    is_empty_variable = is_default and os.environ.get(URL_VARIABLE) == ""
    if value and not is_empty_variable:
        return value
    name, other = (URL_VARIABLE, "unset it") if is_empty_variable else ("--url", "leave it out")
    raise ConfigError(
        f"{name} is empty; give the daemon's admin address, such as {DEFAULT_URL}, or {other}"
    )


Url = Annotated[
    str,
    typer.Option(
        "--url", envvar=URL_VARIABLE, help="The daemon's admin address.", callback=_not_empty
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PD_AUTOSCALER_TOKEN",
        help="The daemon's admin token; every user sees a command line, so prefer the variable.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]


def ask(url: str, token: str | None, question: "Callable[[AdminClient], Awaitable[Json]]") -> Json:
    """Put one question to the daemon and return its answer, or raise what AdminClient raises."""
    import anyio  # noqa: PLC0415  # --help must not pay for it

    from pd_autoscaler.adapters.admin_client import AdminClient  # noqa: PLC0415  # as above

    client = AdminClient(url, token)

    async def asked() -> Json:
        async with client:
            return await question(client)

    return anyio.run(asked)


def console() -> "Console":
    """Return a console that prints text as it is: no markup is read out of node names."""
    import sys  # noqa: PLC0415  # with its only user

    from rich.console import Console  # noqa: PLC0415  # as above

    is_fixed = sys.stdout.isatty() or "COLUMNS" in os.environ
    width = None if is_fixed else PIPE_COLUMNS
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=False, width=width)


def print_json(data: object) -> None:
    """Print an answer as indented JSON."""
    typer.echo(json.dumps(data, indent=2))


def plain(text: object) -> str:
    """Return text that cannot steer a terminal: it may come from a node."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def duration(seconds: float | None) -> str:
    """Return seconds as people say them: 0.4s, 12s, 3m20s, 2h05m, 4d03h; - where unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for unit_s, unit, part_s, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= unit_s:
            return f"{whole // unit_s}{unit}{whole % unit_s // part_s:02}{part}"
    return f"{whole // 60}m{whole % 60:02}s" if whole >= 60 else f"{whole}s"
