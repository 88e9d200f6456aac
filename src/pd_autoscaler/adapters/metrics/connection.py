"""The connections that metrics come over: one session of their own, and whom it trusts."""

import ssl
from pathlib import Path

import aiohttp

from pd_autoscaler.errors import ConfigError


def metrics_session(
    tls: ssl.SSLContext | None = None, *, keepalive_s: float = 60.0
) -> aiohttp.ClientSession:
    """Open the session of a metrics source; closing it is the caller's.

    `keepalive_s` should outlast the time between two cycles. It differs from the session of other
    calls: compressed pages stay as they came, since a page is unpacked no further than it may be
    large, and no cookie of one engine reaches another.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # The source bounds how many it asks at once.
        ssl=True if tls is None else tls,
        keepalive_timeout=keepalive_s,
    )
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


def checked(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """Return a session that leaves unpacking to its user; any other is a ValueError."""
    if session.auto_decompress:
        raise ValueError("pages would be unpacked without a bound: metrics need metrics_session()")
    return session


def tls_context(
    *, ca_file: Path | None = None, cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext | None:
    """Return whom to trust and how to identify oneself over TLS; None is the system's way.

    Reads the files; one that is missing or no PEM is a ConfigError with its setting.
    """
    if ca_file is None and cert_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"scrape.ca_file: {ca_file} {_cannot(error)}") from error
    if cert_file is not None:
        try:
            # Without a password of ours the library would ask for one on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except OSError as error:
            files = f"{cert_file} with {key_file or 'its own key'}"
            raise ConfigError(f"scrape.cert_file, scrape.key_file: {files} {_cannot(error)}") from (
                error
            )
    return context


def _cannot(error: OSError) -> str:
    # An SSLError is an OSError too; its number is OpenSSL's, and its text the better one.
    if isinstance(error, ssl.SSLError):
        return f"is not a usable PEM file: {error.reason or error}"
    return f"cannot be read: {error.strerror}"
