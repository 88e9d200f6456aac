"""The embedded cluster on its own: `python -m pd_autoscaler.embedded.cluster`.

Its standard output is for programs: one JSON line with its addresses, and the summary last.
"""

import argparse
import json
import logging
import math
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import anyio
import yaml

from pd_autoscaler.core.ranks import RankMapping
from pd_autoscaler.embedded.cluster import Cluster, ClusterOptions, running_cluster
from pd_autoscaler.embedded.demo import configuration
from pd_autoscaler.embedded.load import LoadLimits
from pd_autoscaler.embedded.outputs import check_file, folder, written
from pd_autoscaler.embedded.shape import counts_of, shape_of
from pd_autoscaler.embedded.summary import Summary
from pd_autoscaler.embedded.supervisor import SupervisorLimits, node_command
from pd_autoscaler.engine_model.profile import DEMO
from pd_autoscaler.errors import ConfigError, PdAutoscalerError
from pd_autoscaler.model.node import Role
from pd_autoscaler.workload.generated import generated
from pd_autoscaler.workload.request import Request
from pd_autoscaler.workload.shaping import compressed, looped
from pd_autoscaler.workload.trace import read_trace

_EXIT_FAILED = 1
_EXIT_CONFIG = 2

PAGE_PORT = 8080
ORPHAN_S = 2.0
"""At the end of input its owner has gone, so answers in flight are waited for no longer."""


def workload(
    trace: Path | None,
    *,
    for_s: float,
    seed: int,
    speed: float = 1.0,
    tokens_max: int | None = None,
) -> Iterator[Request]:
    """Return a trace, compressed and repeated, or without one the generated workload.

    `for_s` may be infinite. Raises ConfigError for a trace, a speed or a time that is no good.
    """
    if math.isnan(for_s) or for_s <= 0:
        raise ConfigError(f"--for {for_s:g}: give a number of seconds above 0")
    if trace is None:
        if tokens_max is not None:
            raise ConfigError(
                f"--tokens-max {tokens_max} is for a trace: give a --trace, or leave it out"
            )
        if speed != 1.0:
            raise ConfigError(
                f"--speed {speed:g} is for a trace: give a --trace, or leave --speed out"
            )
        return generated(for_s, seed)
    requests = compressed(read_trace(trace, tokens_max=tokens_max), speed)
    most = max(request.input_tokens + request.output_tokens for request in requests)
    if most > DEMO.kv_tokens:
        raise ConfigError(
            f"--trace {trace}: its largest request has {most} tokens, and an embedded node holds "
            f"{DEMO.kv_tokens}: add --tokens-max, such as --tokens-max 4000"
        )
    return looped(requests, for_s)


def _page_port() -> int:
    """Return the port that commands expect, or a free one where something else has it."""
    for port in (PAGE_PORT, 0):
        with closing(socket.socket()) as probe:
            # As the page's server does: a port that was just given back is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ConfigError("no port is free on 127.0.0.1: end something that listens there")


def _nodes(text: str) -> Mapping[Role, int]:
    """Read node counts; raises ConfigError for what makes no sense."""
    counts = counts_of("--nodes", text)
    if sum(counts.values()) > SupervisorLimits().nodes_max:
        raise ConfigError(f"--nodes {text!r}: give at most {SupervisorLimits().nodes_max} in all")
    return counts


async def carry_load(
    cluster: Cluster, requests: Iterator[Request], *, is_when_published: bool
) -> None:
    """Begin the load once both roles are published, or else once it is asked for; see it end."""
    if is_when_published:
        await cluster.published()
    else:
        await cluster.load_asked()
    await cluster.load(requests)


async def wind_up(cluster: Cluster, *, within_s: float = math.inf) -> None:
    """End the load, bounded by its own limits, and look at the links while nodes still live."""
    cluster.stop_load()
    with anyio.move_on_after(within_s):
        await cluster.load_ended()
    cluster.drop_load()
    await cluster.load_ended()
    await cluster.look_at_links()


def run(
    options: argparse.Namespace,
    on_ready: Callable[[Mapping[str, str]], None],
    on_told: Callable[[int], None] = lambda _: None,
) -> Mapping[str, object]:
    """Run until told to end and return the summary.

    `on_ready` is handed the addresses, `on_told` how many answers are waited for at the end.

    Raises ConfigError for an argument that is wrong, before anything has started.
    """
    requests = workload(
        options.trace,
        for_s=options.for_s,
        seed=options.seed,
        speed=options.speed,
        tokens_max=options.tokens_max,
    )
    shape = shape_of(
        options.ranks, options.rank_mapping, is_self_connecting=options.self_connecting
    )
    program = shlex.split(options.node_command) or None
    made_of = ClusterOptions(
        command=node_command(*shape.node_arguments(), program=program),
        nodes=_nodes(options.nodes),
        ranks=shape.ranks,
        work_dir=folder("--work-dir", options.work_dir) if options.work_dir else None,
        load=LoadLimits(open_max=options.open_max, drain_s=options.drain_s),
    )
    for option, file in (
        ("--config-out", options.config_out),
        ("--summary", options.summary_out),
    ):
        if file is not None:
            check_file(option, file)
    try:
        carried = _Carried(made_of, shape.links(), requests)
        summary = anyio.run(_run, options, carried, on_ready, on_told).wire()
    except* (PdAutoscalerError, OSError) as group:
        raise _first(group) from None
    if options.summary_out:
        text = json.dumps(summary, indent=2) + "\n"
        written("--summary", options.summary_out, text)
    return summary


@dataclass(frozen=True, slots=True)
class _Carried:
    """A checked command line: the cluster, what the controller must know of its links, the load."""

    made_of: ClusterOptions
    links: Mapping[str, str]
    requests: Iterator[Request]


async def _run(
    options: argparse.Namespace,
    carried: _Carried,
    on_ready: Callable[[Mapping[str, str]], None],
    on_told: Callable[[int], None],
) -> Summary:
    async with running_cluster(carried.made_of) as cluster:
        if options.config_out:
            urls = (cluster.supervisor_url, cluster.router_url)
            values = configuration(*urls, links=carried.links)
            # A journal of its own: mode and target of an earlier cluster are not this one's.
            port = cluster.supervisor_url.rpartition(":")[2]
            journal = options.config_out.absolute().parent / f"pd-autoscaler-{port}.sqlite"
            values["journal"] = {"path": str(journal)}
            values["admin"] = {"port": _page_port()}
            text = yaml.safe_dump(values, sort_keys=False)
            written("--config-out", options.config_out, text)
        on_ready(
            {
                "supervisor_url": cluster.supervisor_url,
                "router_url": cluster.router_url,
                "cluster_url": cluster.cluster_url,
            }
        )
        await _until_told(cluster, carried.requests, options, on_told)
    return cluster.summary()


async def _until_told(
    cluster: Cluster,
    requests: Iterator[Request],
    options: argparse.Namespace,
    on_told: Callable[[int], None],
) -> None:
    """Carry the load until a signal or the end of input; a second one ends without waiting."""
    told, orphaned = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:

        async def carry() -> None:
            await carry_load(cluster, requests, is_when_published=options.load_when_ready)

        async def orphan() -> None:
            await _end_of_input()
            orphaned.set()
            told.set()

        group.start_soon(carry, name="load")
        if options.stdin_eof:
            group.start_soon(orphan, name="end of input")
        group.start_soon(_signals, cluster, told, name="signals")
        await told.wait()
        on_told(cluster.numbers().in_flight)
        await wind_up(cluster, within_s=ORPHAN_S if orphaned.is_set() else math.inf)
        group.cancel_scope.cancel()


async def _end_of_input() -> None:
    try:
        while True:
            await anyio.wait_readable(0)
            if not os.read(0, 65_536):
                return
    except PermissionError as error:
        raise ConfigError("--stdin-eof: the input is a file: give a pipe or a terminal") from error


async def _signals(cluster: Cluster, told: anyio.Event) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as numbers:
        async for _ in numbers:
            if told.is_set():
                cluster.drop_load()
            told.set()


def _say(line: Mapping[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read it was killed: there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """Return the parser of its arguments."""
    made = argparse.ArgumentParser(
        prog="python -m pd_autoscaler.embedded.cluster",
        description="Run the embedded cluster; prints one JSON line when ready, the summary last.",
    )
    add = made.add_argument
    add("--trace", type=Path, help="Azure CSV or Mooncake JSON lines (default: generated)")
    add("--speed", type=float, default=1.0, help="pass this many times faster, at the same rate")
    add("--tokens-max", type=int, help="clip the trace's token counts")
    add("--for", dest="for_s", type=float, default=float("inf"), help="seconds of load")
    add("--seed", type=int, default=0, help="of the generated workload")
    add("--nodes", default="prompt=1,decoder=1", help="how many nodes to begin with")
    add("--ranks", default="prompt=1,decoder=1", help="how many ranks a node of each role has")
    add("--rank-mapping", default=RankMapping.MODULO.value, help="how ranks of two nodes pair")
    add("--self-connecting", action="store_true", help="engines that need no links")
    add("--open-max", type=int, default=1000, help="open requests; more are refused and counted")
    add("--drain", dest="drain_s", type=float, default=60.0, help="seconds to wait at the end")
    add("--config-out", type=Path, help="write the controller's settings here (YAML)")
    add("--work-dir", type=Path, help="keep the nodes' logs here (default: a temporary place)")
    add("--summary-out", type=Path, help="write the summary here (JSON)")
    add("--node-command", default="", help="program of a node; its arguments are appended")
    add("--stdin-eof", action="store_true", help="end at the end of the standard input")
    add("--load-when-ready", action="store_true", help="begin once both roles are published")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Run until told to end; exits with 2 and one sentence when an argument is wrong."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        _say(run(options, _say))
    except (PdAutoscalerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(_EXIT_CONFIG if isinstance(error, ConfigError) else _EXIT_FAILED) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
