"""Fencing, incarnations and idempotency keys."""

import pytest

from pd_autoscaler.agent.gate import Gate
from pd_autoscaler.agent.keys import KEEP_S, Keys
from pd_autoscaler.agent.refusals import RefusedError
from pd_autoscaler.agent.wire import Mutation


def request(epoch: int, holder: str, incarnation: str = "boot-1") -> Mutation:
    return Mutation(epoch=epoch, holder=holder, incarnation=incarnation, key="k")


def test_the_first_caller_is_let_in_at_any_epoch() -> None:
    gate = Gate("boot-1")
    gate.admit(request(0, "a"))
    assert (gate.epoch, gate.holder) == (0, "a")


@pytest.mark.parametrize(
    ("epoch", "holder", "said"),
    [(4, "a", "epoch 4 of a is over: b holds epoch 5"), (5, "a", "held by b, not by a")],
)
def test_a_caller_that_was_replaced_is_fenced(epoch: int, holder: str, said: str) -> None:
    gate = Gate("boot-1")
    gate.admit(request(5, "b"))
    with pytest.raises(RefusedError, match=said) as refused:
        gate.admit(request(epoch, holder))
    assert (refused.value.reason, refused.value.status) == ("fenced", 409)


def test_the_holder_and_whoever_has_a_higher_epoch_pass() -> None:
    gate = Gate("boot-1")
    for epoch, holder in [(5, "b"), (5, "b"), (6, "a"), (7, "a")]:
        gate.admit(request(epoch, holder))
    assert (gate.epoch, gate.holder) == (7, "a")


def test_a_request_for_another_process_changes_nothing() -> None:
    gate = Gate("boot-1")
    with pytest.raises(RefusedError, match="this is incarnation boot-1") as refused:
        gate.admit(request(9, "a", "boot-0"))
    assert refused.value.reason == "incarnation_mismatch"
    assert (gate.epoch, gate.holder) == (0, "")


def test_a_key_is_kept_for_an_hour() -> None:
    keys: Keys[str] = Keys()
    keys.keep("k", "link [1]", "first", now_s=100)
    assert keys.find("k", "link [1]", now_s=100 + KEEP_S - 1) == "first"
    assert keys.find("k", "link [1]", now_s=100 + KEEP_S) is None


def test_a_key_cannot_mean_two_things() -> None:
    keys: Keys[str] = Keys()
    keys.keep("k", "link [1]", "first", now_s=0)
    with pytest.raises(RefusedError, match="another call"):
        keys.find("k", "link [2]", now_s=0)


def test_the_oldest_keys_make_room() -> None:
    keys: Keys[int] = Keys(keys_max=2)
    for number in range(3):
        keys.keep(f"k{number}", "", number, now_s=0)
    assert [keys.find(f"k{number}", "", now_s=0) for number in range(3)] == [None, 1, 2]
