"""Where the engines' metrics come from, as the settings say."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import SecretStr

from pd_autoscaler.adapters.metrics.agents import NoPages
from pd_autoscaler.adapters.metrics.connection import metrics_session, tls_context
from pd_autoscaler.adapters.metrics.profiles import (
    AUTO,
    Profile,
    ProfileBook,
    loaded,
    shipped_profiles,
)
from pd_autoscaler.adapters.metrics.promql import PromqlSource
from pd_autoscaler.adapters.metrics.scrape import Scraper
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.ports import MetricsSource
from pd_autoscaler.settings import Settings


def profiles_of(settings: Settings) -> tuple[Profile, ...]:
    """Return the profiles there are: those shipped and those of the settings' files."""
    return (*shipped_profiles(), *loaded(settings.scrape.profiles))


def check_source(settings: Settings) -> None:
    """Raise ConfigError for a profile or certificate that is wrong, or named and not there.

    And for a node's profile where no pages are read: nobody would ever look at it.
    """
    _tls(settings)
    _checked(settings)


def _checked(settings: Settings) -> tuple[tuple[Profile, ...], ProfileBook]:
    profiles = profiles_of(settings)
    _check_named(ProfileBook(profiles), settings.scrape.profile, "scrape.profile")
    book = ProfileBook(profiles, settings.scrape.profile)
    for node in settings.provider.nodes:
        if node.profile is None:
            continue
        if settings.scrape.source == "agents":
            raise ConfigError(
                f"provider.nodes gives {node.id} a profile and scrape.source is agents; it would "
                "be ignored"
            )
        _check_named(book, node.profile, f"provider.nodes: {node.id}: profile")
    return profiles, book


def _check_named(book: ProfileBook, name: str, setting: str) -> None:
    """Raise ConfigError for a profile that there is not, with the setting that names it."""
    if name == AUTO:
        return
    try:
        book.named(name)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {error}") from error


@asynccontextmanager
async def metrics_source(settings: Settings) -> AsyncIterator[MetricsSource]:
    """Open the source of the settings and close it in the end; raises ConfigError."""
    scrape, tls = settings.scrape, _tls(settings)
    profiles, book = _checked(settings)
    if scrape.source == "agents":
        yield NoPages()
        return
    # An engine is asked again after a period; its connection should still be there.
    async with metrics_session(tls, keepalive_s=2 * settings.loop.period_s + 15) as session:
        if scrape.source == "promql":
            assert scrape.promql is not None  # noqa: S101  # The settings' relations see to it.
            yield PromqlSource(
                session,
                book,
                url=scrape.promql.url,
                profiles=profiles,
                node_label=scrape.promql.node_label,
                matchers=scrape.promql.matchers,
                token=_revealed(scrape.promql.token),
                deadline_s=scrape.deadline_s,
                size_max_bytes=scrape.size_max_bytes,
            )
        else:
            yield Scraper(
                session,
                book,
                deadline_s=scrape.deadline_s,
                size_max_bytes=scrape.size_max_bytes,
                concurrency_max=scrape.concurrency_max,
                jitter_s=scrape.jitter_s,
                token=_revealed(scrape.token),
            )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    scrape = settings.scrape
    return tls_context(ca_file=scrape.ca_file, cert_file=scrape.cert_file, key_file=scrape.key_file)


def _revealed(token: SecretStr | None) -> str | None:
    return None if token is None else token.get_secret_value()
