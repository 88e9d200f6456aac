"""The rows that every benchmark ends with, for people and for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `ratio` is value over reference, `aim` the largest ratio that is good enough.

    Without a ratio the aim is the least value. `reference`, `ratio`, `aim` and `met` are None where
    there is nothing to compare with.
    """

    name: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None
    aim: float | None = None
    met: bool | None = None


def measured(name: str, value: float, unit: str) -> Row:
    """Return a row that stands for itself."""
    return Row(name, round(value, 3), unit)


def compared(name: str, value: float, unit: str, *, reference: float, aim: float) -> Row:
    """Return a row whose ratio to a reference should be at most `aim`."""
    ratio = value / reference
    return Row(
        name, round(value, 3), unit, round(reference, 3), round(ratio, 3), aim, met=ratio <= aim
    )


def told(row: Row) -> str:
    """Return a row as a line for people."""
    line = f"{row.name}: {row.value:g} {row.unit}"
    if row.reference is not None and row.ratio is not None:
        line += f", {row.ratio:.3f} x {row.reference:g} {row.unit}"
    if row.met is not None:
        aim = f"at least {row.aim:g} {row.unit}" if row.ratio is None else f"at most {row.aim:g} x"
        line += f" ({'met' if row.met else 'MISSED'}: {aim})"
    return line


def printed(
    benchmark: str,
    rows: Sequence[Row],
    *,
    is_json: bool,
    tables: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Print the rows; with `is_json` the last line is one object for programs.

    `tables` hold figures that no row has room for: each a title, columns, rows and a note.
    """
    for row in rows:
        print(told(row))
    if is_json:
        found: dict[str, Any] = {"benchmark": benchmark, "rows": [asdict(row) for row in rows]}
        print(json.dumps(found | ({"tables": list(tables)} if tables else {})))
    sys.stdout.flush()


def read(output: str) -> dict[str, Any]:
    """Read the object on the last line of a benchmark's output; raises ValueError if it is none."""
    lines = output.strip().splitlines()
    found = json.loads(lines[-1]) if lines else None
    if not isinstance(found, dict) or not {"benchmark", "rows"} <= found.keys():
        raise ValueError("the last line is not the object of a benchmark")
    return found
