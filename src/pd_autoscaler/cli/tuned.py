"""What `tune` does between its options and its answer: prepare, search, judge, write."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pd_autoscaler.cli.console import console, duration, plain
from pd_autoscaler.cli.policy_check import look_here, parameters
from pd_autoscaler.cli.tables import BAD, GOOD
from pd_autoscaler.engine_model.known import engine_profile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.sim.baselines.tunables import tunable
from pd_autoscaler.sim.contestant import Contestant
from pd_autoscaler.sim.experiment import Scenario
from pd_autoscaler.sim.records import slo_named
from pd_autoscaler.sim.report.comparison import told
from pd_autoscaler.sim.scenarios import Setting, of_arrivals
from pd_autoscaler.sim.tuning import (
    Dimension,
    Judged,
    Outcome,
    Part,
    Search,
    Trial,
    Verdict,
    dimension_of,
)
from pd_autoscaler.sim.tuning_runs import Runs, parts_of
from pd_autoscaler.workload.reading import read_arrivals

COMMENT_COLUMNS = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A search that is ready to begin, and what of it the answer repeats."""

    policy: str
    contestant: Contestant
    given: Mapping[str, object]
    parts: Mapping[Part, Scenario]
    search: Search
    attainment_min: float
    seed: int


def prepared(
    trace: Path,
    policy: str,
    *,
    slo: str,
    profile: str,
    lead_s: float,
    held_out: float,
    seed: int,
    ranges: Sequence[str],
    pairs: Sequence[str],
    attainment_min: float,
) -> Task:
    """Read what the options name; raises ConfigError for whatever is wrong, before a run."""
    setting = Setting(
        data=trace.parent, profile=engine_profile(profile), slo=slo_named(slo), lead_s=lead_s
    )
    scenario = of_arrivals(trace.stem, read_arrivals(trace, seed=seed), setting)
    parts = parts_of(scenario, held_out)
    given = parameters(None, pairs)
    look_here(policy)
    runs = Runs(policy, parts, given=given, seeds=[seed], lead_s=lead_s)
    dimensions = _dimensions(runs.contestant, ranges)
    start = {d.name: given.get(d.name, runs.contestant.default(d.name)) for d in dimensions}
    default = {name: value for name, value in start.items() if value is not None}
    # Wrong parameters that stay are wrong in every trial: say so at once.
    runs.contestant.built({**given, **default})
    search = Search(runs, dimensions, default=default, attainment_min=attainment_min, seed=seed)
    return Task(
        policy=policy,
        contestant=runs.contestant,
        given=given,
        parts=parts,
        search=search,
        attainment_min=attainment_min,
        seed=seed,
    )


def _dimensions(contestant: Contestant, ranges: Sequence[str]) -> tuple[Dimension, ...]:
    found = tuple(dimension_of(text) for text in ranges) or tunable(contestant.name)
    if not found:
        has = ", ".join(contestant.spec.params.model_fields) or "none"
        raise ConfigError(
            f"no ranges are known for policy {contestant.name!r}: give --search NAME=LOW..HIGH; "
            f"its parameters are {has}"
        )
    return found


def searched(task: Task, trials: int, *, budget_s: float | None) -> int:
    """Search until the trials, the time or the patience is over; return how many were made."""
    out = Console(stderr=True, markup=False, emoji=False, highlight=False)
    began_s = time.perf_counter()
    made = 0
    with _progress(out) as progress:
        bar = progress.add_task("the first trial runs", total=trials)
        try:
            for trial in task.search.trials(trials):
                made += 1
                progress.update(bar, completed=made, description=_best(task.search.best or trial))
                if budget_s is not None and time.perf_counter() - began_s >= budget_s:
                    break
        except KeyboardInterrupt:
            if task.search.best is None:
                raise
            out.print(f"stopped after {made} trials; judging the best (Ctrl-C again gives up)")
    return made


def _progress(out: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )


def _best(trial: Trial) -> str:
    return f"best so far: {_outcome(trial.outcome)}, {_params(trial.params)}"


def _outcome(outcome: Outcome) -> str:
    return f"{outcome.node_hours:.2f} node-hours at {outcome.attainment:.2%}"


def _params(params: Mapping[str, object]) -> str:
    return plain(", ".join(f"{name}={told(value)}" for name, value in params.items()))


def print_verdict(task: Task, verdict: Verdict, tried: int) -> None:
    """Print the default parameters beside the tuned ones, on both parts, and the words."""
    tuned, held = (task.parts[part].arrivals for part in (Part.TUNED, Part.HELD_OUT))
    typer.echo(
        plain(
            f"{task.policy}: {tried} trials on the first {duration(tuned.span_s)} of the trace "
            f"({len(tuned):,} requests); held out: {duration(held.span_s)} ({len(held):,} requests)"
        )
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("parameters", overflow="fold")
    for title in ("tuned on:\nnode-hours", "\nin time", "held out:\nnode-hours", "\nin time"):
        table.add_column(title, justify="right")
    for name, judged in (("default", verdict.default), ("tuned", verdict.tuned)):
        cells = [cell for part in Part for cell in _cells(judged.outcomes[part], task)]
        table.add_row(f"{name}: {_params(judged.params)}", *cells)
    console().print(table)
    typer.echo(plain(verdict.words))


def _cells(outcome: Outcome, task: Task) -> tuple[Text, Text]:
    style = GOOD if outcome.attainment >= task.attainment_min else BAD
    return Text(f"{outcome.node_hours:.2f}"), Text(f"{outcome.attainment:.2%}", style)


def document(task: Task, verdict: Verdict, tried: int) -> dict[str, Any]:
    """Return the answer as JSON can hold it.

    Keys: `policy`; `trials` that were made; `seed`; `attainment_min`; `parts`, by `tuned` and
    `held_out` with `requests` and `span_s`; `default` and `tuned`, each with `params` and, by part,
    `node_hours`, `attainment` and `loss`; `words`; `is_over_fitted`; `settings`, null for a policy
    that no daemon has.
    """
    return {
        "policy": task.policy,
        "trials": tried,
        "seed": task.seed,
        "attainment_min": task.attainment_min,
        "parts": {
            part.value: {
                "requests": len(scenario.arrivals),
                "span_s": round(scenario.arrivals.span_s, 3),
            }
            for part, scenario in task.parts.items()
        },
        "default": _judged(verdict.default),
        "tuned": _judged(verdict.tuned),
        "words": verdict.words,
        "is_over_fitted": verdict.is_over_fitted,
        "settings": _settings(task, verdict),
    }


def _judged(judged: Judged) -> dict[str, Any]:
    parts = {
        part.value: {
            "node_hours": outcome.node_hours,
            "attainment": outcome.attainment,
            "loss": judged.losses[part],
        }
        for part, outcome in judged.outcomes.items()
    }
    return {"params": dict(judged.params), **parts}


def _settings(task: Task, verdict: Verdict) -> dict[str, Any] | None:
    if task.contestant.plug_in is None:
        return None
    params = {**task.contestant.params, **task.given, **verdict.tuned.params}
    return {"loop": {"policy": task.contestant.plug_in, "policy_params": params}}


def config_text(task: Task, verdict: Verdict) -> str | None:
    """Return the settings that a daemon takes, as YAML; None for a policy that it cannot have."""
    settings = _settings(task, verdict)
    if settings is None:
        return None
    said = "".join(f"# {line}\n" for line in wrap(plain(verdict.words), COMMENT_COLUMNS))
    return said + yaml.safe_dump(settings, sort_keys=False)


def check_writable(out: Path, task: Task) -> None:
    """Raise ConfigError, before the search, if its result could not be written there."""
    if task.contestant.plug_in is None:
        raise ConfigError(
            f"--out: {task.policy!r} is no policy of a daemon, so there are no settings to write"
        )
    try:
        with out.open("a"):
            pass
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}") from error


def write(out: Path, text: str) -> None:
    """Write the settings; what cannot be written is printed, for the search was long."""
    try:
        out.write_text(text)
    except OSError as error:
        sys.stderr.write(f"{out} cannot be written ({error.strerror}); it would hold:\n{text}")
