"""An experiment by a daemon's own settings: they hold in place of what the scenario says."""

from dataclasses import replace

from pd_autoscaler.core.rules import GuardRules, Rules
from pd_autoscaler.core.snapshots import SignalRules
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.snapshot import Limits, Snapshot
from pd_autoscaler.runtime.loop import LoopSettings
from pd_autoscaler.sim.experiment import FREE, Scenario, delays_of, run_experiment
from pd_autoscaler.workload.arrivals import arrivals_of
from pd_autoscaler.workload.request import Request


class Greedy:
    """Asks for many nodes in every cycle, and remembers the limits that it was shown."""

    def __init__(self) -> None:
        self.limits: set[Limits] = set()

    def decide(self, snapshot: Snapshot) -> Decision:
        self.limits.add(snapshot.limits)
        return Target(9, 9)


def test_a_daemons_settings_hold_in_place_of_the_scenarios() -> None:
    limits = Limits(prompt_max=3, decoder_max=2, nodes_max=5)
    scenario = Scenario(
        name="daemon's",
        arrivals=arrivals_of([Request(at_s, 100, 10) for at_s in range(60)]),
        profile=DEMO,
        initial=Target(1, 1),
        delays=delays_of(2.0),
        limits=Limits(prompt_max=7, decoder_max=7, nodes_max=14),
        period_s=10.0,
    )
    loop = LoopSettings(
        period_s=2.0,
        rules=Rules(guard=replace(FREE, limits=limits)),
        signals=SignalRules(window_s=4.0, age_max_s=6.0),
    )
    policy = Greedy()

    run = run_experiment(
        replace(scenario, loop=loop), policy, name="greedy", guard=GuardRules(up_window_s=600.0)
    )

    assert policy.limits == {limits}
    assert run.samples[-1].target == Target(3, 2)
    # A cycle every two seconds, and some that were begun early.
    assert len(run.samples) >= 30
    assert run_experiment(scenario, Greedy(), name="greedy").samples[-1].target != Target(3, 2)
