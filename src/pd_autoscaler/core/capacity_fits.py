"""Where the fits of a prompt node's rate and of a decoder's step begin.

A rate has one coefficient, tokens a second. A step has three: seconds of base, for each request in
the batch, and for each token of KV it holds.
"""

from pd_autoscaler.core.least_squares import Fit
from pd_autoscaler.core.matrices import Vector

_STEP_SHAPE: Vector = (0.030, 2.0e-4, 1.8e-7)
"""A decode step of Llama-2-70B on eight H100 in vLLM, seconds: base, a request, a token of KV.

Fitted to Microsoft/splitwise-sim `perf_model.csv` (median error 1 %). Only its shape is believed:
the first samples say how much slower or faster the engine at hand is.
"""

_RATE_FLOORS: Vector = (1.0,)
_STEP_FLOORS: Vector = (1e-5, 0.0, 0.0)
"""A token a second; ten microseconds, in which no engine gets a step started."""

_RATE_NOISE, _STEP_NOISE = 0.10, 0.05
"""Long prompts compute slower than short ones (attention grows with the square), and a batch known
from a few pages is a batch roughly known."""

_PRIOR_SPREAD = 0.3
_SHAPE_SPREAD = 1.0
"""How far off, in shares, what an operator measured and a shape may be."""


def rate_believed(tokens_per_s: float) -> Fit:
    """Begin with a rate that an operator measured."""
    return _rate(tokens_per_s, _PRIOR_SPREAD)


def rate_guessed(tokens_per_s: float) -> Fit:
    """Begin with a rate of the size that the first windows will show."""
    return _rate(tokens_per_s, _SHAPE_SPREAD, is_guess=True)


def step_believed(values: Vector, *, has_kv_size: bool) -> Fit:
    """Begin with a step that an operator measured.

    Where nobody says how much KV a node has, a request carries the cost of its tokens.
    """
    return _step(values, _PRIOR_SPREAD, has_kv_size=has_kv_size)


def step_guessed(*, has_kv_size: bool) -> Fit:
    """Begin with a step of the usual shape and of the size that the first windows will show."""
    return _step(_STEP_SHAPE, _SHAPE_SPREAD, has_kv_size=has_kv_size, is_guess=True)


def _rate(tokens_per_s: float, spread: float, *, is_guess: bool = False) -> Fit:
    return Fit.begun(
        (tokens_per_s,),
        sizes=(tokens_per_s,),
        spread=spread,
        floors=_RATE_FLOORS,
        noise_min=_RATE_NOISE,
        is_guess=is_guess,
    )


def _step(values: Vector, spread: float, *, has_kv_size: bool, is_guess: bool = False) -> Fit:
    base_s, request_s, token_s = values
    # A prior of nothing is no certainty: what is 0 may be as unsure as its share in the shape.
    shape = tuple(base_s / _STEP_SHAPE[0] * size for size in _STEP_SHAPE)
    return Fit.begun(
        (base_s, request_s, token_s if has_kv_size else 0.0),
        sizes=tuple(map(max, values, shape)),
        spread=spread,
        floors=_STEP_FLOORS,
        noise_min=_STEP_NOISE,
        is_guess=is_guess,
    )
