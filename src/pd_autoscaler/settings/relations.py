"""Which settings must fit one another; each function returns one sentence per misfit."""

import re
from collections.abc import Iterator
from itertools import product

from pd_autoscaler.core.ranks import RankMapping, rank_pairs
from pd_autoscaler.model.node import Role
from pd_autoscaler.settings.sections import (
    AdminSettings,
    AdvisorSettings,
    AgentSettings,
    CapacitySettings,
    GuardSettings,
    JournalSettings,
    LinkSettings,
    LoopSettings,
    NodeSettings,
    PromqlSettings,
    ProviderSettings,
    RouterSettings,
    ScrapeSettings,
)

TLS_TIMEOUT_MIN_MS = 2000
"""The library's least time-out for a link over TLS (hicann/hixl, `LLMDataDist.md`)."""

ADVISED = "http"
"""The policy that an advisor decides."""

PAIR_AWARE: frozenset[str] = frozenset()
"""Router kinds that only pair nodes which are linked: none of those shipped."""


def of_cycle(loop: LoopSettings, scrape: ScrapeSettings, node: NodeSettings) -> Iterator[str]:
    """Check what must fit the loop's period."""
    period = f"loop.period_s ({loop.period_s:g})"
    if loop.policy_deadline_s >= loop.period_s:
        yield (
            f"loop.policy_deadline_s ({loop.policy_deadline_s:g}) is not below {period}; "
            "a policy that hangs would make every cycle late"
        )
    if loop.cycle_gap_min_s > loop.period_s:
        yield (
            f"loop.cycle_gap_min_s ({loop.cycle_gap_min_s:g}) is above {period}; "
            "no cycle would keep its period"
        )
    # Only pages of many nodes are asked for one after the other; agents are asked for none.
    jitter_s = scrape.jitter_s if scrape.source == "pages" else 0.0
    if scrape.source != "agents" and jitter_s + scrape.deadline_s >= loop.period_s:
        yield (
            f"scrape.jitter_s + scrape.deadline_s ({jitter_s:g} + {scrape.deadline_s:g}) is not "
            f"below {period}; one silent node would make every cycle late"
        )
    if scrape.age_max_s < loop.period_s:
        yield (
            f"scrape.age_max_s ({scrape.age_max_s:g}) is below {period}; "
            "every second cycle would hold"
        )
    if scrape.window_s < loop.period_s:
        yield (
            f"scrape.window_s ({scrape.window_s:g}) is below {period}; "
            "no window would hold the two pages that a rate needs"
        )
    if node.lost_after_s < loop.period_s:
        yield (
            f"node.lost_after_s ({node.lost_after_s:g}) is below {period}; "
            "one missed answer would count as a lost node"
        )


def of_shadows(loop: LoopSettings) -> Iterator[str]:
    """Check that shadow policies can be told apart."""
    names = [shadow.label for shadow in loop.shadow_policies]
    for name in sorted({n for n in names if names.count(n) > 1}):
        yield (
            f"loop.shadow_policies names {name} {names.count(name)} times; names must differ: give "
            "each a name of its own"
        )


def of_advisor(advisor: AdvisorSettings, loop: LoopSettings) -> Iterator[str]:
    """Check that who decides can be asked, and that its answers can be young enough."""
    users = [("loop.policy", loop.policy)]
    users += [("loop.shadow_policies", shadow.policy) for shadow in loop.shadow_policies]
    for name, policy in users:
        if policy == ADVISED and advisor.url is None:
            yield (
                f"{name} is {ADVISED} and advisor.url is missing; give the address of the service "
                "that decides"
            )
    if advisor.url is not None and advisor.age_max_s <= loop.period_s:
        yield (
            f"advisor.age_max_s ({advisor.age_max_s:g}) is not above loop.period_s "
            f"({loop.period_s:g}); an answer is read one cycle after its snapshot, and each would "
            "be too old"
        )
    if advisor.url is not None and advisor.deadline_s >= advisor.age_max_s:
        yield (
            f"advisor.deadline_s ({advisor.deadline_s:g}) is not below advisor.age_max_s "
            f"({advisor.age_max_s:g}); a slow answer would be too old when it comes"
        )
    yield from _of_token("advisor", advisor)


def of_scrape(scrape: ScrapeSettings) -> Iterator[str]:
    """Check that what the source of metrics needs is there, and what it would ignore is not."""
    source, promql = scrape.source, scrape.promql
    if source == "promql" and promql is None:
        yield "scrape.source is promql and scrape.promql is missing; give the server's url"
    if source != "promql" and promql is not None:
        yield f"scrape.promql is set and scrape.source is {source}; it would be ignored"
    for name in _ignored_by(source):
        # What `check` prints holds every default and must be right again.
        if getattr(scrape, name) != ScrapeSettings.model_fields[name].default:
            yield f"scrape.{name} is set and scrape.source is {source}; it would be ignored"
    if (scrape.cert_file is None) != (scrape.key_file is None):
        given, missing = ("cert", "key") if scrape.key_file is None else ("key", "cert")
        yield (
            f"scrape.{given}_file is set and scrape.{missing}_file is not; give both, which may "
            "be one file"
        )
    yield from _of_token("scrape", scrape)
    if promql is not None:
        yield from _of_token("scrape.promql", promql)
        if "?" in promql.url or "#" in promql.url:
            yield (
                "scrape.promql.url has a query or fragment, in which the API's path would be lost; "
                "give the address without '?' and '#'"
            )
        for name in promql.matchers:
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name):
                yield (
                    f"scrape.promql.matchers has {name!r}, which is no label name: letters, digits "
                    "and '_', and no digit first"
                )


def _ignored_by(source: str) -> tuple[str, ...]:
    """Return what only another source makes use of."""
    of_each_page = ("token", "token_file", "jitter_s", "concurrency_max")
    files = ("ca_file", "cert_file", "key_file", "profiles")
    of_any_page = ("profile", "deadline_s", "size_max_bytes")
    agents = (*of_each_page, *files, *of_any_page)
    return {"promql": of_each_page, "agents": agents}.get(source, ())


def of_capacity(capacity: CapacitySettings) -> Iterator[str]:
    """Check that a decode step is given whole."""
    step = {
        "step_base_s": capacity.step_base_s,
        "step_per_request_s": capacity.step_per_request_s,
        "step_per_token_s": capacity.step_per_token_s,
    }
    missing = [name for name, value in step.items() if value is None]
    if missing and len(missing) < len(step):
        yield (
            f"capacity.{missing[0]} is missing beside the other numbers of a decode step; "
            "give capacity.step_base_s, step_per_request_s and step_per_token_s, or none of them"
        )


def of_guard(guard: GuardSettings) -> Iterator[str]:
    """Check the limits for a target that fits them all."""
    for role, least, most in (
        ("prompt", guard.prompt_min, guard.prompt_max),
        ("decoder", guard.decoder_min, guard.decoder_max),
    ):
        if least > most:
            yield (
                f"guard.{role}_min ({least}) is above guard.{role}_max ({most}); "
                "no target would be allowed"
            )
    if guard.prompt_min + guard.decoder_min > guard.nodes_max:
        yield (
            f"guard.prompt_min + guard.decoder_min ({guard.prompt_min} + {guard.decoder_min}) is "
            f"above guard.nodes_max ({guard.nodes_max}); no target would be allowed"
        )
    if guard.up_window_s > guard.down_window_s:
        yield (
            f"guard.up_window_s ({guard.up_window_s:g}) is above guard.down_window_s "
            f"({guard.down_window_s:g}); the cluster would shrink sooner than it grows"
        )
    yield from _of_ratios(guard)


def _of_ratios(guard: GuardSettings) -> Iterator[str]:
    least, most = guard.ratio_min, guard.ratio_max
    if least is not None and most is not None and least > most:
        yield (
            f"guard.ratio_min ({least:g}) is above guard.ratio_max ({most:g}); "
            "no target would be allowed"
        )
    if least is not None and guard.prompt_max / guard.decoder_min < least:
        yield (
            f"guard.ratio_min ({least:g}) cannot be reached with guard.prompt_max "
            f"({guard.prompt_max}) and guard.decoder_min ({guard.decoder_min}); "
            "no target would be allowed"
        )
    if most is not None and guard.prompt_min / guard.decoder_max > most:
        yield (
            f"guard.ratio_max ({most:g}) cannot be reached with guard.prompt_min "
            f"({guard.prompt_min}) and guard.decoder_max ({guard.decoder_max}); "
            "no target would be allowed"
        )


def of_links(links: LinkSettings, router: RouterSettings) -> Iterator[str]:
    """Check the links' deadlines in the order in which they must pass."""
    if links.deadline_s * 1000 <= links.timeout_ms:
        yield (
            f"links.deadline_s ({links.deadline_s:g}) is not above links.timeout_ms "
            f"({links.timeout_ms}); every slow link would be given up before the library does"
        )
    if links.has_tls and links.timeout_ms < TLS_TIMEOUT_MIN_MS:
        yield (
            f"links.timeout_ms ({links.timeout_ms}) is below {TLS_TIMEOUT_MIN_MS} and "
            "links.has_tls is true; links over TLS would time out: set links.timeout_ms to "
            f"{TLS_TIMEOUT_MIN_MS} or more"
        )
    if links.linker == "none" and links.probe_period_s is not None:
        yield "links.probe_period_s is set and links.linker is none; it would be ignored"
    if links.join_deadline_s <= links.deadline_s:
        yield (
            f"links.join_deadline_s ({links.join_deadline_s:g}) is not above links.deadline_s "
            f"({links.deadline_s:g}); a decoder would be withdrawn before its first try ends"
        )
    if links.backoff_s > links.backoff_max_s:
        yield (
            f"links.backoff_s ({links.backoff_s:g}) is above links.backoff_max_s "
            f"({links.backoff_max_s:g}); the first wait would be longer than the longest"
        )
    if links.publish_quorum < 1 and router.kind not in PAIR_AWARE:
        yield (
            f"links.publish_quorum ({links.publish_quorum:g}) is below 1 and a router of kind "
            f"{router.kind} is not pair-aware; requests would go to pairs without a link"
        )


def of_places(provider: ProviderSettings, router: RouterSettings) -> Iterator[str]:
    """Check that what a kind needs is there, and what it would ignore is not."""
    if provider.kind == "static" and not provider.nodes:
        yield "provider.kind is static and provider.nodes is empty; list the nodes that run"
    if provider.kind == "static" and provider.url is not None:
        yield "provider.url is set and provider.kind is static; it would be ignored"
    if provider.kind != "static" and provider.nodes:
        yield f"provider.nodes is set and provider.kind is {provider.kind}; it would be ignored"
    if router.kind == "none" and router.url is not None:
        yield "router.url is set and router.kind is none; it would be ignored"


def of_fleet(provider: ProviderSettings, links: LinkSettings) -> Iterator[str]:
    """Check a static fleet: nodes of their own, with agents of their own, that can be linked."""
    ids = [node.id for node in provider.nodes]
    for node_id in sorted({i for i in ids if ids.count(i) > 1}):
        yield f"provider.nodes names {node_id} {ids.count(node_id)} times; ids must differ"
    yield from _of_agents(provider)
    if links.linker != "none":
        yield from _of_ranks(provider, links.ranks)


def _of_agents(provider: ProviderSettings) -> Iterator[str]:
    """Check that no agent stands for two ranks: whatever is done to one would be done to both."""
    owners: dict[str, list[str]] = {}
    # A node that is listed twice has been told of already.
    for node in {node.id: node for node in provider.nodes}.values():
        for url in node.agent_urls:
            owners.setdefault(url.rstrip("/"), []).append(node.id)
    for url, ids in owners.items():
        if len(ids) > 1:
            names = " and ".join(dict.fromkeys(ids))
            times = "" if len(set(ids)) > 1 else f" {len(ids)} times"
            yield (
                f"provider.nodes gives the agent {url} to {names}{times}; "
                "every rank has an agent of its own"
            )


def _of_ranks(provider: ProviderSettings, mapping: RankMapping) -> Iterator[str]:
    """Check that decoders and prompt nodes can be paired rank by rank; tell of the first misfit."""
    of = {role: [node for node in provider.nodes if node.role is role] for role in Role}
    for prompt, decoder in product(of[Role.PROMPT], of[Role.DECODER]):
        counts = len(prompt.agent_urls), len(decoder.agent_urls)
        if not rank_pairs(mapping, *counts):
            yield (
                f"links.ranks ({mapping}) needs nodes with equally many ranks, and {prompt.id} has "
                f"{counts[0]} agent_urls and {decoder.id} has {counts[1]}; set links.ranks to "
                f"{RankMapping.MODULO} or {RankMapping.ALL_TO_ALL}"
            )
            return


def of_journal(journal: JournalSettings, guard: GuardSettings) -> Iterator[str]:
    """Check that the journal keeps what a restart needs."""
    if journal.keep_s < guard.down_window_s:
        yield (
            f"journal.keep_s ({journal.keep_s:g}) is below guard.down_window_s "
            f"({guard.down_window_s:g}); a restart could not rebuild the window"
        )


def of_tokens(agent: AgentSettings, admin: AdminSettings) -> Iterator[str]:
    """Check that each token comes from one place."""
    yield from _of_token("agent", agent)
    yield from _of_token("admin", admin)


def _of_token(
    name: str,
    section: AgentSettings | AdminSettings | AdvisorSettings | ScrapeSettings | PromqlSettings,
) -> Iterator[str]:
    if section.token is not None and section.token_file is not None:
        yield f"{name}.token and {name}.token_file are both set; keep one"
