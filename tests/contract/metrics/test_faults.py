"""What an error of the network is called: by its kind, and with the address that it was about."""

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from pd_autoscaler.adapters.metrics.bodies import FetchError
from pd_autoscaler.adapters.metrics.faults import Fault, trouble_of, words


def key(host: str) -> ConnectionKey:
    return ConnectionKey(host, 9090, False, True, None, None, None)


def failed(number: int, host: str = "10.0.0.1") -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(key(host), OSError(number, "Connect call failed ('x', 1)"))


WRONG_VERSION = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)")
NO_NAME = socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize(
    ("error", "fault", "said"),
    [
        (failed(errno.ECONNREFUSED), Fault.REFUSED, "connection refused by 10.0.0.1:9090"),
        (failed(errno.ECONNREFUSED, "::1"), Fault.REFUSED, "connection refused by [::1]:9090"),
        (failed(errno.EHOSTUNREACH), Fault.UNREACHABLE, "no route to 10.0.0.1:9090"),
        (
            failed(errno.ETIMEDOUT),
            Fault.NO_CONNECTION,
            "no connection to 10.0.0.1:9090: Connection timed out",
        ),
        (
            aiohttp.ClientConnectorDNSError(key("nobody"), NO_NAME),
            Fault.NO_NAME,
            "no such host: nobody (Name or service not known)",
        ),
        (
            aiohttp.ClientConnectorSSLError(key("p"), WRONG_VERSION),
            Fault.TLS,
            "TLS: wrong version number",
        ),
        (
            aiohttp.InvalidURL("http://me:hush@"),
            Fault.WRONG_URL,
            "not an address such as http://host:port",
        ),
        (
            ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
            Fault.BROKEN,
            "broken off: [Errno 104] Connection reset by peer",
        ),
    ],
)
def test_an_error_of_the_network_is_told_by_kind_and_address(
    error: Exception, fault: Fault, said: str
) -> None:
    trouble = trouble_of(error)
    assert (trouble.fault, trouble.said) == (fault, said)
    assert words(error) == said


def test_what_is_no_error_of_the_network_keeps_its_own_words() -> None:
    assert words(FetchError("HTTP 500")) == "HTTP 500"
    assert words(ValueError()) == "ValueError"
