"""The promises that every policy makes, on fleets and snapshots of all kinds."""

# ruff: noqa: D103, S101

from pd_request_rate import RequestRate, RequestRateParams

from pd_autoscaler.policies.conformance import violations


def test_it_keeps_the_contract() -> None:
    assert violations(lambda: RequestRate(RequestRateParams())) == ()
