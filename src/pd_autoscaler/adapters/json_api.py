"""Calls to a JSON API over HTTP, their failures told apart by what they mean for the caller."""

from collections.abc import Mapping
from typing import Any

import aiohttp

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError

TRY_AGAIN = frozenset({408, 409, 425, 429})
"""Answers below 500 that may be different next time."""


class JsonApi:
    """One API at a base URL; `session` belongs to the caller, `timeout_s` bounds each call.

    `url` is that of the API as errors may tell it.
    """

    def __init__(self, url: str, *, session: aiohttp.ClientSession, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self.url = shown(self._url)
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def read(self, path: str) -> Any:
        """Return the JSON at a path; a refusal (4xx) is a PermanentError, the rest transient."""
        what = self.url + path
        try:
            async with self._session.get(self._url + path, timeout=self._timeout) as answer:
                _check(answer.status, what)
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TransientError(f"{what}: {_said(error)}") from error

    async def change(
        self,
        method: str,
        path: str,
        what: str,
        *,
        json: Mapping[str, str] | None = None,
        is_gone_fine: bool = False,
    ) -> None:
        """Ask for a change; one that was sent and not answered is an OutcomeUnknownError.

        `what` says in errors what was wanted; with `is_gone_fine` 404 is a success.
        """
        try:
            async with self._session.request(
                method, self._url + path, json=json, timeout=self._timeout
            ) as answer:
                if is_gone_fine and answer.status == 404:
                    return  # Already gone is what was asked for.
                _check(answer.status, what)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TransientError(f"{what}: {_said(error)}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            # It was sent, so it may have been done.
            raise OutcomeUnknownError(f"{what}: {_said(error)}") from error


def _check(status: int, what: str) -> None:
    if status in TRY_AGAIN or status >= 500:
        raise TransientError(f"{what}: HTTP {status}")
    if status >= 400:
        raise PermanentError(f"{what}: HTTP {status}")


def _said(error: Exception) -> str:
    """Return what an error says; time-outs say nothing, so their name must do."""
    if isinstance(error, aiohttp.InvalidURL):
        # Its own words are the URL, which may hold a password.
        return "not an address such as http://host:port"
    return str(error) or type(error).__name__
