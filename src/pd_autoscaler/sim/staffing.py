"""Staffing: node counts by slot of time, as bounds and oracles know them beforehand."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.decision import Target

SLOT_S = 60.0
"""The slot of the fluid bound and of the oracle."""


@dataclass(frozen=True, slots=True)
class Staffing:
    """Prompt nodes and decoders wanted in each slot of `slot_s` seconds; the last one lasts.

    Raises ConfigError for columns of different lengths, none at all, or a count below zero.
    """

    slot_s: float
    prompt: tuple[int, ...]
    decoder: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.prompt or len(self.prompt) != len(self.decoder):
            raise ConfigError(
                "staffing: both roles need the same number of slots, and one at least"
            )
        if not self.slot_s > 0 or min(*self.prompt, *self.decoder) < 0:
            raise ConfigError("staffing: a slot must last, and no count may be below 0")

    def __len__(self) -> int:
        return len(self.prompt)

    def at(self, at_s: float) -> Target:
        """Return the counts of a moment, in seconds since the first slot began."""
        slot = min(max(int(at_s // self.slot_s), 0), len(self) - 1)
        return Target(self.prompt[slot], self.decoder[slot])

    def between(self, from_s: float, to_s: float) -> Target:
        """Return the most of each role in any slot that these moments touch."""
        first, last = (min(max(int(s // self.slot_s), 0), len(self) - 1) for s in (from_s, to_s))
        slots = slice(first, max(first, last) + 1)
        return Target(max(self.prompt[slots]), max(self.decoder[slots]))

    @property
    def node_hours(self) -> float:
        """Node-hours of both roles over all slots."""
        return (sum(self.prompt) + sum(self.decoder)) * self.slot_s / 3600.0

    def changes(self) -> Iterable[tuple[float, Target]]:
        """Yield when counts change and to what, beginning with the first ones at 0."""
        targets = (self.at(slot * self.slot_s) for slot in range(len(self)))
        for target, group in groupby(enumerate(targets), key=lambda pair: pair[1]):
            first, _ = next(iter(group))
            yield first * self.slot_s, target
