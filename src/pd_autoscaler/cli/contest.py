"""`simulate --trace`: policies over the same requests, on all cores, with what came of each."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pd_autoscaler.cli import score_tables
from pd_autoscaler.cli.console import console, plain, print_json
from pd_autoscaler.cli.policy_check import look_here, parameters
from pd_autoscaler.engine_model.known import engine_profile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.sim.comparing import Done, Job, compared, jobs
from pd_autoscaler.sim.contestant import contestant
from pd_autoscaler.sim.records import slo_named
from pd_autoscaler.sim.report.comparison import Comparison, comparison
from pd_autoscaler.sim.report.document import document
from pd_autoscaler.sim.report.page import page
from pd_autoscaler.sim.scenarios import Setting, scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be compared, over which workloads, and where the report goes."""

    workloads: Sequence[str]
    setting: Setting
    policies: Mapping[str, Mapping[str, object]]
    runs: int
    budget_s: float | None
    html: Path | None


def setting_of(  # One for each option.
    data: Path,
    *,
    profile: str,
    slo: str,
    nodes_mean: float | None,
    lead_s: float,
    link_s: float,
    period_s: float,
) -> Setting:
    """Return the setting that options ask for; raises ConfigError for names that are not known."""
    return Setting(
        data=data,
        profile=engine_profile(profile),
        slo=slo_named(slo),
        nodes_mean=nodes_mean,
        lead_s=lead_s,
        link_s=link_s,
        period_s=period_s,
    )


def policies_of(names: str, pairs: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return each policy with its parameters; raises ConfigError for pairs that fit none."""
    policies: dict[str, dict[str, object]] = {
        name.strip(): {} for name in names.split(",") if name.strip()
    }
    if not policies:
        raise ConfigError(f"--policies {names!r} names no policy: give some, such as slo,hpa")
    for pair in pairs:
        # A value may hold a colon, a policy's name may not hold an equals sign.
        owner, colon, rest = pair.partition(":")
        is_of_one = bool(colon) and "=" not in owner
        if is_of_one and owner not in policies:
            raise ConfigError(f"--param {pair}: {owner!r} is not among --policies {names}")
        given = parameters(None, [rest if is_of_one else pair])
        for name in [owner] if is_of_one else policies:
            policies[name] |= given
    return policies


def held(asked: Asked, *, as_json: bool) -> None:
    """Run the comparison and print it, a table for each workload."""
    _check(asked)
    todo = jobs(asked.workloads, asked.policies, range(asked.runs), asked.setting, is_whole=True)
    found: dict[str, list[tuple[Job, Done]]] = {name: [] for name in asked.workloads}
    began = 0
    for job, done in _within(todo, asked.budget_s, is_shown=not as_json):
        found[job.scenario].append((job, done))
        began += 1
    left_out = len(todo) - began
    tables = {name: _comparison(pairs, asked) for name, pairs in found.items() if pairs}
    if asked.html is not None:
        _write(asked.html, tables)
    if as_json:
        print_json({"left_out": left_out, "comparisons": [document(t) for t in tables.values()]})
        return
    for table in tables.values():
        typer.echo(score_tables.caption(table, table.slo))
        console().print(score_tables.scores(table, table.slo))
    if left_out:
        typer.echo(f"{left_out} of {len(todo)} runs were left out: the budget was over")
    if asked.html is not None:
        names = _places(asked.html, list(tables))
        typer.echo(f"report: {', '.join(str(path) for path in names.values())}")


def _check(asked: Asked) -> None:
    """Raise ConfigError for what would fail in a worker, before any run begins."""
    for name in asked.policies:
        look_here(name)
    for workload in asked.workloads:
        first = scenario(workload, asked.setting, 0)
        for name, params in asked.policies.items():
            contestant(name, first, lead_s=asked.setting.lead_s).built(params)
    if asked.html is None:
        return
    if not asked.html.absolute().parent.is_dir():
        raise ConfigError(f"--html {asked.html}: the folder {asked.html.parent} is not there")
    if asked.html.is_dir():
        raise ConfigError(f"--html {asked.html}: is a folder, give a file in it")


def _within(
    todo: Sequence[Job], budget_s: float | None, *, is_shown: bool
) -> Iterator[tuple[Job, Done]]:
    """Yield what is done within the budget, with a progress bar where somebody watches."""
    began_s = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Console(stderr=True)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=shown,
        disable=not (is_shown and sys.stderr.isatty()),
    ) as progress:
        bar = progress.add_task("simulating", total=len(todo))
        for job, done in compared(todo):
            progress.update(bar, advance=1, description=f"{plain(job.policy)} {job.seed}")
            yield job, done
            if budget_s is not None and time.perf_counter() - began_s > budget_s:
                return


def _comparison(pairs: Sequence[tuple[Job, Done]], asked: Asked) -> Comparison:
    order = list(asked.policies)
    ordered = sorted(pairs, key=lambda pair: (order.index(pair[0].policy), pair[0].seed))
    slos = ordered[0][0].slos
    return comparison(
        ((done.run, score) for _, done in ordered if done.run is not None for score in done.scores),
        slos,
    )


def _places(html: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return where each workload's report goes: with several, its name is in the file's."""
    if len(names) == 1:
        return {names[0]: html}
    return {name: html.with_stem(f"{html.stem}-{Path(name).stem}") for name in names}


def _write(html: Path, tables: Mapping[str, Comparison]) -> None:
    for name, path in _places(html, list(tables)).items():
        try:
            path.write_text(page(tables[name]), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {path}: cannot be written ({error.strerror})") from error
