"""Shapes of load, and the requests that are drawn from them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.dispersion import dispersion
from pd_autoscaler.workload.drawn import drawn
from pd_autoscaler.workload.generated import DEMO, Phase
from pd_autoscaler.workload.rates import Lengths, Rates, burstiness_of, rates_of
from pd_autoscaler.workload.shapes import CHAT, day, mix_shift, sine, steps

STEADY = Phase(name="steady", for_s=4000, request_per_s=5, input_tokens=1000, output_tokens=200)


def test_the_same_generator_state_gives_the_same_requests() -> None:
    rates = steps(CHAT, burstiness=2)
    once, again, other = (drawn(rates, np.random.default_rng(seed)) for seed in (1, 1, 2))

    for column in ("at_s", "input_tokens", "output_tokens"):
        assert np.array_equal(getattr(once, column), getattr(again, column))
    assert len(once) != len(other)


@pytest.mark.parametrize("index", [0.25, 1.0, 4.0, 16.0])
def test_arrivals_are_as_dispersed_as_asked(index: float) -> None:
    rates = rates_of([replace(STEADY, for_s=100_000)], burstiness=burstiness_of(index))

    arrivals = drawn(rates, np.random.default_rng(5))

    assert len(arrivals) == pytest.approx(500_000, rel=0.02)
    assert dispersion(arrivals, 100) == pytest.approx(index, rel=0.15)


def test_gaps_without_burstiness_are_equal() -> None:
    arrivals = drawn(rates_of([STEADY], burstiness=0), np.random.default_rng(5))

    assert len(arrivals) == 20_000
    assert np.diff(arrivals.at_s) == pytest.approx(0.2)


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 3.0, 10.0])
def test_whatever_the_burstiness_the_expected_number_comes(burstiness: float) -> None:
    rates = rates_of(DEMO, burstiness=burstiness)
    generator = np.random.default_rng(7)

    counts = [len(drawn(rates, generator)) for _ in range(400)]

    # The mean of 400 is within three of its standard deviations.
    spread = max(burstiness * math.sqrt(rates.requests), 1.0)
    assert np.mean(counts) == pytest.approx(rates.requests, abs=3 * spread / math.sqrt(400))


def test_lengths_have_the_means_that_were_asked() -> None:
    arrivals = drawn(rates_of([replace(STEADY, for_s=20_000)]), np.random.default_rng(2))

    assert arrivals.input_tokens.mean() == pytest.approx(1000, rel=0.02)
    assert arrivals.output_tokens.mean() == pytest.approx(200, rel=0.02)
    assert np.std(arrivals.input_tokens) == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize("swing", [1.0, 7.0, 20.0])
def test_a_day_swings_in_rate_and_in_mix_at_different_hours(swing: float) -> None:
    rates = day(CHAT, swing=swing, peak=1.8)
    mix = rates.inputs.means / rates.outputs.means

    assert rates.end_s == 86_400
    assert rates.request_per_s.mean() == pytest.approx(CHAT.request_per_s)
    assert rates.request_per_s.max() / rates.request_per_s.mean() == pytest.approx(1.8, rel=1e-3)
    assert mix.max() / mix.min() == pytest.approx(swing, rel=1e-3)
    assert rates.begin_s[np.argmax(rates.request_per_s)] == pytest.approx(43_200, abs=60)
    if swing > 1:
        assert rates.begin_s[np.argmax(mix)] == pytest.approx(21_600, abs=60)


def test_steps_are_bursts_of_every_factor_for_every_time_with_calm_around_them() -> None:
    rates = steps(STEADY, factors=(2, 5), lasts_s=(60, 300), calm_s=100)

    assert rates.for_s.tolist() == [100, 60, 100, 300, 100, 60, 100, 300, 100]
    assert rates.request_per_s.tolist() == [5, 10, 5, 10, 5, 25, 5, 25, 5]


def test_a_mix_shift_keeps_the_rate_and_comes_back() -> None:
    rates = mix_shift(STEADY, factor=4, for_s=600)

    assert rates.for_s.tolist() == [600, 600, 600]
    assert rates.request_per_s.tolist() == [5, 5, 5]
    assert rates.inputs.means.tolist() == [1000, 4000, 1000]
    assert rates.outputs.means.tolist() == [200, 50, 200]


def test_a_wave_comes_back_after_its_period() -> None:
    rates = sine(STEADY, period_s=150, amplitude=0.5, for_s=600)

    assert rates.request_per_s[:30] == pytest.approx(rates.request_per_s[30:60])
    assert rates.request_per_s.max() == pytest.approx(7.5, rel=0.01)
    assert rates.request_per_s.min() == pytest.approx(2.5, rel=0.01)


def test_a_share_of_a_load_is_less_bursty() -> None:
    rates = rates_of([replace(STEADY, for_s=200_000)], burstiness=3).thinned(0.25)

    assert rates.requests == 250_000
    assert rates.burstiness[0] == pytest.approx(math.sqrt(0.25 * 9 + 0.75))
    arrivals = drawn(rates, np.random.default_rng(1))
    assert dispersion(arrivals, 200) == pytest.approx(3, rel=0.15)


def test_an_idle_stretch_has_no_request() -> None:
    busy, idle = np.array([0.0, 100.0, 200.0]), np.array([2.0, 0.0, 2.0])
    rates = Rates(
        begin_s=busy,
        end_s=300,
        request_per_s=idle,
        inputs=Lengths(np.full(3, 10.0)),
        outputs=Lengths(np.full(3, 10.0)),
        burstiness=np.ones(3),
    )

    at_s = drawn(rates, np.random.default_rng(0)).at_s

    assert not ((at_s >= 100) & (at_s < 200)).any()
    assert (at_s < 100).sum() > 100 < (at_s >= 200).sum()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: day(CHAT, swing=0.5), "swing 0.5"),
        (lambda: day(CHAT, peak=3), "peak 3"),
        (lambda: day(CHAT, for_s=0), "times above 0"),
        (lambda: sine(CHAT, amplitude=2), "amplitude is 2"),
        (lambda: mix_shift(CHAT, factor=0), "factor is 0"),
        (lambda: steps(CHAT, factors=(-1,)), "request_per_s -5.5 in stretch 2"),
        (lambda: steps(CHAT, lasts_s=(0,)), "one after the other"),
        (lambda: steps(CHAT, burstiness=math.nan), "burstiness nan in stretch 1"),
        (lambda: rates_of([]), "no phase"),
        (lambda: rates_of([STEADY]).thinned(0), "share is 0"),
        (lambda: burstiness_of(-1), "dispersion of -1"),
        (lambda: drawn(rates_of([replace(STEADY, for_s=1e9)]), np.random.default_rng()), "most"),
        (lambda: dispersion(drawn(rates_of([STEADY]), np.random.default_rng(0)), 3999), "bins of"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(make: "object", says: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=says):
        make()


def test_a_part_of_rates_begins_at_nothing_and_lasts_as_long_as_its_stretches() -> None:
    whole = steps(CHAT, factors=(2,), lasts_s=(60,), calm_s=100.0)

    part = whole.between(100.0, 160.0)

    assert (list(part.begin_s), part.end_s) == ([0.0], 60.0)
    assert part.requests == pytest.approx(2 * CHAT.request_per_s * 60)
    assert whole.between(0.0, 1000.0).requests == pytest.approx(whole.requests)
    with pytest.raises(ConfigError, match="nothing begins between"):
        whole.between(5000.0, 6000.0)
