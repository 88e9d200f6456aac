"""static and replayed: counts that are known beforehand, for comparisons with hindsight.

`static` never moves. `replayed` plays a schedule of counts: the clairvoyant total at the best fixed
ratio (`sim.bounds.fixed_ratio_bound`), the fluid bound, or the oracle's staffing. It asks
`ahead_s` early, so that nodes which take that long to come are there in time.
"""

from typing import Self

from pydantic import Field, model_validator

from pd_autoscaler.model.decision import Decision, Target
from pd_autoscaler.model.snapshot import Snapshot
from pd_autoscaler.policies.contract import Params, PolicySpec
from pd_autoscaler.sim.staffing import Staffing


class StaticParams(Params):
    """The counts."""

    prompt: int = Field(default=1, ge=0)
    """Prompt nodes."""
    decoder: int = Field(default=1, ge=0)
    """Decoders."""


class Static:
    """Asks for the same counts whatever happens."""

    def __init__(self, params: StaticParams) -> None:
        self._target = Target(params.prompt, params.decoder, "never changed")

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts."""
        return self._target


class ReplayedParams(Params):
    """A schedule of counts from the first snapshot on."""

    slot_s: float = Field(default=60.0, gt=0)
    """Seconds that each entry of the schedule lasts; the last one lasts on."""
    prompt: tuple[int, ...] = (1,)
    """Prompt nodes, slot by slot."""
    decoder: tuple[int, ...] = (1,)
    """Decoders, slot by slot."""
    ahead_s: float = Field(default=0.0, ge=0)
    """Seconds before a slot with more nodes in which they are asked for already."""

    @model_validator(mode="after")
    def _is_a_schedule(self) -> Self:
        lengths = len(self.prompt), len(self.decoder)
        if not all(lengths) or len(set(lengths)) > 1 or min(*self.prompt, *self.decoder) < 0:
            raise ValueError(
                f"{lengths[0]} prompt and {lengths[1]} decoder slots; as many of each, one at "
                f"least and no count below 0, would be right"
            )
        return self


class Replayed:
    """Asks for the most that the schedule has between now and `ahead_s` later."""

    def __init__(self, params: ReplayedParams) -> None:
        self._params = params
        self._staffing = Staffing(params.slot_s, params.prompt, params.decoder)
        self._began_s: float | None = None

    def decide(self, snapshot: Snapshot) -> Decision:
        """Return the counts of this moment of the schedule."""
        if self._began_s is None:
            self._began_s = snapshot.now_s
        at_s = snapshot.now_s - self._began_s
        wanted = self._staffing.between(at_s, at_s + self._params.ahead_s)
        return Target(wanted.prompt, wanted.decoder, "as scheduled")


STATIC = PolicySpec(params=StaticParams, build=Static)
REPLAYED = PolicySpec(params=ReplayedParams, build=Replayed)
