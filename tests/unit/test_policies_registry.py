"""The registry of policies: one is loaded, by name, and what is wrong is said at start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.policies.fixed_ratio import FixedRatio
from pd_autoscaler.policies.queue_pressure import QueuePressure
from pd_autoscaler.policies.registry import Installed, installed, load_policy


class Steady:
    """A policy that wants what there is."""

    def decide(self, snapshot: Snapshot) -> Decision:
        return snapshot.target


class Later:
    """No policy: a cycle does not wait for it."""

    async def decide(self, snapshot: Snapshot) -> Decision:
        return snapshot.target


def exploding(params: Params) -> Steady:
    raise RuntimeError("no licence")


SPEC = PolicySpec(params=Params, build=lambda _: Steady())
OLD = PolicySpec(params=Params, build=lambda _: Steady(), api_version=0)
EXPLODING = PolicySpec(params=Params, build=exploding)
LATER: Any = Later
NO_POLICY: Any = object
ASYNC = PolicySpec(params=Params, build=lambda _: LATER())
NOTHING = PolicySpec(params=Params, build=lambda _: NO_POLICY())

Distribution = Callable[..., None]


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """Install a distribution that declares policies, for this test."""

    def install(name: str, **points: str) -> None:
        root = tmp_path / name
        info = root / f"{name}-2.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        lines = "".join(f"{point} = {value}\n" for point, value in points.items())
        (info / "entry_points.txt").write_text(f"[pd_autoscaler.policies]\n{lines}")
        monkeypatch.syspath_prepend(str(root))

    return install


def refusal(name: str, **params: object) -> str:
    with pytest.raises(ConfigError) as refused:
        load_policy(name, params)
    return str(refused.value)


def test_the_shipped_policies_are_installed_and_load_without_parameters() -> None:
    names = [policy.name for policy in installed()]

    assert {"fixed-ratio", "queue-pressure"} <= set(names)
    assert names == sorted(names)
    assert all(p.origin.startswith("pd-autoscaler ") for p in installed())
    assert isinstance(load_policy("queue-pressure", {}), QueuePressure)
    assert isinstance(load_policy("fixed-ratio", {"ratio": 0.25}), FixedRatio)


def test_another_distributions_policy_is_listed_and_loads(distribution: Distribution) -> None:
    distribution("ours", steady=f"{__name__}:SPEC")

    assert Installed("steady", "ours 2.0", f"{__name__}:SPEC") in installed()
    snapshot = Snapshot(now_s=0, now_unix_s=0, target=Target(2, 3))
    assert load_policy("steady", {}).decide(snapshot) == Target(2, 3)


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    assert refusal("queue-presure") == (
        "no policy 'queue-presure', did you mean 'queue-pressure'?; installed: "
        + ", ".join(sorted({policy.name for policy in installed()}))
    )
    assert "did you mean" not in refusal("zzz")


def test_a_broken_plug_in_is_refused_with_its_import_error(distribution: Distribution) -> None:
    distribution("broken", broken="pd_no_such_module:SPEC", gone="pd_autoscaler.errors:SPEC")

    assert refusal("broken") == (
        "policy 'broken' cannot be loaded: ModuleNotFoundError: No module named 'pd_no_such_module'"
    )
    assert "AttributeError" in refusal("gone")


def test_a_broken_plug_in_that_nobody_asked_for_does_no_harm(distribution: Distribution) -> None:
    distribution("broken", broken="pd_no_such_module:SPEC")

    assert isinstance(load_policy("fixed-ratio", {}), FixedRatio)


def test_two_plug_ins_of_one_name_are_refused(distribution: Distribution) -> None:
    distribution("ours", twin=f"{__name__}:SPEC")
    distribution("theirs", twin=f"{__name__}:OLD")

    message = refusal("twin")

    assert "'twin' is declared more than once: ours 2.0 (" in message
    assert "theirs 2.0 (" in message


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("OLD", "was written for policy API 0, this is 1"),
        ("EXPLODING", "could not be built: RuntimeError: no licence"),
        ("ASYNC", "built a Later, which has no plain method decide()"),
        ("NOTHING", "built a object, which has no plain method decide()"),
        ("Steady", "points at a type; it must be a pd_autoscaler.policies.contract.PolicySpec"),
        ("Missing", "cannot be loaded: AttributeError"),
    ],
)
def test_what_is_no_policy_of_this_version_is_refused(attribute: str, message: str) -> None:
    assert message in refusal(f"{__name__}:{attribute}")


def test_a_policy_loads_by_module_and_object() -> None:
    policy = load_policy("pd_autoscaler.policies.fixed_ratio:SPEC", {})

    assert isinstance(policy, FixedRatio)


def test_a_misspelt_parameter_is_refused_with_the_right_one() -> None:
    assert refusal("queue-pressure", kv_saturatd=0.8) == (
        "policy 'queue-pressure': no parameter 'kv_saturatd', did you mean 'kv_saturated'?"
    )
    assert refusal("fixed-ratio", zzz=1).startswith(
        "policy 'fixed-ratio': no parameter 'zzz' (there are: ratio, utilisation_up, "
    )


def test_a_value_out_of_range_is_refused_with_its_name_and_bound() -> None:
    assert refusal("queue-pressure", kv_saturated=1.8, settle_s="soon") == (
        "policy 'queue-pressure': kv_saturated = 1.8: Input should be less than or equal to 1; "
        "settle_s = 'soon': Input should be a valid number, unable to parse string as a number"
    )


def test_values_that_contradict_each_other_are_refused_with_the_reason() -> None:
    message = refusal("fixed-ratio", utilisation_up=0.5)
    assert "utilisation_down (0.7) must be below utilisation_up (0.5)" in message
    message = refusal("queue-pressure", queue_spare=4.5)
    assert "queue_spare (4.5) < queue_spare_down (4) < queue_saturated (5) must hold" in message
