"""The advisor: a service that is shown each cycle's snapshot and says what it would do."""

import json
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import anyio

from pd_autoscaler.adapters.addresses import shown
from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.model.advice import Advice
from pd_autoscaler.model.codec import to_json
from pd_autoscaler.model.report import Report
from pd_autoscaler.policies.advisor_wire import API_VERSION, Answer, Request, answer_from
from pd_autoscaler.ports import Workers

ANSWER_BYTES_MAX = 65_536
"""A larger answer is refused."""


class HttpAdvisor:
    """`ports.Advisor` over HTTP, and the `ports.ReportSink` that tells it of each cycle.

    `run` asks, one call at a time and always about the newest cycle. A call that fails or brings a
    wrong answer leaves the answer before it, which grows older; `on_failure` is called for each.
    """

    def __init__(
        self,
        url: str,
        *,
        session: aiohttp.ClientSession,
        workers: Workers,
        deadline_s: float,
        age_max_s: float,
        token: str | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._url = url
        self._session = session
        self._workers = workers
        self._deadline_s = deadline_s
        self._age_max_s = age_max_s
        self._on_failure = on_failure
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._untold: Report | None = None
        self._has_news = anyio.Event()
        self._answer: tuple[Answer, float] | None = None
        self._trouble = ""

    @property
    def advice(self) -> Advice | None:
        """Return its newest answer with its age, None where it has given none."""
        if self._answer is None:
            return None
        answer, of_s = self._answer
        age_s = anyio.current_time() - of_s
        is_fresh = age_s <= self._age_max_s
        return Advice(answer.prompt, answer.decoder, answer.why, age_s, is_fresh)

    @property
    def trouble(self) -> str:
        """Say why it gave no answer, or a wrong one, when it was last asked; empty if it did."""
        return self._trouble

    def append(self, report: Report) -> None:
        """Have it be asked about this cycle next."""
        self._untold = report
        self._has_news.set()

    async def run(self) -> None:
        """Ask whenever there is a new cycle, until cancelled."""
        while True:
            await self._has_news.wait()
            self._has_news = anyio.Event()
            if self._untold is not None:
                await self._ask(self._untold)

    async def _ask(self, report: Report) -> None:
        try:
            body = await self._workers.run(lambda: _body(report), deadline_s=self._deadline_s)
            answer = await self._posted(body)
        except (TransientError, OutcomeUnknownError) as error:
            self._trouble = f"{shown(self._url)}: {error}"
            self._on_failure()
            return
        self._trouble = ""
        self._answer = None if answer is None else (answer, report.snapshot.now_s)

    async def _posted(self, body: bytes) -> Answer | None:
        """Return what it answers, None where it takes back what it said before."""
        try:
            async with self._session.post(
                self._url,
                data=body,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._deadline_s),
                # The snapshot and the token are for this address alone.
                allow_redirects=False,
            ) as reply:
                if reply.status == 204:
                    return None
                if reply.status != 200:
                    hint = ", and redirects are not followed" if 300 <= reply.status < 400 else ""
                    raise TransientError(f"HTTP {reply.status}{hint}")
                return answer_from(await _read(reply))
        except TimeoutError as error:
            raise TransientError(f"no answer within {self._deadline_s:g} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise TransientError(str(error) or type(error).__name__) from error


def _body(report: Report) -> bytes:
    snapshot = replace(report.snapshot, target=report.target, advice=None)
    request = Request(API_VERSION, report.cycle, snapshot)
    return json.dumps(to_json(request), allow_nan=False, separators=(",", ":")).encode()


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in reply.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise TransientError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)
