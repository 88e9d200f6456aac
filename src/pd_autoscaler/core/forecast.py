"""Forecast: the level, trend and noise of one demand, and by how much it beat its forecasts.

Values are rates over a window of `window_s` seconds. Points that share no window are kept apart:
overlapping ones would make a trend look surer, and arrivals smoother, than they are.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

Point = tuple[float, float]
"""Seconds and value."""

POINTS_MAX = 60
ERRORS_MAX = 120
"""Half an hour and an hour at windows of 30 s."""
POINTS_MIN = 4
"""Fewer points make no trend, and no noise."""
ERRORS_MIN = 10
"""Fewer answered forecasts have no quantile to speak of."""
ERROR_MAX = 3.0
"""Largest relative error that is taken in: demand that quadruples is nothing to keep nodes for."""
VALUE_MIN = 1e-6
"""What is below is nothing at all; shares of it mean nothing."""

JUMP_DEVIATIONS = 3.0
"""Standard deviations off the line at which a value is a new level and no noise."""
NOISE_MIN = 0.05
"""Least relative noise: users who come for many reasons are never steadier."""

_TRIMMED = 0.1
_TRIMMED_REST = 0.62
"""The mean square of a normal variable without its largest tenth, as a share of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One demand as it was seen so far; `due` are forecasts that no value has answered yet."""

    window_s: float
    trend_s: float
    points: tuple[Point, ...] = ()
    newest: Point | None = None
    since_s: float = -math.inf
    due: tuple[Point, ...] = ()
    errors: tuple[float, ...] = ()

    def seen(self, value: float, *, now_s: float) -> "Track":
        """Return the track with one more value; one that is no newer than the last changes nothing.

        A value far off the line is a new level: what was before it says nothing of a trend.
        """
        if self.newest is not None and now_s <= self.newest[0]:
            return self
        since_s = now_s if self._is_off(value, now_s=now_s) else self.since_s
        is_due = not self.points or now_s - self.points[-1][0] >= self.window_s
        points = (*self.points, (now_s, value))[-POINTS_MAX:] if is_due else self.points
        due, errors = self._answered(value, now_s=now_s)
        return Track(
            window_s=self.window_s,
            trend_s=self.trend_s,
            points=points,
            newest=(now_s, value),
            since_s=since_s,
            due=due,
            errors=errors,
        )

    def promised(self, value: float, *, at_s: float) -> "Track":
        """Return the track with a forecast of a later moment, to be compared when it comes.

        Before there are a few points nothing is: at a start it is not users who are fewer.
        """
        if len(self.points) < POINTS_MIN:
            return self
        if self.due and at_s < self.due[-1][0] + self.window_s:
            return self
        return replace(self, due=(*self.due, (at_s, value))[-POINTS_MAX:])

    def level(self) -> float | None:
        """Return the present value: the mean of the newest window and the one before it."""
        if self.newest is None:
            return None
        at_s, value = self.newest
        for before_s, before in reversed(self.points):
            if before_s < self.since_s or at_s - before_s >= 2 * self.window_s:
                break
            if at_s - before_s >= self.window_s:
                return (value + before) / 2
        return value

    def ahead(self, horizon_s: float, *, now_s: float) -> float | None:
        """Return what is expected in so many seconds, None before anything was seen.

        The trend fades: after `trend_s` seconds it is not believed to go on.
        """
        level = self.level()
        if level is None or self.newest is None or self.trend_s <= 0:
            return level
        reach_s = max(0.0, horizon_s + now_s - self.newest[0])
        faded_s = self.trend_s * -math.expm1(-reach_s / self.trend_s)
        return max(0.0, level + self.slope() * faded_s)

    def slope(self) -> float:
        """Return the trend a second, shrunk by how unsure it is (James and Stein); 0 is none."""
        if self.newest is None:
            return 0.0
        since_s = max(self.since_s, self.newest[0] - self.trend_s)
        rows = self.points[bisect_left(self.points, (since_s,)) :]
        if len(rows) < POINTS_MIN:
            return 0.0
        slope, error = _fitted(rows)
        return slope * max(0.0, 1.0 - (error / slope) ** 2) if slope else 0.0

    @property
    def highest(self) -> float:
        """The highest value of the points that are kept; 0 before any."""
        return max([value for _, value in self.points], default=0.0)

    @property
    def noise(self) -> float:
        """The standard deviation of a window about the line, as a share of the value."""
        return max(NOISE_MIN, math.sqrt(self.variance or 0.0))

    @property
    def variance(self) -> float | None:
        """The relative variance of windows about a slowly moving mean, None before it is known.

        Half of the mean squared step (von Neumann's estimate), so that slow swings do not count;
        without the largest tenth, so that one step of load does not count for half an hour.
        """
        return _variance(self.points)

    def excess(self, quantile: float, *, first: float, horizon_s: float) -> float:
        """Return by what share demand exceeds a forecast, at a quantile of what was seen.

        Never below 0, and `first` before enough forecasts came due. One step of load is missed by
        every forecast of the `horizon_s` before it, and is still one event: as many of the largest
        are left out, for it must not decide alone.
        """
        one_step = math.ceil(horizon_s / self.window_s) + 2
        if len(self.errors) < ERRORS_MIN + one_step:
            return first
        rank = min(math.ceil(quantile * len(self.errors)), len(self.errors) - one_step) - 1
        return max(0.0, sorted(self.errors)[max(0, rank)])

    def _is_off(self, value: float, *, now_s: float) -> bool:
        """Whether a value is too far off the line to be noise."""
        expected = self.ahead(0.0, now_s=now_s)
        if expected is None:
            return False
        off, most = abs(value - expected), max(expected, value)
        # The noise takes long to find, and is seldom asked for.
        least = JUMP_DEVIATIONS * NOISE_MIN * most
        return off > least and off > JUMP_DEVIATIONS * self.noise * most

    def _answered(
        self, value: float, *, now_s: float
    ) -> tuple[tuple[Point, ...], tuple[float, ...]]:
        """Compare the forecasts that have come due with the value; return those left and errors."""
        if not self.due or self.due[0][0] > now_s:
            return self.due, self.errors
        ripe = [point for point in self.due if point[0] <= now_s]
        errors = [
            min((value - told) / told, ERROR_MAX)
            for due_s, told in ripe
            # One that came due in a long silence is answered by nothing.
            if told > VALUE_MIN and now_s - due_s <= self.window_s
        ]
        return self.due[len(ripe) :], (*self.errors, *errors)[-ERRORS_MAX:]


# Points are added once a window, and asked about many times in each cycle of it.
_CYCLES_KEPT = 64


@lru_cache(maxsize=_CYCLES_KEPT)
def _variance(points: tuple[Point, ...]) -> float | None:
    steps = sorted(
        [(2 * (b - a) / (b + a)) ** 2 for (_, a), (_, b) in pairwise(points) if a + b > VALUE_MIN]
    )
    if len(steps) < POINTS_MIN:
        return None
    usual = steps[: len(steps) - math.ceil(_TRIMMED * len(steps))]
    return math.fsum(usual) / len(usual) / 2 / _TRIMMED_REST


@lru_cache(maxsize=_CYCLES_KEPT)
def _fitted(rows: tuple[Point, ...]) -> tuple[float, float]:
    """Return the slope of the line through points, and its standard error."""
    count = len(rows)
    at_s = math.fsum([t for t, _ in rows]) / count
    mean = math.fsum([v for _, v in rows]) / count
    spread = math.fsum([(t - at_s) ** 2 for t, _ in rows])
    if spread <= 0:
        return 0.0, math.inf
    slope = math.fsum([(t - at_s) * (v - mean) for t, v in rows]) / spread
    rest = math.fsum([(v - mean - slope * (t - at_s)) ** 2 for t, v in rows])
    return slope, math.sqrt(rest / (count - 2) / spread)
