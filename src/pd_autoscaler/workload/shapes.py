"""Shapes of load: a day, bursts, a mix that shifts, a wave; each as rates to draw requests from.

A shape is made around a phase, which says the mean rate and lengths. So `drawn(day(CHAT),
generator)` are the requests of a day, and `drawn(steps(CHAT), generator)` those of an hour and a
half of bursts.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Floats
from pd_autoscaler.workload.generated import Phase
from pd_autoscaler.workload.rates import Lengths, Rates, rates_of

DAY_S = 86_400.0

CHAT = Phase(name="chat", for_s=3600, request_per_s=5.5, input_tokens=1150, output_tokens=210)
"""Means of Azure's conversation trace of 2023 (Azure/AzurePublicDataset)."""


def day(
    mean: Phase,
    *,
    swing: float = 10.0,
    peak: float = 1.8,
    for_s: float = DAY_S,
    burstiness: float = 1.0,
    step_s: float = 60.0,
) -> Rates:
    """Return a day: the rate rises to `peak` times its mean, and input:output swings by `swing`.

    The rate is lowest at the beginning and the end, and highest at noon; input:output is highest a
    quarter of a day before that and lowest a quarter after it, so that both roles have their own
    hours. Inputs and outputs have the phase's lengths as geometric means over the day, and each
    swings by the square root. `for_s` may be other than a day, which is then squeezed or stretched.
    Raises ConfigError for a swing below 1 or a peak outside 1 to 2.
    """
    if not (1 <= swing < math.inf and 1 <= peak <= 2):
        raise ConfigError(
            f"swing {swing} and peak {peak}: give a swing of 1 or more, a peak of 1-2"
        )
    begin_s, turn = _turns(for_s, step_s, period_s=for_s)
    tilt = swing ** (np.sin(turn) / 4)
    return Rates(
        begin_s=begin_s,
        end_s=for_s,
        request_per_s=mean.request_per_s * (1 - (peak - 1) * np.cos(turn)),
        inputs=Lengths(np.maximum(mean.input_tokens * tilt, 1.0)),
        outputs=Lengths(np.maximum(mean.output_tokens / tilt, 1.0)),
        burstiness=np.full(len(begin_s), burstiness),
    )


def steps(
    calm: Phase,
    *,
    factors: Sequence[float] = (2, 5, 10),
    lasts_s: Sequence[float] = (60, 300),
    calm_s: float = 600.0,
    burstiness: float = 1.0,
) -> Rates:
    """Return bursts: the rate times each factor, for each of these times, with calm around them."""
    between = replace(calm, for_s=calm_s)
    phases = [between]
    for factor in factors:
        for for_s in lasts_s:
            burst = replace(calm, for_s=for_s, request_per_s=calm.request_per_s * factor)
            phases += [burst, between]
    return rates_of(phases, burstiness=burstiness)


def mix_shift(
    before: Phase, *, factor: float = 4.0, for_s: float = 1200.0, burstiness: float = 1.0
) -> Rates:
    """Return a shift and back at a constant rate: inputs times the factor, outputs divided by it.

    Before, shifted and after last `for_s` each. Raises ConfigError for a factor not above 0.
    """
    if not 0 < factor < math.inf:
        raise ConfigError(f"factor is {factor}: give more than 0")
    same = replace(before, for_s=for_s)
    shifted = replace(
        same,
        input_tokens=max(before.input_tokens * factor, 1.0),
        output_tokens=max(before.output_tokens / factor, 1.0),
    )
    return rates_of([same, shifted, same], burstiness=burstiness)


def sine(
    mean: Phase,
    *,
    period_s: float = 150.0,
    amplitude: float = 0.6,
    for_s: float = 3600.0,
    burstiness: float = 1.0,
) -> Rates:
    """Return a wave: the rate swings around its mean by `amplitude` of it, lengths stay.

    Raises ConfigError for an amplitude outside 0 to 1.
    """
    if not 0 <= amplitude <= 1:
        raise ConfigError(f"amplitude is {amplitude}: give 0 to 1")
    begin_s, turn = _turns(for_s, period_s / 30, period_s=period_s)
    ones = np.ones(len(begin_s))
    return Rates(
        begin_s=begin_s,
        end_s=for_s,
        request_per_s=mean.request_per_s * (1 + amplitude * np.sin(turn)),
        inputs=Lengths(mean.input_tokens * ones),
        outputs=Lengths(mean.output_tokens * ones),
        burstiness=burstiness * ones,
    )


def _turns(for_s: float, step_s: float, *, period_s: float) -> tuple[Floats, Floats]:
    """Return when each step begins, and the angle in its middle."""
    if not (0 < step_s < math.inf and 0 < for_s < math.inf and 0 < period_s < math.inf):
        raise ConfigError(f"{for_s} s in steps of {step_s} s: give times above 0")
    begin_s = np.arange(math.ceil(for_s / step_s), dtype=np.float64) * step_s
    return begin_s, 2 * math.pi * (begin_s + step_s / 2) / period_s
