"""Targets inside the limits: counts, budget and ratio."""

from dataclasses import replace
from math import ceil

from pd_autoscaler.model.decision import Target
from pd_autoscaler.model.snapshot import Limits


def within(target: Target, limits: Limits, *, standing: Target | None = None) -> Target:
    """Return the target nearest to this one that the limits allow, its ratio repaired upwards.

    Above the budget what was asked for beyond the `standing` target is given back first.
    """
    kept = target if standing is None else standing
    prompt = min(max(target.prompt, limits.prompt_min), limits.prompt_max)
    decoder = min(max(target.decoder, limits.decoder_min), limits.decoder_max)
    if limits.ratio_min is not None and prompt < limits.ratio_min * decoder:
        prompt = min(ceil(limits.ratio_min * decoder), limits.prompt_max)
    if limits.ratio_max is not None and prompt > limits.ratio_max * decoder:
        decoder = min(ceil(prompt / limits.ratio_max), limits.decoder_max)
    while prompt + decoder > limits.nodes_max:
        # Give back what was asked for beyond the standing target first, then the larger role.
        if prompt > max(kept.prompt, limits.prompt_min) and prompt - kept.prompt >= (
            decoder - kept.decoder
        ):
            prompt -= 1
        elif decoder > max(kept.decoder, limits.decoder_min):
            decoder -= 1
        elif prompt - limits.prompt_min >= decoder - limits.decoder_min:
            prompt -= 1
        else:
            decoder -= 1
    if (prompt, decoder) == (target.prompt, target.decoder):
        return target
    return replace(target, prompt=prompt, decoder=decoder)


def shown(limits: Limits) -> str:
    """Return the limits in words."""
    parts = [
        f"{limits.prompt_min} to {limits.prompt_max} prompt",
        f"{limits.decoder_min} to {limits.decoder_max} decoder",
        f"at most {limits.nodes_max} nodes",
    ]
    if limits.ratio_min is not None:
        parts.append(f"at least {limits.ratio_min:g} prompt a decoder")
    if limits.ratio_max is not None:
        parts.append(f"at most {limits.ratio_max:g} prompt a decoder")
    return ", ".join(parts)
