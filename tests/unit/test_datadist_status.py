import pytest

from pd_autoscaler.datadist.status import STATUS_CODES, Verb, name_of, verdict
from pd_autoscaler.model.link import Verdict

S, R, F = Verdict.SUCCESS, Verdict.RETRY, Verdict.FORCE
REPLACE, CONFIG = Verdict.REPLACE, Verdict.CONFIG

# Names and numbers as hicann/hixl prints them; verdicts for (link, unlink).
EXPECTED: dict[str, tuple[int, Verdict, Verdict]] = {
    "LLM_SUCCESS": (0x0, S, S),
    "LLM_FAILED": (0xFFFFFFFF, R, F),
    "LLM_WAIT_PROCESS_TIMEOUT": (0x5010B001, F, F),
    "LLM_KV_CACHE_NOT_EXIST": (0x5010B002, R, R),
    "LLM_REPEAT_REQUEST": (0x5010B003, R, R),
    "LLM_REQUEST_ALREADY_COMPLETED": (0x5010B004, R, R),
    "LLM_PARAM_INVALID": (0x5010B005, CONFIG, CONFIG),
    "LLM_ENGINE_FINALIZED": (0x5010B006, REPLACE, REPLACE),
    "LLM_NOT_YET_LINK": (0x5010B007, R, S),
    "LLM_ALREADY_LINK": (0x5010B008, S, R),
    "LLM_LINK_FAILED": (0x5010B009, R, F),
    "LLM_UNLINK_FAILED": (0x5010B00A, R, F),
    "LLM_NOTIFY_PROMPT_UNLINK_FAILED": (0x5010B00B, F, F),
    "LLM_CLUSTER_NUM_EXCEED_LIMIT": (0x5010B00C, CONFIG, CONFIG),
    "LLM_PROCESSING_LINK": (0x5010B00D, R, R),
    "LLM_DEVICE_OUT_OF_MEMORY": (0x5010B00E, R, R),
    "LLM_PREFIX_ALREADY_EXIST": (0x5010B00F, R, R),
    "LLM_PREFIX_NOT_EXIST": (0x5010B010, R, R),
    "LLM_SEQ_LENOVERLIMIT": (0x5010B011, R, R),
    "LLM_NO_FREE_BLOCK": (0x5010B012, R, R),
    "LLM_BLOCKS_OUT_OF_MEMORY": (0x5010B013, R, R),
    "LLM_EXIST_LINK": (0x5010B018, R, R),
    "LLM_FEATURE_NOT_ENABLED": (0x5010B019, CONFIG, CONFIG),
    "LLM_TIMEOUT": (0x5010B01A, F, F),
    "LLM_LINK_BUSY": (0x5010B01B, R, R),
    "LLM_OUT_OF_MEMORY": (0x5010B01C, R, R),
    "LLM_DEVICE_MEM_ERROR": (507053, REPLACE, REPLACE),
    "LLM_SUSPECT_REMOTE_ERROR": (507057, REPLACE, REPLACE),
    "LLM_UNKNOWN_ERROR": (-1, R, R),
}


def test_the_table_holds_every_code_and_no_other() -> None:
    assert set(STATUS_CODES) == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_code_has_its_number_and_its_verdicts(name: str) -> None:
    value, link, unlink = EXPECTED[name]

    assert STATUS_CODES[name].value == value
    assert name_of(value) == name
    assert verdict(name, "link") is link
    assert verdict(name, "unlink") is unlink


@pytest.mark.parametrize("verb", ["link", "unlink"])
def test_an_unknown_code_is_worth_a_retry(verb: Verb) -> None:
    assert verdict("LLM_FROM_A_LATER_RELEASE", verb) is Verdict.RETRY


def test_an_unknown_number_is_named_by_itself() -> None:
    assert name_of(0x5010B0FF) == "LLM_CODE_0x5010b0ff"
    assert name_of(0x5010B0FF) not in STATUS_CODES


def test_every_code_says_what_it_means() -> None:
    assert all(code.meaning for code in STATUS_CODES.values())
    assert len({code.value for code in STATUS_CODES.values()}) == len(STATUS_CODES)
