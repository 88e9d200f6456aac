"""Seeds: the same one strikes alike everywhere, and each leaves about half of the kinds off."""

from pd_autoscaler.sim.faults import CALL_RANGE, CallFault, Faults, WorldFault


def test_a_seed_gives_the_same_faults_and_draws_again() -> None:
    one, other = Faults(7), Faults(7)

    assert one.on() == other.on()
    assert [one.draw_s("x", 0, 1) for _ in range(5)] == [other.draw_s("x", 0, 1) for _ in range(5)]


def test_draws_of_one_use_do_not_shift_those_of_another() -> None:
    quiet, busy = Faults(7), Faults(7)
    for _ in range(100):
        busy.draw_s("other", 0, 1)

    assert busy.draw_s("x", 0, 1) == quiet.draw_s("x", 0, 1)


def test_each_kind_is_off_in_about_half_of_the_runs() -> None:
    runs = [Faults(seed) for seed in range(400)]

    for kind in CallFault:
        assert 140 < sum(run.chance[kind] > 0 for run in runs) < 260
    for fault in WorldFault:
        assert 140 < sum(run.per_hour[fault] > 0 for run in runs) < 260


def test_a_kind_that_is_on_strikes_as_often_as_its_level_says() -> None:
    faults = Faults(7, only=frozenset({CallFault.LINK_FAILS}))
    struck = sum(faults.strikes(CallFault.LINK_FAILS) for _ in range(20_000)) / 20_000

    assert CALL_RANGE[0] <= faults.chance[CallFault.LINK_FAILS] <= CALL_RANGE[1]
    assert abs(struck - faults.chance[CallFault.LINK_FAILS]) < 0.01
    assert not any(faults.strikes(CallFault.LINK_HANGS) for _ in range(1000))


def test_nothing_strikes_in_calm() -> None:
    faults = Faults(7, only=frozenset([*CallFault, *WorldFault]))
    faults.is_calm = True

    assert not any(faults.strikes(kind) for kind in CallFault for _ in range(100))
    assert [faults.wait_s(fault) for fault in WorldFault] == [None] * len(WorldFault)
