"""How a decoder gets a prompt's KV: over the link, through the library, then the prompt is told."""

import logging
from collections.abc import Callable

import aiohttp
from anyio.abc import TaskGroup

from pd_autoscaler.datadist.api import DataDistError
from pd_autoscaler.embedded.engine_request import KvSource
from pd_autoscaler.errors import OutcomeUnknownError, TransientError
from pd_autoscaler.ports import Workers

log = logging.getLogger(__name__)

RELEASE_TIMEOUT = aiohttp.ClientTimeout(total=5.0, sock_connect=1.0)
"""A prompt node that does not answer within this is taken to be gone, its KV with it."""


class PullError(Exception):
    """The KV did not come; `code` is the library's status name, or says what stood in the way.

    `cluster_id` is the prompt's endpoint that it did not come from, None where it was not one.
    """

    def __init__(self, message: str, *, code: str, cluster_id: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.cluster_id = cluster_id


class RankPullError(DataDistError):
    """One rank's pull failed: over which pair, the library's code, and after how many seconds."""

    def __init__(
        self, message: str, code: str, *, rank: int, cluster_id: int, lasted_s: float
    ) -> None:
        super().__init__(message, code)
        self.rank = rank
        self.cluster_id = cluster_id
        self.lasted_s = lasted_s


class LinkPuller:
    """Pulls through the library off the event loop, under a deadline.

    `pull_blocks` blocks until the KV of a source is here, or raises DataDistError (or
    RuntimeError, before the library is initialised). `on_failed` is told of each pair that the
    library failed on. `group` owns what runs in the background.
    """

    def __init__(
        self,
        pull_blocks: Callable[[KvSource], None],
        *,
        workers: Workers,
        session: aiohttp.ClientSession,
        group: TaskGroup,
        on_failed: Callable[[RankPullError], None] = lambda _: None,
        deadline_s: float = 10.0,
    ) -> None:
        self._pull_blocks = pull_blocks
        self._workers = workers
        self._session = session
        self._group = group
        self._on_failed = on_failed
        self._deadline_s = deadline_s

    async def pull(self, source: KvSource) -> None:
        """Fetch the KV and have the prompt free its copy, or raise PullError."""
        try:
            await self._workers.run(lambda: self._pull_blocks(source), deadline_s=self._deadline_s)
        except RankPullError as error:
            self._on_failed(error)
            raise PullError(str(error), code=error.code, cluster_id=error.cluster_id) from error
        except DataDistError as error:
            raise PullError(str(error), code=error.code) from error
        except RuntimeError as error:
            raise PullError(str(error), code="NOT_INITIALISED") from error
        except OutcomeUnknownError as error:
            raise PullError(f"pull: {error}", code="PULL_DEADLINE") from error
        except TransientError as error:
            raise PullError(f"pull not begun: {error}", code="PULL_NOT_BEGUN") from error
        if await self._release(source) is False:
            # The prompt had given the blocks to somebody else: what came is not this KV.
            raise PullError(
                f"{source.engine_id} no longer held {source.request_id}",
                code="LLM_KV_CACHE_NOT_EXIST",
            )

    def abandon(self, source: KvSource) -> None:
        """Have the prompt free KV that nobody will pull; where it cannot be told, it expires."""
        self._group.start_soon(self._release, source)

    async def _release(self, source: KvSource) -> bool | None:
        """Return whether the prompt still held the KV, None where it did not answer."""
        url = f"http://{source.host}:{source.port}/v1/kv/release"
        body = {"request_id": source.request_id}
        try:
            async with self._session.post(url, json=body, timeout=RELEASE_TIMEOUT) as answer:
                if answer.status == 404:
                    return False
                return True if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            log.info("release of %s at %s: %s", source.request_id, url, error)
            return None
