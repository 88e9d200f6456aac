"""Every status code of LLM-DataDist, and what each means to whoever links or unlinks.

Names, values and remedies are those of hicann/hixl: `include/llm_datadist/llm_datadist.h` and
`docs/zh/api/python/LLMStatusCode.md`. The list is open: later releases add codes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from pd_autoscaler.model.facts import EntryState
from pd_autoscaler.model.link import Verdict

Verb = Literal["link", "unlink"]


@dataclass(frozen=True, slots=True)
class StatusCode:
    """One code: its number, what it says, and the verdict for either kind of call.

    `link` of LLM_ALREADY_LINK is a success of the call; whether the peer has restarted since the
    link was made is for the caller to know.
    """

    name: str
    value: int
    meaning: str
    link: Verdict
    unlink: Verdict


_V = Verdict

_TABLE = (
    StatusCode("LLM_SUCCESS", 0x0, "done", _V.SUCCESS, _V.SUCCESS),
    StatusCode(
        "LLM_FAILED",
        0xFFFFFFFF,
        "unspecified, or the peer closed in the middle of the handshake",
        _V.RETRY,
        # The caller's own end is gone by then; what the peer still holds is not known.
        _V.FORCE,
    ),
    StatusCode("LLM_WAIT_PROCESS_TIMEOUT", 0x5010B001, "the link is bad", _V.FORCE, _V.FORCE),
    StatusCode("LLM_KV_CACHE_NOT_EXIST", 0x5010B002, "no such cache", _V.RETRY, _V.RETRY),
    StatusCode("LLM_REPEAT_REQUEST", 0x5010B003, "a repeated call", _V.RETRY, _V.RETRY),
    StatusCode(
        "LLM_REQUEST_ALREADY_COMPLETED", 0x5010B004, "nothing left to do", _V.RETRY, _V.RETRY
    ),
    StatusCode("LLM_PARAM_INVALID", 0x5010B005, "a wrong argument", _V.CONFIG, _V.CONFIG),
    StatusCode(
        "LLM_ENGINE_FINALIZED", 0x5010B006, "the library is finalised", _V.REPLACE, _V.REPLACE
    ),
    StatusCode("LLM_NOT_YET_LINK", 0x5010B007, "there is no such link", _V.RETRY, _V.SUCCESS),
    StatusCode("LLM_ALREADY_LINK", 0x5010B008, "both ends hold the link", _V.SUCCESS, _V.RETRY),
    StatusCode(
        "LLM_LINK_FAILED", 0x5010B009, "the peer cannot be connected to", _V.RETRY, _V.FORCE
    ),
    StatusCode(
        "LLM_UNLINK_FAILED", 0x5010B00A, "the peer cannot be told to unlink", _V.RETRY, _V.FORCE
    ),
    StatusCode(
        "LLM_NOTIFY_PROMPT_UNLINK_FAILED",
        0x5010B00B,
        "the prompt end still holds the link",
        _V.FORCE,
        _V.FORCE,
    ),
    StatusCode(
        "LLM_CLUSTER_NUM_EXCEED_LIMIT",
        0x5010B00C,
        "more than 16 clusters in one call",
        _V.CONFIG,
        _V.CONFIG,
    ),
    StatusCode(
        "LLM_PROCESSING_LINK", 0x5010B00D, "another link call is running", _V.RETRY, _V.RETRY
    ),
    StatusCode("LLM_DEVICE_OUT_OF_MEMORY", 0x5010B00E, "device memory is full", _V.RETRY, _V.RETRY),
    StatusCode("LLM_PREFIX_ALREADY_EXIST", 0x5010B00F, "a known prefix", _V.RETRY, _V.RETRY),
    StatusCode("LLM_PREFIX_NOT_EXIST", 0x5010B010, "an unknown prefix", _V.RETRY, _V.RETRY),
    # The library spells it this way.
    StatusCode("LLM_SEQ_LENOVERLIMIT", 0x5010B011, "the sequence is too long", _V.RETRY, _V.RETRY),
    StatusCode("LLM_NO_FREE_BLOCK", 0x5010B012, "no free block", _V.RETRY, _V.RETRY),
    StatusCode("LLM_BLOCKS_OUT_OF_MEMORY", 0x5010B013, "too few blocks", _V.RETRY, _V.RETRY),
    StatusCode("LLM_EXIST_LINK", 0x5010B018, "links are left to unlink", _V.RETRY, _V.RETRY),
    StatusCode("LLM_FEATURE_NOT_ENABLED", 0x5010B019, "an option is missing", _V.CONFIG, _V.CONFIG),
    StatusCode("LLM_TIMEOUT", 0x5010B01A, "the link is lost, the node is not", _V.FORCE, _V.FORCE),
    StatusCode("LLM_LINK_BUSY", 0x5010B01B, "a pull is running", _V.RETRY, _V.RETRY),
    StatusCode("LLM_OUT_OF_MEMORY", 0x5010B01C, "host memory is full", _V.RETRY, _V.RETRY),
    StatusCode("LLM_DEVICE_MEM_ERROR", 0x7BCAD, "device memory fault", _V.REPLACE, _V.REPLACE),
    StatusCode("LLM_SUSPECT_REMOTE_ERROR", 0x7BCB1, "the peer is dead", _V.REPLACE, _V.REPLACE),
    StatusCode("LLM_UNKNOWN_ERROR", -1, "unknown to the library itself", _V.RETRY, _V.RETRY),
)

STATUS_CODES: Mapping[str, StatusCode] = MappingProxyType({code.name: code for code in _TABLE})
"""All codes by name."""

_NAMES = {code.value: code.name for code in _TABLE}


def verdict(code_name: str, verb: Verb) -> Verdict:
    """Say what a code means for a link or unlink call; an unknown code is worth a retry."""
    code = STATUS_CODES.get(code_name)
    if code is None:
        return Verdict.RETRY
    return code.link if verb == "link" else code.unlink


_AFTER_TRANSFER = MappingProxyType(
    {
        # Which ends still hold the link is not known: a forced unlink on both comes first.
        "LLM_TIMEOUT": EntryState.UNKNOWN,
        "LLM_WAIT_PROCESS_TIMEOUT": EntryState.UNKNOWN,
        "LLM_SUSPECT_REMOTE_ERROR": EntryState.UNKNOWN,
        # This end holds none, and a link call from such an end replaces what the peer may hold.
        "LLM_NOT_YET_LINK": EntryState.FAILED,
    }
)


def after_transfer(code_name: str) -> EntryState | None:
    """Say what a link is after a pull or push over it ended with a code; None if that tells not."""
    return _AFTER_TRANSFER.get(code_name)


def name_of(value: int) -> str:
    """Return a code's name, or one that shows the number if it is not in the table."""
    return _NAMES.get(value, f"LLM_CODE_{value:#x}")
