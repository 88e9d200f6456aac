"""Delays: how long the steps of a simulated node's life take, as distributions."""

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol


class Delay(Protocol):
    """A distribution of seconds."""

    def draw(self, rng: Random) -> float:
        """Draw one duration."""
        ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything between two durations, all alike."""

    least_s: float
    most_s: float

    def draw(self, rng: Random) -> float:
        """Draw one duration."""
        return rng.uniform(self.least_s, self.most_s)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal duration by its mean and coefficient of variation; 0 s is 0 s always."""

    mean_s: float
    cv: float = 0.3

    def draw(self, rng: Random) -> float:
        """Draw one duration."""
        if self.mean_s <= 0:
            return 0.0
        variance = math.log1p(self.cv**2)
        return rng.lognormvariate(math.log(self.mean_s) - variance / 2, math.sqrt(variance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """What a node takes to start (until its agent answers), to initialise, to link one peer, to
    switch its role, and to stop once it was told to.
    """

    start: Delay = Uniform(5.0, 30.0)
    init: Delay = Uniform(1.0, 8.0)
    link: Delay = Uniform(0.005, 1.5)
    switch: Delay = Uniform(0.2, 5.0)
    stop: Delay = Uniform(1.0, 10.0)
