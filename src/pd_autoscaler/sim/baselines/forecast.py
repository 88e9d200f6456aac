"""Forecast: the next interval's value of a series, from its level and trend."""


class Kalman:
    """A filter of level and trend with the constants of Dynamo's planner, one step ahead.

    Variances: level 1.0, trend 0.1, observation 10; below five points the last value is the
    forecast (ai-dynamo/dynamo 1.6.1 `planner`). All of them are relative to each other, so that the
    scale of the series does not matter.
    """

    POINTS_MIN = 5
    LEVEL, TREND, OBSERVED = 1.0, 0.1, 10.0

    def __init__(self) -> None:
        self._level = self._trend = self._last = 0.0
        self._points = 0
        # Covariances: of the level, of both, of the trend.
        self._variance = (self.OBSERVED, 0.0, self.OBSERVED)

    def saw(self, value: float) -> None:
        """Take in the newest value."""
        self._last = value
        self._points += 1
        if self._points == 1:
            self._level = value
            return
        a, b, c = self._variance
        a, b, c = a + 2 * b + c + self.LEVEL, b + c, c + self.TREND
        expected = self._level + self._trend
        gain, slope = a / (a + self.OBSERVED), b / (a + self.OBSERVED)
        error = value - expected
        self._level, self._trend = expected + gain * error, self._trend + slope * error
        self._variance = ((1 - gain) * a, (1 - gain) * b, c - slope * b)

    @property
    def next(self) -> float:
        """The value expected next, never below 0."""
        if self._points < self.POINTS_MIN:
            return self._last
        return max(self._level + self._trend, 0.0)


class Constant:
    """Expects the last value again."""

    def __init__(self) -> None:
        self._last = 0.0

    def saw(self, value: float) -> None:
        """Take in the newest value."""
        self._last = value

    @property
    def next(self) -> float:
        """The value expected next."""
        return self._last
