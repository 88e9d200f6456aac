"""Tables of rates: a CSV with a row for each stretch of time, and what came in it.

The columns `t_s`, `req_per_s`, `mean_input_tokens` and `mean_output_tokens` are needed; `iat_cv`
(coefficient of variation of the gaps), `in_p10` … `in_p99` and `out_p10` … `out_p99` are used where
they are there. So are the tables that ServeGen (github.com/alibaba/ServeGen) is summed up in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.workload.arrivals import Floats
from pd_autoscaler.workload.formats import RATES, Numbered, numbered
from pd_autoscaler.workload.plain import INPUTS, OUTPUTS, TIMES_S, plainly
from pd_autoscaler.workload.rates import Lengths, Rates
from pd_autoscaler.workload.rows import BadRowError, cells_of, names_of, number_in, place_of

_QUANTILES = (("p10", -1.2816), ("p50", 0.0), ("p90", 1.2816), ("p95", 1.6449), ("p99", 2.3263))
"""Names of quantiles, and where they are on the standard normal law."""

_FIX = "give a CSV with the columns t_s, req_per_s, input_tokens and output_tokens"


def read_rates(path: Path | str) -> Rates:
    """Read a table of rates; its first row is at 0 s, its last one lasts as long as the one before.

    Raises ConfigError naming file, line and fix for whatever cannot be read.
    """
    return rates_in(path, numbered(path))


def rates_in(path: Path | str, lines: Iterable[Numbered]) -> Rates:
    """Read a table of rates from its lines, the header first; as `read_rates`."""
    remaining = iter(lines)
    header = next(remaining, None)
    if header is None:
        raise ConfigError(f"{path}: holds no rate: {_FIX}")
    try:
        columns = _columns(names_of(header.text))
    except BadRowError as error:
        raise ConfigError(f"{path}:{header.number}: {error}") from error
    table: list[list[float]] = []
    for number, text in remaining:
        try:
            table.append(columns.numbers(text))
            if len(table) > 1 and not table[-1][0] > table[-2][0]:
                raise BadRowError(
                    f"{columns.names[0]} {table[-1][0]:g} is not after {table[-2][0]:g}: "
                    "sort the rows"
                )
        except BadRowError as error:
            raise ConfigError(f"{path}:{number}: {error}") from error
    if len(table) < 2:
        raise ConfigError(f"{path}: a table of rates needs two rows to tell how long one lasts")
    try:
        return _rates(columns, np.array(table, np.float64))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the columns are that count, in the order of `names`."""

    names: tuple[str, ...]
    places: tuple[int, ...]
    least: tuple[float, ...]
    count: int
    input_z: tuple[float, ...]
    output_z: tuple[float, ...]
    has_burstiness: bool

    def numbers(self, text: str) -> list[float]:
        """Read one row; raises BadRowError."""
        cells = cells_of(text, self.count)
        numbers = [
            number_in(name, cells[place], least=least)
            for name, place, least in zip(self.names, self.places, self.least, strict=True)
        ]
        for first, z in ((4, self.input_z), (4 + len(self.input_z), self.output_z)):
            of = numbers[first : first + len(z)]
            if of != sorted(of):
                raise BadRowError(
                    f"{self.names[first]} and the columns after it fall: quantiles must rise"
                )
        return numbers


def _columns(header: Sequence[str]) -> _Columns:
    names = [plainly(name) for name in header]
    needed = []
    for what, aliases in (
        ("t_s", TIMES_S),
        ("req_per_s", RATES),
        ("input_tokens", ("mean_input_tokens", *INPUTS)),
        ("output_tokens", ("mean_output_tokens", *OUTPUTS)),
    ):
        place = place_of(names, aliases)
        if place is None:
            raise BadRowError(f"has no column {what}: {_FIX}")
        needed.append(place)
    inputs, outputs = (_quantiles(names, side) for side in ("in", "out"))
    gaps = place_of(names, ("iat_cv", "burstiness"))
    quantiles = [place for place, _ in (*inputs, *outputs)]
    places = (*needed, *quantiles, *([] if gaps is None else [gaps]))
    return _Columns(
        tuple(header[place] for place in places),
        places,
        (-1e300, 0.0, 1.0, 1.0, *[0.0] * len(quantiles), *([] if gaps is None else [0.0])),
        len(header),
        tuple(z for _, z in inputs),
        tuple(z for _, z in outputs),
        gaps is not None,
    )


def _quantiles(names: Sequence[str], side: str) -> list[tuple[int, float]]:
    """Return places and normal quantiles of one side's columns; one alone tells no spread."""
    found = [(names.index(f"{side}_{p}"), z) for p, z in _QUANTILES if f"{side}_{p}" in names]
    return found if len(found) > 1 else []


def _rates(columns: _Columns, table: Floats) -> Rates:
    begin_s = table[:, 0] - table[0, 0]
    of_inputs = 4 + len(columns.input_z)
    of_outputs = of_inputs + len(columns.output_z)
    return Rates(
        begin_s=begin_s,
        end_s=float(2 * begin_s[-1] - begin_s[-2]),
        request_per_s=table[:, 1],
        inputs=_lengths(table[:, 2], columns.input_z, table[:, 4:of_inputs]),
        outputs=_lengths(table[:, 3], columns.output_z, table[:, of_inputs:of_outputs]),
        burstiness=table[:, of_outputs] if columns.has_burstiness else np.ones(len(table)),
    )


def _lengths(means: Floats, quantiles_z: tuple[float, ...], quantiles: Floats) -> Lengths:
    if not quantiles_z:
        return Lengths(means)
    # Less than a token is none: a quantile of 0 has no logarithm.
    return Lengths(means, quantiles_z, np.maximum(quantiles, 1.0))
