"""The parameters of `slo`: targets, costs, times, and switches for its ingredients."""

from pydantic import Field

from pd_autoscaler.policies.contract import Params


class SloParams(Params):
    """Latency targets and what a miss costs; the rest has defaults that follow what is measured.

    The switches at the end leave one ingredient out each, to see what it is worth.
    """

    ttft_s: float = Field(default=1.0, gt=0, le=600)
    """Time to first token, seconds, that the target share of requests must keep."""
    tpot_s: float = Field(default=0.050, gt=0, le=10)
    """Time per output token, seconds."""
    attainment: float = Field(default=0.99, ge=0.5, lt=1)
    """Share of requests that keep each target."""
    shortage_cost: float = Field(default=10.0, ge=1, le=10_000)
    """What a node too few costs, in nodes too many: 10 sizes for what ten moments in eleven need.
    Shrinking late is a reserve of its own, so that this may be less than a miss is worth."""
    rate_share: float = Field(default=0.85, gt=0, le=1)
    """Part of a prompt node's learnt rate that is planned with: it is that of full batches."""
    batch_share: float = Field(default=0.90, gt=0, le=1)
    """Part of the largest batch within `tpot_s` that decoders are sized for."""
    kv_share: float = Field(default=0.85, gt=0, le=1)
    """Part of a decoder's KV that is planned with: what is above is for long answers."""
    headroom: float = Field(default=0.85, gt=0, le=1)
    """Part of its capacity that fewer nodes may be loaded to; less makes shrinking rarer."""
    drain_s: float = Field(default=120.0, gt=0, le=3600)
    """Seconds within which a queue that has built up is worked off."""
    lead_s: float = Field(default=120.0, ge=0, le=3600)
    """Seconds that a node takes to serve, before any was measured."""
    lead_max_s: float = Field(default=900.0, gt=0, le=7200)
    """Seconds beyond which nothing is forecast, however long nodes take."""
    react_s: float = Field(default=30.0, ge=0, le=3600)
    """Seconds from an answer to the start of a node: the guard's up window."""
    window_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds that rates look back over: `scrape.window_s`."""
    trend_s: float = Field(default=600.0, gt=0, le=86_400)
    """Seconds that a trend is read from, and goes on for."""
    settle_s: float = Field(default=30.0, ge=0, le=3600)
    """Seconds after a change of a role before its signals are read for shrinking it further."""
    step_down: int = Field(default=3, ge=1)
    """Most nodes of a role fewer asked for at once. The guard takes them one by one; it sees early
    enough what is not needed if this is its `down_window_s` over its `cooldown_s`, or more."""
    breach_s: float = Field(default=120.0, gt=0, le=3600)
    """Seconds of missed targets, with enough nodes by the model, after which it is corrected."""
    heal_s: float = Field(default=3600.0, gt=0)
    """Seconds after which half of a correction is forgotten."""

    looks_ahead: bool = True
    """Size for the demand after the lead time, not for that of now."""
    has_quantile: bool = True
    """Add what past forecasts fell short by."""
    has_wait_tail: bool = True
    """Size prompt nodes by the tail of their waits, not by utilisation alone."""
    has_offered_load: bool = True
    """Let decoders go, and share a full budget, by arriving requests too, not only those held."""
    waits_to_shrink: bool = True
    """Shrink only to what was enough for as long as a node takes to come back."""
    has_correction: bool = True
    """Learn from targets that are missed though the model has enough."""
