"""How many requests the simulator passes through a fleet in a second of CPU time.

`python -m benchmarks.simulate [--json] [--data DIR] [--only kernel|growth|whole]`

The fleet is static: Llama-2-70B on DGX-H100 nodes (`engine_model.known`), as many of each role as
the trace's mean load needs at 70 % use. Kernel: the real hour, repeated end to end until the run
takes a second and more; CPU time of the process from the first arrival to the last token, machine
code compiled before. Reference: the same nodes, batches, links and steps as a plain simulation in
SimPy, a time-out a step, over the first requests of the same input, in the same run; its time
depends on how many tokens a request has, the kernel's does not. It has no preemption, no faults and
no metrics; how far its mean time to the last token is from the kernel's over the same requests is a
row of its own.
Loop and policy: the hours as they are, with the production loop, planner, actuator and the policy
`slo`; the best of three runs. The Mooncake hour is sized for twice: for DeepSeek-R1 on Ascend 910C
at the targets its authors publish for it (30 s and 100 ms; Mooncake, FAST '25), and for the profile
and the targets of chat that the other hours have, which take many more nodes: what a cycle costs
grows with them. Nearly all of the time is the loop's, a cycle's cost times their number, so that
the first also runs in cycles of 30 s (KEDA's default) beside the default of 10 s. The aim is missed
in cycles of 10 s: they are 360 times the daemon's own code, in Python, of which no part is large.
Growth: CPU time a request over the Mooncake hour at 100,000, 1 and 10 million requests.
"""

import argparse
import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import simpy
from benchmarks.support.rows import Row, compared, measured, printed
from benchmarks.support.simpy_fleet import SimpyFleet

from pd_autoscaler.engine_model.known import KNOWN
from pd_autoscaler.engine_model.profile import EngineProfile
from pd_autoscaler.model.node import Role
from pd_autoscaler.sim.contestant import contestant
from pd_autoscaler.sim.experiment import run_experiment
from pd_autoscaler.sim.fleet.requests.fleet import RequestFleet
from pd_autoscaler.sim.records import slo_named
from pd_autoscaler.sim.scenarios import Setting, of_arrivals
from pd_autoscaler.sim.score import scored
from pd_autoscaler.workload.arrivals import Arrivals
from pd_autoscaler.workload.reading import read_arrivals

PROFILE = "llama-2-70b-h100"
TRACES = {
    "Mooncake conversation hour": "mooncake_conversation_trace.jsonl",
    "Azure conversation hour": "AzureLLMInferenceTrace_conv_2023.csv",
    "Azure code hour": "AzureLLMInferenceTrace_code_2023.csv",
}
WHOLE = (
    ("Mooncake conversation hour", "deepseek-r1-910c", "relaxed", 10.0),
    ("Mooncake conversation hour", "deepseek-r1-910c", "relaxed", 30.0),
    ("Mooncake conversation hour", PROFILE, "chat", 10.0),
    ("Azure conversation hour", PROFILE, "chat", 10.0),
    ("Azure code hour", PROFILE, "chat", 10.0),
)
"""Hours, engine profiles and targets with the loop around them, and its period in seconds."""
GROWTH = (100_000, 1_000_000, 10_000_000)
AIM_S = 1 / 500_000
AIM_WHOLE_S = 1 / 20_000
AIM_SIMPY = 0.02
AIM_GROWTH = 1.25

_USE = 0.7
_RUN_S = 1.0
_ROUND = 100_000
_SIMPY_S = 10.0
_WHOLE_ROUNDS = 3


def repeated(trace: Arrivals, count: int) -> Arrivals:
    """Return the trace again and again, a mean gap between, cut to so many requests."""
    rounds = -(-count // len(trace))
    period_s = trace.span_s * (1 + 1 / max(len(trace) - 1, 1))
    begins_s = np.repeat(period_s * np.arange(rounds), len(trace))
    return Arrivals(
        (np.tile(trace.at_s, rounds) + begins_s)[:count],
        np.tile(trace.input_tokens, rounds)[:count],
        np.tile(trace.output_tokens, rounds)[:count],
        np.tile(trace.cached_tokens, rounds)[:count],
    )


def nodes_for(trace: Arrivals, profile: EngineProfile) -> tuple[int, int]:
    """Return the prompt nodes and decoders that the trace's mean load needs."""
    request_per_s = len(trace) / trace.span_s
    lengths = zip(trace.uncached_tokens.tolist(), trace.input_tokens.tolist(), strict=True)
    prefill_s = sum(profile.prefill_s(new, float(all_**2)) for new, all_ in lengths) / len(trace)
    output = float(trace.output_tokens.mean())
    context = float(trace.input_tokens.mean()) + output / 2
    batch = min(profile.batch_max, int(profile.kv_tokens / context), 64)
    step_s = profile.decode_step_s(batch, int(batch * context))
    prompts = request_per_s * prefill_s / _USE
    decoders = request_per_s * output * step_s / batch / _USE
    return int(np.ceil(prompts)), int(np.ceil(decoders))


def spent(offered: Arrivals, profile: EngineProfile, nodes: tuple[int, int]) -> tuple[float, float]:
    """Return the CPU seconds that a fleet takes, and the mean seconds from arrival to done.

    Raises RuntimeError if a request was not done.
    """
    fleet = RequestFleet(profile)
    for role, count in zip((Role.PROMPT, Role.DECODER), nodes, strict=True):
        for _ in range(count):
            fleet.publish(fleet.add(role))
    fleet.offer(offered)
    gc.collect()
    start_s = time.process_time()
    fleet.advance(float("inf"))
    cpu_s = time.process_time() - start_s
    if fleet.totals.finished != len(offered):
        raise RuntimeError(f"{fleet.totals} of {len(offered)} requests")
    return cpu_s, float((fleet.done_s - offered.at_s).mean())


def simpy_spent(
    trace: Arrivals, profile: EngineProfile, nodes: tuple[int, int]
) -> tuple[float, float, int]:
    """Return CPU seconds and mean seconds to done of SimPy, over how many of the first requests."""
    count, cpu_s, mean_s = 50, 0.0, 0.0
    while True:
        offered = repeated(trace, count)
        fleet = SimpyFleet(profile, prompts=nodes[0], decoders=nodes[1])
        gc.collect()
        start_s = time.process_time()
        done_s = np.array(fleet.run(offered))
        cpu_s = time.process_time() - start_s
        mean_s = float((done_s - offered.at_s).mean())
        if cpu_s > _SIMPY_S / 4:
            return cpu_s, mean_s, count
        count = int(count * min(max(_SIMPY_S / 2 / max(cpu_s, 0.01), 2.0), 20.0))


def kernel_rows(name: str, trace: Arrivals, profile: EngineProfile) -> Iterator[Row]:
    """Compare the kernel with its aim and with SimPy."""
    nodes = nodes_for(trace, profile)
    count = _ROUND
    cpu_s, _ = spent(repeated(trace, count), profile, nodes)
    while cpu_s < _RUN_S:
        count = int(count * min(max(1.5 * _RUN_S / cpu_s, 2.0), 20.0))
        cpu_s, _ = spent(repeated(trace, count), profile, nodes)
    where = f"{name}, {nodes[0]} prompt nodes and {nodes[1]} decoders"
    print(f"kernel: {where}: {count} requests in {cpu_s:.2f} s", flush=True)
    yield measured(f"kernel, {where}", count / cpu_s, "requests/CPU s")
    yield compared(
        f"kernel, {name}: CPU a request against 500,000 a second",
        cpu_s / count * 1e6,
        "us",
        reference=AIM_S * 1e6,
        aim=1.0,
    )
    simpy_s, simpy_mean_s, simpy_count = simpy_spent(trace, profile, nodes)
    print(f"SimPy {simpy.__version__}: {simpy_count} requests in {simpy_s:.2f} s", flush=True)
    yield compared(
        f"kernel, {name}: CPU a request against SimPy step by step",
        cpu_s / count * 1e6,
        "us",
        reference=simpy_s / simpy_count * 1e6,
        aim=AIM_SIMPY,
    )
    _, mean_s = spent(repeated(trace, simpy_count), profile, nodes)
    yield measured(f"{name}: mean time to the last token over SimPy's", mean_s / simpy_mean_s, "x")


def growth_rows(trace: Arrivals, profile: EngineProfile) -> Iterator[Row]:
    """Compare the CPU time of a request in runs of many lengths."""
    nodes = nodes_for(trace, profile)
    least_s = 0.0
    for count in GROWTH:
        cpu_s, _ = spent(repeated(trace, count), profile, nodes)
        name = f"growth: CPU a request of {count:,}"
        if not least_s:
            least_s = cpu_s / count
            yield measured(name, least_s * 1e6, "us")
        else:
            value = cpu_s / count * 1e6
            yield compared(name, value, "us", reference=least_s * 1e6, aim=AIM_GROWTH)


def whole_rows(traces: dict[str, Arrivals]) -> Iterator[Row]:
    """Measure the same hours with the production loop and the policy `slo` around the kernel."""
    for name, profile, slo, period_s in WHOLE:
        if name not in traces:
            continue
        trace = traces[name]
        setting = Setting(profile=KNOWN[profile].profile, slo=slo_named(slo), period_s=period_s)
        scenario = of_arrivals(name, trace, setting)
        entrant = contestant("slo", scenario)
        runs = [
            run_experiment(scenario, entrant.built({}), name="slo", guard=entrant.guard)
            for _ in range(_WHOLE_ROUNDS)
        ]
        best = min(runs, key=lambda run: run.cpu_s)
        nodes = best.node_hours * 3600.0 / best.lasted_s
        in_time = scored(best, scenario.slo).both
        what = f"{name}, {profile}, SLO {slo}, cycles of {period_s:g} s"
        where = f"{what}: {nodes:.1f} nodes on average, {in_time:.2%} in time"
        print(f"loop and policy: {where}: {len(trace)} requests in {best.cpu_s:.2f} s", flush=True)
        yield measured(f"loop and policy, {where}", len(trace) / best.cpu_s, "requests/CPU s")
        yield compared(
            f"loop and policy, {what}: CPU a request against 20,000 a second",
            best.cpu_s / len(trace) * 1e6,
            "us",
            reference=AIM_WHOLE_S * 1e6,
            aim=1.0,
        )


def found_traces(data: Path) -> dict[str, Arrivals]:
    """Read the traces that are there; say which are not."""
    found = {}
    for name, file in TRACES.items():
        if (data / file).exists():
            found[name] = read_arrivals(data / file)
        else:
            print(f"left out: {name}, as {data / file} is not there", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/traces"))
    parser.add_argument("--only", choices=("kernel", "growth", "whole"), help="by default all")
    args = parser.parse_args(argv)
    profile = KNOWN[PROFILE].profile
    traces = found_traces(args.data)
    rows: list[Row] = []
    for name, trace in traces.items():
        spent(repeated(trace, 100), profile, (1, 1))  # Compiles, where that was not done yet.
        if args.only in {None, "kernel"}:
            rows += kernel_rows(name, trace, profile)
    first = next(iter(traces.values()), None)
    if args.only in {None, "growth"} and first is not None:
        rows += growth_rows(first, profile)
    if args.only in {None, "whole"}:
        rows += whole_rows(traces)
    printed("simulate", rows, is_json=args.json)


if __name__ == "__main__":
    main()
