"""Scenarios: the traffic and the trouble that policies are compared on, by name.

Each is made from a seed: it draws what is generated, which requests of a trace are copied or left
out, and where in the trace the run begins. Their rates are scaled so that the fluid need is 8 nodes
on average (`Setting.nodes_mean`): a fleet of two or three says little of a ratio.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil
from pathlib import Path
from types import MappingProxyType

import numpy as np

from pd_autoscaler.engine_model.known import engine_profile
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.node import Role
from pd_autoscaler.model.snapshot import Limits
from pd_autoscaler.sim.bounds import fluid_bound, fluid_need
from pd_autoscaler.sim.experiment import Scenario, Strike, delays_of
from pd_autoscaler.sim.faults import CallFault, WorldFault
from pd_autoscaler.sim.records import SLOS, Slo
from pd_autoscaler.workload.arrivals import Arrivals
from pd_autoscaler.workload.drawn import drawn
from pd_autoscaler.workload.generated import Phase
from pd_autoscaler.workload.joining import superposed
from pd_autoscaler.workload.rate_table import read_rates
from pd_autoscaler.workload.rates import Rates
from pd_autoscaler.workload.reading import read_arrivals
from pd_autoscaler.workload.reshaping import scaled, started_at
from pd_autoscaler.workload.shapes import CHAT, DAY_S, day, mix_shift, sine, steps

AZURE_CONVERSATION = "AzureLLMInferenceTrace_conv_2023.csv"
AZURE_CODE = "AzureLLMInferenceTrace_code_2023.csv"
MOONCAKE = "mooncake_conversation_trace.jsonl"
SERVEGEN = "servegen_language_m-mid_10min.csv"
OFFSETS = 10
"""Runs over a trace begin at one of so many moments, evenly through it."""
SAMPLE = 20_000
"""Requests that are drawn to see how many are needed."""
DAY_PERIOD_S, FORTNIGHT_PERIOD_S = 30.0, 60.0
"""Seconds of a cycle over days, where the load moves slowly."""
NODES_MAX = 200
NODES_MEAN = 8.0
BUDGET, BUDGET_MIN = 10.0, 20
"""An operator's budget where the fluid need is set, in times that need, and at the least: without
one, rules that run away in a burst would be measured by how far they get."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all scenarios of a comparison share.

    `data` is the folder with the traces of the scenarios, `nodes_mean` the fluid need (at 0.8
    utilisation) that rates are scaled to (None: a scenario's own mean, a trace of yours as it is),
    `lead_s` and `link_s` the mean times until a node may link and of a link. `nodes_max` is the
    operator's budget where it is not the usual one of that need.
    """

    data: Path = Path()
    profile: EngineProfile = field(default_factory=lambda: engine_profile("llama-2-70b-h100"))
    slo: Slo = SLOS[0]
    nodes_mean: float | None = None
    lead_s: float = 155.0
    link_s: float = 1.0
    period_s: float = 10.0
    nodes_max: int | None = None


def scenario(name: str, setting: Setting, seed: int) -> Scenario:
    """Make a scenario by its name (S1 to S12), or of the trace in a file, from a seed.

    Raises ConfigError for a name that is neither, or a trace that cannot be read.
    """
    generator = np.random.default_rng([seed, *name.encode()])
    make = SCENARIOS.get(name)
    if make is not None:
        scaling = NODES_MEAN if setting.nodes_mean is None else setting.nodes_mean
        return make(replace(setting, nodes_mean=scaling), generator, seed)
    if not _exists(name):
        raise ConfigError(
            f"no scenario is called {name!r}, and no such file is there; scenarios are "
            f"{', '.join(SCENARIOS)}"
        )
    arrivals = read_arrivals(name, seed=seed)
    return of_arrivals(Path(name).name, sized(arrivals, setting, generator), setting)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # A name that is too long for any file.
        return False


def of_arrivals(name: str, arrivals: Arrivals, setting: Setting) -> Scenario:
    """Return a scenario without trouble; it begins with the fleet that its first minutes need."""
    delays = delays_of(setting.lead_s, setting.link_s)
    nodes_max = setting.nodes_max or budget_of(setting.nodes_mean)
    return Scenario(
        name=name,
        arrivals=arrivals,
        profile=setting.profile,
        initial=first_fleet(arrivals, setting.profile, setting.slo),
        slo=setting.slo,
        limits=Limits(prompt_max=nodes_max, decoder_max=nodes_max, nodes_max=nodes_max),
        delays=delays,
        period_s=setting.period_s,
    )


def budget_of(nodes_mean: float | None) -> int:
    """Return how many nodes a fleet may have whose load needs so many on average."""
    return NODES_MAX if nodes_mean is None else max(BUDGET_MIN, ceil(BUDGET * nodes_mean))


def first_fleet(arrivals: Arrivals, profile: EngineProfile, slo: Slo) -> Target:
    """Return the most that any of the first five minutes needs at 0.8 utilisation."""
    until_s = min(300.0, max(arrivals.span_s, 1.0))
    return fluid_bound(fluid_need(arrivals, profile, slo, until_s=until_s)).between(0.0, until_s)


def sized(arrivals: Arrivals, setting: Setting, generator: np.random.Generator) -> Arrivals:
    """Scale the rate so that the fluid need is the setting's on average, if it has one."""
    if setting.nodes_mean is None:
        return arrivals
    return scaled(arrivals, setting.nodes_mean / _nodes(arrivals, setting), generator)


def _nodes(arrivals: Arrivals, setting: Setting) -> float:
    """Return the fluid need of both roles on average, at 0.8 utilisation."""
    need = fluid_need(arrivals, setting.profile, setting.slo)
    return float(np.mean(need.prompt + need.decoder)) / 0.8


Make = Callable[[Setting, np.random.Generator, int], Scenario]


def _trace(name: str, files: tuple[str, ...]) -> Make:
    def make(setting: Setting, generator: np.random.Generator, seed: int) -> Scenario:
        loads = [read_arrivals(setting.data / file) for file in files]
        whole = superposed(*loads) if len(loads) > 1 else loads[0]
        moved = started_at(whole, (seed % OFFSETS) / OFFSETS * whole.span_s)
        return of_arrivals(name, sized(moved, setting, generator), setting)

    return make


def _generated(name: str, rates: Callable[[], Rates]) -> Make:
    def make(setting: Setting, generator: np.random.Generator, seed: int) -> Scenario:
        del seed
        return of_arrivals(name, _drawn(rates(), setting, generator), setting)

    return make


def _drawn(rates: Rates, setting: Setting, generator: np.random.Generator) -> Arrivals:
    """Draw as many requests as the setting's nodes need; a few tell how many these are."""
    few = min(1.0, SAMPLE / rates.requests)
    need = _nodes(drawn(rates.thinned(few), generator), setting) / few
    share = min(1.0, (setting.nodes_mean or NODES_MEAN) / need)
    return sized(drawn(rates.thinned(share), generator), setting, generator)


def _day(setting: Setting, generator: np.random.Generator, seed: int) -> Scenario:
    slow = replace(setting, period_s=max(setting.period_s, DAY_PERIOD_S))
    rates = partial(day, CHAT, swing=12.0, burstiness=2.0)
    return _generated("S3", rates)(slow, generator, seed)


def _fortnight(setting: Setting, generator: np.random.Generator, seed: int) -> Scenario:
    """One day of the fortnight, another for each seed."""
    slow = replace(setting, period_s=max(setting.period_s, FORTNIGHT_PERIOD_S))
    begin_s = (seed % 14) * DAY_S
    of_day = read_rates(setting.data / SERVEGEN).between(begin_s, begin_s + DAY_S)
    return of_arrivals("S4", _drawn(of_day, slow, generator), slow)


def _troubled(name: str, trouble: Callable[[Scenario, int], Scenario]) -> Make:
    def make(setting: Setting, generator: np.random.Generator, seed: int) -> Scenario:
        calm = _trace(name, (AZURE_CONVERSATION,))(setting, generator, seed)
        return trouble(calm, seed)

    return make


def _deaths(calm: Scenario, seed: int) -> Scenario:
    del seed
    return replace(
        calm,
        strikes=(
            Strike(900.0, Role.PROMPT),
            Strike(1800.0, Role.DECODER),
            Strike(2700.0, Role.PROMPT, share=0.2),
            Strike(2700.0, Role.DECODER, share=0.2),
        ),
    )


def _bad_links(calm: Scenario, seed: int) -> Scenario:
    """From 1 to 20 % of link calls fail by the seed, they are slow, and one pair never links."""
    return replace(
        calm,
        faults={CallFault.LINK_FAILS: (0.01, 0.05, 0.20)[seed % 3]},
        delays=replace(calm.delays, link=delays_of(1.0, 10.0).link),
        partitioned=1,
        links_max=512,
    )


def _slow_starts(calm: Scenario, seed: int) -> Scenario:
    del seed
    start = delays_of(155.0, cv=1.0).start
    return replace(
        calm,
        faults={CallFault.START_NEVER: 0.05},
        delays=replace(calm.delays, start=start),
    )


def _bad_pages(calm: Scenario, seed: int) -> Scenario:
    """A tenth of the pages is missing, some are 30 s old, and counters begin again."""
    del seed
    return replace(
        calm,
        faults={
            CallFault.SCRAPE_PARTIAL: 0.10,
            CallFault.SCRAPE_STALE: 0.05,
            WorldFault.COUNTER_RESET: 6.0,
        },
    )


_MIX = Phase(name="chat", for_s=1200, request_per_s=5.5, input_tokens=1150, output_tokens=210)

SCENARIOS: Mapping[str, Make] = MappingProxyType(
    {
        "S1": _trace("S1", (AZURE_CONVERSATION,)),
        "S2": _trace("S2", (AZURE_CONVERSATION, AZURE_CODE)),
        "S3": _day,
        "S4": _fortnight,
        "S5": _trace("S5", (MOONCAKE,)),
        "S6": _generated("S6", partial(steps, CHAT)),
        "S7": _generated("S7", partial(mix_shift, _MIX)),
        "S8": _generated("S8", partial(sine, CHAT)),
        "S9": _troubled("S9", _deaths),
        "S10": _troubled("S10", _bad_links),
        "S11": _troubled("S11", _slow_starts),
        "S12": _troubled("S12", _bad_pages),
    }
)
"""S1 a chat hour, S2 with code beside it, S3 a day, S4 a day of a fortnight, S5 long prompts with
shared prefixes, S6 bursts, S7 a mix that shifts, S8 a wave, S9 deaths, S10 bad links, S11 starts
that are slow or in vain, S12 bad metrics."""
