"""What every journal says of a past moment: the report that was the newest then."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pd_autoscaler.errors import PermanentError
from pd_autoscaler.model.decision import Gate, HoldReason
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.report import Report
from pd_autoscaler.ports import Journal
from pd_autoscaler.sim.journal import REPORTS_KEPT_MAX, Memory, SimJournal
from pd_autoscaler.sim.loop import run
from tests.support.journals import Place, in_a_file, in_memory
from tests.support.ports_fakes import FakeJournal
from tests.support.reports import START_UNIX_S, a_busy_report, a_report
from tests.support.sim import step_of, world_of

Story = Callable[[Journal], Coroutine[Any, Any, None]]
Told = Callable[[Story], None]


@pytest.fixture(params=["file", "memory", "simulation", "fake"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Told:
    """Run a story with a journal of each kind, each on the clock it is made for."""

    def simulated(story: Story) -> None:
        run(lambda: story(SimJournal(step_of(world_of(prompts=0, decoders=0)), Memory())))

    def faked(story: Story) -> None:
        run(lambda: story(FakeJournal()))

    def real(story: Story) -> None:
        async def main(place: Place) -> None:
            async with place.open() as journal:
                await story(journal)

        is_file = request.param == "file"
        # A factory of its own: the runner then leaves alone the loops of other tests.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(main(in_a_file(tmp_path / "journal.db") if is_file else in_memory()))

    return {"simulation": simulated, "fake": faked}.get(request.param, real)


def at(cycle: int, ago_s: float) -> Report:
    """Return a report of some seconds before the start, as after a change of the clock."""
    report = a_report(cycle=cycle)
    return replace(report, snapshot=replace(report.snapshot, now_unix_s=START_UNIX_S - ago_s))


def test_the_newest_report_that_is_not_later_is_found(told: Told) -> None:
    async def story(journal: Journal) -> None:
        for cycle, ago_s in ((1, 30.0), (2, 20.0), (3, 10.0)):
            await journal.append(at(cycle, ago_s))

        found = {ago_s: await journal.report_at(START_UNIX_S - ago_s) for ago_s in (0, 10, 11, 30)}
        assert {k: r.cycle if r else None for k, r in found.items()} == {0: 3, 10: 3, 11: 2, 30: 1}
        assert await journal.report_at(START_UNIX_S - 30.001) is None
        newest = await journal.report_at(None)
        assert newest is not None
        assert newest.cycle == 3

    told(story)


def test_of_two_reports_of_one_moment_the_later_cycle_is_told(told: Told) -> None:
    async def story(journal: Journal) -> None:
        for cycle in (1, 2):
            await journal.append(at(cycle, 10.0))

        found = await journal.report_at(START_UNIX_S)
        assert found is not None
        assert found.cycle == 2

    told(story)


def test_a_journal_says_from_when_on_it_keeps_reports(told: Told) -> None:
    async def story(journal: Journal) -> None:
        assert (await journal.kept_since(), await journal.report_at(None)) == (None, None)
        for cycle, ago_s in ((1, 30.0), (2, 20.0)):
            await journal.append(at(cycle, ago_s))

        assert await journal.kept_since() == START_UNIX_S - 30.0

    told(story)


def test_a_report_comes_back_whole_with_its_gates(told: Told) -> None:
    gates = (Gate(HoldReason.COOLDOWN, Role.PROMPT, "43 s"), Gate(HoldReason.BUDGET))
    report = replace(a_busy_report(), gates=gates)

    async def story(journal: Journal) -> None:
        await journal.append(report)
        assert await journal.report_at(None) == report

    told(story)


def test_a_simulation_keeps_only_the_newest_reports() -> None:
    async def story() -> None:
        journal = SimJournal(step_of(world_of(prompts=0, decoders=0)), Memory())
        for cycle in range(REPORTS_KEPT_MAX + 1):
            await journal.append(a_report(cycle=cycle))
        assert await journal.kept_since() == a_report(cycle=1).snapshot.now_unix_s

    run(story)


async def test_a_report_that_is_damaged_is_a_permanent_error() -> None:
    async with in_memory().open() as journal:
        await journal.append(a_report())
        journal._connection.execute("UPDATE reports SET body = x'00'")
        with pytest.raises(PermanentError, match="damaged"):
            await journal.report_at(None)


async def test_a_report_of_another_version_is_a_permanent_error() -> None:
    async with in_memory().open() as journal:
        await journal.append(a_report())
        journal._connection.execute("UPDATE reports SET body = x'789c030000000001'")
        with pytest.raises(PermanentError, match="not a stored Report"):
            await journal.report_at(None)
