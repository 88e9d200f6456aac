"""What the library refuses, and how: returned, raised as a code, or as TypeError and ValueError."""

from typing import Any

import pytest

from tests.support.datadist_fleet import SUCCESS, Endpoint, Fleet, answer
from tests.support.datadist_process import ChildError


def raised(endpoint: Endpoint, op: str, **arguments: Any) -> ChildError:
    with pytest.raises(ChildError) as caught:
        endpoint.child.call(op, **arguments)
    return caught.value


def test_an_empty_list_returns_a_code_and_no_others(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    assert decoder.link() == ["LLM_PARAM_INVALID", []]
    assert decoder.unlink() == ["LLM_PARAM_INVALID", []]


def test_a_cluster_without_remote_ip_fails_alone(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    nowhere = [prompt.cluster_id, None, None, decoder.ip]

    assert decoder.link(nowhere) == answer("LLM_PARAM_INVALID")
    assert decoder.link(nowhere, decoder.towards(prompt)) == [
        "LLM_PARAM_INVALID",
        ["LLM_PARAM_INVALID", "LLM_SUCCESS"],
    ]
    assert decoder.unlink([prompt.cluster_id]) == answer("LLM_PARAM_INVALID")


def test_a_missing_local_ip_refuses_the_whole_call(fleet: Fleet) -> None:
    if fleet.settings.local_comm_res:
        pytest.skip("a local ip is only needed while local_comm_res is empty")
    first, second, decoder = fleet.prompt(), fleet.prompt(), fleet.decoder()
    without_local_ip = [second.cluster_id, *second.address]

    error = raised(
        decoder, "link", clusters=[decoder.towards(first), without_local_ip], timeout=1000
    )

    assert (error.type, error.code) == ("DataDistError", "LLM_PARAM_INVALID")
    assert not decoder.has_links()


def test_unlinking_needs_no_local_ip(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.link(decoder.towards(prompt))

    assert decoder.unlink([prompt.cluster_id, *prompt.address]) == SUCCESS
    assert not prompt.has_links()


def test_every_method_but_finalize_needs_init(fleet: Fleet) -> None:
    decoder = fleet.endpoint()
    decoder.create("DECODER")
    decoder.child.call("finalize")

    calls: list[tuple[str, dict[str, Any]]] = [
        ("link", {"clusters": [], "timeout": 1000}),
        ("unlink", {"clusters": [], "timeout": 1000, "force": False}),
        ("switch_role", {"role": "PROMPT", "options": None}),
    ]
    for op, arguments in calls:
        error = raised(decoder, op, **arguments)
        assert (error.type, error.message) == (
            "RuntimeError",
            "llm datadist is not initialized",
        )


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_that_is_not_positive_is_an_invalid_parameter(fleet: Fleet, timeout: int) -> None:
    decoder = fleet.decoder()

    error = raised(decoder, "link", clusters=[], timeout=timeout)

    assert (error.type, error.code) == ("DataDistError", "LLM_PARAM_INVALID")


@pytest.mark.parametrize(
    ("cluster", "timeout", "expected"),
    [
        ([1, "127.0.0.1", 26000, "127.0.0.1"], "1000", "TypeError"),
        ([1, "127.0.0.1", 26000, "127.0.0.1"], 2**31, "ValueError"),
        (["1", "127.0.0.1", 26000, "127.0.0.1"], 1000, "TypeError"),
        ([2**64, "127.0.0.1", 26000, "127.0.0.1"], 1000, "ValueError"),
        ([-1, "127.0.0.1", 26000, "127.0.0.1"], 1000, "ValueError"),
        ([1, "127.0.0.1", 2**16, "127.0.0.1"], 1000, "ValueError"),
        ([1, "localhost", 26000, "127.0.0.1"], 1000, "RuntimeError"),
    ],
)
def test_wrong_types_and_ranges_are_raised(
    fleet: Fleet, cluster: list[Any], timeout: Any, expected: str
) -> None:
    decoder = fleet.decoder()

    assert raised(decoder, "link", clusters=[cluster], timeout=timeout).type == expected


def test_force_must_be_a_bool(fleet: Fleet) -> None:
    decoder = fleet.decoder()

    error = raised(decoder, "unlink", clusters=[], timeout=1000, force=1)

    assert error.type == "TypeError"


def test_a_role_and_an_id_are_checked_when_the_object_is_made(fleet: Fleet) -> None:
    endpoint = fleet.endpoint()
    common = {
        "implementation": fleet.settings.implementation,
        "module": fleet.settings.module,
        "timing": {},
    }

    assert raised(endpoint, "create", role=2, cluster_id=1, **common).type == "TypeError"
    assert raised(endpoint, "create", role="DECODER", cluster_id="1", **common).type == "TypeError"
    assert (
        raised(endpoint, "create", role="DECODER", cluster_id=2**64, **common).type == "ValueError"
    )


def test_an_unknown_option_is_named_with_the_known_ones(fleet: Fleet) -> None:
    decoder = fleet.endpoint()
    decoder.create("DECODER")

    error = raised(decoder, "init", options=decoder.options(listen_adress="127.0.0.1:26000"))

    assert error.type == "ConfigError"
    assert "'listen_adress'" in error.message
    assert "listen_ip_info" in error.message


def test_the_device_must_be_given(fleet: Fleet) -> None:
    decoder = fleet.endpoint()
    decoder.create("DECODER")

    error = raised(decoder, "init", options={"local_comm_res": ""})

    assert error.type == "DataDistError"


def test_an_address_without_a_port_is_an_invalid_parameter(fleet: Fleet) -> None:
    prompt = fleet.endpoint()
    prompt.create("PROMPT")

    error = raised(prompt, "init", options=prompt.options(listen_ip_info="127.0.0.1"))

    assert (error.type, error.code) == ("DataDistError", "LLM_PARAM_INVALID")


def test_a_process_holds_one_initialised_object(fleet: Fleet) -> None:
    endpoint = fleet.endpoint()
    endpoint.create("DECODER")
    endpoint.create("DECODER", name="other")
    endpoint.init()

    error = raised(endpoint, "init", options=endpoint.options(), name="other")

    assert (error.type, error.code) == ("DataDistError", "LLM_FAILED")
    assert "Cannot init multiple LLMDataDists" in error.message


def test_initialising_again_changes_nothing(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.link(decoder.towards(prompt))

    decoder.init()

    assert decoder.link(decoder.towards(prompt)) == answer("LLM_ALREADY_LINK")


def test_another_object_may_follow_a_finalised_one(fleet: Fleet) -> None:
    prompt, decoder = fleet.prompt(), fleet.decoder()
    decoder.child.call("finalize")
    decoder.create("DECODER", name="other")
    decoder.child.call("init", options=decoder.options(), name="other")

    linked = decoder.child.call(
        "link", clusters=[decoder.towards(prompt)], timeout=1000, name="other"
    )

    assert linked == SUCCESS
