"""`replay`: another policy on what a journal keeps, which stays as it is."""

import asyncio
import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from pd_autoscaler.adapters.journal_reader import BATCH, open_journal
from pd_autoscaler.cli import invoke
from pd_autoscaler.core.rules import GuardRules
from pd_autoscaler.errors import ConfigError, PermanentError
from pd_autoscaler.model.codec import from_json, recorded_from, report_text, to_json
from pd_autoscaler.model.decision import Hold, HoldReason, Target
from pd_autoscaler.model.report import Recorded, Report
from pd_autoscaler.policies.contract import Policy
from pd_autoscaler.policies.fluid import FluidFleet
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.runtime.policy_runner import PolicyRunner
from pd_autoscaler.runtime.shadow import Follower
from pd_autoscaler.sim.replay import Compared, Replay, Tally
from tests.support.journals import in_a_file
from tests.support.ports_fakes import InlineWorkers
from tests.support.reports import START_UNIX_S, a_report

CYCLES = 120
GUARD = GuardRules()


def queue_pressure() -> Policy:
    return load_policy("queue-pressure", {})


def fixed_ratio() -> Policy:
    return load_policy("fixed-ratio", {"ratio": 3})


def recording(*, cycles: int = CYCLES) -> list[Report]:
    """Return what a controller with queue-pressure reports while the load grows and goes again."""
    fleet = FluidFleet(requests_per_s=2.0, target=Target(1, 1))
    runner = PolicyRunner(queue_pressure(), InlineWorkers(), deadline_s=1.0)
    follower = Follower("recorded", runner, replace(GUARD, limits=fleet.snapshot().limits))
    reports = []

    async def main() -> None:
        for cycle in range(1, cycles + 1):
            fleet.requests_per_s = 30.0 if 20 <= cycle < 60 else 2.0
            snapshot = replace(fleet.snapshot(), now_unix_s=START_UNIX_S + 10.0 * cycle)
            said = await follower.follow(snapshot)
            report = a_report(
                cycle=cycle,
                snapshot=snapshot,
                decision=said.decision,
                guarded=said.guarded,
                gates=said.gates,
                target=said.target,
                epoch=1,
            )
            reports.append(report)
            fleet.advance(said.target)

    anyio.run(main)
    return reports


@pytest.fixture(name="reports", scope="module")
def _reports() -> list[Report]:
    return recording()


def kept_in(path: Path, reports: list[Report]) -> Path:
    """Write a journal as a daemon does that has stopped."""

    async def main() -> None:
        place = replace(in_a_file(path), now_unix_s=START_UNIX_S + 10.0 * len(reports), keep_s=1e9)
        async with place.open() as journal:
            for report in reports:
                await journal.append(report)

    anyio.run(main)
    return path


@pytest.fixture(name="journal", scope="module")
def _journal(tmp_path_factory: pytest.TempPathFactory, reports: list[Report]) -> Path:
    return kept_in(tmp_path_factory.mktemp("kept") / "journal.sqlite", reports)


def recorded(report: Report, **changes: Any) -> Recorded:
    return replace(recorded_from(report_text(report)), **changes)


def replayed(
    rows: list[Recorded],
    build: Callable[[], Policy],
    *,
    rules: GuardRules = GUARD,
    keeps_limits: bool = True,
    is_anchored: bool = False,
) -> tuple[Tally, list[Compared]]:
    tally, compared = Tally(), []

    async def main() -> None:
        run = Replay("x", build, rules, keeps_limits=keeps_limits, is_anchored=is_anchored)
        for row in rows:
            compared.append(await run.take(row))
            tally.take(compared[-1])

    anyio.run(main)
    return tally, compared


def _gates(compared: Compared) -> set[HoldReason]:
    return {gate.reason for gate in compared.replayed.gates}


def folder(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def test_the_same_policy_under_the_same_guard_decides_the_same(reports: list[Report]) -> None:
    tally, compared = replayed([recorded(r) for r in reports], queue_pressure)

    assert tally.differing == 0
    assert tally.recorded == tally.replayed
    assert tally.recorded.moves > 4
    assert [c.replayed.decision for c in compared] == [r.decision for r in reports]
    assert (tally.cycles, tally.runs, tally.spans) == (CYCLES, 1, [])


def test_another_policy_goes_its_own_way_from_the_target_that_stood(reports: list[Report]) -> None:
    tally, compared = replayed([recorded(r) for r in reports], fixed_ratio)

    assert compared[0].replayed.target == reports[0].snapshot.target
    assert 0 < tally.differing < CYCLES
    assert sum(span.cycles for span in tally.spans) == tally.differing
    assert tally.replayed.trajectory != tally.recorded.trajectory
    first = tally.spans[0].first
    assert first.recorded.target != first.replayed.target
    assert not any(c.differs for c in compared[: first.recorded.cycle - 1])
    # Seconds from cycle to cycle, each at the target that stood between them.
    hours = sum(r.target.prompt * 10.0 / 3600.0 for r in reports[:-1])
    assert sum(tally.recorded.node_hours.values()) == pytest.approx(
        hours + sum(r.target.decoder * 10.0 / 3600.0 for r in reports[:-1])
    )


def test_a_controllers_start_begins_policy_and_guard_anew_where_the_target_was(
    reports: list[Report],
) -> None:
    made: list[Policy] = []

    def build() -> Policy:
        made.append(queue_pressure())
        return made[-1]

    rows = [recorded(r, epoch=1 if r.cycle <= 90 else 2) for r in reports]
    tally, compared = replayed(rows, build)

    assert tally.runs == 2
    assert compared[90].is_first_of_run
    assert compared[90].replayed.target == compared[89].replayed.target
    # Nothing goes before the new controller has watched for a full down window (300 s).
    young = [c for c in compared[90:] if HoldReason.WARM_UP in _gates(c)]
    assert young
    assert not [c for c in compared[30:90] if HoldReason.WARM_UP in _gates(c)]
    rebooted = [
        recorded(r, snapshot=replace(r.snapshot, now_s=r.snapshot.now_s - 500.0 * (r.cycle > 60)))
        for r in reports
    ]
    assert replayed(rebooted, queue_pressure)[0].runs == 2


def test_anchored_each_cycle_begins_at_the_target_that_was_recorded(reports: list[Report]) -> None:
    tally, compared = replayed([recorded(r) for r in reports], fixed_ratio, is_anchored=True)

    own = load_policy("fixed-ratio", {"ratio": 3})
    decisions = [own.decide(r.snapshot) for r in reports]
    assert [c.replayed.decision for c in compared] == decisions
    assert tally.differing
    # Once it agrees again there is no difference left from before.
    steps = [c.replayed.target for c in compared if isinstance(c.replayed.guarded, Hold)]
    assert steps == [
        r.snapshot.target
        for r, c in zip(reports, compared, strict=True)
        if isinstance(c.replayed.guarded, Hold)
    ]


def test_limits_of_settings_bind_policy_and_guard_and_those_recorded_do_without(
    reports: list[Report],
) -> None:
    rows = [recorded(r) for r in reports]
    limits = replace(reports[0].snapshot.limits, prompt_max=2, decoder_max=2, nodes_max=3)
    rules = replace(GUARD, limits=limits)

    bound, _ = replayed(rows, queue_pressure, rules=rules, keeps_limits=False)
    free, _ = replayed(rows, queue_pressure, rules=rules, keeps_limits=True)

    assert max(target.total for _, target in bound.replayed.trajectory) == 3
    assert free.differing == 0


def test_a_fleet_that_was_silent_is_nobodys_to_decide_on(reports: list[Report]) -> None:
    silent = Hold(HoldReason.MASS_FAILURE, "too much of the fleet is silent")
    row = recorded(reports[30], decision=silent, guarded=silent)

    _, [compared] = replayed([row], fixed_ratio)

    assert compared.replayed.decision == silent


def test_a_policy_that_fails_is_counted_and_keeps_its_target(reports: list[Report]) -> None:
    class Failing:
        def decide(self, snapshot: Any) -> Any:
            raise ValueError("no number")

    tally, compared = replayed([recorded(r) for r in reports[:30]], Failing)

    assert (tally.failures, tally.failure) == (30, "it raised ValueError: no number")
    assert {c.replayed.target for c in compared} == {reports[0].snapshot.target}


def test_the_narrow_reading_is_what_the_whole_report_says(reports: list[Report]) -> None:
    report = reports[40]
    again = from_json(Recorded, to_json(report))

    assert again == Recorded(
        cycle=report.cycle,
        snapshot=report.snapshot,
        decision=report.decision,
        guarded=report.guarded,
        target=report.target,
        epoch=report.epoch,
    )
    with pytest.raises(PermanentError, match="not a stored Report"):
        recorded_from("{")


def test_everything_kept_is_read_in_the_order_of_cycles_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    many = [a_report(cycle=n) for n in range(1, BATCH + 12)]
    # The clock was set back meanwhile.
    many[50] = replace(many[50], snapshot=replace(many[50].snapshot, now_unix_s=START_UNIX_S))
    path = kept_in(tmp_path / "journal.sqlite", many)
    before = folder(path)

    with open_journal(path) as reader:
        everything = {"from_unix_s": START_UNIX_S, "until_unix_s": START_UNIX_S + 1e6}
        found = list(reader.recorded(**everything))
        kept = reader.kept(**everything)
        few = list(
            reader.recorded(from_unix_s=START_UNIX_S + 20.0, until_unix_s=START_UNIX_S + 40.0)
        )

    assert [r.cycle for r in found if isinstance(r, Recorded)] == [r.cycle for r in many]
    assert kept is not None
    assert (kept.count, kept.from_unix_s) == (len(many), START_UNIX_S)
    assert [r.cycle for r in few if isinstance(r, Recorded)] == [2, 3, 4]
    assert folder(path) == before


async def test_a_journal_that_a_daemon_writes_is_read_beside_it(tmp_path: Path) -> None:
    path, log = tmp_path / "journal.sqlite", tmp_path / "journal.sqlite-wal"
    daemon = asyncio.get_running_loop()
    async with in_a_file(path).open() as journal:

        def read() -> list[int]:
            before = path.read_bytes(), log.read_bytes()
            with open_journal(path) as reader:
                reading = reader.recorded(from_unix_s=0.0, until_unix_s=math.inf)
                first = next(reading)
                assert (path.read_bytes(), log.read_bytes()) == before
                # In the midst of a reading the daemon goes on, and its log can be given back.
                appending = journal.append(a_report(cycle=3))
                asyncio.run_coroutine_threadsafe(appending, daemon).result(timeout=30)
                with closing(sqlite3.connect(path)) as other:
                    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
                return [r.cycle for r in (first, *reading) if isinstance(r, Recorded)]

        for cycle in (1, 2):
            await journal.append(a_report(cycle=cycle))
        assert await asyncio.to_thread(read) == [1, 2]
        await journal.append(a_report(cycle=4))


def test_files_that_are_no_journal_of_ours_are_refused_in_words(
    tmp_path: Path, journal: Path
) -> None:
    (tmp_path / "text").write_text("nothing of the kind\n" * 200)
    (tmp_path / "empty").touch()
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (x)")
    later = tmp_path / "later"
    later.write_bytes(journal.read_bytes())
    with closing(sqlite3.connect(later)) as changed:
        changed.execute("PRAGMA user_version = 99")

    for name, said in {
        "missing": "there is no journal",
        "text": "is no journal",
        "empty": "no journal of pd-autoscaler",
        "other": "no journal of pd-autoscaler",
        "later": "has schema version 99",
    }.items():
        with pytest.raises(ConfigError, match=said), open_journal(tmp_path / name):
            pass


class Run:
    """Runs `replay` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = invoke(["replay", *arguments])
        return (code, *self._capsys.readouterr())


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TZ", "UTC")
    return Run(capsys)


def test_people_are_told_which_decisions_differ_and_what_it_comes_to(
    run: Run, journal: Path
) -> None:
    code, out, error = run("--journal", str(journal), "--policy", "fixed-ratio", "--limit", "1")

    assert (code, error) == (0, "")
    said = " ".join(out.split())
    assert f"120 cycles of {journal}" in said
    assert "replayed through fixed-ratio" in said
    assert "open loop: what was recorded does not react to what is decided now" in said
    assert "target each cycle begins at the target it has reached by itself" in said
    assert "guard its defaults, within the limits that were recorded" in said
    assert "more such times; --limit shows more of them, --json all" in said
    assert "the same target after" in said
    for line in ("moves recorded", "node-hours recorded", "holds recorded"):
        assert line in said


def test_programs_get_every_difference_and_both_trajectories(
    run: Run, journal: Path, reports: list[Report]
) -> None:
    before = folder(journal)
    code, out, _ = run(
        *("--journal", str(journal), "--policy", "fixed-ratio", "--param", "ratio=3", "--json")
    )
    said = json.loads(out)
    tally, _ = replayed([recorded(r) for r in reports], fixed_ratio)

    assert code == 0
    assert said["is_open_loop"] is True
    assert said["params"] == {"ratio": 3}
    assert (said["cycles"], said["differing_cycles"]) == (CYCLES, tally.differing)
    assert [d["cycles"] for d in said["differences"]] == [s.cycles for s in tally.spans]
    first = tally.spans[0].first
    assert said["differences"][0]["replayed"]["target"]["prompt"] == first.replayed.target.prompt
    assert said["differences"][0]["recorded"]["guarded"]["kind"] in {"hold", "target"}
    assert [(t["prompt"], t["decoder"]) for t in said["replayed"]["trajectory"]] == [
        (target.prompt, target.decoder) for _, target in tally.replayed.trajectory
    ]
    assert folder(journal) == before


def test_settings_give_guard_policy_and_parameters(run: Run, journal: Path, tmp_path: Path) -> None:
    config = tmp_path / "pd.yaml"
    config.write_text(
        "loop: {policy: fixed-ratio, policy_params: {ratio: 3}}\n"
        "guard: {prompt_max: 2, decoder_max: 2, nodes_max: 3}\n"
    )
    _, out, _ = run("--journal", str(journal), "--config", str(config), "--json")
    said = json.loads(out)
    assert (said["policy"], said["params"], said["limits"]) == (
        "fixed-ratio",
        {"ratio": 3},
        "config",
    )
    assert max(t["prompt"] + t["decoder"] for t in said["replayed"]["trajectory"]) <= 3

    _, out, _ = run(
        *("--journal", str(journal), "--config", str(config), "--policy", "queue-pressure"),
        "--json",
    )
    assert json.loads(out)["params"] == {}


def test_a_span_of_time_is_replayed_alone(run: Run, journal: Path) -> None:
    span = ("--from", str(START_UNIX_S + 200.0), "--to", str(START_UNIX_S + 290.0))
    _, out, _ = run("--journal", str(journal), "--policy", "fixed-ratio", "--json", *span)
    assert json.loads(out)["cycles"] == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "fixd-ratio"), "no policy 'fixd-ratio', did you mean 'fixed-ratio'?"),
        (("--policy", "fixed-ratio", "--param", "x=1"), "no parameter 'x'"),
        ((), "give --policy, or --config for the policy that it names"),
        (("--policy", "fixed-ratio", "--from", "noon"), "--from 'noon' is not a time"),
        (("--policy", "fixed-ratio", "--from", "1000", "--to", "999"), "is later than --to 999"),
        (
            ("--policy", "fixed-ratio", "--to", "1000"),
            "keeps nothing of that time; it has 120 reports from ",
        ),
    ],
)
def test_wrong_input_is_one_sentence(
    run: Run, journal: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, out, error = run("--journal", str(journal), *arguments)
    assert (code, out, len(error.splitlines())) == (2, "", 1)
    assert said in error


def test_reports_of_another_version_are_counted_and_none_at_all_is_told(
    run: Run, tmp_path: Path, reports: list[Report]
) -> None:
    path = kept_in(tmp_path / "journal.sqlite", reports[:5])
    with closing(sqlite3.connect(path)) as changed, changed:
        changed.execute("UPDATE reports SET body = x'00' WHERE cycle = 2")
    code, out, _ = run("--journal", str(path), "--policy", "fixed-ratio", "--json")
    assert (code, json.loads(out)["cycles"], json.loads(out)["unreadable"]) == (0, 4, 1)

    with closing(sqlite3.connect(path)) as changed, changed:
        changed.execute("UPDATE reports SET body = x'00'")
    code, _, error = run("--journal", str(path), "--policy", "fixed-ratio")
    assert code == 2
    assert "none of the 5 reports" in error
