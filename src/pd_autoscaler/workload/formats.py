"""Formats: which one a trace is in, told by what it holds; the one place that knows them all."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.azure import azure_parser
from pd_autoscaler.workload.mooncake import mooncake_row
from pd_autoscaler.workload.plain import plain_parser, plainly
from pd_autoscaler.workload.rows import BadRowError, Parser, Row, names_of

FIX_FORMAT = (
    "give an Azure CSV (header TIMESTAMP,ContextTokens,GeneratedTokens), Mooncake JSON lines "
    "(timestamp, input_length, output_length), a CSV of requests (at_s,input_tokens,output_tokens) "
    "or of rates (t_s,req_per_s,input_tokens,output_tokens)"
)

RATES = ("req_per_s", "request_per_s", "requests_per_s", "rps", "qps")
"""Names of the column that makes a CSV a table of rates."""


class Numbered(NamedTuple):
    """A line that is not blank, and its number in the file."""

    number: int
    text: str


def numbered(path: Path | str) -> Iterator[Numbered]:
    """Yield the lines of a text file that are not blank; raises ConfigError naming it."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as lines:
            for number, line in enumerate(lines, start=1):
                if text := line.strip():
                    yield Numbered(number, text)
    except OSError as error:
        fix = "check the path and its permissions"
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): {fix}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not a text file: {FIX_FORMAT}") from error


def is_rate_table(header: str) -> bool:
    """Whether a first line is the header of a table of rates."""
    return any(plainly(name) in RATES for name in names_of(header))


def rows(path: Path | str, lines: Iterable[Numbered]) -> Iterator[Row]:
    """Yield the recorded requests in these lines, in the order of the file.

    Raises ConfigError naming file, line and fix for one that cannot be read.
    """
    parse: Parser | None = None
    for number, text in lines:
        try:
            if parse is None:
                parse, is_header = _parser(text)
                if is_header:
                    continue
            yield parse(text)
        except BadRowError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error


def _parser(first: str) -> tuple[Parser, bool]:
    """Return what reads the rows, and whether the first line is none."""
    if first.startswith("{"):
        return mooncake_row, False
    names = names_of(first)
    if is_rate_table(first):
        raise BadRowError("is a table of rates, which holds no single request: give a trace")
    parser = azure_parser(names) or plain_parser(names)
    if parser is None:
        raise BadRowError(f"is not a known trace format: {FIX_FORMAT}")
    return parser, True
