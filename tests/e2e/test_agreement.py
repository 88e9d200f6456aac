"""A daemon on the embedded cluster, and its simulation on the same requests, decide alike.

The daemon reads pages of real processes over HTTP, starts and links real nodes, and has the wall
clock; the simulation has the same settings, policy, requests and engine profile in virtual time,
and takes from the daemon only how long nodes took to come. Tolerance and what was measured are in
docs/simulation.md.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import anyio
import pytest

from pd_autoscaler import settings
from pd_autoscaler.adapters.journal_reader import open_journal
from pd_autoscaler.embedded.demo import DEMO as DEMONSTRATION
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.report import Recorded
from pd_autoscaler.model.snapshot import LeadTime
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.runtime.loop import LoopSettings
from pd_autoscaler.settings import Settings
from pd_autoscaler.sim.agreement import Agreement, Course, agreement
from pd_autoscaler.sim.experiment import Scenario, run_experiment
from pd_autoscaler.sim.fleet.delays import Delays, LogNormal
from pd_autoscaler.workload.arrivals import arrivals_of
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.shaping import compressed, evenly
from pd_autoscaler.workload.trace import read_trace
from tests.support.cluster import cluster_process
from tests.support.daemon import WITHIN_S, Bed, daemon, until
from tests.support.real_data import real_data

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TRACE = "traces/AzureLLMInferenceTrace_conv_2023.csv"
SPEED = 15.0
FROM_S, UNTIL_S = 840.0, 2190.0
"""Of the hour: the minutes in which inputs per output double, and those before them."""
FOR_S = (UNTIL_S - FROM_S) / SPEED
TURNS_S = (0.0, (1290.0 - FROM_S) / SPEED)
"""The load begins, on too few decoders; input tokens an output token begin to rise from 5 to 11."""
FOUND = Target(prompt=3, decoder=1)

APART_MAX = 0.3
"""Nodes of a role, averaged over the run."""
FOR_LONG_S = 20.0
"""No difference lasts longer."""
LAST_MAX = 1
"""Nodes of a role at the end: one may be asked for just before it."""

SEEN_LATE_S = {"start": 0.5, "init": 0.3, "link": 0.2, "switch": 0.3}
"""What a phase looks longer than it is, by the cycles that see its end: half a period where nobody
tells of it, else what simulated nodes that take no time seem to take."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a daemon decided, cycle by cycle; the load began at `load_at_s` of its clock."""

    settings: Settings
    requests: Sequence[Request]
    cycles: Sequence[Recorded]
    load_at_s: float

    @property
    def course(self) -> Course:
        """Its standing targets, in seconds since the load began."""
        return [(cycle.snapshot.now_s - self.load_at_s, cycle.target) for cycle in self.cycles]


@pytest.fixture(name="recording", scope="module")
def _recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    trace, folder = real_data(TRACE), tmp_path_factory.mktemp("agreement")
    part = folder / "part.csv"
    head, *rows = trace.read_text().splitlines()
    times = [request.at_s for request in read_trace(trace)]
    kept = [row for row, at_s in zip(rows, times, strict=True) if FROM_S <= at_s < UNTIL_S]
    part.write_text("\n".join([head, *kept]) + "\n")
    return asyncio.run(_recorded(part, folder))


async def _recorded(trace: Path, folder: Path) -> Recording:
    """Run a daemon on an embedded cluster under this trace, to its end."""
    config, journal = folder / "pd-autoscaler.yaml", folder / "journal.sqlite"
    load = ("--trace", str(trace), "--speed", str(SPEED), "--for", str(FOR_S), "--load-when-ready")
    nodes = ("--nodes", f"prompt={FOUND.prompt},decoder={FOUND.decoder}")
    async with (
        cluster_process(*load, *nodes, "--drain", "1", "--config-out", str(config)) as cluster,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session,
    ):
        made = Bed(cluster, config, session)
        made.change(
            # Embedded decoders keep KV for a whole answer, simulated ones for what is there (see
            # docs/simulation.md): here the step time shall say how many requests one has.
            loop={"policy_params": {**DEMONSTRATION["loop"]["policy_params"], "kv_share": 1.0}},
            # Room for what each role wants: a full budget would couple every small difference.
            guard={"nodes_max": 10},
            # Fifteen times faster, as the trace.
            capacity={"demand_half_life_s": 4.0},
            journal={"path": str(journal)},
            admin={"port": 0},
        )
        # Nodes that the daemon sees start are measured: these were not asked for by it.
        await until(made.nodes, lambda rows: all(row["agent_urls"] for row in rows.values()))
        async with daemon(config, session):
            load_at_s = await _to_the_end(made)
    with open_journal(journal) as reader:
        cycles = [
            cycle
            for cycle in reader.recorded(from_unix_s=0.0, until_unix_s=math.inf)
            if isinstance(cycle, Recorded)
        ]
    requests = compressed(read_trace(trace), SPEED)
    return Recording(settings.load(config), requests, cycles, load_at_s)


async def _to_the_end(made: Bed) -> float:
    """Wait until the load has passed; return when it began, by the clock that processes share."""
    began = await made.until_load(lambda load: load["state"] == "running")
    load_at_s = anyio.current_time() - float(began["elapsed_s"])
    await anyio.sleep_until(load_at_s + FOR_S)
    ended = await made.load()
    assert ended["failed"] == 0, ended
    return load_at_s


def simulated(
    recording: Recording,
    *,
    share: float = 1.0,
    policy: str | None = None,
    params: Mapping[str, object] | None = None,
) -> Course:
    """Return the targets of a simulation of the same run, or of one that is wrong in some way."""
    loaded, first = recording.settings, recording.cycles[0].snapshot
    load_at_s = recording.load_at_s - first.now_s
    requests = [recording.requests[n] for n in evenly(len(recording.requests), 1 / share)]
    scenario = Scenario(
        name="agreement",
        arrivals=arrivals_of(replace(r, at_s=load_at_s + r.at_s) for r in requests),
        profile=DEMO,
        initial=FOUND,
        delays=_delays(recording.cycles[-1].snapshot.lead_times),
        can_switch_roles=True,
        patience_s=math.inf,
        loop=LoopSettings(
            period_s=loaded.loop.period_s,
            gap_min_s=loaded.loop.cycle_gap_min_s,
            rules=loaded.rules(),
            signals=loaded.signal_rules(),
        ),
    )
    name = policy or loaded.loop.policy
    made = load_policy(name, loaded.loop.policy_params if policy is None else params or {})
    run = run_experiment(scenario, made, name=name)
    return [(sample.at_s - load_at_s, sample.target) for sample in run.samples]


def _delays(measured: Mapping[str, LeadTime]) -> Delays:
    def usual(phase: str, otherwise_s: float) -> LogNormal:
        if phase not in measured:
            return LogNormal(otherwise_s, 0.05)
        return LogNormal(max(0.0, measured[phase].p50_s - SEEN_LATE_S[phase]), 0.05)

    return Delays(
        start=usual("start", DEMO.start_s),
        init=usual("init", 0.0),
        link=usual("link", 0.5),
        switch=usual("switch", DEMO.flip_s),
        stop=LogNormal(0.5, 0.05),
    )


def compared(recording: Recording, course: Course) -> Agreement:
    return agreement(
        recording.course,
        course,
        from_s=0.0,
        until_s=FOR_S,
        lasting_s=FOR_LONG_S,
        turns=TURNS_S,
    )


def is_within(found: Agreement) -> bool:
    """Whether two courses agree within the tolerance."""
    return all(turn.is_agreed for turn in found.turns) and all(
        role.apart <= APART_MAX
        and role.apart_for_long == 0
        and abs(role.last[0] - role.last[1]) <= LAST_MAX
        for role in found.roles.values()
    )


def test_a_daemon_and_its_simulation_decide_alike(recording: Recording) -> None:
    found = compared(recording, simulated(recording))
    assert is_within(found), f"{found.roles}; {found.turns}"
    # There was something to decide: each role grew in both, and at each turn something did.
    assert all(min(role.changes) >= 1 for role in found.roles.values()), found
    assert all(turn.first for turn in found.turns), found


def test_a_simulation_of_half_the_load_is_told_apart(recording: Recording) -> None:
    assert not is_within(compared(recording, simulated(recording, share=0.5)))


def test_a_simulation_of_another_policy_is_told_apart(recording: Recording) -> None:
    as_quick = {"settle_s": 2.0, "drain_s": 3.0}
    other = simulated(recording, policy="queue-pressure", params=as_quick)
    assert not is_within(compared(recording, other))
