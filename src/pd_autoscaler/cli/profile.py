"""`pd-autoscaler profile`: the engine profiles that are known, and new ones from measurements."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pd_autoscaler.cli.console import AsJson, console, plain, print_json
from pd_autoscaler.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pd_autoscaler.engine_model.measured import Compared, Fitted
    from pd_autoscaler.engine_model.profile import EngineProfile
    from pd_autoscaler.model.snapshot import Snapshot

ROWS_MAX = 16
"""Measurements that are shown of each part; all of them count in the errors."""


def register(app: typer.Typer) -> None:
    """Add profile."""
    app.command()(profile)


def profile(  # Each parameter is an option of the command.
    *,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", help="Fit to benchmarks in this file.", show_default=False),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option("--journal", help="Fit to what a controller saw.", show_default=False),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="The model's rows in the CSV.", show_default=False)
    ] = "",
    hardware: Annotated[
        str, typer.Option("--hardware", help="The hardware's rows.", show_default=False)
    ] = "",
    tensor_parallel: Annotated[
        str,
        typer.Option("--tensor-parallel", help="That degree's rows.", show_default=False),
    ] = "",
    base: Annotated[
        str, typer.Option("--base", help="Where the rest comes from: a name or a file.")
    ] = "demo",
    name: Annotated[
        str, typer.Option("--name", help="The new profile's name.", show_default=False)
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the profile to this YAML file.", show_default=False),
    ] = None,
    is_list: Annotated[
        bool, typer.Option("--list", help="List the known profiles, with sources.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make an engine profile from benchmarks or a journal, and say how true it is.

    Prints each measurement beside the profile's answer, the errors, and what was not measured and
    comes from the base. 'simulate' takes a known profile's name, or the file of --out.
    """
    file = csv or journal
    if sum((csv is not None, journal is not None, is_list)) != 1:
        raise ConfigError("give one of --csv FILE, --journal FILE and --list")
    kind = (model, hardware, tensor_parallel)
    if csv is None and any(kind):
        raise ConfigError("--model, --hardware and --tensor-parallel are for --csv")
    if file is None:
        _list(as_json=as_json)
        return
    called = name or "-".join(filter(None, kind)) or file.stem
    from pd_autoscaler.cli.extra import require_simulation  # noqa: PLC0415  # --help is quick
    from pd_autoscaler.engine_model.known import engine_profile  # noqa: PLC0415  # as above

    require_simulation()
    rest = engine_profile(base)
    made = _from_csv(file, kind, rest, called) if csv else _from_journal(file, rest, called)
    if out is not None:
        _write(out, made.profile)
    if as_json:
        print_json(_wire(made))
    else:
        _show(made, out)


def _from_csv(path: Path, kind: tuple[str, str, str], base: "EngineProfile", name: str) -> "Fitted":
    from pd_autoscaler.engine_model.benchmarks import (  # noqa: PLC0415  # as above
        Kind,
        read_benchmarks,
    )
    from pd_autoscaler.engine_model.fitting import fitted  # noqa: PLC0415  # as above

    return fitted(read_benchmarks(path, Kind(*kind)), base, name=name)


def _from_journal(path: Path, base: "EngineProfile", name: str) -> "Fitted":
    from pd_autoscaler.engine_model.observed import observed  # noqa: PLC0415  # as above

    try:
        return observed(_snapshots(path), base, name=name)
    except ConfigError as error:
        raise ConfigError(f"journal {path}: {error}") from error


def _snapshots(path: Path) -> "Iterator[Snapshot]":
    """Yield what was seen each cycle; a report that this version cannot read is passed over."""
    import math  # noqa: PLC0415  # as above

    from pd_autoscaler.adapters.journal_reader import open_journal  # noqa: PLC0415  # as above
    from pd_autoscaler.model.report import Recorded  # noqa: PLC0415  # as above

    with open_journal(path) as reader:
        for report in reader.recorded(from_unix_s=-math.inf, until_unix_s=math.inf):
            if isinstance(report, Recorded):
                yield report.snapshot


def _write(path: Path, made: "EngineProfile") -> None:
    from pd_autoscaler.engine_model.known import profile_text  # noqa: PLC0415  # as above

    try:
        path.write_text(profile_text(made), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--out {path}: cannot be written ({error.strerror}); "
            "give a file in a folder that exists and is writable"
        ) from error


def _list(*, as_json: bool) -> None:
    from pd_autoscaler.engine_model.known import KNOWN  # noqa: PLC0415  # as above

    if as_json:
        print_json(
            {
                "profiles": [
                    {
                        "about": known.about,
                        "profile": asdict(known.profile),
                        "sources": dict(known.sources),
                    }
                    for known in KNOWN.values()
                ]
            }
        )
        return
    for known in KNOWN.values():
        values = asdict(known.profile)
        typer.echo(f"{known.profile.name}: {known.about}")
        _table(
            ("field", "value", "source"),
            [(name, _short(values[name]), source) for name, source in known.sources.items()],
        )


def _show(made: "Fitted", out: Path | None) -> None:
    _table(
        ("part", "measured of", "measured", "profile", "error"),
        [
            (
                row.part,
                row.what,
                f"{row.measured_s * 1000:.1f} ms",
                f"{row.profile_s * 1000:.1f} ms",
                f"{row.error:+.1%}",
            )
            for row in _some(made.compared)
        ],
    )
    for quality in made.qualities:
        typer.echo(
            f"{quality.part:<8} {quality.rows} measured, error {quality.median_error:.1%} in the "
            f"median, {quality.p90_error:.1%} at the 90th percentile"
        )
    typer.echo("not fitted:")
    for name, why in made.taken.items():
        typer.echo(f"  {name:<22} {plain(why)}")
    if out is not None:
        typer.echo(f"{plain(made.profile.name)} is in {plain(out)}")


def _some(rows: "Sequence[Compared]") -> "list[Compared]":
    """Return `ROWS_MAX` rows of each part at most, evenly from the first to the last."""
    shown: list[Compared] = []
    for part in dict.fromkeys(row.part for row in rows):
        of = [row for row in rows if row.part == part]
        count = min(len(of), ROWS_MAX)
        places = [round(n * (len(of) - 1) / max(count - 1, 1)) for n in range(count)]
        shown += [of[place] for place in places]
    return shown


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box  # noqa: PLC0415  # as above
    from rich.table import Table  # noqa: PLC0415  # as above

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(plain, row))
    console().print(table)


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} points to {value[-1][0]:g} tokens"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def _wire(made: "Fitted") -> dict[str, Any]:
    return {
        "profile": asdict(made.profile),
        "qualities": [asdict(quality) for quality in made.qualities],
        "compared": [{**asdict(row), "error": row.error} for row in made.compared],
        "taken": made.taken,
    }
