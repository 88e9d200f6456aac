"""One node of the embedded cluster: a simulated engine with a real agent beside each rank.

    python -m pd_autoscaler.embedded.node --node-id p1 --role prompt --cluster-id 7

After its engine's start time it prints one JSON line (`node_id`, `role`, `agent_urls`,
`engine_url`, `metrics_url`, `pid`) and serves on free loopback ports. It ends within a second of
SIGTERM, SIGINT or the end of its standard input, so it never outlives who started it.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal

from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.embedded.node_agents import Agents, RankHooks
from pd_autoscaler.embedded.node_engine import serving_engine
from pd_autoscaler.embedded.node_ranks import ConnectingRank, LinkedRank, Rank, Ranks
from pd_autoscaler.engine_model.profile import EngineProfile, profile_of
from pd_autoscaler.errors import ConfigError
from pd_autoscaler.model.node import Role

CLOSE_S = 0.7
"""How long closing may take; a hung native call would otherwise keep it open for ever."""

LINK_S = 0.5
"""What preparing a link takes by default; nobody has published the time on Ascend hardware."""

log = logging.getLogger(__name__)


async def _live(args: argparse.Namespace, profile: EngineProfile) -> None:
    """Start, serve until told to end, and close."""
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_signals, stop)
        group.start_soon(_watch_parent, stop)
        with anyio.move_on_after(profile.start_s):
            await stop.wait()
        if not stop.is_set():
            await _serve(args, profile, group, stop)
        group.cancel_scope.cancel()


async def _serve(
    args: argparse.Namespace, profile: EngineProfile, group: TaskGroup, stop: anyio.Event
) -> None:
    """Listen, say so, and serve until told to end."""
    node_id, role = str(args.node_id), Role(args.role)
    ranks, agents = _ranks(args, profile), Agents()
    async with AsyncExitStack() as stack:
        engine, engine_url = await stack.enter_async_context(
            serving_engine(
                role,
                ranks,
                node_id=node_id,
                # A restarted process must not answer for its predecessor's requests.
                engine_id=f"{node_id}-{os.getpid()}",
                profile=profile,
                group=group,
                on_pull_failed=agents.pull_failed,
            )
        )
        portal = await stack.enter_async_context(BlockingPortal())
        for number, rank in enumerate(ranks):
            hooks = RankHooks(number, rank, engine, portal, can_switch_role=not args.fixed_role)
            await stack.enter_async_context(agents.serving(rank, hooks, node_id=node_id, role=role))
        line = {
            "node_id": node_id,
            "role": role.value,
            "agent_urls": agents.urls,
            "engine_url": engine_url,
            "metrics_url": f"{engine_url}/metrics",
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _ranks(args: argparse.Namespace, profile: EngineProfile) -> Ranks:
    """Make the library objects, under consecutive ids."""
    role, count = Role(args.role), int(args.ranks)
    ids = range(args.cluster_id, args.cluster_id + count)
    made: list[Rank] = []
    for cluster_id in ids:
        if args.self_connecting:
            made.append(ConnectingRank(role, cluster_id, profile=profile, ranks=count))
        else:
            made.append(
                LinkedRank(role, cluster_id, profile=profile, ranks=count, link_s=args.link_s)
            )
    return Ranks(made, mapping=RankMapping(args.rank_mapping), profile=profile)


async def _watch_signals(stop: anyio.Event) -> None:
    """End on SIGTERM or SIGINT."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            _end(stop)


async def _watch_parent(stop: anyio.Event) -> None:
    """End when standard input does; where that is no pipe or terminal, at once."""
    stdin = sys.stdin.fileno()
    while True:
        try:
            await anyio.wait_readable(stdin)
        except PermissionError:
            log.error("standard input is no pipe: the node ends with it, so at once")
            break
        if not os.read(stdin, 4096):
            break
    _end(stop)


def _end(stop: anyio.Event) -> None:
    """Close, and see to it that the process ends even if closing hangs."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, CLOSE_S)
    stop.set()


def _at_least_one(text: str) -> int:
    """Read a count of ranks."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _parsed(argv: Sequence[str] | None) -> tuple[argparse.Namespace, EngineProfile]:
    """Read the command line; a wrong one ends the process with status 2."""
    parser = argparse.ArgumentParser(prog="python -m pd_autoscaler.embedded.node")
    parser.add_argument("--node-id", required=True)
    parser.add_argument("--role", required=True, choices=[role.value for role in Role])
    parser.add_argument("--cluster-id", required=True, type=int, help="LLM-DataDist's first id")
    parser.add_argument("--ranks", type=_at_least_one, default=1, help="ids from that one on")
    parser.add_argument("--rank-mapping", default=RankMapping.MODULO, choices=list(RankMapping))
    parser.add_argument("--fixed-role", action="store_true", help="refuse to switch roles")
    parser.add_argument("--self-connecting", action="store_true", help="pull without links")
    parser.add_argument("--start-s", type=float, help="engine start time, over the profile's")
    parser.add_argument("--link-s", type=float, default=LINK_S, help="time to prepare a link")
    parser.add_argument("--profile", default="{}", help="JSON object over the demo profile")
    args = parser.parse_args(argv)
    try:
        values = json.loads(args.profile)
        if not isinstance(values, dict):
            raise ConfigError("it is not an object")
        if args.start_s is not None:
            values["start_s"] = args.start_s
        return args, profile_of(values)
    except (ValueError, ConfigError) as error:
        parser.error(f"--profile: {error}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a node until it is told to end; never returns."""
    args, profile = _parsed(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    code = 0
    try:
        anyio.run(_live, args, profile)
    except BaseException:
        log.exception("node %s failed", args.node_id)
        code = 1
    # Not sys.exit: a thread inside the library would keep the interpreter from ending.
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
