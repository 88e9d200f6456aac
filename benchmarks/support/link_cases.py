"""The fleets that are linked, and the least time that the library's rules allow each."""

import math
from dataclasses import dataclass, replace

from benchmarks.support.fleet import Member

from pd_autoscaler.model.node import Role

SLOTS = 16
"""Links at a time, at either end (hicann/hixl, `llm_link_manager.cc`, `msg_handler_plugin.cc`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fleet and what happens to it.

    `prompt` and `decoder` serve from the start; `prompt_new` and `decoder_new` are asked to join;
    `broken` links are dropped. `is_parallel`: prompt nodes initialise communicators side by side.
    """

    prompt: int = 0
    decoder: int = 0
    prompt_new: int = 0
    decoder_new: int = 0
    broken: int = 0
    is_parallel: bool = False
    period_s: float = 10.0

    def divided(self, by: int) -> "Case":
        """Return a smaller case of the same shape."""
        sizes = {
            name: -(-getattr(self, name) // by)
            for name in ("prompt", "decoder", "prompt_new", "decoder_new")
        }
        pairs = (sizes["prompt"] + sizes["prompt_new"]) * (sizes["decoder"] + sizes["decoder_new"])
        return replace(self, **sizes, broken=min(self.broken, pairs))

    @property
    def title(self) -> str:
        """What is measured, in words."""
        how = ", prompt side in parallel" if self.is_parallel else ""
        if self.broken:
            return f"{self.broken} broken pairs of {self.prompt}P x {self.decoder}D"
        if self.prompt_new:
            return f"{self.prompt_new} prompts to {self.decoder} decoders{how}"
        return f"{self.decoder_new} decoder to {self.prompt} prompts{how}"

    def bound_s(self, *, init_s: float, prepare_s: float) -> float:
        """Return the least time: the busiest process on either side, `SLOTS` links at a time."""
        prompts, decoders = self.prompt + self.prompt_new, self.decoder + self.decoder_new
        at_prompt = decoders if self.prompt_new or self.broken else self.decoder_new
        at_decoder = prompts if self.decoder_new or self.broken else self.prompt_new
        least_s = [at_decoder * init_s + prepare_s]
        if not self.is_parallel:
            least_s.append(at_prompt * init_s + prepare_s)
        busiest = max(at_prompt, at_decoder)
        least_s.append(math.ceil(busiest / SLOTS) * (init_s + prepare_s))
        return max(least_s)


CASES = {
    "prompts": Case(decoder=64, prompt_new=4),
    "prompts-parallel": Case(decoder=64, prompt_new=4, is_parallel=True),
    "decoder": Case(prompt=128, decoder_new=1),
    "repair": Case(prompt=32, decoder=32, broken=1000, period_s=1.0),
}


def members_of(case: Case) -> list[Member]:
    """Name the nodes of a case."""
    members: list[Member] = []
    for role, letter, serving, new in (
        (Role.PROMPT, "p", case.prompt, case.prompt_new),
        (Role.DECODER, "d", case.decoder, case.decoder_new),
    ):
        for number in range(1, serving + new + 1):
            members.append(
                Member(
                    f"{letter}{number}",
                    role,
                    cluster_id=len(members) + 1,
                    is_spare=number > serving,
                    is_parallel=case.is_parallel and role is Role.PROMPT,
                )
            )
    return members
