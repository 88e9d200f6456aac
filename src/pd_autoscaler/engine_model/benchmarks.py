"""Benchmark files: a CSV with a row for each run, its prompts, batch, and times.

splitwise-sim's columns (github.com/Mutinifni/splitwise-sim: prompt_size, batch_size, token_size,
prompt_time and token_time in ms) and plain ones (prompt_tokens, requests, output_tokens, prefill_s,
step_s). Either time may be missing or empty; `context_tokens` may say what the batch holds in all,
instead of prompts and half of the outputs.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pd_autoscaler.engine_model.measured import Batch, Measured, Step, medians
from pd_autoscaler.errors import ConfigError

_PROMPTS = ("prompt_size", "prompt_tokens", "input_tokens")
_BATCHES = ("batch_size", "requests", "batch")
_OUTPUTS = ("token_size", "output_tokens")
_CONTEXTS = ("context_tokens",)
_PREFILLS = {"prompt_time": 1e-3, "prefill_ms": 1e-3, "prefill_s": 1.0, "ttft_ms": 1e-3}
_STEPS = {"token_time": 1e-3, "step_ms": 1e-3, "step_s": 1.0, "tpot_ms": 1e-3}
_KINDS = ("model", "hardware", "tensor_parallel")

_FIX = (
    "give a CSV with the columns prompt_size, batch_size, token_size, prompt_time, token_time (ms; "
    "splitwise-sim's) or prompt_tokens, requests, output_tokens, prefill_s, step_s"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Which rows of a file are meant; an empty value is any, if the file has one alone."""

    model: str = ""
    hardware: str = ""
    tensor_parallel: str = ""


_ANY = Kind()


def read_benchmarks(path: Path | str, kind: Kind = _ANY) -> Measured:
    """Read what was measured of one model on one hardware.

    Raises ConfigError naming file, line, value and fix for what cannot be read, and for a file of
    several models, hardwares or degrees of tensor parallelism of which `kind` leaves more than one.
    """
    batches: list[Batch] = []
    steps: list[Step] = []
    left: dict[tuple[str, ...], None] = {}
    for number, row in _rows(path):
        of = tuple(row.get(name, "") for name in _KINDS)
        if not _is_meant(of, kind):
            continue
        left[of] = None
        try:
            _take(row, batches, steps)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    _check(path, kind, list(left))
    if not batches and not steps:
        raise ConfigError(f"{path}: holds no time: {_FIX}")
    return Measured(
        tuple(medians(batches, Batch)), tuple(medians(steps, Step)), len(batches), len(steps)
    )


def _rows(path: Path | str) -> Sequence[tuple[int, Mapping[str, str]]]:
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="", strict=True)
            rows = [
                (
                    reader.line_num,
                    {str(k).strip().casefold(): str(v).strip() for k, v in row.items()},
                )
                for row in reader
            ]
            names = {str(name).strip().casefold() for name in reader.fieldnames or ()}
    except OSError as error:
        fix = "check the path and its permissions"
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): {fix}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: is no CSV: {_FIX}") from error
    if not names & {*_PREFILLS, *_STEPS} or not names & {*_PROMPTS, *_CONTEXTS}:
        raise ConfigError(f"{path}: is no known benchmark: {_FIX}")
    return rows


def _is_meant(of: Sequence[str], kind: Kind) -> bool:
    wanted = (kind.model, kind.hardware, kind.tensor_parallel)
    pairs = zip(wanted, of, strict=True)
    return all(not want or want.casefold() == has.casefold() for want, has in pairs)


def _check(path: Path | str, kind: Kind, left: Sequence[tuple[str, ...]]) -> None:
    """Raise ConfigError unless one kind of row is left."""
    if len(left) == 1:
        return
    if not left:
        asked = " ".join(filter(None, (kind.model, kind.hardware, kind.tensor_parallel)))
        raise ConfigError(
            f"{path}: has no row{f' of {asked}' if asked else ''}: look which {', '.join(_KINDS)} "
            "it has"
        )
    told = ", ".join(" ".join(filter(None, of)) for of in sorted(left)[:_TOLD_MAX])
    more = ", ..." if len(left) > _TOLD_MAX else ""
    raise ConfigError(
        f"{path}: holds several engines ({', '.join(_KINDS)}): {told}{more}; choose one"
    )


_TOLD_MAX = 12


def _take(row: Mapping[str, str], batches: list[Batch], steps: list[Step]) -> None:
    """Add what a row measured; raises ValueError for a cell that makes no sense."""
    requests = _number(row, _BATCHES)
    requests = 1.0 if requests is None else requests
    prompt, output, context = (_number(row, names) for names in (_PROMPTS, _OUTPUTS, _CONTEXTS))
    prefill_s, step_s = _seconds(row, _PREFILLS), _seconds(row, _STEPS)
    if prefill_s is not None:
        if prompt is None:
            raise ValueError(f"has a prefill time and no {_PROMPTS[1]}: complete or delete the row")
        batches.append(Batch(requests * prompt, requests * prompt**2, prefill_s))
    if step_s is not None:
        if context is None and prompt is None:
            raise ValueError(f"has a step time and no {_PROMPTS[1]}: complete or delete the row")
        held = requests * ((prompt or 0.0) + (output or 0.0) / 2) if context is None else context
        steps.append(Step(requests, held, step_s))


def _seconds(row: Mapping[str, str], columns: Mapping[str, float]) -> float | None:
    for name, unit_s in columns.items():
        value = _number(row, (name,))
        if value is not None:
            return value * unit_s
    return None


def _number(row: Mapping[str, str], names: Sequence[str]) -> float | None:
    """Return the first of these cells that is there and not empty; above 0, or ValueError."""
    name = next((name for name in names if row.get(name)), None)
    if name is None:
        return None
    try:
        value = float(row[name])
    except ValueError:
        value = math.nan
    if not 0 < value < _MOST:
        raise ValueError(f"{name} {row[name]!r} is no number above 0: correct or delete the row")
    return value


_MOST = 1e15
