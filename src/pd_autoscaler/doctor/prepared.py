"""What a round needs of this machine: files, plug-ins and profiles, read before the event loop."""

from collections.abc import Iterator
from functools import partial

from pd_autoscaler.adapters.metrics.connection import tls_context
from pd_autoscaler.adapters.metrics.profiles import AUTO, ProfileBook, loaded, shipped_profiles
from pd_autoscaler.doctor.findings import Finding
from pd_autoscaler.doctor.looking import Terms
from pd_autoscaler.doctor.pages import Reader
from pd_autoscaler.doctor.site import of_call
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.settings import Settings

PAUSE_S = 1.0
"""Between two pages: MindIE renews its gauges each second."""

_SKIPPED = {
    "promql": "scrape.source is promql: the controller reads no pages",
    "agents": "scrape.source is agents: the controller reads no pages",
}


def reader_of(settings: Settings, *, profile: str = "") -> Reader:
    """Return what pages are read with; `profile`, as given by --profile, is before scrape.profile.

    Reads the files of profiles; raises ConfigError for a wrong one and for a name that none has.
    """
    profiles = (*shipped_profiles(), *loaded(settings.scrape.profiles))
    default, auto = profile or settings.scrape.profile, ProfileBook(profiles)
    if default != AUTO:
        try:
            auto.named(default)
        except ConfigError as error:
            where = "--profile" if profile else "scrape.profile"
            raise ConfigError(f"{where}: {error}") from error
    return Reader(ProfileBook(profiles, default), auto, default=default)


def terms_of(settings: Settings, *, pause_s: float = PAUSE_S, is_one: bool = False) -> Terms:
    """Return how nodes are looked at; `is_one` says that a page was asked for by its address.

    Reads certificates; raises ConfigError for one that cannot be.
    """
    scrape, agent = settings.scrape, settings.agent
    skipped: dict[str, str] = {}
    if not is_one and scrape.source in _SKIPPED:
        skipped["metrics"] = _SKIPPED[scrape.source]
    if settings.links.linker == "none":
        skipped["link port"] = "links.linker is none: engines connect by themselves"
    return Terms(
        scrape_token=None if scrape.token is None else scrape.token.get_secret_value(),
        agent_token=None if agent.token is None else agent.token.get_secret_value(),
        scrape_deadline_s=scrape.deadline_s,
        agent_deadline_s=agent.deadline_s,
        pause_s=pause_s,
        tls=tls_context(
            ca_file=scrape.ca_file, cert_file=scrape.cert_file, key_file=scrape.key_file
        ),
        skipped=skipped,
    )


def local_findings(settings: Settings) -> Iterator[Finding]:
    """Check what needs nothing but this machine."""
    loop = settings.loop
    yield from of_call(
        "policy",
        lambda: load_policy(loop.policy, loop.policy_params),
        said=f"{loop.policy} loads",
        fix="correct loop.policy and loop.policy_params ('pd-autoscaler policies' lists what is "
        "installed)",
    )
    for shadow in loop.shadow_policies:
        yield from of_call(
            "shadow policy",
            partial(load_policy, shadow.policy, shadow.params),
            said=f"{shadow.label} loads",
            fix="correct loop.shadow_policies ('pd-autoscaler policies' lists what is installed)",
        )
