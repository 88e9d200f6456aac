"""`pd-autoscaler replay`: what another policy would have decided on what a journal keeps."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_autoscaler.cli.console import AsJson, print_json
from pd_autoscaler.cli.moments import moment_of
from pd_autoscaler.errors import ConfigError, PermanentError

if TYPE_CHECKING:
    from pd_autoscaler.adapters.journal_reader import JournalReader, Kept
    from pd_autoscaler.core.rules import GuardRules
    from pd_autoscaler.sim.replay import Tally

_TIMES = "As for 'explain --at'."


@dataclass(frozen=True, slots=True)
class Asked:
    """What is replayed, and by which rules; without `config` the limits are the recorded ones."""

    journal: Path
    policy: str
    params: Mapping[str, Any]
    rules: "GuardRules"
    config: Path | None
    is_anchored: bool = False


def register(app: typer.Typer) -> None:
    """Add replay."""
    app.command()(replay)


def replay(  # Each parameter is an option of the command.
    *,
    journal: Annotated[
        Path, typer.Option("--journal", help="The journal's file.", show_default=False)
    ],
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="An installed policy, or module:object here; not given, that of --config.",
            show_default=False,
        ),
    ] = "",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", help="A parameter as key=value; may be repeated."),
    ] = None,
    params: Annotated[
        Path | None, typer.Option("--params", help="A file of parameters (YAML or JSON).")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="A settings file: its guard, and the parameters of its policy.",
            show_default=False,
        ),
    ] = None,
    begin: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help=_TIMES, show_default=False)
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help=_TIMES, show_default=False)
    ] = None,
    is_anchored: Annotated[
        bool,
        typer.Option("--anchored", help="Begin each cycle at the recorded target, not its own."),
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Differences to show; --json has all.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Put what a journal keeps through another policy and guard, and say where they differ.

    An open loop: what was recorded does not react to what is decided now ('simulate' closes the
    loop). Nothing is written, and a daemon that uses the journal is not disturbed.
    """
    span = _span(begin, end)
    asked = replace(_asked(journal, policy, config, params, param or []), is_anchored=is_anchored)
    from pd_autoscaler.adapters.journal_reader import open_journal  # noqa: PLC0415  # --help is quick
    from pd_autoscaler.cli import replayed  # noqa: PLC0415  # as above

    # What a policy does wrong is counted.
    logging.getLogger("pd_autoscaler").setLevel(logging.CRITICAL)
    with open_journal(journal) as reader:
        kept = reader.kept(from_unix_s=span[0], until_unix_s=span[1])
        if kept is None:
            raise ConfigError(_nothing(reader, journal))
        tally, unreadable = _replayed(asked, reader, kept, span)
    if as_json:
        print_json(replayed.wire(asked, tally, unreadable))
    else:
        replayed.show(asked, tally, unreadable, limit=limit)


def _span(begin: str | None, end: str | None) -> tuple[float, float]:
    now_unix_s = time.time()  # noqa: TID251  # "2h ago" is by the clock of whoever types it.
    first = -math.inf if begin is None else moment_of(begin, now_unix_s=now_unix_s, option="--from")
    last = math.inf if end is None else moment_of(end, now_unix_s=now_unix_s, option="--to")
    if first > last:
        raise typer.BadParameter(f"--from {begin} is later than --to {end}")
    return first, last


def _asked(
    journal: Path, policy: str, config: Path | None, file: Path | None, pairs: list[str]
) -> Asked:
    from pd_autoscaler import settings  # noqa: PLC0415  # --help is quick
    from pd_autoscaler.cli import policy_check  # noqa: PLC0415  # as above
    from pd_autoscaler.policies.registry import load_policy  # noqa: PLC0415  # as above

    if not policy and config is None:
        raise typer.BadParameter("give --policy, or --config for the policy that it names")
    loaded = settings.Settings() if config is None else settings.load(config)
    is_named = config is not None and policy in {"", loaded.loop.policy}
    given = {**(loaded.loop.policy_params if is_named else {})}
    given |= policy_check.parameters(file, pairs)
    name = policy or loaded.loop.policy
    policy_check.look_here(name)
    load_policy(name, given)
    return Asked(journal, name, given, loaded.rules().guard, config)


def _nothing(reader: "JournalReader", journal: Path) -> str:
    kept = reader.kept(from_unix_s=-math.inf, until_unix_s=math.inf)
    if kept is None:
        return f"journal {journal} keeps no report yet"
    from pd_autoscaler.cli.tables import moment  # noqa: PLC0415  # as above

    return (
        f"journal {journal} keeps nothing of that time; it has {kept.count} reports from "
        f"{moment(kept.from_unix_s)} to {moment(kept.until_unix_s)}"
    )


def _replayed(
    asked: Asked, reader: "JournalReader", kept: "Kept", span: tuple[float, float]
) -> "tuple[Tally, list[str]]":
    """Replay everything, and return what it comes to and why some reports could not be read."""
    import anyio  # noqa: PLC0415  # --help is quick

    from pd_autoscaler.policies.registry import load_policy  # noqa: PLC0415  # as above
    from pd_autoscaler.sim.replay import Replay, Tally  # noqa: PLC0415  # as above

    tally, unreadable = Tally(), list[str]()

    async def main() -> None:
        run = Replay(
            asked.policy,
            lambda: load_policy(asked.policy, asked.params),
            asked.rules,
            keeps_limits=asked.config is None,
            is_anchored=asked.is_anchored,
        )
        with _counting(kept.count) as count:
            for found in reader.recorded(from_unix_s=span[0], until_unix_s=span[1]):
                if isinstance(found, PermanentError):
                    unreadable.append(str(found))
                else:
                    tally.take(await run.take(found))
                count()

    anyio.run(main)
    if not tally.cycles:
        raise ConfigError(
            f"none of the {len(unreadable)} reports in journal {asked.journal} can be read by this "
            f"version: {unreadable[0]}"
        )
    return tally, unreadable


@contextmanager
def _counting(total: int) -> Iterator[Callable[[], None]]:
    """Show how many cycles are done, on a terminal alone."""
    from rich.console import Console  # noqa: PLC0415  # With its only user.
    from rich.progress import Progress  # noqa: PLC0415  # As above.

    out = Console(stderr=True)
    if not out.is_terminal:
        yield lambda: None
        return
    with Progress(console=out, transient=True) as bar:
        task = bar.add_task("cycles", total=total)
        yield lambda: bar.advance(task)
