"""The sections: every value with its unit in its name and its bounds in its type."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.model.node import Role


class Section(BaseModel):
    """A group of settings: unknown names are refused, values cannot change later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # YAML reads `yes` as true, and Python takes true for 1.
        if isinstance(value, bool) and {int, float} & _types(cls, info.field_name):
            raise ValueError("must be a number, not yes or no")
        return value


def _types(section: type[BaseModel], name: str | None) -> set[object]:
    annotation = section.model_fields[name or ""].annotation
    return {annotation, *get_args(annotation)}


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or any(c.isspace() for c in value):
        raise ValueError("must be an address such as http://host:port")
    return value


def _node_id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", value):
        raise ValueError("must be a name of letters, digits, '.', '_' and '-'")
    return value


def _label_name(value: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", value):
        raise ValueError("must be a label's name: letters, digits and '_', and no digit first")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
NodeId = Annotated[str, AfterValidator(_node_id)]


class ShadowSettings(Section):
    """A policy that decides beside the one that acts, and is never acted on."""

    policy: str = Field(min_length=1)
    """The name of an installed policy."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Its own parameters; it refuses unknown ones at start."""
    name: str | None = Field(default=None, min_length=1, max_length=64)
    """What it is called in reports and metrics; not given, it is the policy's name."""

    @property
    def label(self) -> str:
        """What it is called."""
        return self.name or self.policy


class LoopSettings(Section):
    """How often the loop turns, and which policy it asks."""

    period_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds from the start of one cycle to the start of the next."""
    advisory: bool = False
    """Decide and report, but never act."""
    policy: str = Field(default="slo", min_length=1)
    """The name of an installed policy."""
    policy_params: dict[str, Any] = Field(default_factory=dict)
    """The policy's own parameters; it refuses unknown ones at start."""
    policy_deadline_s: float = Field(default=5.0, gt=0, le=600)
    """A policy that has not answered by then makes the cycle hold."""
    shadow_policies: tuple[ShadowSettings, ...] = Field(default=(), max_length=8)
    """Policies to compare with: each cycle they decide, too, and nothing is done about it."""
    cycle_gap_min_s: float = Field(default=0.1, ge=0, le=60)
    """Least pause between two cycles, however often the loop is poked."""


class AdvisorSettings(Section):
    """The service that decides where the policy is http; asked between cycles."""

    url: HttpUrl | None = None
    """Each cycle's snapshot is posted to it; `pd-autoscaler policies schema` has the format."""
    deadline_s: float = Field(default=5.0, gt=0, le=600)
    """For its answer."""
    age_max_s: float = Field(default=60.0, gt=0, le=86_400)
    """An answer to a snapshot that is older than this makes the cycle hold."""
    token: SecretStr | None = Field(default=None, min_length=1)
    """Sent as a bearer token."""
    token_file: Path | None = None
    """Holds the token instead, such as a mounted secret."""


class PromqlSettings(Section):
    """The Prometheus server that is asked for the engines' metrics instead of the engines."""

    url: HttpUrl
    node_label: Annotated[str, AfterValidator(_label_name)] = "instance"
    """The label that names a node: by its id, or by the host and port of its metrics_url."""
    matchers: dict[str, str] = Field(default_factory=dict)
    """Labels that all series must have, such as `job: engines`."""
    token: SecretStr | None = Field(default=None, min_length=1)
    """Sent as a bearer token."""
    token_file: Path | None = None


class ScrapeSettings(Section):
    """Where the engines' metrics come from and how they are read."""

    source: Literal["pages", "promql", "agents"] = "pages"
    """`pages`: each node's own /metrics; `promql`: a Prometheus server (scrape.promql); `agents`:
    what the agents say of their engines, with no metrics at all."""
    promql: PromqlSettings | None = None
    profile: str = Field(default="auto", min_length=1)
    """Which engine's metric names to expect: `auto` tells them apart by their names."""
    profiles: tuple[Path, ...] = ()
    """Files with engine profiles of your own (YAML), by their names."""
    deadline_s: float = Field(default=2.5, gt=0, le=60)
    jitter_s: float = Field(default=0.5, ge=0, le=60)
    """The scrapes of a cycle are spread over this long, always the same for one node."""
    token: SecretStr | None = Field(default=None, min_length=1)
    """Sent to the engines as a bearer token."""
    token_file: Path | None = None
    ca_file: Path | None = None
    """Certificates that those of the engines, or of the Prometheus server, are checked with,
    instead of the system's (PEM)."""
    cert_file: Path | None = None
    """The controller's own certificate for whoever of them asks for one (PEM), with its key."""
    key_file: Path | None = None
    age_max_s: float = Field(default=30.0, gt=0, le=3600)
    """Pages older than this are stale."""
    window_s: float = Field(default=30.0, gt=0, le=3600)
    """Rates and quantiles are taken over this many seconds."""
    concurrency_max: int = Field(default=64, ge=1, le=4096)
    size_max_bytes: int = Field(default=10_000_000, ge=1_000, le=1_000_000_000)
    """A larger page is refused."""


class AttributionSettings(Section):
    """Above what a signal counts as high when the bottleneck is looked for; per fresh node."""

    queue: float = Field(default=5.0, gt=0)
    """Requests waiting at a node."""
    ttft_p95_s: float = Field(default=1.0, gt=0)
    tpot_p95_s: float = Field(default=0.050, gt=0)
    kv_used: float = Field(default=0.80, gt=0, le=1)
    transfer_wait: float = Field(default=5.0, gt=0)
    """Requests that wait for KV from a prompt node, at a decoder."""
    kv_export_backlog: float = Field(default=5.0, gt=0)
    """Requests whose KV no decoder has pulled, at a prompt node."""
    pull_s: float = Field(default=2.0, gt=0)
    """Longest that KV may wait for its pull; both counts above matter only beyond it."""
    kv_expired_share: float = Field(default=0.05, gt=0, le=1)
    """Part of the requests whose KV may expire without a pull, as when users have gone."""
    links_down_share: float = Field(default=0.10, gt=0, le=1)
    """Part of all links that may be broken."""


class CapacitySettings(Section):
    """What a node is taken to be able to do before its pages have taught better.

    Seconds and tokens of one node. Not given, nothing is claimed until it was seen.
    """

    prefill_tokens_per_s: float | None = Field(default=None, gt=0)
    step_base_s: float | None = Field(default=None, gt=0)
    """Seconds of a decode step before any request is in it."""
    step_per_request_s: float | None = Field(default=None, ge=0)
    step_per_token_s: float | None = Field(default=None, ge=0)
    """Seconds for each token of KV in the batch."""
    demand_half_life_s: float = Field(default=60.0, gt=0, le=86_400)
    """After how long half of the smoothed demand is new."""


class GuardSettings(Section):
    """What no policy may breach."""

    prompt_min: int = Field(default=1, ge=1)
    prompt_max: int = Field(default=100, ge=1)
    decoder_min: int = Field(default=1, ge=1)
    decoder_max: int = Field(default=100, ge=1)
    nodes_max: int = Field(default=200, ge=2)
    """Most nodes of both roles together."""
    ratio_min: float | None = Field(default=None, gt=0)
    """Least prompt nodes per decoder node."""
    ratio_max: float | None = Field(default=None, gt=0)
    up_window_s: float = Field(default=30.0, ge=0, le=86_400)
    """A role grows by what was asked for throughout this window."""
    down_window_s: float = Field(default=300.0, ge=0, le=86_400)
    """A role shrinks to the most that was asked for in this window."""
    cooldown_s: float = Field(default=120.0, ge=0, le=86_400)
    """Least time between a change of the target and the next that removes."""
    step_up_max: int = Field(default=4, ge=1)
    """Most nodes of a role added at once."""
    step_down_max: int = Field(default=1, ge=1)
    fresh_quorum: float = Field(default=0.5, gt=0, le=1)
    """With a smaller share of a role's pages fresh the cycle holds."""
    transfer_failure_share: float = Field(default=0.05, gt=0, le=1)
    """With a larger share of the requests' KV transfers failing nothing goes."""
    pay_back_max_s: float = Field(default=600.0, ge=0, le=86_400)
    """Longest wait before a shift from one role to the other.

    It is made once it was asked for without a break for as long as it costs: measured seconds of
    drain, unlink, switch (or start and init) and link. 0 turns the test off."""


class NodeSettings(Section):
    """How long a node may take, and when a silent one is lost."""

    start_timeout_s: float = Field(default=600.0, gt=0)
    start_attempts_max: int = Field(default=3, ge=1)
    """After this many failed starts the missing capacity counts as unavailable."""
    init_timeout_s: float = Field(default=120.0, gt=0)
    drain_deadline_s: float = Field(default=300.0, gt=0)
    """A draining node that is still busy by then is unlinked all the same."""
    unlink_deadline_s: float = Field(default=30.0, gt=0)
    """Links that are still up by then are cut by force on both ends."""
    switch_timeout_s: float = Field(default=60.0, gt=0)
    """A node that has not taken its other role by then has failed."""
    stop_timeout_s: float = Field(default=60.0, gt=0)
    lost_after_s: float = Field(default=30.0, gt=0)
    """A node whose agent and metrics are both silent for so long is lost."""
    lost_share_max: float = Field(default=1 / 3, gt=0, le=1)
    """With a larger share of the fleet silent at once the fault is taken to be ours: hold."""


class LinkSettings(Section):
    """How links are made and retried."""

    linker: Literal["datadist", "none"] = "datadist"
    """Who links nodes: `datadist` their agents, `none` nobody, as engines connect by themselves."""
    ranks: RankMapping = RankMapping.MODULO
    """Which accelerator ranks of a decoder and a prompt node are linked: `one_to_one` needs equal
    counts, `modulo` goes round on the side with fewer, `all_to_all` links each with each."""
    has_tls: bool = False
    """Whether the nodes' library links over TLS (`hccn_tool -i N -tls -g host`)."""
    timeout_ms: int = Field(default=3000, ge=200, le=600_000)
    """Handed to the library; 200 is its least, 2000 with TLS (hicann/hixl, `LLMDataDist.md`)."""
    deadline_s: float = Field(default=10.0, gt=0, le=3600)
    """When the agent stops waiting for a link call; the call itself cannot be ended.

    Where more than 16 calls meet at one rank they run in waves: this, and `timeout_ms`, count once
    for each."""
    attempts_max: int = Field(default=5, ge=1)
    """After this many failures a pair is an alarm; it is still retried."""
    backoff_s: float = Field(default=1.0, gt=0)
    backoff_max_s: float = Field(default=60.0, gt=0)
    join_deadline_s: float = Field(default=120.0, gt=0)
    """A decoder that cannot link a newcomer by then is withdrawn, if the others can do without."""
    in_flight_max: int = Field(default=16, ge=1, le=16)
    """Link calls at once for each endpoint; the library serves 16 at a time."""
    publish_quorum: float = Field(default=1.0, gt=0, le=1)
    """Share of links to published nodes that must be up before a node is published."""
    probe_period_s: float | None = Field(default=None, ge=1, le=86_400)
    """How often the controller looks whether prompt nodes' link ports take connections; not given,
    it never does."""


class AgentSettings(Section):
    """How the controller reaches the agents."""

    token: SecretStr | None = Field(default=None, min_length=8)
    """Sent as a bearer token; agents must have the same."""
    token_file: Path | None = None
    """Holds the token instead, such as a mounted secret."""
    deadline_s: float = Field(default=5.0, gt=0, le=600)
    """For reading an agent's state."""


class StaticNode(Section):
    """One node whose engine and agents already run."""

    id: NodeId
    role: Role
    agent_urls: tuple[HttpUrl, ...] = Field(min_length=1)
    """The agent of each accelerator rank, in rank order."""
    metrics_url: HttpUrl
    engine_url: HttpUrl | None = None
    profile: str | None = None
    """The engine profile of its pages; not given, it is scrape.profile."""
    is_standby: bool = False
    """A spare: initialised, but not linked until it is needed."""


class ProviderSettings(Section):
    """Where nodes come from."""

    kind: Literal["process", "static"] = "process"
    url: HttpUrl | None = None
    """Of the process supervisor; not given, it is that of the embedded cluster."""
    nodes: tuple[StaticNode, ...] = ()
    """Every node of a static fleet."""


class RouterSettings(Section):
    """Who sends requests to nodes."""

    kind: Literal["builtin", "none"] = "builtin"
    url: HttpUrl | None = None
    """Of the router; not given, it is that of the embedded cluster."""


class JournalSettings(Section):
    """What survives the controller."""

    path: Path = Path("pd-autoscaler.sqlite")
    keep_s: float = Field(default=7 * 86_400.0, gt=0)
    """Reports and history older than this are dropped."""
    size_max_bytes: int = Field(default=512_000_000, ge=1_000_000)
    """Above it the oldest reports are dropped before their time."""


class AdminSettings(Section):
    """Where operators and Prometheus reach the controller."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65_535)
    """0 takes a free one."""
    token: SecretStr | None = Field(default=None, min_length=8)
    """Asked for by everything that changes something."""
    token_file: Path | None = None


class LogSettings(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
