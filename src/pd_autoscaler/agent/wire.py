"""The JSON of the agent's API, shared by both of its ends.

Every mutating request carries the fence (`epoch`, `holder`), the incarnation it means and an
idempotency key; 409 answers name what did not match. Link and unlink answers are one JSON line
(ClusterLine) per cluster, each sent as its call ends.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

API_VERSION = "v1"


class Wire(BaseModel):
    """A message; unknown keys are ignored so that either end may be newer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class EndpointWire(Wire):
    """One accelerator rank; `port` is null where it does not listen.

    `links_max` is how many links its card may hold, null where there is no limit.
    """

    rank: int = 0
    cluster_id: int = Field(ge=0, lt=2**64)
    ip: str
    port: int | None = Field(default=None, ge=1, le=65535)
    links_max: int | None = Field(default=None, ge=1)


class LinkEntryWire(Wire):
    """One row of the agent's link table: what its own calls did, and how that ended."""

    cluster_id: int
    state: Literal["linking", "linked", "unlinking", "failed", "unknown"]
    peer_incarnation: str = ""
    code: str = ""
    age_s: float = 0.0


class HungCallWire(Wire):
    """A native call past its deadline, still inside the library."""

    verb: str
    cluster_ids: list[int]
    age_s: float


class EngineWire(Wire):
    """Requests inside the engine, and its share of KV in use (0 to 1); null is unknown."""

    waiting: int | None = None
    running: int | None = None
    kv_unpulled: int | None = None
    kv_used: float | None = Field(default=None, ge=0, le=1)


class StateReply(Wire):
    """GET /v1/state."""

    api: str = API_VERSION
    version: str
    capabilities: list[str] = []
    node_id: str
    role: Literal["prompt", "decoder"] | None
    phase: Literal["new", "initialising", "ready", "finalised"]
    incarnation: str
    endpoints: list[EndpointWire] = []
    links: list[LinkEntryWire] = []
    calls_in_flight: int = 0
    calls_hung: int = 0
    hung: list[HungCallWire] = []
    engine: EngineWire = EngineWire()
    epoch: int = 0
    holder: str = ""


class Mutation(Wire):
    """What every mutating request carries."""

    epoch: int = Field(ge=0)
    holder: str = Field(min_length=1)
    incarnation: str
    key: str = Field(min_length=1, max_length=200)


class ClaimRequest(Mutation):
    """POST /v1/claim: nothing but the fence; from now on callers of a lower epoch are refused."""


class InitRequest(Mutation):
    """POST /v1/init."""

    role: Literal["prompt", "decoder"]
    deadline_s: float = Field(default=60.0, gt=0)


class ClusterWire(Wire):
    """One remote cluster of a link or unlink request; a forced unlink needs no address.

    `incarnation` is the peer's as the caller knows it; the link table gives it back.
    """

    id: int = Field(ge=0, lt=2**64)
    ip: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    incarnation: str = ""


class LinksRequest(Mutation):
    """POST /v1/links; `timeout_ms` goes to the native call, `deadline_s` is the agent's own."""

    clusters: list[ClusterWire] = Field(min_length=1)
    timeout_ms: int = Field(default=3000, gt=0)
    deadline_s: float = Field(default=10.0, gt=0)


class UnlinksRequest(LinksRequest):
    """POST /v1/unlinks."""

    force: bool = False


class SwitchRoleRequest(Mutation):
    """POST /v1/role: take the other role without a restart; every link must be gone."""

    role: Literal["prompt", "decoder"]
    deadline_s: float = Field(default=60.0, gt=0)


class FinalizeRequest(Mutation):
    """POST /v1/finalize."""

    deadline_s: float = Field(default=30.0, gt=0)


class ClusterLine(Wire):
    """One line of a link or unlink answer.

    `outcome` is done, failed or unknown (the deadline passed, the call goes on); `code` is the
    native status, or the reason where no call was made.
    """

    id: int
    outcome: Literal["done", "failed", "unknown"]
    code: str
    verdict: Literal["success", "retry", "force", "replace", "config"]


class ErrorReply(Wire):
    """The body of every answer that is not 2xx; `reason` is from a closed set.

    Reasons: bad_request, unauthorised, fenced, incarnation_mismatch, not_ready,
    already_initialised, hung_calls, cannot_switch, links_left, no_free_slot, library_failed,
    internal_error, deadline.
    """

    reason: str
    error: str
