"""Mooncake's traces (github.com/kvcache-ai/Mooncake): JSON lines with the prompts' blocks.

`hash_ids` name the prompt's blocks of 512 tokens, the last one being shorter as a rule: equal ids
are equal prompts up to there.
"""

import json

from pd_autoscaler.workload.rows import BadRowError, Row, is_finite, shortened, tokens

KEYS = ("timestamp", "input_length", "output_length")
BLOCK_TOKENS = 512


def mooncake_row(text: str) -> Row:
    """Read one line; raises BadRowError."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRowError("is not JSON: complete or delete it") from error
    missing = [key for key in KEYS if not isinstance(row, dict) or key not in row]
    if missing:
        raise BadRowError(
            f"lacks {missing[0]}: give Mooncake JSON lines ({', '.join(KEYS)}, hash_ids)"
        )
    at_ms, given, wanted = (row[key] for key in KEYS)
    if isinstance(at_ms, bool) or not isinstance(at_ms, int | float) or not is_finite(at_ms):
        raise BadRowError(f"timestamp {shortened(at_ms)} is no number: give milliseconds")
    return Row(
        at_ms / 1000,
        tokens("input_length", given),
        tokens("output_length", wanted),
        blocks=_blocks(row.get("hash_ids")),
    )


def _blocks(ids: object) -> tuple[int | str, ...]:
    if ids is None:
        return ()
    if not isinstance(ids, list) or not all(isinstance(one, int | str) for one in ids):
        raise BadRowError(
            f"hash_ids {shortened(ids)} is no list of ids: correct it, or leave it out"
        )
    return tuple(ids)
