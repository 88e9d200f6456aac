"""Why nothing came from an address: of which kind, and in words that name the address."""

import errno
import os
import re
from dataclasses import dataclass
from enum import StrEnum

import aiohttp

_UNREACHABLE = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL})

# "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)": OpenSSL's names help nobody.
_OPENSSL_MARKS = re.compile(r"^\[[^\]]*\] | ?\(_ssl\.c:\d+\)")


class Fault(StrEnum):
    """Why no whole answer came."""

    WRONG_URL = "wrong URL"
    NO_NAME = "no such host"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_CONNECTION = "no connection"
    NO_ANSWER = "no answer"
    TLS = "TLS"
    BROKEN = "broken off"
    UNUSABLE = "unusable"
    NOT_ASKED = "not asked"


@dataclass(frozen=True, slots=True)
class Trouble:
    """No whole answer: of which kind, and what to tell people of it."""

    fault: Fault
    said: str


def words(error: Exception) -> str:
    """Say what an error was: one of the network in our own words, any other in its own."""
    if isinstance(error, aiohttp.ClientError | OSError):
        return trouble_of(error).said
    return _own_words(error)


def trouble_of(error: Exception) -> Trouble:
    """Return what kind of trouble an error of an HTTP request was."""
    match error:
        case aiohttp.InvalidURL():
            # Without the URL itself: it may hold a password.
            return Trouble(Fault.WRONG_URL, "not an address such as http://host:port")
        case aiohttp.ClientConnectorDNSError(host=host, os_error=cause):
            return Trouble(Fault.NO_NAME, f"no such host: {host} ({cause.strerror or cause})")
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return Trouble(Fault.TLS, f"TLS: {_of_tls(cause)}")
        case aiohttp.ClientSSLError(os_error=cause):
            return Trouble(Fault.TLS, f"TLS: {_of_tls(cause)}")
        case aiohttp.ClientConnectorError(host=host, port=port, os_error=cause):
            return trouble_of_connecting(cause, place(host, port))
        case aiohttp.ClientResponseError(message=message):
            first = next(iter(message.splitlines()), "").rstrip(": ")
            return Trouble(Fault.BROKEN, f"broken off: no HTTP ({first})")
        case _:
            return Trouble(Fault.BROKEN, f"broken off: {_own_words(error)}")


def trouble_of_connecting(error: OSError, where: str) -> Trouble:
    """Return what kind of trouble it was that no connection to a host and port came about."""
    if error.errno == errno.ECONNREFUSED:
        return Trouble(Fault.REFUSED, f"connection refused by {where}")
    if error.errno in _UNREACHABLE:
        return Trouble(Fault.UNREACHABLE, f"no route to {where}")
    system = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return Trouble(Fault.NO_CONNECTION, f"no connection to {where}: {system}")


def place(host: str, port: int | None) -> str:
    """Write a host and port as in a URL."""
    inside = f"[{host}]" if ":" in host else host
    return inside if port is None else f"{inside}:{port}"


def _of_tls(error: Exception) -> str:
    return _OPENSSL_MARKS.sub("", str(error)) or type(error).__name__


def _own_words(error: Exception) -> str:
    return str(error) or type(error).__name__
