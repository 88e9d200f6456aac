"""`pd-autoscaler run`: the daemon, with a settings file or on the embedded cluster."""

from pathlib import Path
from typing import Annotated

import typer

from pd_autoscaler.errors import ConfigError

Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings file (YAML); without it: the embedded cluster."),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace", help="Azure or plain CSV, Mooncake JSON lines; default: generated load."
    ),
]
Speed = Annotated[
    float, typer.Option("--speed", help="Pass the trace this many times faster at its own rate.")
]
TokensMax = Annotated[
    int | None,
    typer.Option("--tokens-max", help="Clip the trace's input and output lengths to this many."),
]
ForS = Annotated[
    float | None, typer.Option("--for", help="Seconds of load; default: until Ctrl-C.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of the generated load.")]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="Name of an installed policy.", show_default=False)
]
SummaryFile = Annotated[
    Path | None, typer.Option("--summary", help="Write the run's summary here (JSON).")
]
WorkDir = Annotated[
    Path | None,
    typer.Option(
        "--work-dir", help="Keep journal and node logs here instead of a temporary place."
    ),
]
Ranks = Annotated[str, typer.Option("--ranks", help="Accelerator ranks of a node of each role.")]
RankPairing = Annotated[
    str,
    typer.Option(
        "--rank-mapping", help="How ranks pair: one_to_one, modulo (round robin) or all_to_all."
    ),
]
SelfConnecting = Annotated[
    bool, typer.Option("--self-connecting", help="Engines that connect by themselves: no links.")
]
ONE_RANK = "prompt=1,decoder=1"
MODULO = "modulo"
Port = Annotated[int, typer.Option("--port", help="Of the page and admin API; 0: a free one.")]
StartS = Annotated[
    # For tests: what a node takes to start is part of what a run shows.
    float | None, typer.Option("--start-s", hidden=True, help="Seconds an engine takes to start.")
]


def register(app: typer.Typer) -> None:
    """Add run."""
    app.command()(run)


def run(  # noqa: PLR0913  # Each parameter is an option of the command.
    *,
    config: Config = None,
    trace: Trace = None,
    speed: Speed = 1.0,
    tokens_max: TokensMax = None,
    for_s: ForS = None,
    seed: Seed = 0,
    policy: PolicyName = None,
    summary: SummaryFile = None,
    work_dir: WorkDir = None,
    port: Port = 0,
    ranks: Ranks = ONE_RANK,
    rank_mapping: RankPairing = MODULO,
    self_connecting: SelfConnecting = False,
    start_s: StartS = None,
) -> None:
    """Run the controller.

    Without --config it starts an embedded cluster of real processes under load, prints what
    happens and a summary at the end: when the load is over, or on Ctrl-C (exit code 0; a second
    Ctrl-C does not wait for answers in flight). With --config it drives the cluster the file
    describes.
    """
    from pd_autoscaler.cli import daemon, demo  # noqa: PLC0415  # --help must not pay for it

    if config is not None:
        given = {
            "--trace": trace,
            "--tokens-max": tokens_max,
            "--for": for_s,
            "--summary": summary,
            "--work-dir": work_dir,
            "--speed": speed if speed != 1.0 else None,
            "--seed": seed or None,
            "--port": port or None,
            "--ranks": ranks if ranks != ONE_RANK else None,
            "--rank-mapping": rank_mapping if rank_mapping != MODULO else None,
            "--self-connecting": self_connecting or None,
            "--start-s": start_s,
        }
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise ConfigError(
                f"{wrong[0]} is for the embedded cluster, and --config drives another: "
                "leave one of them out"
            )
        daemon.run(config, policy)
        return
    demo.run(
        demo.Options(
            trace=trace,
            speed=speed,
            tokens_max=tokens_max,
            for_s=for_s,
            seed=seed,
            policy=policy,
            summary=summary,
            work_dir=work_dir,
            port=port,
            ranks=ranks,
            rank_mapping=rank_mapping,
            self_connecting=self_connecting,
            start_s=start_s,
        )
    )
