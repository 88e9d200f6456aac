"""Looks at the outside that change nothing: GET, and connect and close; bounded in all ways."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping
from ipaddress import ip_address

import aiohttp
import anyio
from yarl import URL

from pd_autoscaler.adapters.metrics.bodies import ACCEPTED, FetchError, body_of
from pd_autoscaler.adapters.metrics.faults import (
    Fault,
    Trouble,
    place,
    trouble_of,
    trouble_of_connecting,
)
from pd_autoscaler.adapters.metrics.scrape import REDIRECTS, followed
from pd_autoscaler.doctor.seen import Answer, Reply

CONNECT_SHARE = 0.8
"""Of a deadline, what connecting may take: so that it is told from waiting for an answer."""

OVER = "the time for all checks was over (--deadline)"

_OVER = Trouble(Fault.NOT_ASKED, OVER)


class Asker:
    """Asks with at most so many requests at once; `now_unix_s` is the wall clock.

    The session is the caller's, and one of `metrics_session`. What is not answered when `ends_s`
    (monotonic) has passed, its own deadline still to come, is Fault.NOT_ASKED.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        now_unix_s: Callable[[], float],
        concurrency_max: int,
        ends_s: float,
        size_max_bytes: int,
    ) -> None:
        self._session = session
        self._now_unix_s = now_unix_s
        self._slots = anyio.Semaphore(concurrency_max)
        self._ends_s = ends_s
        self._size_max_bytes = size_max_bytes

    @property
    def left_s(self) -> float:
        """How long there is still time, 0.0 when it is over."""
        return max(0.0, self._ends_s - anyio.current_time())

    async def get(
        self,
        url: str,
        *,
        deadline_s: float,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        redirects_max: int = 0,
    ) -> Reply:
        """Return the answer, body included; `tls` is what the server is checked with.

        So many redirects are followed as a scrape would follow them; one more, and one that a
        scrape would not follow, is the answer.
        """
        async with self._slots:
            left_s = min(deadline_s, self.left_s)
            if left_s <= 0:
                return _OVER
            try:
                with anyio.fail_after(left_s):
                    answer, to = await self._answer(url, left_s, headers or {}, tls)
                    while to is not None and redirects_max > 0:
                        redirects_max -= 1
                        answer, to = await self._answer(to, left_s, headers or {}, tls)
                    return answer
            except TimeoutError as error:
                return _OVER if left_s < deadline_s else _too_late(error, left_s)
            except FetchError as error:
                # Too large, cut short, or packed as nobody asked.
                return Trouble(Fault.UNUSABLE, str(error))
            except (aiohttp.ClientError, OSError, ValueError) as error:
                return trouble_of(error)

    async def connect(self, ip: str, port: int, *, deadline_s: float) -> Trouble | None:
        """Connect and close at once; None says that the connection came about."""
        async with self._slots:
            left_s = min(deadline_s, self.left_s)
            if left_s <= 0:
                return _OVER
            try:
                version = ip_address(ip).version
            except ValueError:
                return Trouble(Fault.WRONG_URL, f"{ip!r} is not an IP address")
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    with anyio.fail_after(left_s):
                        await asyncio.get_running_loop().sock_connect(probe, (ip, port))
                except TimeoutError as error:
                    if left_s < deadline_s:
                        return _OVER
                    # A connection that the network gave up is one, too, and has an error number.
                    if error.errno:
                        return trouble_of_connecting(error, place(ip, port))
                    said = f"no connection to {place(ip, port)} within {left_s:g} s"
                    return Trouble(Fault.NO_CONNECTION, said)
                except OSError as error:
                    return trouble_of_connecting(error, place(ip, port))
        return None

    async def _answer(
        self, url: str | URL, left_s: float, headers: Mapping[str, str], tls: ssl.SSLContext | None
    ) -> tuple[Answer, URL | None]:
        """Return an answer, and where a scrape would ask next."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=left_s * CONNECT_SHARE)
        sent_unix_s, sent_s = self._now_unix_s(), anyio.current_time()
        async with self._session.get(
            url,
            headers={"Accept-Encoding": ACCEPTED, **headers},
            allow_redirects=False,
            timeout=timeout,
            ssl=True if tls is None else tls,
        ) as answer:
            received_unix_s = self._now_unix_s()
            body = await body_of(answer, size_max_bytes=self._size_max_bytes)
            told = Answer(
                status=answer.status,
                body=body,
                content_type=answer.content_type,
                location=answer.headers.get("Location", ""),
                date=answer.headers.get("Date", ""),
                took_s=anyio.current_time() - sent_s,
                sent_unix_s=sent_unix_s,
                received_unix_s=received_unix_s,
            )
            return told, _next(URL(url), answer)


def _next(url: URL, answer: aiohttp.ClientResponse) -> URL | None:
    if answer.status not in REDIRECTS:
        return None
    try:
        return followed(url, answer)
    except (FetchError, ValueError):
        return None  # The finding about the answer says where it leads.


def _too_late(error: TimeoutError, deadline_s: float) -> Trouble:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        said = f"no connection within {deadline_s * CONNECT_SHARE:g} s"
        return Trouble(Fault.NO_CONNECTION, said)
    return Trouble(
        Fault.NO_ANSWER, f"no answer: connected, and nothing whole within {deadline_s:g} s"
    )
