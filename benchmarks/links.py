"""How long linking takes, against the least that the library's own rules allow.

`python -m benchmarks.links [--json] [--case NAME]`

Real: the control loop, planner, actuator, agent client, journal and admin API as `app.py` composes
them, in this process; agents over HTTP beside simulated libraries over TCP, in processes of their
own; the embedded cluster's router in another. The provider is static, its spares are initialised
and unlinked. The simulated library takes `init_s` for a link, one at a time in a process and on
both ends, then `prepare_s`, and serves 16 handshakes at a time.

Joins: the clock runs from the call that sets the target to the last entry in a library's table, as
it is seen by looking each 20 ms; the newcomers are provided and initialised by then. Repair: links
are dropped by force at the decoders' agents, in the controller's name and behind its back, just
after a cycle has ended; the clock runs from the last one dropped, so noticing costs what is left of
the period. The bound is calls at the busiest process x t_init + t_prepare, at most 16 at a time.

Where the aim is missed: with the prompt side in parallel a whole wave of calls ends at once, and
its slots stay empty while the loop waits its smallest gap, reads every agent and begins the next;
four waves pay for that four times. The first repair row has the time to notice in it, the second
has not.

Not the defaults: links.timeout_ms is 20,000 (3,000), links.deadline_s 60 (10), and for the repair
loop.period_s 1 (10): with the default a break may go unseen for ten seconds. The pages that are
scraped are the agents' own, smaller than an engine's.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from benchmarks.support.fleet import BenchFleet, Fence, running_fleet
from benchmarks.support.link_cases import CASES, Case, members_of
from benchmarks.support.phases import Phases
from benchmarks.support.rows import Row, compared, measured, printed

from pd_autoscaler import app
from pd_autoscaler.model.node import Role
from pd_autoscaler.ports import Control
from pd_autoscaler.settings import (
    AdminSettings,
    GuardSettings,
    JournalSettings,
    LinkSettings,
    LoopSettings,
    ProviderSettings,
    RouterSettings,
    ScrapeSettings,
    Settings,
    StaticNode,
)

AIM = 1.15

_NODES_MAX = 1024
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What the simulated library costs, and what the controller allows a link; in seconds."""

    init_s: float = 0.2
    prepare_s: float = 1.0
    timeout_ms: int = 20_000
    deadline_s: float = 60.0
    processes: int = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: when the last link was up in the libraries, and what it took."""

    phases: Phases
    changed_at_s: float
    cpu_s: float

    def since(self, at_s: float) -> float:
        """Return the makespan from a moment on."""
        return self.changed_at_s - at_s


def settings_of(case: Case, fleet: BenchFleet, times: Times, folder: Path) -> Settings:
    """Return the controller's settings: the defaults, but for sizes, places and link time-outs."""
    short_s = min(2.5, case.period_s / 2)
    return Settings(
        loop=LoopSettings(
            period_s=case.period_s, policy="fixed-ratio", policy_deadline_s=min(5.0, short_s)
        ),
        scrape=ScrapeSettings(deadline_s=short_s, jitter_s=0),
        guard=GuardSettings(prompt_max=_NODES_MAX, decoder_max=_NODES_MAX, nodes_max=_NODES_MAX),
        links=LinkSettings(timeout_ms=times.timeout_ms, deadline_s=times.deadline_s),
        provider=ProviderSettings(
            kind="static",
            nodes=tuple(
                StaticNode(
                    id=member.id,
                    role=member.role,
                    agent_urls=(fleet.agents[member.id],),
                    metrics_url=f"{fleet.agents[member.id]}/metrics",
                    engine_url=fleet.agents[member.id],
                    is_standby=member.is_spare,
                )
                for member in fleet.members
            ),
        ),
        router=RouterSettings(url=fleet.router_url),
        journal=JournalSettings(path=folder / "journal.sqlite"),
        admin=AdminSettings(port=0),
    )


@asynccontextmanager
async def _controlled(
    case: Case, fleet: BenchFleet, times: Times, phases: Phases
) -> AsyncIterator[app.Controller]:
    """Run the production controller; it does nothing but look until it is told to."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(case, fleet, times, Path(folder))
        async with app.controller(settings, [phases]) as controller:
            await controller.loop.control.pause(everything=True)
            async with anyio.create_task_group() as group:
                group.start_soon(controller.loop.run)
                try:
                    yield controller
                finally:
                    group.cancel_scope.cancel()


async def _broken(fleet: BenchFleet, count: int, fences: Mapping[str, Fence]) -> None:
    """Drop so many links, row by row, all decoders at once."""
    prompts = fleet.of(Role.PROMPT)
    async with anyio.create_task_group() as group:
        for decoder in fleet.of(Role.DECODER):
            lost = prompts[: min(count, len(prompts))]
            group.start_soon(fleet.cut, decoder, lost, fences[decoder.id])
            count -= len(lost)
            if not count:
                break


async def run(case: Case, times: Times) -> Measured:
    """Run one case and return what it took; raises RuntimeError if a link is missing."""
    members = members_of(case)
    prompts = [m for m in members if m.role is Role.PROMPT]
    decoders = [m for m in members if m.role is Role.DECODER]
    phases = Phases(len(prompts) * len(decoders), len(members))
    patience_s = 60.0 + 10 * case.bound_s(init_s=times.init_s, prepare_s=times.prepare_s)
    with anyio.fail_after(patience_s):
        async with (
            running_fleet(
                members, init_s=times.init_s, prepare_s=times.prepare_s, processes=times.processes
            ) as fleet,
            _controlled(case, fleet, times, phases) as controller,
        ):
            await fleet.publish()
            while not phases.serves(case.prompt + case.decoder):
                await phases.cycle()
            cpu_s = await _begun(case, fleet, controller.loop.control, phases)
            await phases.ended()
            cpu_s = time.process_time() - cpu_s
            tables = await fleet.tables()
    missing = [(d.id, p.id) for d in decoders for p in prompts if not tables.has(d, p)]
    if missing:
        raise RuntimeError(f"the libraries lack {len(missing)} links, {missing[0]} among them")
    return Measured(phases, tables.changed_at_s, cpu_s)


async def _begun(case: Case, fleet: BenchFleet, control: Control, phases: Phases) -> float:
    """Have the nodes join, or their links broken; return the process's CPU seconds just then."""
    target = (case.prompt + case.prompt_new, case.decoder + case.decoder_new)
    if not case.broken:
        phases.began_s = anyio.current_time()
        cpu_s = time.process_time()
        await control.scale(*target)
        return cpu_s
    await control.scale(*target)
    while not phases.is_whole:
        await phases.cycle()
    fences = {d.id: await fleet.fence(d) for d in fleet.of(Role.DECODER)}
    # Once more: from the end of this cycle nothing happens until the next period.
    await phases.cycle()
    phases.cut_s = anyio.current_time()
    await _broken(fleet, case.broken, fences)
    phases.began_s = anyio.current_time()
    return time.process_time()


def rows_of(case: Case, found: Measured, times: Times) -> list[Row]:
    """Return the figures of one case."""
    phases, title = found.phases, case.title
    bound_s = case.bound_s(init_s=times.init_s, prepare_s=times.prepare_s)
    took_s = found.since(phases.began_s)
    rows = [compared(f"{title}: all linked", took_s, "s", reference=bound_s, aim=AIM)]
    if case.broken:
        repaired_s = found.since(phases.noticed_s)
        rows.append(
            compared(f"{title}: from noticing on", repaired_s, "s", reference=bound_s, aim=AIM)
        )
    rows.append(measured(f"{title}: all served", phases.ended_s - phases.began_s, "s"))
    rows.append(measured(f"{title}: controller CPU", found.cpu_s, "s"))
    return rows


def told(case: Case, found: Measured) -> Iterator[str]:
    """Say, phase by phase, how one case went."""
    phases = found.phases
    began_s = phases.began_s
    yield f"{case.title}:"
    if case.broken:
        dropped_s = began_s - phases.cut_s
        yield f"  dropped within  {dropped_s:7.2f} s"
        yield f"  noticed         {phases.noticed_s - began_s:7.2f} s"
    yield f"  first call      {phases.called_s - began_s:7.2f} s"
    yield f"  last link       {found.since(began_s):7.2f} s"
    yield f"  seen by cycle   {phases.linked_s - began_s:7.2f} s"
    yield f"  all served      {phases.ended_s - began_s:7.2f} s"
    spent = ", ".join(f"{phase} {s:.2f} s" for phase, s in phases.spent_s.items())
    yield f"  {phases.cycles} cycles: {spent}"
    yield f"  {phases.failed} calls not done {phases.codes or ''}"


def _undisturbed(case: Case, times: Times) -> Measured:
    """Run a case until no cycle looked while links were being dropped: that gives a head start."""
    for _ in range(_TRIES):
        found = anyio.run(run, case, times)
        if not found.phases.early:
            return found
        print("once more: a cycle looked while links were being dropped", flush=True)
    raise RuntimeError(f"{case.title}: dropping takes longer than a period here")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases that were asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.links", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--case", choices=CASES, action="append", help="by default all of them")
    parser.add_argument("--divide", type=int, default=1, help="divide every count by this")
    parser.add_argument("--init-s", type=float, default=Times().init_s)
    parser.add_argument("--prepare-s", type=float, default=Times().prepare_s)
    parser.add_argument("--timeout-ms", type=int, default=Times().timeout_ms)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.ERROR)
    times = Times(init_s=args.init_s, prepare_s=args.prepare_s, timeout_ms=args.timeout_ms)
    rows: list[Row] = []
    print(f"t_init {times.init_s:g} s, t_prepare {times.prepare_s:g} s", flush=True)
    for name in args.case or CASES:
        case = CASES[name].divided(args.divide)
        found = _undisturbed(case, times)
        print("\n".join(told(case, found)), flush=True)
        rows += rows_of(case, found, times)
    printed("links", rows, is_json=args.json)


if __name__ == "__main__":
    main()
