"""Fitting a profile to measurements: least squares of the relative error, in the profile's shapes.

What the measurements do not tell is taken from a base profile, and said so.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from pd_autoscaler.engine_model.measured import (
    Batch,
    Fitted,
    Measured,
    Step,
    compared,
    qualities,
)
from pd_autoscaler.engine_model.profile import EngineProfile

_Floats = NDArray[np.float64]

KNOTS_MAX = 24
"""Points of a fitted table at most; where more batch sizes were measured, some share a point."""

_TOLD = 1e-3
"""A column of which less than this part is its own cannot be told from the others."""

PREFILL = ("prefill_points", "prefill_attention_s")
DECODE = ("decode_base_s", "decode_per_request_s", "decode_per_token_s")


def fitted(measured: Measured, base: EngineProfile, *, name: str) -> Fitted:
    """Fit prefill and decode each, as far as measurements tell; the rest is the base's."""
    taken = {
        field.name: f"not measured: {base.name}'s"
        for field in fields(EngineProfile)
        if field.name != "name"
    }
    profile = replace(base, name=name)
    if measured.batches:
        profile = _prefill_fitted(profile, measured.batches, taken, base.name)
    if measured.steps:
        profile = _decode_fitted(profile, measured.steps, taken, base.name)
    rows = compared(profile, measured)
    return Fitted(profile, rows, qualities(rows, measured), taken)


def _prefill_fitted(
    profile: EngineProfile, batches: Sequence[Batch], taken: dict[str, str], base: str
) -> EngineProfile:
    tokens, squares, seconds = np.array(batches, np.float64).T
    knots = _knots(tokens)
    if len(knots) < 2:
        factor = median(
            batch.seconds / profile.prefill_s(round(batch.tokens), batch.squares)
            for batch in batches
        )
        told = f"one batch size was measured: {base}'s, times {factor:.3g}"
        taken.update(dict.fromkeys(PREFILL, told))
        return replace(
            profile,
            prefill_points=tuple((n, factor * s) for n, s in profile.prefill_points),
            prefill_attention_s=factor * profile.prefill_attention_s,
        )
    table, attention_s = _table(_hats(tokens, knots), squares, seconds)
    if attention_s is None:
        taken["prefill_attention_s"] = "0: the batches of a size tell nothing of squares"
    else:
        del taken["prefill_attention_s"]
    del taken["prefill_points"]
    points = zip(knots.tolist(), _risen(table).tolist(), strict=True)
    return replace(
        profile, prefill_points=tuple(points), prefill_attention_s=float(attention_s or 0.0)
    )


def _knots(tokens: _Floats) -> _Floats:
    """Return where the table's points are: at the sizes measured, or evenly among them."""
    sizes = np.unique(tokens)
    if len(sizes) <= KNOTS_MAX:
        return sizes
    return np.unique(np.quantile(sizes, np.linspace(0, 1, KNOTS_MAX)))


def _hats(tokens: _Floats, knots: _Floats) -> _Floats:
    """Return how much each point of the table counts at each size: linear between two of them."""
    return np.stack([np.interp(tokens, knots, row) for row in np.eye(len(knots))], axis=1)


def _table(hats: _Floats, squares: _Floats, seconds: _Floats) -> tuple[_Floats, float | None]:
    """Return the table's seconds and those of a square, None where squares tell nothing more."""
    weighted, ones = hats / seconds[:, None], np.ones(len(seconds))
    of_squares = squares / seconds
    rest = of_squares - weighted @ _solved(weighted, of_squares)
    if np.linalg.norm(rest) > _TOLD * np.linalg.norm(of_squares):
        both = _solved(np.column_stack((weighted, of_squares)), ones)
        # Batches of short prompts that take longer than one long prompt fit no square.
        if both[-1] > 0:
            return both[:-1], float(both[-1])
    return _solved(weighted, ones), None


def _risen(table: _Floats) -> _Floats:
    """Return the nearest table that never falls nor is below 0: neighbours that fall are pooled."""
    pools: list[tuple[float, int]] = []
    for value in np.maximum(table, 0.0).tolist():
        mean, size = value, 1
        while pools and pools[-1][0] > mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools])


def _decode_fitted(
    profile: EngineProfile, steps: Sequence[Step], taken: dict[str, str], base: str
) -> EngineProfile:
    requests, context, seconds = np.array(steps, np.float64).T
    columns = np.column_stack((np.ones(len(steps)), requests, context)) / seconds[:, None]
    sizes = np.linalg.norm(columns, axis=0)
    if np.linalg.matrix_rank(columns / sizes, tol=_TOLD) == 3:
        values = _not_negative(columns)
        for field in DECODE:
            del taken[field]
    else:
        own = np.array([getattr(profile, field) for field in DECODE])
        factor = median((1 / (columns @ own)).tolist())
        told = f"too few batches and contexts differ: {base}'s, times {factor:.3g}"
        taken.update(dict.fromkeys(DECODE, told))
        values = factor * own
    return replace(
        profile,
        decode_base_s=float(values[0]),
        decode_per_request_s=float(values[1]),
        decode_per_token_s=float(values[2]),
    )


def _not_negative(columns: _Floats) -> _Floats:
    """Return the coefficients, none below 0, that bring the columns nearest to 1."""
    ones = np.ones(len(columns))
    best, least = np.zeros(3), np.inf
    for count in (3, 2, 1):
        for chosen in map(list, combinations(range(3), count)):
            values = np.zeros(3)
            values[chosen] = _solved(columns[:, chosen], ones)
            error = float(np.sum((columns @ values - 1) ** 2))
            if (values >= 0).all() and error < least:
                best, least = values, error
    return best


def _solved(columns: _Floats, wanted: _Floats) -> _Floats:
    """Return the least squares' solution, whatever the units of the columns."""
    sizes = np.linalg.norm(columns, axis=0)
    sizes = np.where(sizes > 0, sizes, 1.0)
    solution: _Floats = np.linalg.lstsq(columns / sizes, wanted, rcond=None)[0] / sizes
    return solution
