"""The controller on the embedded cluster: the cluster in its own process, the controller here."""

import json
import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import typer
import yaml
from anyio.abc import TaskStatus

from pd_autoscaler import app, settings
from pd_autoscaler.cli.daemon import greet, run_async, with_policy
from pd_autoscaler.cli.progress import Progress, summary_lines
from pd_autoscaler.embedded.cluster_main import workload
from pd_autoscaler.embedded.demo import configuration
from pd_autoscaler.embedded.engine_listen import LOOPBACK, bound_socket
from pd_autoscaler.embedded.hosted import HostedCluster, hosted_cluster
from pd_autoscaler.embedded.ledger import Ledger
from pd_autoscaler.embedded.outputs import check_file, folder, written
from pd_autoscaler.embedded.shape import Shape, shape_of
from pd_autoscaler.errors import ConfigError, PermanentError, TransientError
from pd_autoscaler.policies.registry import load_policy
from pd_autoscaler.settings import Settings

POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line said."""

    trace: Path | None
    speed: float
    tokens_max: int | None
    for_s: float | None
    seed: int
    policy: str | None
    summary: Path | None
    work_dir: Path | None
    port: int
    ranks: str
    rank_mapping: str
    self_connecting: bool
    start_s: float | None

    def shape(self) -> Shape:
        """Return what the nodes are like; raises ConfigError for what makes no sense."""
        return shape_of(self.ranks, self.rank_mapping, is_self_connecting=self.self_connecting)

    def check(self) -> None:
        """Raise ConfigError for what would only fail after everything has started."""
        for_s = float("inf") if self.for_s is None else self.for_s
        workload(
            self.trace,
            for_s=for_s,
            seed=self.seed,
            speed=self.speed,
            tokens_max=self.tokens_max,
        )
        if self.policy is not None:
            load_policy(self.policy, {})
        _check_port(self.port)
        self.shape()
        if self.summary is not None:
            check_file("--summary", self.summary)

    def cluster_arguments(self, work_dir: Path) -> list[str]:
        """Return the arguments of the cluster's process."""
        arguments = ["--load-when-ready", "--seed", str(self.seed), "--speed", str(self.speed)]
        arguments += ["--work-dir", str(work_dir)]
        arguments += [f"--ranks={self.ranks}", f"--rank-mapping={self.rank_mapping}"]
        if self.self_connecting:
            arguments.append("--self-connecting")
        if self.trace is not None:
            arguments += ["--trace", str(self.trace)]
        if self.for_s is not None:
            arguments += ["--for", str(self.for_s)]
        if self.tokens_max is not None:
            arguments.append(f"--tokens-max={self.tokens_max}")
        if self.start_s is not None:
            arguments += ["--node-command", node_command(self.start_s)]
        return arguments


def node_command(start_s: float) -> str:
    """Return the command of a node whose engine starts within so many seconds."""
    module = "pd_autoscaler.embedded.node"
    return shlex.join([sys.executable, "-m", module, "--start-s", str(start_s)])


def run(options: Options) -> None:
    """Run the embedded cluster and its controller until the load ends or Ctrl-C."""
    options.check()

    with _work_dir(options.work_dir) as work_dir:
        run_async(lambda: _run(options, work_dir))


def _check_port(port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port {port}: give a port from 1 to 65535, or 0 for a free one")
    try:
        with bound_socket(port) as found:
            # Bound is not enough: with SO_REUSEADDR only listening meets another listener.
            found.listen(1)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen on {LOOPBACK}:{port} ({error.strerror}); "
            "give another port, or leave it out for a free one"
        ) from error


@contextmanager
def _work_dir(asked: Path | None) -> Iterator[Path]:
    if asked is not None:
        yield folder("--work-dir", asked)
        return
    try:
        temporary = TemporaryDirectory(prefix="pd-autoscaler-")
    except OSError as error:
        raise ConfigError(f"no temporary folder ({error.strerror}): give a --work-dir") from error
    with temporary as name:
        yield Path(name)


async def _run(options: Options, work_dir: Path) -> None:
    progress, ledger = Progress(), Ledger()
    logging.basicConfig(level=logging.ERROR, handlers=[progress.handler()])
    summary: dict[str, Any] | None = None
    async with anyio.create_task_group() as group:
        end = _End(progress, group.cancel_scope)
        await group.start(end.watch_signals)
        try:
            async with hosted_cluster(
                options.cluster_arguments(work_dir), on_line=progress.say
            ) as cluster:
                loaded = _settings(options, cluster, work_dir)
                async with app.controller(loaded, (progress, ledger)) as running:
                    _greet(running.url)
                    end.cluster = cluster
                    await _until_the_end(running, cluster, end)
                summary = {**await cluster.summary(), **ledger.wire()}
        finally:
            progress.close()
        group.cancel_scope.cancel()
    if summary is None:
        raise KeyboardInterrupt  # It was ended before there was anything to sum up.
    _close(summary, options.summary)


def _settings(options: Options, cluster: HostedCluster, work_dir: Path) -> Settings:
    """Write the settings where a reader would look for them, and load them from there."""
    links = options.shape().links()
    values = configuration(cluster.supervisor_url, cluster.router_url, links=links)
    values["journal"] = {"path": str(work_dir / "journal.sqlite")}
    values["admin"] = {"port": options.port}
    path = work_dir / "pd-autoscaler.yaml"
    written("--work-dir", path, yaml.safe_dump(values, sort_keys=False))
    return with_policy(settings.load(path), options.policy)


def _greet(url: str) -> None:
    greet(url)
    typer.echo("the first nodes are starting; the load begins once they serve. Ctrl-C ends it.")
    typer.echo("")


class _End:
    """How a run is ended: by its load's end, or by signals.

    The first Ctrl-C ends the load and waits for answers in flight, the second (or SIGTERM) does not
    wait, the third gives up the summary.
    """

    def __init__(self, progress: Progress, scope: anyio.CancelScope) -> None:
        self.progress = progress
        self.cluster: HostedCluster | None = None
        self._scope = scope
        self._is_asked = False
        self._is_urgent = False

    @property
    def is_reached(self) -> bool:
        """Whether the load is over, or was ended before it began."""
        state = self.progress.numbers.get("state")
        return state == "finished" or (self._is_asked and state == "waiting")

    async def watch_signals(self, *, task_status: TaskStatus[None]) -> None:
        """End the run on SIGINT or SIGTERM."""
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                if self.cluster is None or self._is_urgent:
                    self._scope.cancel()
                    return
                self._is_urgent = self._is_asked or number is signal.SIGTERM
                self._is_asked = self.progress.is_ending = True
                await self._end_load(self.cluster)

    async def _end_load(self, cluster: HostedCluster) -> None:
        try:
            if self._is_urgent:
                self.progress.say("ending without waiting for answers")
                await cluster.drop_load()
            else:
                count = self.progress.numbers.get("in_flight", 0)
                self.progress.say(f"ending; answers still awaited: {count} (Ctrl-C: do not wait)")
                await cluster.stop_load()
        except TransientError:
            self._scope.cancel()


async def _until_the_end(running: app.Controller, cluster: HostedCluster, end: _End) -> None:
    """Run the loop until the load is over or the cluster is gone."""
    async with anyio.create_task_group() as group:

        async def watch_load() -> None:
            while not end.is_reached:
                await anyio.sleep(POLL_S)
                try:
                    end.progress.load(await cluster.numbers())
                except TransientError:
                    continue  # The watch on its process tells whether it is gone.
            group.cancel_scope.cancel()

        async def watch_cluster() -> None:
            raise PermanentError(await cluster.ended())

        group.start_soon(running.loop.run)
        group.start_soon(watch_load)
        group.start_soon(watch_cluster)


def _close(summary: dict[str, Any], file: Path | None) -> None:
    typer.echo("")
    for line in summary_lines(summary):
        typer.echo(line)
    if file is not None:
        written("--summary", file, json.dumps(summary, indent=2) + "\n")
        typer.echo(f"written to {file}")
