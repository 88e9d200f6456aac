"""`pd-autoscaler cluster`: the embedded nodes, router and load, without a controller."""

from pathlib import Path
from typing import Annotated

import typer

from pd_autoscaler.cli.run import (
    MODULO,
    ONE_RANK,
    ForS,
    RankPairing,
    Ranks,
    Seed,
    SelfConnecting,
    Speed,
    StartS,
    SummaryFile,
    TokensMax,
    Trace,
    WorkDir,
)


def register(app: typer.Typer) -> None:
    """Add cluster."""
    app.command()(cluster)


def cluster(  # noqa: PLR0913  # Each parameter is an option of the command.
    *,
    config_out: Annotated[
        Path, typer.Option("--config-out", help="Where to write the controller's settings.")
    ] = Path("pd-autoscaler.yaml"),
    trace: Trace = None,
    speed: Speed = 1.0,
    tokens_max: TokensMax = None,
    for_s: ForS = None,
    seed: Seed = 0,
    nodes: Annotated[
        str, typer.Option("--nodes", help="Nodes to begin with.")
    ] = "prompt=1,decoder=1",
    ranks: Ranks = ONE_RANK,
    rank_mapping: RankPairing = MODULO,
    self_connecting: SelfConnecting = False,
    summary: SummaryFile = None,
    work_dir: WorkDir = None,
    start_s: StartS = None,
) -> None:
    """Run the embedded cluster alone, for `pd-autoscaler run --config FILE` to drive.

    The load begins once a controller has published a node of each role. Killing the controller
    leaves the cluster as it is; Ctrl-C here ends every node and prints a summary.
    """
    import logging  # noqa: PLC0415  # --help must not pay for it

    from pd_autoscaler.cli.demo import node_command  # noqa: PLC0415  # as above
    from pd_autoscaler.cli.progress import summary_lines  # noqa: PLC0415  # as above
    from pd_autoscaler.embedded import cluster_main  # noqa: PLC0415  # as above

    arguments = ["--load-when-ready", f"--config-out={config_out}", f"--nodes={nodes}"]
    arguments += [f"--seed={seed}", f"--speed={speed}"]
    arguments += [f"--ranks={ranks}", f"--rank-mapping={rank_mapping}"]
    if self_connecting:
        arguments.append("--self-connecting")
    for name, value in (
        ("--trace", trace),
        ("--for", for_s),
        ("--summary-out", summary),
        ("--work-dir", work_dir),
        ("--tokens-max", tokens_max),
        ("--node-command", None if start_s is None else node_command(start_s)),
    ):
        if value is not None:
            arguments.append(f"{name}={value}")
    options = cluster_main.parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    def greet(_: object) -> None:
        typer.echo(f"in another terminal: pd-autoscaler run --config {config_out}")
        typer.echo("the load begins once a controller has published nodes. Ctrl-C ends it all.")

    def ending(count: int) -> None:
        typer.echo(f"ending; answers still awaited: {count} (Ctrl-C: do not wait)")

    said = cluster_main.run(options, greet, ending)
    typer.echo("")
    for line in summary_lines(said):
        typer.echo(line)
