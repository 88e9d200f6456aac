"""Calls to all ranks of a node at once: every answer is waited for, and none is lost."""

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pd_autoscaler.adapters.agent_client import Call, unanswered
from pd_autoscaler.errors import OutcomeUnknownError, PermanentError, TransientError
from pd_autoscaler.model.link import Verdict
from pd_autoscaler.ports import ClusterResult

NOT_BEGUN = "NOT_BEGUN"
"""The code of a call that was not begun, while others of its request were."""

log = logging.getLogger(__name__)

T = TypeVar("T")
Results = AsyncGenerator[ClusterResult, None]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A rank at which nothing was begun."""

    rank: int
    error: Exception
    cluster_ids: tuple[int, ...]


_Told = ClusterResult | _Refused


async def all_of(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Make each rank's call at once, wait for every one, and raise the worst error if any failed.

    One that fails must not end the others half-way: what they do happens all the same.
    """
    if len(calls) == 1:
        return [await calls[0]()]
    answers: dict[int, T] = {}
    errors: dict[int, Exception] = {}

    async def make(rank: int) -> None:
        try:
            answers[rank] = await calls[rank]()
        except Exception as error:
            errors[rank] = error

    async with anyio.create_task_group() as group:
        for rank in range(len(calls)):
            group.start_soon(make, rank)
    if errors:
        raise _worst(errors)
    return [answers[rank] for rank in range(len(calls))]


def _worst(errors: Mapping[int, Exception]) -> Exception:
    """Return what ranks' errors mean for their node, naming the rank of the worst.

    One unknown outcome is enough: the node must be observed before anything else is done to it.
    Of the others a permanent one counts more, as no retry of the node can succeed while that rank
    refuses.
    """
    for kind in (OutcomeUnknownError, PermanentError, TransientError):
        for rank, error in sorted(errors.items()):
            if isinstance(error, kind):
                more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
                return kind(f"rank {rank}: {error}{more}")
    # A fault of our own: whoever called tells it with its traceback.
    return errors[min(errors)]


async def merged(streams: Mapping[int, Results], calls: Mapping[int, Sequence[Call]]) -> Results:
    """Yield the results of several ranks as they come, and answer for those that refuse.

    No relay ever raises: an error in one would cancel whoever reads this, and not only us.
    """
    told: MemoryObjectReceiveStream[_Told]
    tell, told = anyio.create_memory_object_stream[_Told](math.inf)
    refused: list[_Refused] = []
    has_begun = False
    async with told, anyio.create_task_group() as group:
        async with tell:
            for rank, results in streams.items():
                group.start_soon(_relay, rank, calls[rank], results, tell.clone())
        try:
            async for news in told:
                if isinstance(news, _Refused):
                    refused.append(news)
                else:
                    has_begun = True
                    yield news
                # Whether to raise or to answer for them is open until some rank has begun.
                while has_begun and refused:
                    for result in _not_begun(refused.pop()):
                        yield result
        except GeneratorExit:
            # Nobody reads on; let out of the task group it would come as a group of errors.
            group.cancel_scope.cancel()
            return
    if refused:
        raise _worst({each.rank: each.error for each in refused})


async def _relay(
    rank: int, calls: Sequence[Call], results: Results, tell: MemoryObjectSendStream[_Told]
) -> None:
    """Pass one rank's results on, then what became of the calls that have none."""
    waiting = dict.fromkeys(call.endpoint.cluster_id for call in calls)
    async with tell, aclosing(results):
        try:
            async for result in results:
                waiting.pop(result.cluster_id, None)
                tell.send_nowait(result)
        except (TransientError, PermanentError) as error:
            tell.send_nowait(_Refused(rank, error, tuple(waiting)))
        except Exception:
            log.exception("the calls of rank %d failed unexpectedly", rank)
            for cluster_id in waiting:
                tell.send_nowait(unanswered(cluster_id, rank))


def _not_begun(refused: _Refused) -> list[ClusterResult]:
    log.warning("nothing was begun at rank %d: %s", refused.rank, refused.error)
    return [
        ClusterResult(cluster_id, NOT_BEGUN, Verdict.RETRY, rank=refused.rank)
        for cluster_id in refused.cluster_ids
    ]
