"""Queueing formulas against textbook values, and what must hold at any load."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pd_autoscaler.core.queueing import (
    deviations_for,
    erlang_c,
    servers_for_wait,
    staffed,
    wait_mean_s,
    wait_tail,
)

loads = st.floats(min_value=0.0, max_value=300.0)


@pytest.mark.parametrize(
    ("servers", "load", "waits"),
    [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8.0, 0.4092), (3, 0.0, 0.0)],
)
def test_erlang_c_agrees_with_its_tables(servers: int, load: float, waits: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(waits, abs=1e-4)


@pytest.mark.parametrize("load", [2.0, 7.0, math.inf, math.nan])
def test_everybody_waits_where_servers_are_too_few(load: float) -> None:
    assert erlang_c(2, load) == 1.0
    assert wait_mean_s(2, load, service_s=1.0) == math.inf


def test_one_server_with_equal_services_is_the_md1_queue() -> None:
    # Pollaczek and Khinchine: rho S / 2 (1 - rho).
    waits_s = wait_mean_s(1, 0.8, service_s=0.25, variability=0.5)
    assert waits_s == pytest.approx(0.8 * 0.25 / (2 * 0.2))


def test_the_tail_of_the_mm1_queue_is_exact() -> None:
    late = wait_tail(1, 0.6, wait_s=2.0, service_s=1.0)
    assert late == pytest.approx(0.6 * math.exp(-0.4 * 2.0))


@pytest.mark.parametrize(("deviations", "waits"), [(1.0, 0.22), (1.5, 0.09), (2.0, 0.03)])
def test_square_root_staffing_keeps_the_share_that_waits(deviations: float, waits: float) -> None:
    load = 10_000.0
    servers = round(staffed(load, deviations=deviations))
    assert erlang_c(servers, load) == pytest.approx(waits, abs=0.01)


def test_a_share_is_told_in_standard_deviations_of_a_normal_load() -> None:
    assert deviations_for(0.5) == 0.0
    assert deviations_for(0.3) == 0.0
    assert deviations_for(0.9) == pytest.approx(1.2816, abs=1e-4)
    assert deviations_for(0.99) == pytest.approx(2.3263, abs=1e-4)


@given(load=loads, late=st.floats(min_value=0.001, max_value=0.5))
def test_the_servers_for_a_wait_are_enough_and_one_fewer_is_not(load: float, late: float) -> None:
    def share(servers: int) -> float:
        return wait_tail(servers, load, wait_s=1.0, service_s=0.4, variability=1.3)

    servers = servers_for_wait(
        load, wait_s=1.0, service_s=0.4, variability=1.3, late_share=late, servers_max=1000
    )
    assert share(servers) <= late
    assert servers == 1 or servers - 1 <= load or share(servers - 1) > late


@given(load=loads, more=loads)
def test_a_larger_load_never_needs_fewer_servers(load: float, more: float) -> None:
    few, many = (
        servers_for_wait(
            of, wait_s=0.5, service_s=0.3, variability=2.0, late_share=0.01, servers_max=2000
        )
        for of in (load, load + more)
    )
    assert few <= many


@pytest.mark.parametrize("load", [math.nan, math.inf, 1e308, 50.0])
def test_a_load_beyond_the_limit_needs_every_server(load: float) -> None:
    assert (
        servers_for_wait(
            load, wait_s=1.0, service_s=1.0, variability=1.0, late_share=0.01, servers_max=50
        )
        == 50
    )
