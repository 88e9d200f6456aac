"""What the binding hands to the package and takes from it, on a stand-in of its surface."""

import enum
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pd_autoscaler.datadist import native
from pd_autoscaler.datadist.api import Cluster, DataDist, DataDistError, DataDistRole
from pd_autoscaler.errors import ConfigError
from tests.support.datadist_inprocess import IP, Room

STANDIN = Path(__file__).parents[2] / "support" / "llm_datadist_standin.py"
OPTIONS = {"device_id": 0, "local_comm_res": ""}


def standin(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, STANDIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["Enum", "IntEnum"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in as `llm_datadist`, with the enums of CANN before and from 9.1."""
    monkeypatch.setenv("STANDIN_ENUM", request.param)
    monkeypatch.setenv("AUTO_USE_UC_MEMORY", "0")
    module = standin("llm_datadist")
    assert issubclass(module.LLMRole, enum.Enum)
    assert issubclass(module.LLMRole, enum.IntEnum) == (request.param == "IntEnum")
    monkeypatch.setitem(sys.modules, "llm_datadist", module)
    return module


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


@pytest.fixture
def decoder(package: ModuleType) -> Iterator[DataDist]:
    made = native.load()(DataDistRole.DECODER, 7)
    made.init(OPTIONS)
    yield made
    made.finalize()


def test_a_package_that_is_absent_is_named_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"'no_such_datadist'.*set_env\.sh"):
        native.load("no_such_datadist")


@pytest.mark.parametrize(
    "fails",
    [
        "raise OSError('libllm_datadist.so: cannot open shared object file')",
        "raise ImportError('libllm_datadist.so: undefined symbol')",
    ],
)
def test_a_package_whose_libraries_do_not_load_is_named_with_the_fix(
    fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_datadist.py").write_text(fails)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ConfigError, match=r"'broken_datadist'.*libllm_datadist\.so.*set_env\.sh"):
        native.load("broken_datadist")


def test_a_module_that_is_another_is_told_by_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match=r"'json' is not LLM-DataDist.*LLMDataDist.*LLMConfig"):
        native.load("json")


def test_the_package_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, pd_autoscaler.datadist.native; print('llm_datadist' in sys.modules)"

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"


@pytest.mark.parametrize("role", list(DataDistRole))
def test_a_role_becomes_the_packages_own_member(package: ModuleType, role: DataDistRole) -> None:
    made = native.NativeDataDist(role, 7, package)

    assert made._object.role is package.LLMRole[role.name]
    assert made.cluster_id == 7


def test_options_travel_through_the_configs_properties(package: ModuleType) -> None:
    made = native.NativeDataDist(DataDistRole.DECODER, 7, package)
    made.init({"device_id": 3, "local_comm_res": "", "sync_kv_timeout": 500})

    assert made._object.options == {
        "ge.exec.deviceId": "3",
        "ge.session_device_id": "3",
        "llm.LocalCommRes": "",
        "llm.SyncKvCacheWaitTime": "500",
    }
    made.finalize()


@pytest.mark.parametrize("name", ["listen_adress", "options", "values", "generate_options"])
def test_what_is_no_settable_property_is_an_unknown_option(package: ModuleType, name: str) -> None:
    made = native.NativeDataDist(DataDistRole.DECODER, 7, package)

    with pytest.raises(ConfigError, match=f"'{name}' is unknown; known are .*device_id"):
        made.init({"device_id": 0, name: "x"})


def test_the_older_name_of_the_config_will_do(package: ModuleType) -> None:
    del package.LLMConfig
    made = native.load()(DataDistRole.DECODER, 7)

    made.init(OPTIONS)
    made.finalize()


def test_clusters_and_timeout_are_handed_over_as_the_package_wants_them(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def record(*call: Any) -> tuple[Any, list[Any]]:
        seen.append(call[1:])
        return package.LLMStatusCode.LLM_SUCCESS, []

    monkeypatch.setattr(package.LLMDataDist, "link_clusters", record)
    monkeypatch.setattr(package.LLMDataDist, "unlink_clusters", record)
    decoder.link_clusters([Cluster(1, "1.2.3.4", 26000, "5.6.7.8"), Cluster(2)], 1500)
    decoder.unlink_clusters((Cluster(3, "1.2.3.4", 26000),), 1600, True)

    (linked, link_timeout), (unlinked, unlink_timeout, force) = seen
    assert [type(info) for info in linked] == [package.LLMClusterInfo] * 2
    assert [info.remote_cluster_id for info in linked] == [1, 2]
    assert linked[0].remote_ip_info_list == [(0x04030201, 26000)]
    assert linked[0].local_ip_info_list == [(0x08070605, 0)]
    assert (linked[1].remote_ip_info_list, linked[1].local_ip_info_list) == ([], [])
    assert isinstance(unlinked, list)
    assert unlinked[0].local_ip_info_list == []
    assert (link_timeout, unlink_timeout, force) == (1500, 1600, True)


def test_the_default_timeout_is_the_packages(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def record(_: Any, clusters: Any, timeout: int, force: bool = False) -> Any:
        seen.append((timeout, force))
        return package.LLMStatusCode.LLM_SUCCESS, []

    monkeypatch.setattr(package.LLMDataDist, "link_clusters", record)
    monkeypatch.setattr(package.LLMDataDist, "unlink_clusters", record)
    decoder.link_clusters([Cluster(1)])
    decoder.unlink_clusters([Cluster(1)])

    assert seen == [(3000, False), (3000, False)]


def test_fewer_codes_than_clusters_come_back_as_they_are(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = package.LLMStatusCode
    clusters = [Cluster(1), Cluster(2)]
    answers = iter([(codes.LLM_LINK_FAILED, []), (codes.LLM_TIMEOUT, [codes.LLM_TIMEOUT])])
    monkeypatch.setattr(package.LLMDataDist, "link_clusters", lambda *_: next(answers))

    assert decoder.link_clusters(clusters) == ("LLM_LINK_FAILED", [])
    assert decoder.link_clusters(clusters) == ("LLM_TIMEOUT", ["LLM_TIMEOUT"])


def test_a_code_without_a_name_is_named_by_its_number(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        package.LLMDataDist, "link_clusters", lambda *_: (0x5010B01A, [0x5010B01A, 0x5010B0FF])
    )

    assert decoder.link_clusters([Cluster(1), Cluster(2)]) == (
        "LLM_TIMEOUT",
        ["LLM_TIMEOUT", "LLM_CODE_0x5010b0ff"],
    )


def test_an_ip_without_a_port_is_refused(decoder: DataDist) -> None:
    with pytest.raises(ValueError, match="cluster 1 has an ip and no port"):
        decoder.link_clusters([Cluster(1, IP, None, IP)])


def test_the_packages_exception_becomes_ours_with_its_code(room: Room, decoder: DataDist) -> None:
    prompt = room.prompt(1)
    assert decoder.link_clusters([room.towards(prompt)], 200) == ("LLM_SUCCESS", ["LLM_SUCCESS"])

    with pytest.raises(DataDistError, match="linked") as caught:
        decoder.switch_role(DataDistRole.PROMPT)

    assert caught.value.code == "LLM_EXIST_LINK"
    assert type(caught.value.__cause__).__name__ == "LLMException"


def test_an_exception_without_a_code_is_a_failure(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise package.LLMException("no code")

    monkeypatch.setattr(package.LLMDataDist, "switch_role", fail)

    with pytest.raises(DataDistError, match="no code") as caught:
        decoder.switch_role(DataDistRole.PROMPT)
    assert caught.value.code == "LLM_FAILED"


def test_switching_hands_over_a_dict_or_nothing(
    package: ModuleType, decoder: DataDist, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(package.LLMDataDist, "switch_role", lambda _, *call: seen.append(call))

    decoder.switch_role(DataDistRole.PROMPT, {"llm.listenIpInfo": "1.2.3.4:26000"})
    decoder.switch_role(DataDistRole.DECODER)

    roles = package.LLMRole
    assert seen == [
        (roles.PROMPT, {"llm.listenIpInfo": "1.2.3.4:26000"}),
        (roles.DECODER, None),
    ]


def test_an_object_that_the_engine_initialised_can_be_adopted(
    package: ModuleType, room: Room
) -> None:
    config = package.LLMConfig()
    config.device_id, config.local_comm_res = 0, ""
    engines = package.LLMDataDist(package.LLMRole.DECODER, 7)
    engines.init(config.generate_options())
    prompt = room.prompt(1)

    adopted = native.NativeDataDist.adopted(engines)

    assert adopted.cluster_id == 7
    assert adopted.link_clusters([room.towards(prompt)], 200)[0] == "LLM_SUCCESS"
    assert prompt.entities() == (7,)
    adopted.finalize()


def test_importing_the_package_sets_its_variable_where_it_is_unset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTO_USE_UC_MEMORY", "to be restored")
    monkeypatch.delenv("AUTO_USE_UC_MEMORY")
    (tmp_path / "fresh_datadist.py").write_text(STANDIN.read_text())
    monkeypatch.syspath_prepend(tmp_path)

    native.load("fresh_datadist")

    assert os.environ["AUTO_USE_UC_MEMORY"] == "0"
    sys.modules.pop("fresh_datadist")
